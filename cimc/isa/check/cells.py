"""Static checks of the cells that `.load` programs, and of row remaps.

Fifth part of `check`. Each `set` and `reset` of each iteration is a rectangle of cells;
per tile, a sweep over the rows finds every two of them that overlap. A cell may be in one
`set` and one `reset`, and then both must take it from the same data bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cimc.errors import Span
from cimc.isa.check.lookup import option
from cimc.isa.check.scope import Scope, Site, sites
from cimc.isa.loops import IntArray, extent, iteration_count, iterations, values
from cimc.isa.program import Data, Ref, Rows

MAX_RECTANGLES = 1 << 22
"""Most writes of one program's `.load` section."""


@dataclass(frozen=True)
class _Writes:
    """One instruction in all its iterations; `table` int64 [iterations, 8] holds tile, first
    row, end row, first column, end column, and the data's name as a number, its row minus the
    tile's and its column minus the tile's."""

    site: Site
    table: IntArray


def check_cells(scope: Scope) -> None:
    """Add cells that are programmed twice, and rows that remaps spoil, to `scope`."""
    _remaps(scope)
    program = [site for site in sites(scope.program) if site.instr.op in ("set", "reset")]
    loads = [site for site in program if site.section == "load"]
    if sum(iteration_count(site.loops) for site in loads) > MAX_RECTANGLES:
        help = "program whole row ranges with one instruction"
        scope.at(loads[0], f"`.load` makes more than {MAX_RECTANGLES} writes", None, help)
        return
    numbers = {name: number for number, name in enumerate(scope.names)}
    writes = [_writes(scope, site, numbers) for site in loads]
    if not writes:
        return
    table = np.concatenate([write.table for write in writes])
    owner = np.repeat(np.arange(len(writes)), [len(write.table) for write in writes])
    is_set = np.array([site.instr.op == "set" for site in loads])[owner]
    order = np.lexsort((table[:, 1], table[:, 0]))
    order = order[np.isin(table[order, 0], _doubtful_tiles(table[order], is_set[order]))]
    reported: set[tuple[int, int]] = set()
    for first, second in _overlaps(scope, table, owner, order, loads):
        pair = (min(first, second), max(first, second))
        if pair not in reported:
            reported.add(pair)
            _report(scope, loads[pair[0]], loads[pair[1]])


def _report(scope: Scope, first: Site, second: Site) -> None:
    if first is second:
        scope.at(second, "two iterations program the same cells", 0)
        return
    place = scope.place(first, 0)
    line = f" (line {place.line})" if isinstance(place, Span) else ""
    scope.at(second, f"these cells are programmed by another `{first.instr.op}`{line} as well", 0)


def _writes(scope: Scope, site: Site, numbers: dict[str, int]) -> _Writes:
    rows, ref = site.instr.args
    assert isinstance(rows, Rows)
    assert isinstance(ref, Ref)
    data = scope.names[ref.name]
    assert isinstance(data, Data)
    count, env = iterations(site.loops)
    tile, start, size, col, seg = (
        values(expr, env, count)
        for expr in (
            rows.tile, rows.range.start, rows.range.size, option(site, "col"), option(site, "seg"),
        )
    )  # fmt: skip
    of_data = values(ref.range.start, env, count) if ref.range else np.zeros(count, np.int64)
    columns = data.shape[1]
    begin = seg * data.seg
    length = np.minimum(columns - begin, data.seg) if data.seg else np.full(count, columns)
    name = np.full(count, numbers[ref.name], np.int64)
    parts = (tile, start, start + size, col, col + length, name, of_data - start, begin - col)
    return _Writes(site, np.stack(parts, axis=1))


def _doubtful_tiles(table: IntArray, is_set: npt.NDArray[np.bool_]) -> IntArray:
    """Tiles in which rectangles may meet, from all rectangles by tile and first row. In the
    others, the rows of each `set` are its own, and each `reset` has the rectangle of a `set`."""
    sets, resets = table[is_set], table[~is_set]
    doubtful = [_shared_rows(sets), _shared_rows(resets)]
    if len(resets) and len(sets) and not np.array_equal(sets, resets):
        doubtful.append(np.intersect1d(sets[:, 0], resets[:, 0]))
    return np.concatenate(doubtful)


def _shared_rows(table: IntArray) -> IntArray:
    """Tiles with a row that two rectangles have."""
    if len(table) == 0:
        return table[:, 0]
    tile, low, high = table[:, 0], table[:, 1], table[:, 2]
    base = tile * (int(high.max()) + 1)
    until = np.maximum.accumulate(base + high)
    return tile[1:][until[:-1] > base[1:] + low[1:]]


def _overlaps(
    scope: Scope, table: IntArray, owner: IntArray, order: IntArray, loads: list[Site]
) -> Iterator[tuple[int, int]]:
    """Numbers of two instructions that program a cell in conflict, several times at will.

    For each op and column, `until` is the row up to which the column was programmed last,
    and `by` the rectangle that did. Rectangles come by tile and first row, so an earlier
    one overlaps exactly if it reaches beyond the first row."""
    columns = scope.program.target.cols
    until = np.zeros((2, columns), np.int64)
    by = np.zeros((2, columns), np.int64)
    tile = -1
    for number in order.tolist():
        at, low, high, left, right, *source = table[number].tolist()
        if at != tile:
            tile = at
            until[:] = 0
        op = 0 if loads[owner[number]].instr.op == "set" else 1
        same = until[op, left:right] > low
        if same.any():
            yield int(owner[by[op, left:right][same][0]]), int(owner[number])
        other = until[1 - op, left:right] > low
        for rectangle in np.unique(by[1 - op, left:right][other]).tolist():
            if table[rectangle, 5:].tolist() != source:
                yield int(owner[rectangle]), int(owner[number])
        until[op, left:right] = high
        by[op, left:right] = number


def _remaps(scope: Scope) -> None:
    """A physical row may serve one logical row: a remap's target is no row in use."""
    remaps = scope.program.remaps
    moved = {(remap.tile, remap.logical) for remap in remaps}
    taken = {(r.tile, r.physical): r for r in remaps if (r.tile, r.physical) not in moved}
    if not taken:
        return
    for site in sites(scope.program):
        for key, arg in enumerate(site.instr.args):
            if isinstance(arg, Rows):
                _remap_clash(scope, site, key, arg, list(taken))


def _remap_clash(
    scope: Scope, site: Site, key: int, rows: Rows, taken: list[tuple[int, int]]
) -> None:
    tiles = extent(rows.tile, site.loops)
    low = extent(rows.range.start, site.loops)[0]
    high = extent(rows.range.start + rows.range.size, site.loops)[1]
    for tile, row in taken:
        if tiles[0] <= tile <= tiles[1] and low <= row < high:
            scope.at(site, f"row {row} of tile {tile} is where `.map` puts another row", key)
            return
