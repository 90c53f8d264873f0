"""Code of one layer: for each position, load a segment, read its rows, count, accumulate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cimc.backend.nest import Head, Nest
from cimc.backend.recipes import Recipe, powers
from cimc.isa.program import Affine, Instr, Loop, Option, Range, Ref, Reg, Rows

Body = list[Instr | Loop]
POSITION = Affine.of("p")


@dataclass(frozen=True)
class Load:
    """How the input latch is filled: `ld.window` with a window, or `ld.vector`."""

    source: str
    window: str | None
    width: int  # columns of a segment, for ld.vector
    groups: int
    planes: int  # input bit planes
    negative_top: bool  # the top plane counts negative (two's complement)


@dataclass(frozen=True)
class Store:
    """Where sums go: `st.acc`, or `st.ge` with thresholds and perhaps flips."""

    buffer: str
    thresholds: str | None = None
    flips: str | None = None


def loops(heads: Sequence[Head], body: Body) -> Body:
    """The body inside the loops, outermost first."""
    for head in reversed(heads):
        body = [Loop(head.kind, head.var, Affine(), Affine.of(head.count), body)]
    return body


def program_cells(nest: Nest, data: str, planes: int, channels: int) -> Body:
    """`.load`: reset and set the rows of a nest from the cell matrix `data`."""
    body: Body = []
    for plane in range(planes):
        tile, row = nest.rows_of(plane)
        first = nest.group * (planes * channels) + plane * channels + nest.channel
        rows = Rows(tile, Range.of(row, nest.size))
        source = Ref(data, range=Range.of(first, nest.size))
        for op in ("reset", "set"):
            body.append(Instr(op, (rows, source), _seg(nest)))
    return loops([*nest.units, *nest.inner, *nest.chunks], body)


def layer(
    nests: Sequence[Nest],
    load: Load,
    recipe: Recipe,
    stores: Sequence[Store],
    channels: int,
    positions: int,
) -> Body:
    """`.infer`: the loop over positions of a layer with `channels` kernels in each group."""
    if load.groups == 1:
        body = _clear(0, channels)
        for nest in nests:
            body += loops(nest.units, _segment(nest, load, recipe))
        body += _store(stores, Affine(), Affine(), channels)
    else:
        body = []
        for nest in nests:
            group = _clear(nest.channel, nest.size)
            group += loops(nest.inner, _segment(nest, load, recipe))
            channel = nest.group * channels + nest.channel
            group += _store(stores, channel, nest.channel, nest.size)
            body += loops(nest.units, group)
    return at_positions(positions, body)


def at_positions(count: int, body: Body) -> Body:
    """The body for each position; nothing where there are none (an empty batch)."""
    return [Loop("for", "p", Affine(), Affine.of(count), body)] if count else []


def _clear(start: int | Affine, size: int) -> Body:
    return [Instr("acc.clr", (Reg("a", Range.of(start, size)),))]


def _store(stores: Sequence[Store], channel: Affine, row: Affine, size: int) -> Body:
    body: Body = []
    sums = Reg("a", Range.of(row, size))
    for store in stores:
        target = Ref(store.buffer, POSITION, Range.of(channel, size))
        if store.thresholds is None:
            body.append(Instr("st.acc", (target, sums)))
            continue
        rows = Range.of(channel, size)
        opts = {} if store.flips is None else {"flip": Ref(store.flips, range=rows)}
        body.append(Instr("st.ge", (target, sums, Ref(store.thresholds, range=rows)), dict(opts)))
    return body


def _segment(nest: Nest, load: Load, recipe: Recipe) -> Body:
    """All input planes of a segment; the top plane of a signed integer is peeled."""
    if load.planes == 1:
        return _plane(nest, load, recipe, Affine(), 1)
    top = load.planes - 1 if load.negative_top else load.planes
    var = Affine.of("b")
    body: Body = [Loop("for", "b", Affine(), Affine.of(top), _plane(nest, load, recipe, var, 1))]
    if load.negative_top:
        body += _plane(nest, load, recipe, Affine(top), -1)
    return body


def _plane(nest: Nest, load: Load, recipe: Recipe, plane: Affine, sign: int) -> Body:
    body = [_load(nest, load, plane)]
    for latch in recipe.latches:
        opts = {"value": Affine(1)} if latch == "1" else {}
        body.append(Instr("ld.fill", (Reg(f"x{latch}"), Reg("x")), dict(opts)))
    sums = Reg("a", Range.of(nest.channel, nest.size))
    rows: Body = []
    for scalar, weight in (("valid", recipe.valid), ("ones", recipe.ones)):
        rows += _accumulate(sums, Reg("x", field=scalar), sign * weight, plane)
    bits, counts = (Reg(name, Range.of(0, nest.size)) for name in ("d", "c"))
    for term in recipe.terms:
        tile, row = nest.rows_of(term.plane)
        filled = Reg("x" if term.latch == "x" else f"x{term.latch}")
        cells = Rows(tile, Range.of(row, nest.size))
        rows.append(Instr(f"read.{term.function}", (bits, cells, filled)))
        rows.append(Instr("popc", (counts, bits)))
        rows += _accumulate(sums, counts, sign * term.weight, plane)
    return [*body, *loops(nest.chunks, rows)]


def _load(nest: Nest, load: Load, plane: Affine) -> Instr:
    opts: dict[str, Option] = _seg(nest)
    if plane != Affine():
        opts["plane"] = plane
    source = Ref(load.source, POSITION)
    if load.window is None:
        opts["width"] = Affine(load.width)
        return Instr("ld.vector", (Reg("x"), source), dict(opts))
    if nest.group != Affine():
        opts["group"] = nest.group
    return Instr("ld.window", (Reg("x"), source, Ref(load.window)), dict(opts))


def _seg(nest: Nest) -> dict[str, Option]:
    """The segment as an option; segment 0 is the default."""
    return {} if nest.segment == Affine() else {"seg": nest.segment}


def _accumulate(sums: Reg, addend: Reg, weight: int, plane: Affine) -> Body:
    """`sums += weight · 2**plane · addend` as shifted additions and subtractions."""
    body: Body = []
    for op, shift in powers(weight):
        total = plane + shift
        opts = {} if total == Affine() else {"shl": total}
        body.append(Instr(f"acc.{op}", (sums, addend), dict(opts)))
    return body
