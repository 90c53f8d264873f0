"""Schedule: the blocks of a `place` statement as a loop nest with affine tiles and rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cimc.ir.graph import Place
from cimc.ir.kernels import KernelShape
from cimc.isa.program import Affine


@dataclass(frozen=True)
class Head:
    """A loop: `par` where its iterations use different tiles."""

    kind: str
    var: str
    count: int


@dataclass(frozen=True)
class Nest:
    """The blocks of one place, or of several chunks that lie alike.

    units:  loops over the place's units (segments, or groups), outermost first.
    inner:  loops over the segments of a group (only with several groups).
    chunks: the loop over chunks of output channels, if there are several.
    size:   channels (rows) of a block; `channel` is the first within its group.
    pack:   groups side by side in a row, each of `columns`.
    """

    units: tuple[Head, ...]
    inner: tuple[Head, ...]
    chunks: tuple[Head, ...]
    group: Affine
    segment: Affine
    channel: Affine
    size: int
    tile: Affine
    row: Affine
    spread: int  # planes in a tile, where a segment's planes lie on several; else 0
    pack: int = 1
    columns: int = 0

    @property
    def sums(self) -> int:
        """Accumulators that the nest adds to."""
        return self.size * self.pack

    def rows_of(self, plane: int) -> tuple[Affine, Affine]:
        """(tile, first row) of a weight plane."""
        tiles, rows = divmod(plane, self.spread) if self.spread else (0, plane)
        return self.tile + tiles, self.row + rows * self.size

    def rungs(self, start: int, stop: int) -> list[Rung]:
        """The weight planes start … stop-1 as loops with affine planes, tiles and rows."""
        found: list[Rung] = []
        while start < stop:
            if not self.spread or stop - start <= self.spread - start % self.spread:
                tiles, within = divmod(start, self.spread) if self.spread else (0, start)
                heads = _Heads()
                j = heads.loop("for", "w", stop - start)
                row = self.row + (j + within) * self.size
                return [*found, Rung(tuple(heads.found), j + start, self.tile + tiles, row)]
            whole = (stop - start) // self.spread if start % self.spread == 0 else 0
            assert whole, "planes are walked from the start of a tile"
            heads = _Heads()
            h, j = heads.loop("for", "h", whole), heads.loop("for", "w", self.spread)
            tile = self.tile + h + start // self.spread
            plane = h * self.spread + j + start
            found.append(Rung(tuple(heads.found), plane, tile, self.row + j * self.size))
            start += whole * self.spread
        return found


@dataclass(frozen=True)
class Rung:
    """A run of weight planes: loops over them, the plane, the tile and first row of its rows."""

    heads: tuple[Head, ...]
    plane: Affine
    tile: Affine
    row: Affine


def nests(places: Sequence[Place], shape: KernelShape, groups: int) -> list[Nest]:
    """A nest for each run of places; chunks that lie alike on following tiles share one.
    `groups` are the layer's own, which packs may not divide."""
    found: list[Nest] = []
    at = 0
    while at < len(places):
        run = _run(places, at) if shape.groups == 1 else 1
        found.append(_nest(places[at : at + run], shape, groups))
        at += run
    return found


def _run(places: Sequence[Place], at: int) -> int:
    """How many places from `at` on differ only in channels and tile, both in equal steps."""
    first = places[at]
    size = first.channels[1] - first.channels[0]
    step = None
    count = 1
    for place in places[at + 1 :]:
        before = places[at + count - 1]
        same = (place.first, place.count, place.width, place.row, place.per_tile) == (
            first.first, first.count, first.width, first.row, first.per_tile,
        )  # fmt: skip
        follows = place.channels == (before.channels[1], before.channels[1] + size)
        stride = (place.tile or 0) - (before.tile or 0)
        if not same or not follows or step not in (None, stride):
            break
        step = stride
        count += 1
    return count


def _nest(places: Sequence[Place], shape: KernelShape, groups: int) -> Nest:
    """Block q of unit u: with whole units in a tile, tile and row advance with u and q; with
    several tiles for a unit, the tile advances with q as well."""
    place = places[0]
    assert place.tile is not None
    size = place.channels[1] - place.channels[0]
    unit, planes, pack = shape.unit(place.width), shape.planes, shape.pack
    count, per_tile = place.count // unit, place.per_tile
    heads, inner = _Heads(), _Heads()
    segment, tile, row = Affine(), Affine(), Affine()
    spread = per_tile < planes  # the planes of a segment lie on several tiles
    tiles_a_segment = planes // per_tile if spread else 0
    if per_tile >= unit:
        fit = per_tile // unit
        tile = heads.loop("par", "k", count // fit)
        grouped = shape.groups > 1
        within = heads.loop("for", "g" if grouped else "j" if count > fit else "s", fit)
        number, row = tile * fit + within, within * (unit * size)
        if grouped:
            segment = inner.loop("for", "s", shape.segments(place.width))
            row = row + segment * (planes * size)
    else:
        number = heads.loop("par", "k", count)
        tile = number * (unit // per_tile)
        if shape.groups > 1 and spread:
            segment = inner.loop("for", "s", shape.segments(place.width))
            tile = tile + segment * tiles_a_segment
        elif shape.groups > 1:
            fit = per_tile // planes
            high = inner.loop("par", "s", unit // per_tile)
            low = inner.loop("for", "i", fit)
            segment, tile, row = high * fit + low, tile + high, low * (planes * size)
    number = number + place.first // unit
    chunks = _Heads()
    chunk = chunks.loop("par", "m", len(places))
    if len(places) > 1:
        tile = tile + chunk * ((places[1].tile or 0) - place.tile)
    return Nest(
        units=tuple(heads.found),
        inner=tuple(inner.found),
        chunks=tuple(chunks.found),
        group=number if shape.groups > 1 else Affine(),
        segment=segment if shape.groups > 1 else number,
        channel=chunk * size + place.channels[0],
        size=size,
        tile=tile + place.tile,
        row=row + place.row,
        spread=per_tile if spread else 0,
        pack=1 if pack == 1 else min(pack, groups - place.first // unit * pack),
        columns=shape.columns // pack,
    )


class _Heads:
    """Loops in the making, outermost first; a loop of one iteration is none."""

    def __init__(self) -> None:
        self.found: list[Head] = []

    def loop(self, kind: str, var: str, count: int) -> Affine:
        """The loop's variable, or 0."""
        if count == 1:
            return Affine()
        self.found.append(Head(kind, var, count))
        return Affine.of(var)
