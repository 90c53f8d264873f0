"""What a store stores, as a sum of terms: one for each read of rows that went into it.

Second step of the analysis. Every iteration of the inner loops becomes a row of a table, so that
a layer of thousands of reads takes as long as one of a few. What a term is, loads.py says. Knows
nothing of cells, samples or kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from cimc.isa.geometry import win_columns
from cimc.isa.loops import iterations, values
from cimc.isa.program import Affine, Instr, Program, Range, Ref, Reg, Rows
from cimc.sim.packed.flow import Flow, Path, Refused, Site, inside, register
from cimc.sim.packed.loads import (
    OPS,
    TERM,
    Load,
    Source,
    Terms,
    by_group,
    fill_columns,
    new_terms,
)

Ints = npt.NDArray[np.int64]
Env = dict[str, Ints]

MAX_TERMS = 1 << 20


@dataclass
class Addends:
    """Constants added to accumulators: rows (out, acc, n, coef, start in the data item, place,
    step). A table of two axes is read at row place + step * (the outermost loop's variable)."""

    data: str
    rows: Ints  # [rows, 7]


@dataclass
class Scaled:
    """`acc += scalar * data[start : start + n]`, the scalar from a buffer."""

    scalar: Ref
    data: str
    rows: Ints  # [rows, 5], coef is 1


@dataclass
class Sum:
    """All that goes into the accumulators of a store, for `outs` iterations around it."""

    outs: int
    env: Env
    lo: Ints  # first accumulator and number of them, in each iteration
    size: Ints
    source: Source | None = None
    position: Affine | None = None
    terms: Terms = field(default_factory=lambda: np.zeros(0, TERM))
    addends: list[Addends] = field(default_factory=list)
    scaled: list[Scaled] = field(default_factory=list)
    factors: list[tuple[str, Ints]] = field(default_factory=list)  # data, start by iteration


class Reader:
    """Reads the sums of one outermost loop, whose variable is `var`."""

    def __init__(self, program: Program, flow: Flow, var: str) -> None:
        self.program, self.flow, self.var = program, flow, var
        self.wins, self.datas = program.wins, program.datas

    # -- sums --------------------------------------------------------------------------

    def sum_of(self, use: Site, reg: Reg) -> Sum:
        """What the accumulators `reg` hold when `use` runs. Raises Refused."""
        assert reg.range is not None
        clear, updates = self.flow.sums(use, reg.name)
        count, env = self.enumerate(use.path)
        lo, size = self._span(reg.range, env, count)
        cleared = register(clear, 0).range
        assert cleared is not None
        first, width = self._span(cleared, env, count)
        if ((first > lo) | (first + width < lo + size)).any():
            raise Refused(f"only a part of %{reg.name} is cleared")
        found = Sum(count, env, lo, size)
        for site in updates:
            self._update(found, site, use)
        if len(found.terms) > MAX_TERMS:
            raise Refused(f"{len(found.terms)} reads go into one store")
        return found

    def enumerate(self, path: Path) -> tuple[int, Env]:
        """All iterations of inner loops. Their bounds must not depend on the outermost one."""
        if any(loop.lo.uses(self.var) or loop.hi.uses(self.var) for loop in path):
            raise Refused("the bounds of an inner loop change with the outer loop")
        return iterations(path)

    def values(self, expr: Affine, env: Env, count: int) -> Ints:
        """The value of an expression in each iteration of the inner loops."""
        if expr.uses(self.var):
            raise Refused("more than positions changes with the outer loop")
        return values(expr, env, count)

    def _update(self, found: Sum, site: Site, use: Site) -> None:
        count, env = self.enumerate(site.path)
        out = _outer(site.path, use.path, found.outs)
        span = register(site, 0).range
        assert span is not None
        acc, n = self._span(span, env, count)
        if site.op == "acc.mac":
            self._multiply(found, site, use, (out, acc, n), env)
            return
        sign = -1 if site.op == "acc.sub" else 1
        shl = self.values(_affine(site.instr, "shl"), env, count)
        if count and int(shl.max()) > 40:
            raise Refused("a shift by more than 40")
        coef = sign * (np.int64(1) << shl)
        addend = site.instr.args[1]
        if isinstance(addend, Ref):
            start, _ = self._table(addend, env, count, n)
            step, place = self._moving(addend.index or Affine(), env, count)
            rows = np.stack([out, acc, n, coef, start, place, step], axis=1)
            found.addends.append(Addends(addend.name, _clip(rows, found)))
            return
        assert isinstance(addend, Reg)
        if addend.field is not None:
            made = self._scalar(found, site, addend, count, env)
        else:
            made = self._popcounts(found, site, addend, acc, n, count, env)
        repeat = len(made) // max(1, count)
        made["out"] = np.repeat(out, repeat) if count else out
        made["coef"] = np.repeat(coef, repeat) if count else coef
        if addend.field is not None:
            made["acc"], made["n"] = acc, n
        found.terms = np.concatenate([found.terms, _clip_terms(made, found)])

    def _multiply(
        self, found: Sum, site: Site, use: Site, where: tuple[Ints, Ints, Ints], env: Env
    ) -> None:
        """`acc.mac`: the scalar is one of a buffer, or a sum of its own."""
        out, acc, n = where
        if len(site.path) != len(use.path):
            raise Refused("acc.mac in an inner loop")
        scalar, table = site.instr.args[1:3]
        assert isinstance(table, Ref)
        start, _ = self._table(table, env, len(out), n)
        if isinstance(scalar, Ref):
            rows = np.stack([out, acc, n, np.ones_like(n), start], axis=1)
            found.scaled.append(Scaled(scalar, table.name, _clip(rows, found)))
            return
        assert isinstance(scalar, Reg)
        inner = self.sum_of(site, scalar)
        if inner.addends or inner.scaled or inner.factors:
            raise Refused(f"%{scalar.name} is more than a sum of bits")
        if not np.isin(inner.terms["op"], (OPS["ones"], OPS["valid"])).all():
            raise Refused(f"%{scalar.name} sums rows")
        self._same_source(found, inner.source, inner.position)
        terms = inner.terms.copy()
        terms["factor"] = len(found.factors)
        terms["acc"], terms["n"] = 0, n[terms["out"]]
        if ((acc != found.lo) | (n != found.size)).any():
            raise Refused("acc.mac changes only some accumulators of a store")
        found.factors.append((table.name, start))
        found.terms = np.concatenate([found.terms, terms])

    # -- terms -------------------------------------------------------------------------

    def _scalar(self, found: Sum, site: Site, reg: Reg, count: int, env: Env) -> Terms:
        """`%x.valid` or `%x.ones` as terms of all columns that are loaded."""
        load = self.load(self.flow.definition(site, reg.name), count, env)
        self._same_source(found, load.source, load.position)
        made = new_terms(count, OPS["ones" if reg.field == "ones" else "valid"])
        fill_columns(made, load, None, self.program.target.cols)
        return made

    def _popcounts(
        self, found: Sum, site: Site, reg: Reg, acc: Ints, n: Ints, count: int, env: Env
    ) -> Terms:
        """Counts as terms: `parts` of them for each iteration, one after the other."""
        popc = self.flow.definition(site, reg.name)
        start, _ = self._within(reg, register(popc, 0), env, count)
        bits = register(popc, 1)
        read = self.flow.definition(popc, bits.name)
        row, rows = self._within(bits, register(read, 0), env, count)
        width = self.values(_affine(popc.instr, "width"), env, count)
        cells = read.instr.args[1]
        assert isinstance(cells, Rows)
        load = self.load(self.flow.definition(read, register(read, 2).name), count, env)
        self._same_source(found, load.source, load.position)
        made = new_terms(count, OPS[read.op.split(".")[1]])
        made["tile"] = self.values(cells.tile, env, count)
        made["row"] = self.values(cells.range.start, env, count) + row
        cols = self._cols(read, env, count)
        if not width.any():
            made["row"] += start
            made["acc"], made["n"] = acc, n
            fill_columns(made, load, cols, self.program.target.cols)
            return made
        if start.any() or (n % np.maximum(1, rows)).any():
            raise Refused("a part of the counts of a read that counts by columns")
        parts = int((n // np.maximum(1, rows)).max(initial=0))
        if (n != parts * rows).any():
            raise Refused("the number of column ranges changes")
        made = np.repeat(made, parts)
        part = np.tile(np.arange(parts), count)
        made["n"] = np.repeat(rows, parts)
        made["acc"] = np.repeat(acc, parts) + part * made["n"]
        low = part * np.repeat(width, parts)
        high = low + np.repeat(width, parts)
        if cols is not None:
            low, high = (np.maximum(low, np.repeat(cols[0], parts)),
                         np.minimum(high, np.repeat(cols[1], parts)))  # fmt: skip
        fill_columns(made, load.repeat(parts), (low, high), self.program.target.cols)
        return made

    def reads(self, site: Site) -> tuple[Load, Terms]:
        """The rows that a read reads, in all iterations, whatever becomes of them."""
        count, env = self.enumerate(site.path)
        load = self.load(self.flow.definition(site, register(site, 2).name), count, env)
        cells = site.instr.args[1]
        assert isinstance(cells, Rows)
        made = new_terms(count, OPS[site.op.split(".")[1]])
        made["out"], made["coef"] = np.arange(count), 1
        made["tile"] = self.values(cells.tile, env, count)
        made["row"], made["n"] = self._span(cells.range, env, count)
        split = by_group(made, load, self._cols(site, env, count), self.program.target.cols)
        return load, split

    def load(self, site: Site, count: int, env: Env) -> Load:
        """A latch's load, in the iterations of the site that uses it."""
        instr = site.instr
        if instr.op == "ld.fill":
            filled = self.flow.definition(site, register(site, 1).name)
            load = self.load(filled, count, env)
            if load.latch != "bits":
                raise Refused("ld.fill of a filled latch")
            value = self.values(_affine(instr, "value"), env, count)
            if (value != value[:1]).any():
                raise Refused("ld.fill with a value that changes")
            return replace(load, latch="one" if value[:1].any() else "zero")
        if instr.op == "ld.row":
            raise Refused("ld.row loads cells")
        vector = instr.args[1]
        assert isinstance(vector, Ref)
        assert vector.index is not None
        seg = self.values(_affine(instr, "seg"), env, count)
        plane = self.values(_affine(instr, "plane"), env, count)
        col = self.values(_affine(instr, "col"), env, count)
        if instr.op == "ld.window":
            win = self.wins[instr.args[2].name]  # type: ignore[union-attr]
            pad = self._pad(instr)
            source = Source(vector.name, win, 0, win_columns(win), pad)
            group = self.values(_affine(instr, "group"), env, count)
            return Load(source, vector.index, "bits", seg, plane, group, col)
        lo, size = self._channels(vector)
        width = _affine(instr, "width")
        if not width.is_const:
            raise Refused("ld.vector with a width that changes")
        source = Source(vector.name, None, lo, size)
        return Load(source, vector.index, "bits", seg, plane, seg * 0, col, width.const)

    # -- parts of instructions ---------------------------------------------------------

    def _pad(self, instr: Instr) -> int | Ref | None:
        pad = instr.opts.get("pad")
        if pad is None:
            return None
        if isinstance(pad, Ref):
            return pad
        assert isinstance(pad, Affine)
        if not pad.is_const:
            raise Refused("a padding value that changes")
        return pad.const

    def _channels(self, vector: Ref) -> tuple[int, int]:
        """Channels [lo, lo + size) of a vector that is loaded."""
        declared = self.program.mems.get(vector.name) or self.program.views[vector.name]
        assert declared.shape is not None
        if vector.range is None:
            return 0, declared.shape[declared.axis]
        if not (vector.range.start.is_const and vector.range.size.is_const):
            raise Refused("a vector of channels that change")
        return vector.range.start.const, vector.range.size.const

    def _cols(self, site: Site, env: Env, count: int) -> tuple[Ints, Ints] | None:
        cols = site.instr.opts.get("cols")
        if not isinstance(cols, Range):
            return None
        lo, size = self._span(cols, env, count)
        return lo, lo + size

    def _span(self, span: Range, env: Env, count: int) -> tuple[Ints, Ints]:
        return self.values(span.start, env, count), self.values(span.size, env, count)

    def _within(self, use: Reg, made: Reg, env: Env, count: int) -> tuple[Ints, Ints]:
        """Where the range `use` starts in the range `made`, and its size."""
        assert use.range is not None
        assert made.range is not None
        lo, size = self._span(use.range, env, count)
        first, width = self._span(made.range, env, count)
        if ((lo < first) | (lo + size > first + width)).any():
            raise Refused(f"%{use.name} comes from more than one instruction")
        return lo - first, size

    def _table(self, table: Ref, env: Env, count: int, n: Ints) -> tuple[Ints, Ints]:
        if table.range is None:
            return np.zeros(count, np.int64), n
        return self._span(table.range, env, count)

    def _moving(self, index: Affine, env: Env, count: int) -> tuple[Ints, Ints]:
        """How far a position moves with the outermost loop, and where it is at 0 of that."""
        step = dict(index.terms).get(self.var, 0)
        rest = index - Affine.of(self.var) * step
        return np.full(count, step, np.int64), self.values(rest, env, count)

    def _same_source(self, found: Sum, source: Source | None, position: Affine | None) -> None:
        if source is None or position is None:
            return
        inner = {name for name, _ in position.terms} - {self.var, *found.env}
        if inner:
            raise Refused("the input moves within a sum")
        if found.source is None:
            found.source, found.position = source, position
        elif (found.source, found.position) != (source, position):
            raise Refused("a sum over two inputs")


def _affine(instr: Instr, name: str) -> Affine:
    value = instr.opts.get(name, Affine())
    assert isinstance(value, Affine)
    return value


def _outer(path: Path, outer: Path, outs: int) -> Ints:
    """The iteration of the loops `outer` in each iteration of `path`, which stands in them."""
    assert inside(path, outer)
    if len(path) == len(outer):
        return np.arange(outs)
    count, env = iterations(path)
    _, around = iterations(outer)
    if not outer:
        return np.zeros(count, np.int64)
    # iterations come in order: a new one begins where an outer variable changes
    number = {tuple(map(int, key)): i for i, key in enumerate(zip(*around.values()))}
    keys = np.stack([env[name] for name in around], axis=1)
    if not count:
        return np.zeros(0, np.int64)
    changed = np.r_[True, (keys[1:] != keys[:-1]).any(axis=1)]
    starts = np.flatnonzero(changed)
    owner = np.array([number[tuple(map(int, keys[i]))] for i in starts])
    found: Ints = owner[np.cumsum(changed) - 1]
    return found


def _clip(rows: Ints, found: Sum) -> Ints:
    """Rows (out, acc, n, coef, start, …) cut to the accumulators of the store."""
    lo = found.lo[rows[:, 0]]
    hi = lo + found.size[rows[:, 0]]
    first = np.maximum(rows[:, 1], lo)
    last = np.minimum(rows[:, 1] + rows[:, 2], hi)
    kept: Ints = rows.copy()
    kept[:, 4] += first - rows[:, 1]
    kept[:, 1], kept[:, 2] = first - lo, last - first
    found_rows: Ints = kept[last > first]
    return found_rows


def _clip_terms(terms: Terms, found: Sum) -> Terms:
    """The same for terms; accumulators then count from the first of the store."""
    lo = found.lo[terms["out"]]
    hi = lo + found.size[terms["out"]]
    first = np.maximum(terms["acc"], lo)
    last = np.minimum(terms["acc"] + terms["n"], hi)
    rows = terms["op"] < OPS["ones"]
    terms["row"] += np.where(rows, first - terms["acc"], 0)
    terms["acc"], terms["n"] = first - lo, last - first
    kept: Terms = terms[(last > first) & (terms["size"] > 0)]
    return kept
