"""Gives each block of kernel rows its tile and row."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cimc.driver import Geometry, Pass, PassContext
from cimc.errors import CompileError
from cimc.ir.graph import Graph, Node, Place, Value
from cimc.ir.kernels import kernel_shape

STRATEGIES = ("compact", "fast")


@dataclass
class _Chip:
    """Tiles in use and the free rows at the end of each."""

    rows: int
    free: list[int]

    def open(self, count: int, used: int) -> int:
        """`count` new tiles, each with `used` rows taken; the index of the first."""
        first = len(self.free)
        self.free += [self.rows - used] * count
        return first

    def fit(self, used: int) -> tuple[int, int]:
        """(tile, row) of a run of `used` rows: the first tile with room, else a new one."""
        for tile, free in enumerate(self.free):
            if free >= used:
                self.free[tile] -= used
                return tile, self.rows - free
        return self.open(1, used), 0


def _per_tile(fit: int, unit: int, planes: int) -> int:
    """The most blocks in a tile such that tiles and rows stay affine in the block's indices:
    whole units in a tile, or a whole number of tiles for a unit (and planes likewise)."""
    if fit >= unit:
        return fit - fit % unit
    whole = (n for n in range(fit, 0, -1) if unit % n == 0)
    return next(n for n in whole if n % planes == 0 or planes % n == 0)


def _compact(chip: _Chip, place: Place, unit: int, planes: int) -> list[Place]:
    """Few tiles: full ones first, the rest beside other layers' rests where there is room."""
    size = place.channels[1] - place.channels[0]
    per_tile = _per_tile(chip.rows // size, unit, planes)
    full, rest = divmod(place.count, per_tile)
    found = []
    if full:
        tile = chip.open(full, per_tile * size)
        found.append(replace(place, count=full * per_tile, tile=tile, row=0, per_tile=per_tile))
    if rest:
        tile, row = chip.fit(rest * size)
        first = place.first + full * per_tile
        found.append(replace(place, first=first, count=rest, tile=tile, row=row, per_tile=rest))
    return found


def _fast(chip: _Chip, place: Place, unit: int, planes: int) -> list[Place]:
    """One unit a tile where it fits, so that segments or groups are read at the same time."""
    size = place.channels[1] - place.channels[0]
    per_tile = _per_tile(min(unit, chip.rows // size), unit, planes)
    tile = chip.open(place.count // per_tile, per_tile * size)
    return [replace(place, tile=tile, row=0, per_tile=per_tile)]


def _layers(graph: Graph) -> dict[Value, Node]:
    """The layer that uses each placed kernel."""
    placed = {p.value for p in graph.places}
    return {n.arg(1): n for n in graph.nodes if len(n.inputs) > 1 and n.inputs[1] in placed}


def _check_size(chip: _Chip, geometry: Geometry) -> None:
    if geometry.tiles is None or len(chip.free) <= geometry.tiles:
        return
    raise CompileError(
        f"the model needs {len(chip.free)} tiles of {geometry.rows}x{geometry.cols} cells, "
        f"the target has {geometry.tiles}",
        help=f"use --set tiles={len(chip.free)}, larger tiles, or a pruned model",
    )


@dataclass(frozen=True)
class AllocateTiles(Pass):
    """Rules:
    1. `place` without a tile ⇒ tile, row and blocks per tile, affine in the block's number
    2. strategy=compact: full tiles, then the rests of all layers side by side (first fit)
    3. strategy=fast: a tile for each segment or group, to be read in parallel
    Refuses a model that needs more tiles than the target has.
    """

    name = "allocate-tiles"
    summary = "give each block of kernel rows its tile and row"
    kind = "exact"
    strategy: str = "compact"

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}")

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        if all(p.tile is not None for p in graph.places):
            return False
        chip = _Chip(ctx.geometry.rows, [])
        layers = _layers(graph)
        place_ = _compact if self.strategy == "compact" else _fast
        found = []
        for place in graph.places:
            shape = kernel_shape(layers[place.value], place.width)
            found += place_(chip, place, shape.unit(place.width), shape.planes)
        _check_size(chip, ctx.geometry)
        graph.places = found
        return True
