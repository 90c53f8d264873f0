"""Schedule of the search for similar kernels: where the cells of two kernels lie, as loops.

The kernels of a layer lie in chunks of output channels; chunks that lie alike on following tiles
make a `Run`. A `Walk` goes through the blocks (segment and weight plane) that chunks of several
runs have in common, with affine tiles and rows for each. Layers of one group only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from cimc.backend.nest import Head
from cimc.ir.graph import Place
from cimc.ir.kernels import KernelShape
from cimc.isa.program import Affine


@dataclass(frozen=True)
class _Blocks:
    """Blocks of a chunk, from number `first` of a place on; `step` is the distance in tiles to
    the same blocks of the next chunk of a run."""

    tile: int
    row: int
    per_tile: int
    first: int
    step: int = 0

    def lies_like(self, other: _Blocks) -> bool:
        mine = self.row, self.per_tile, self.first
        return mine == (other.row, other.per_tile, other.first)


@dataclass(frozen=True)
class Run:
    """`count` chunks of `size` channels each, the first of which begins at `channel`; `parts` has
    its blocks in each range of segments."""

    channel: int
    size: int
    count: int
    parts: tuple[_Blocks, ...]

    def kernel(self, chunk: Affine) -> Affine:
        """The first channel of a chunk."""
        return chunk * self.size + self.channel


@dataclass(frozen=True)
class Walk:
    """Loops, outermost first, over blocks of `width` columns: their weight plane, and for each run
    asked for the tile and first row of its kernels."""

    heads: tuple[Head, ...]
    plane: Affine
    width: int
    at: tuple[tuple[Affine, Affine], ...]


@dataclass(frozen=True)
class _Order:
    """A nest of loops over blocks: variable, count and the distance in blocks of each; the number
    of the first block, and the plane."""

    loops: tuple[tuple[str, int, int], ...]
    start: int
    plane: Affine


class Pairs:
    """The chunks of a layer's kernels: as `runs`, and the segments that they have in common."""

    def __init__(self, places: Sequence[Place], shape: KernelShape) -> None:
        """places: all of the layer, with tiles."""
        self.planes = shape.planes
        width, columns = places[0].width, shape.columns
        segments = shape.segments(width)
        chunks: dict[tuple[int, int], list[Place]] = {}
        for place in places:
            chunks.setdefault(place.channels, []).append(place)
        cuts = {0, segments} | ({segments - 1} if columns % width else set())
        ranges = list(pairwise(_settled(cuts, places, shape.planes)))
        self._ranges = [(b - a, min(width, columns - a * width)) for a, b in ranges]
        self.runs: list[Run] = []
        for (low, high), own in sorted(chunks.items()):
            parts = tuple(_blocks(own, a, shape.planes) for a, _ in ranges)
            self._add(Run(low, high - low, 1, parts))

    def _add(self, new: Run) -> None:
        """Another chunk: of the last run, if it goes on in the same steps."""
        last = self.runs[-1] if self.runs else None
        if last is None or last.size != new.size:
            self.runs.append(new)
            return
        steps = [(b.tile - a.tile, last.count) for a, b in zip(last.parts, new.parts, strict=True)]
        alike = all(
            a.lies_like(b) and distance == (a.step * count if count > 1 else distance)
            for a, b, (distance, count) in zip(last.parts, new.parts, steps, strict=True)
        )
        if not alike:
            self.runs.append(new)
            return
        parts = tuple(
            _Blocks(a.tile, a.row, a.per_tile, a.first, distance // count)
            for a, (distance, count) in zip(last.parts, steps, strict=True)
        )
        self.runs[-1] = Run(last.channel, last.size, last.count + 1, parts)

    def walks(
        self, chunks: Sequence[tuple[Run, Affine]], low: int = 0, high: int | None = None
    ) -> list[Walk]:
        """The blocks of the weight planes low … high-1 (None: all) of some chunks, which are given
        by run and number in it."""
        stop = self.planes if high is None else high
        found: list[Walk] = []
        for number, (units, width) in enumerate(self._ranges):
            natural = (_natural(r.parts[number], units, self.planes, low, stop) for r, _ in chunks)
            tries = [*natural, _one_by_one(units, self.planes, low, stop)]
            made = (self._follow(orders, chunks, number, width) for orders in tries if orders)
            found += next(walks for walks in made if walks is not None)
        return found

    def _follow(
        self,
        orders: Sequence[_Order],
        chunks: Sequence[tuple[Run, Affine]],
        number: int,
        width: int,
    ) -> list[Walk] | None:
        """The orders as walks; None where a chunk's tiles or rows aren't affine in them."""
        found = []
        for order in orders:
            at = [_position(run.parts[number], run.size, order, chunk) for run, chunk in chunks]
            known = tuple(place for place in at if place is not None)
            if len(known) < len(at):
                return None
            heads = tuple(Head("for", var, count) for var, count, _ in order.loops if count > 1)
            found.append(Walk(heads, order.plane, width, known))
        return found


def _settled(cuts: set[int], places: Sequence[Place], planes: int) -> list[int]:
    """The cuts between segments with those of all places; a tile that one of them cuts is a range
    of its own."""
    for place in places:
        cuts |= {place.first // planes, (place.first + place.count) // planes}
    while True:
        more = {edge for place in places for cut in cuts for edge in _edges(place, planes, cut)}
        if more <= cuts:
            return sorted(cuts)
        cuts |= more


def _edges(place: Place, planes: int, cut: int) -> tuple[int, ...]:
    """Where the tile begins and ends that a cut goes through."""
    first, last = place.first // planes, (place.first + place.count) // planes
    fit = place.per_tile // planes
    if fit < 2 or not first < cut < last:
        return ()
    start = cut - (cut - first) % fit
    return () if start == cut else (start, min(start + fit, last))


def _blocks(places: Sequence[Place], segment: int, planes: int) -> _Blocks:
    """The blocks of a chunk from a segment on."""
    block = segment * planes
    place = next(p for p in places if p.first <= block < p.first + p.count)
    assert place.tile is not None
    return _Blocks(place.tile, place.row, place.per_tile, block - place.first)


def _natural(blocks: _Blocks, units: int, planes: int, low: int, high: int) -> list[_Order] | None:
    """Loops as the blocks of a chunk lie on tiles; None where they don't lie evenly."""
    fit, plane = blocks.per_tile, Affine.of("w")
    count = high - low
    if fit >= planes:
        inner = ("w", count, 1)
        many = units > fit // planes
        if many and units % (fit // planes):
            return None
        outer = ("k", units // (fit // planes), fit) if many else ("k", 1, 0)
        segment = ("s", fit // planes if many else units, planes)
        return [_Order((outer, segment, inner), low, (plane if count > 1 else Affine()) + low)]
    if low % fit:
        return None
    orders, unit = [], ("k", units, planes)
    whole, rest = divmod(count, fit)
    if whole:
        tile = Affine.of("h") * fit if whole > 1 else Affine()
        inside = plane if fit > 1 else Affine()
        loops = (unit, ("h", whole, fit), ("w", fit, 1))
        orders.append(_Order(loops, low, tile + inside + low))
    if rest:
        start = low + whole * fit
        inside = plane if rest > 1 else Affine()
        orders.append(_Order((unit, ("w", rest, 1)), start, inside + start))
    return orders


def _one_by_one(units: int, planes: int, low: int, high: int) -> list[_Order]:
    """Each block by itself: lies wherever it lies."""
    return [
        _Order((), unit * planes + plane, Affine(plane))
        for unit in range(units)
        for plane in range(low, high)
    ]


def _position(
    blocks: _Blocks, size: int, order: _Order, chunk: Affine
) -> tuple[Affine, Affine] | None:
    """Tile and row of the blocks in an order: those steps that are whole tiles go to the tile, all
    others must stay within one. None where they don't."""
    fit = blocks.per_tile
    tile, low = divmod(blocks.first + order.start, fit)
    tiles, rows, reach = chunk * blocks.step + blocks.tile + tile, Affine(low), low
    for var, count, distance in order.loops:
        if count == 1:
            continue
        if distance % fit == 0:
            tiles = tiles + Affine.of(var) * (distance // fit)
            continue
        rows, reach = rows + Affine.of(var) * distance, reach + distance * (count - 1)
    return (tiles, rows * size + blocks.row) if reach < fit else None
