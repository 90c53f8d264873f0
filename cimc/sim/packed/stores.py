"""From the stores of a loop to parts: channels of one buffer that read and write alike.

Several stores into one buffer, and the inner iterations of each, join where their positions are
equal and their channels follow each other: then they are channels of one product. A part whose
channels read different groups of a window is taken apart again by `groups`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.isa.loops import values
from cimc.isa.program import Affine, Ref
from cimc.sim.packed.context import Context, together
from cimc.sim.packed.flow import Refused, Site
from cimc.sim.packed.loads import Source
from cimc.sim.packed.terms import Addends, Sum

Ints = npt.NDArray[np.int64]
Terms = npt.NDArray[np.void]
Line = tuple[int, int]  # position 0 and step

_MOST_PARTS = 1024  # steps that one store may become


@dataclass(frozen=True)
class Target:
    """What a store does: operation, buffer, zero point, names of its constants, and what it sums
    over."""

    op: str
    buffer: str
    zero: int
    tables: tuple[str, ...]
    source: Source | None


@dataclass
class Out:
    """A store in one inner iteration: channels [lo, lo + size), the `take` accumulators of `sums`
    (None: all, in order), lines of positions, where its constants start; `sum` holds its terms
    under number `number`."""

    lo: int
    size: int
    sums: int
    take: Ints | None
    out: Line
    at: Line | None
    starts: tuple[int, ...]
    sum: Sum
    number: int


@dataclass
class Part:
    """The channels [lo, lo + size) of a target, at certain positions. `terms` and `factors` are
    those of `sums` accumulators, of which the channels `take` some (None: each has its own, in
    order); `base` and `scalars`, what is added to them, are those of the channels: [1, size], or
    for each value of the outer variable [values, size]."""

    target: Target
    lo: int
    size: int
    sums: int
    take: Ints | None
    out: Line
    at: Line | None
    starts: tuple[int, ...]
    terms: Terms
    base: Ints
    scalars: list[tuple[Ref, Ints]] = field(default_factory=list)
    factors: list[Ints] = field(default_factory=list)

    def constants(self, ctx: Context, number: int) -> npt.NDArray[np.generic]:
        """The entries of its constants, one for each channel."""
        start = self.starts[number]
        return ctx.data(self.target.tables[number])[start : start + self.size]

    def taken(self, array: npt.NDArray[Any], axis: int = 0) -> npt.NDArray[Any]:
        """What accumulators have along an axis, for the channels that take them."""
        return array if self.take is None else np.take(array, self.take, axis)


def outs_of(ctx: Context, site: Site, found: Sum) -> tuple[Target, list[Out]]:
    """A store in all inner iterations. Raises Refused."""
    target, *rest = site.instr.args
    assert isinstance(target, Ref)
    assert target.index is not None
    zero = site.instr.opts.get("zero", Affine())
    assert isinstance(zero, Affine)
    if not zero.is_const:
        raise Refused("a zero point that changes")
    lo, size = ctx.channels(target, found.env, found.outs)
    tables = [ref for ref in (*rest[1:], site.instr.opts.get("flip")) if isinstance(ref, Ref)]
    starts = [_starts(ctx, found, ref) for ref in tables]
    names = tuple(ref.name for ref in tables)
    take = site.instr.opts.get("take")
    chosen = _starts(ctx, found, take) if isinstance(take, Ref) else None
    made = []
    for o in range(found.outs):
        at = None if found.position is None else ctx.line(found.position, found.env, o)
        line = ctx.line(target.index, found.env, o)
        first = tuple(int(start[o]) for start in starts)
        own = None
        if chosen is not None and isinstance(take, Ref):
            own = ctx.data(take.name)[chosen[o] : chosen[o] + size[o]].astype(np.int64)
        made.append(Out(int(lo[o]), int(size[o]), int(found.size[o]), own, line, at, first,
                        found, o))  # fmt: skip
    return Target(site.op, target.name, zero.const, names, found.source), made


def _starts(ctx: Context, found: Sum, table: Ref) -> Ints:
    if table.range is None:
        return np.zeros(found.outs, np.int64)
    if table.range.start.uses(ctx.var):
        raise Refused("a table that changes with the outer loop")
    return values(table.range.start, found.env, found.outs)


def parts_of(ctx: Context, stores: Sequence[tuple[Target, list[Out]]]) -> Iterator[Part]:
    """All stores of a loop, joined where that is possible."""
    for alike in together([target for target, _ in stores]):
        target = stores[alike[0]][0]
        outs = [out for i in alike for out in stores[i][1]]
        for lines in together([(out.out, out.at) for out in outs]):
            run: list[Out] = []
            for out in sorted((outs[i] for i in lines), key=lambda out: out.lo):
                if run and not _follows(run[-1], out):
                    yield _join(ctx, target, run)
                    run = []
                run.append(out)
            yield _join(ctx, target, run)


def _follows(before: Out, out: Out) -> bool:
    """Whether channels and constants go on where the last ones ended."""
    return before.lo + before.size == out.lo and all(
        a + before.size == b for a, b in zip(before.starts, out.starts)
    )


def _join(ctx: Context, target: Target, outs: list[Out]) -> Part:
    first, total, sums = outs[0], sum(out.size for out in outs), sum(out.sums for out in outs)
    begins = np.cumsum([0, *(out.sums for out in outs)]).tolist()
    part = Part(target, first.lo, total, sums, _takes(outs), first.out, first.at, first.starts,
                first.sum.terms[:0], np.zeros((1, sums), np.int64))  # fmt: skip
    pieces = []
    for found in {id(out.sum): out.sum for out in outs}.values():
        mine = {out.number: at for out, at in zip(outs, begins) if out.sum is found}
        sizes = {out.number: out.sums for out in outs if out.sum is found}
        terms = found.terms[np.isin(found.terms["out"], list(mine))].copy()
        shift = np.zeros(found.outs, np.int64)
        shift[list(mine)] = list(mine.values())
        terms["acc"] += shift[terms["out"]]
        terms["factor"] += np.where(terms["factor"] >= 0, len(part.factors), 0)
        pieces.append(terms)
        _constants(ctx, part, found, mine, sizes)
    part.terms = np.concatenate(pieces)
    part.base = part.taken(part.base, 1)
    part.scalars = [(ref, part.taken(factor)) for ref, factor in part.scalars]
    return part


def _takes(outs: list[Out]) -> Ints | None:
    """Which accumulators the channels of stores side by side take; None: each its own."""
    if all(out.take is None for out in outs):
        return None
    begins = np.cumsum([0, *(out.sums for out in outs)])
    taken = [np.arange(out.sums) if out.take is None else out.take for out in outs]
    return np.concatenate([at + own for at, own in zip(begins, taken)])


def _constants(
    ctx: Context, part: Part, found: Sum, shift: dict[int, int], sizes: dict[int, int]
) -> None:
    """What is added to the accumulators, and the factors of terms."""
    for addend in found.addends:
        _add_constants(ctx, part, addend, shift)
    for scaled in found.scaled:
        factor = np.zeros(part.sums, np.int64)
        numbers = ctx.data(scaled.data).astype(np.int64)
        for o, acc, n, _, start in scaled.rows:
            if o in shift:
                factor[shift[o] + acc : shift[o] + acc + n] += numbers[start : start + n]
        part.scalars.append((scaled.scalar, factor))
    for name, starts in found.factors:
        factor = np.zeros(part.sums, np.int64)
        numbers = ctx.data(name).astype(np.int64)
        for o, at in shift.items():
            factor[at : at + sizes[o]] = numbers[starts[o] : starts[o] + sizes[o]]
        part.factors.append(factor)


def _add_constants(ctx: Context, part: Part, addend: Addends, shift: dict[int, int]) -> None:
    """Add the rows of a table to the sums: one for all positions, or one for each."""
    numbers = ctx.data(addend.data).astype(np.int64)
    numbers = numbers.reshape(-1, numbers.shape[-1])
    moves = (addend.rows[:, 6] != 0).any()
    if moves and len(part.base) == 1:
        part.base = np.repeat(part.base, len(ctx.values), axis=0)
    for o, acc, n, coef, start, place, step in addend.rows:
        if o in shift:
            at = place + step * ctx.values if moves else np.full(1, place)
            first = shift[o] + acc
            part.base[:, first : first + n] += coef * numbers[at, start : start + n]


# -- groups of a window ----------------------------------------------------------------


def groups(
    ctx: Context, part: Part, is_product: Callable[[Part], bool]
) -> Iterator[tuple[Part, int, bool]]:
    """Channels that read the same group together: (part, group, depthwise)."""
    used = np.full(part.sums, -1, np.int64)
    lo, n, group = part.terms["acc"], part.terms["n"], part.terms["group"]
    if len(group) and (group == group[0]).all():
        yield part, int(group[0]), False
        return
    for g in np.unique(group):
        mark = np.zeros(part.sums + 1, np.int64)
        mine = group == g
        np.add.at(mark, lo[mine], 1)
        np.add.at(mark, lo[mine] + n[mine], -1)
        there = np.cumsum(mark[:-1]) > 0
        if (used[there] >= 0).any():
            raise Refused("a sum over several groups of a window")
        used[there] = g
    used = part.taken(used)
    source = part.target.source
    alone = source is not None and source.win is not None
    if source is not None and source.win is not None:
        alone = source.win.channels == source.win.groups
        alone = alone and ctx.layout.access(source.buffer).index is None
    in_order = (used == used[:1] + np.arange(part.size)).all() and (used >= 0).all()
    if alone and in_order and part.size > 1 and is_product(part):
        yield part, int(used[0]), True
        return
    ends = np.flatnonzero(np.r_[True, used[1:] != used[:-1], True]).tolist()
    if len(ends) > _MOST_PARTS:
        raise Refused(f"{len(ends) - 1} groups of channels")
    for start, end in pairwise(ends):
        yield _cut(part, int(start), int(end)), max(0, int(used[start])), False


def _cut(part: Part, start: int, end: int) -> Part:
    """The channels [start, end) of a part, with the accumulators from the first to the last that
    they take."""
    take = None if part.take is None else part.take[start:end]
    begin, stop = (start, end) if take is None else (int(take.min()), int(take.max()) + 1)
    first = part.terms["acc"]
    inside = (first < stop) & (first + part.terms["n"] > begin)
    terms = part.terms[inside].copy()
    low = np.maximum(terms["acc"], begin)
    high = np.minimum(terms["acc"] + terms["n"], stop)
    terms["row"] += np.where(terms["op"] < 4, low - terms["acc"], 0)
    terms["acc"], terms["n"] = low - begin, high - low
    return replace(
        part,
        lo=part.lo + start,
        starts=tuple(at + start for at in part.starts),
        size=end - start,
        sums=stop - begin,
        take=None if take is None else take - begin,
        terms=terms,
        base=part.base[:, start:end],
        scalars=[(ref, factor[start:end]) for ref, factor in part.scalars],
        factors=[factor[begin:stop] for factor in part.factors],
    )
