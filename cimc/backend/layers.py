"""Code of one layer: for each position, load a segment, read its rows, count, accumulate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cimc.backend.nest import Head, Nest
from cimc.driver.recipes import Recipe, powers
from cimc.isa.program import Affine, Instr, Loop, Option, Range, Ref, Reg, Rows

Body = list[Instr | Loop]
POSITION = Affine.of("p")
_INPUT_SUM = Reg("s", Range.of(0, 1))  # the sum of the input's values, for zero points of w


@dataclass(frozen=True)
class Load:
    """How the input latch is filled: `ld.window` with a window, or `ld.vector`."""

    source: str
    window: str | None
    width: int  # columns of a segment, for ld.vector
    groups: int
    planes: int  # input bit planes
    negative_top: bool  # the top plane counts negative (two's complement)
    pad: Affine | Ref | None = None  # what taps outside hold; None: they are not valid
    signs: bool = False  # a bit is +1 or -1 where it is valid


@dataclass(frozen=True)
class Corrections:
    """What is added to the sums of products, by names of data items with one integer for each
    channel: `start` at once, with `at` one row of it for each position; `by_zero` times the zero
    point `zero` (a buffer's element), `by_sum` times the sum of the input's values."""

    start: str | None = None
    at: Affine | None = None
    zero: Ref | None = None
    by_zero: str | None = None
    by_sum: str | None = None


@dataclass(frozen=True)
class Store:
    """Where sums go: `st.acc`, or `st.ge` with thresholds and perhaps flips, or `st.rq` with
    scales and a zero point. `take` says which sum of its group (or pack) each channel stores;
    `channels` are stored of a group, without `take` as many as it has sums."""

    buffer: str
    thresholds: str | None = None
    flips: str | None = None
    scales: str | None = None
    zero: int = 0
    take: str | None = None
    channels: int = 0


@dataclass(frozen=True)
class Plan:
    """All that the code of a layer depends on, besides its nests."""

    load: Load
    recipe: Recipe
    corrections: Corrections
    stores: tuple[Store, ...]
    channels: int  # of one group, or of one pack
    pack: int = 1  # groups in a pack


def loops(heads: Sequence[Head], body: Body) -> Body:
    """The body inside the loops, outermost first."""
    for head in reversed(heads):
        body = [Loop(head.kind, head.var, Affine(), Affine.of(head.count), body)]
    return body


def program_cells(nest: Nest, data: str, planes: int, channels: int) -> Body:
    """`.load`: reset and set the rows of a nest from the cell matrix `data`."""
    body: Body = []
    for rung in nest.rungs(0, planes):
        first = nest.group * (planes * channels) + rung.plane * channels + nest.channel
        rows = Rows(rung.tile, Range.of(rung.row, nest.size))
        source = Ref(data, range=Range.of(first, nest.size))
        pulses: Body = [Instr(op, (rows, source), _seg(nest)) for op in ("reset", "set")]
        body += loops(rung.heads, pulses)
    return loops([*nest.units, *nest.inner, *nest.chunks], body)


def layer(nests: Sequence[Nest], plan: Plan, positions: int) -> Body:
    """`.infer`: the loop over positions of a layer."""
    if plan.load.groups == 1:
        body = _start(plan, Affine(), Affine(), plan.channels)
        for nest in nests:
            body += loops(nest.units, _segment(nest, plan))
        body += _finish(plan, Affine(), Affine(), plan.channels)
    else:
        body = []
        for nest in nests:
            channel = nest.group * plan.channels + nest.channel
            group = _start(plan, channel, nest.channel, nest.sums)
            group += loops(nest.inner, _segment(nest, plan))
            group += _finish(plan, channel, nest.channel, nest.sums)
            body += loops(nest.units, group)
    return at_positions(positions, body)


def at_positions(count: int, body: Body) -> Body:
    """The body for each position; nothing where there are none (an empty batch)."""
    return [Loop("for", "p", Affine(), Affine.of(count), body)] if count else []


def _start(plan: Plan, channel: Affine, row: Affine, size: int) -> Body:
    """Clear the sums of `size` channels from `channel` on, then add what is known before the
    products: accumulator `row` belongs to `channel`."""
    sums, rows, given = Reg("a", Range.of(row, size)), Range.of(channel, size), plan.corrections
    body: Body = [Instr("acc.clr", (sums,))]
    if given.by_sum is not None:
        body.append(Instr("acc.clr", (_INPUT_SUM,)))
    if given.start is not None:
        body.append(Instr("acc.add", (sums, Ref(given.start, given.at, rows))))
    if given.by_zero is not None and given.zero is not None:
        body.append(Instr("acc.mac", (sums, given.zero, Ref(given.by_zero, range=rows))))
    return body


def _finish(plan: Plan, channel: Affine, row: Affine, size: int) -> Body:
    """Add what is known after the products, then store."""
    body: Body = []
    sums, rows = Reg("a", Range.of(row, size)), Range.of(channel, size)
    if plan.corrections.by_sum is not None:
        factors = Ref(plan.corrections.by_sum, range=rows)
        body.append(Instr("acc.mac", (sums, _INPUT_SUM, factors)))
    for store in plan.stores:
        opts: dict[str, Option] = {}
        if store.take is not None:
            rows = _stored(plan, store, channel, size)
            opts = {"take": Ref(store.take, range=rows)}
        target = Ref(store.buffer, POSITION, rows)
        if store.scales is not None:
            opts |= {"zero": Affine(store.zero)} if store.zero else {}
            body.append(Instr("st.rq", (target, sums, Ref(store.scales, range=rows)), opts))
        elif store.thresholds is not None:
            opts |= {} if store.flips is None else {"flip": Ref(store.flips, range=rows)}
            body.append(Instr("st.ge", (target, sums, Ref(store.thresholds, range=rows)), opts))
        else:
            body.append(Instr("st.acc", (target, sums), opts))
    return body


def _stored(plan: Plan, store: Store, channel: Affine, size: int) -> Range:
    """The channels that a store takes from the `size` sums from `channel` on: those of whole
    groups."""
    group = plan.channels // plan.pack  # sums of a group
    scaled = {name: coef // group * store.channels for name, coef in channel.terms}
    start = Affine(channel.const // group * store.channels, tuple(scaled.items()))
    return Range.of(start, size // group * store.channels)


def _segment(nest: Nest, plan: Plan) -> Body:
    """All input planes of a segment; the top plane of a signed integer is peeled."""
    load = plan.load
    if load.planes == 1:
        return _plane(nest, plan, Affine(), -1 if load.negative_top else 1)
    top = load.planes - 1 if load.negative_top else load.planes
    body = loops([Head("for", "b", top)], _plane(nest, plan, Affine.of("b"), 1))
    if load.negative_top:
        body += _plane(nest, plan, Affine(top), -1)
    return body


def _plane(nest: Nest, plan: Plan, plane: Affine, sign: int) -> Body:
    """One input plane: load it, then read the rows of each weight plane."""
    recipe = plan.recipe
    body: Body = [_load(nest, plan.load, plane)]
    for latch in recipe.latches:
        opts = {"value": Affine(1)} if latch == "1" else {}
        body.append(Instr("ld.fill", (Reg(f"x{latch}"), Reg("x")), dict(opts)))
    # a layer's nests load each segment anew for other channels: it is summed with the first
    first = plan.load.groups > 1 or nest.channel.const == 0
    if plan.corrections.by_sum is not None and first:
        body += _accumulate(_INPUT_SUM, Reg("x", field="ones"), sign * (1 + plan.load.signs), plane)
        if plan.load.signs:  # as many -1 as there are valid bits that are not 1
            body += _accumulate(_INPUT_SUM, Reg("x", field="valid"), -sign, plane)
    sums = Reg("a", Range.of(nest.channel, nest.sums))
    rows: Body = []
    for scalar, weight in (("valid", recipe.valid), ("ones", recipe.ones)):
        rows += _accumulate(sums, Reg("x", field=scalar), sign * weight, plane)
    if not recipe.ladder:
        for term in recipe.terms:
            tile, row = nest.rows_of(term.plane)
            rows += _read(nest, term.function, term.latch, (tile, row))
            rows += _accumulate(sums, _counts(nest), sign * term.weight, plane)
    top = recipe.ladder - 1 if recipe.signed else recipe.ladder
    runs = [(rung, sign) for rung in nest.rungs(0, top)]
    runs += [(rung, -sign) for rung in nest.rungs(top, recipe.ladder)]
    for rung, factor in runs:
        inner: Body = []
        for term in recipe.terms:
            inner += _read(nest, term.function, term.latch, (rung.tile, rung.row))
            inner += _accumulate(sums, _counts(nest), factor * term.weight, plane + rung.plane)
        rows += loops(rung.heads, inner)
    return [*body, *loops(nest.chunks, rows)]


def _read(nest: Nest, function: str, latch: str, at: tuple[Affine, Affine]) -> Body:
    bits = Reg("d", Range.of(0, nest.size))
    cells = Rows(at[0], Range.of(at[1], nest.size))
    filled = Reg("x" if latch == "x" else f"x{latch}")
    return [
        Instr(f"read.{function}", (bits, cells, filled)),
        Instr("popc", (_counts(nest), bits), _width(nest)),
    ]


def _counts(nest: Nest) -> Reg:
    return Reg("c", Range.of(0, nest.sums))


def _width(nest: Nest) -> dict[str, Option]:
    """The columns of each group of a pack."""
    return {"width": Affine(nest.columns)} if nest.pack > 1 else {}


def _load(nest: Nest, load: Load, plane: Affine) -> Instr:
    opts: dict[str, Option] = _seg(nest)
    if plane != Affine():
        opts["plane"] = plane
    source = Ref(load.source, POSITION)
    if load.window is None:
        opts["width"] = Affine(load.width)
        return Instr("ld.vector", (Reg("x"), source), opts)
    if nest.group != Affine():
        opts["group"] = nest.group
    if load.pad is not None:
        opts["pad"] = load.pad
    return Instr("ld.window", (Reg("x"), source, Ref(load.window)), opts)


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
