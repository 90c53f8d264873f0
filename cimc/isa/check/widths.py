"""Static check that no accumulator can leave the range of the target's `acc_bits`.

Last part of `check`. Follows each accumulator through loops and latch loads with the
intervals of `bounds.py`. A loop whose variable changes shifts, segments or register ranges
is followed iteration by iteration; any other loop once, and its change is multiplied.
What can't be proved is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np

from cimc.ir.types import int_range
from cimc.isa.check.bounds import Group, Interval, Piece, repeat
from cimc.isa.check.lookup import elem, option
from cimc.isa.check.motion import own_range, segments, sensitive, written
from cimc.isa.check.rules import loaded
from cimc.isa.check.scope import Scope, Site
from cimc.isa.loops import extent, trips
from cimc.isa.program import Affine, Data, Instr, Layer, Loop, Range, Ref, Reg, Section, walk

MAX_STEPS = 400_000
"""Most instructions of one layer that are followed one by one."""

Source = tuple[int, int]  # number of the latch load, its largest number of columns


def check_widths(scope: Scope) -> None:
    """Add accumulators that may overflow to `scope`."""
    numbers = count()
    for section in scope.program.sections:
        state = _State(scope)
        for layer in section.layers:
            follower = _Follower(scope, section, layer, numbers)
            follower.body(layer.body, (), state)
            _judge(scope, layer, state)


def _judge(scope: Scope, layer: Layer, state: _State) -> None:
    """Compare what the layer's accumulators passed with the target; forget it."""
    bits = scope.program.target.acc_bits
    for name, pieces in state.pieces.items():
        worst = [hull for piece in pieces for hull in (piece.rel, piece.fixed) if hull]
        for piece in pieces:
            piece.rel = piece.fixed = None
        if not worst:
            continue
        low = min(worst, key=lambda hull: hull.low)
        high = max(worst, key=lambda hull: hull.high)
        need = max((~min(low.low, 0)).bit_length(), high.high.bit_length()) + 1
        if need <= bits:
            continue
        site = low.low_at if low.low < -(1 << (bits - 1)) else high.high_at
        text = f"layer {layer.name}: `%{name}` can reach {low.low} … {high.high}"
        scope.at(site, f"{text}, which takes {need} bits; the target has acc_bits={bits}", 0,
                 "compile for wider accumulators")  # fmt: skip


class _State:
    """What is known of the registers at one point of the program."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.pieces: dict[str, list[Piece]] = {}
        self.latches: dict[str, Source] = {}
        # where the bits and counts in a range of a register come from
        self.sources: dict[str, list[tuple[Range, Source]]] = {}
        self.open: dict[int, list[Piece]] = {}
        # the state around the loop that this is one iteration of, and what the loop writes
        self.outer: _State | None = None
        self.written: set[str] = set()
        # accumulators of which the iteration changes one range: see `own_range`
        self.own: frozenset[str] = frozenset()

    def value(self, name: str, at: int) -> Interval | None:
        """The range of one accumulator, if it is known."""
        for piece in self.pieces.get(name, []):
            if piece.lo <= at < piece.hi:
                return piece.total() if piece.reset and name not in self.own else None
        if self.outer is None or name in self.written:
            return None
        return self.outer.value(name, at)

    def part(self, name: str, lo: int, hi: int) -> list[Piece]:
        """The pieces of an accumulator register that make up lo … hi-1."""
        whole = [piece for piece in self.pieces.get(name, []) if (piece.lo, piece.hi) == (lo, hi)]
        if whole:
            return whole
        pieces: list[Piece] = []
        for piece in self.pieces.get(name, []):
            for cut in (lo, hi):
                if piece.lo < cut < piece.hi:
                    pieces.append(piece)
                    piece = self._split(piece, cut)
            pieces.append(piece)
        inside = [piece for piece in pieces if lo <= piece.lo and piece.hi <= hi]
        edges = [lo, *(edge for piece in inside for edge in (piece.lo, piece.hi)), hi]
        new = [Piece(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]
        self.pieces[name] = sorted([*pieces, *new], key=lambda piece: piece.lo)
        return [*inside, *new]

    def _split(self, piece: Piece, cut: int) -> Piece:
        rest = piece.split(cut)
        for load in rest.groups:
            self.open[load].append(rest)
        return rest

    def group(self, piece: Piece, source: Source) -> Group:
        """The open sum of a latch load in a piece."""
        load, width = source
        if load not in piece.groups:
            piece.groups[load] = Group(width)
            self.open.setdefault(load, []).append(piece)
        group = piece.groups[load]
        group.width = max(group.width, width)
        return group

    def load_latch(self, name: str, source: Source) -> None:
        """A latch gets new bits; sums over its old ones are complete."""
        old = self.latches.get(name)
        if old is not None and old != source:
            for load in (old[0], -1 - old[0]):
                for piece in self.open.pop(load, []):
                    piece.close(load)
        self.latches[name] = source

    def set_source(self, name: str, part: Range, source: Source | None) -> None:
        """Bits or counts of a range are written."""
        known = self.sources.get(name, [])
        kept = [item for item in known if item[0] is not part and _disjoint(item[0], part)]
        self.sources[name] = [*kept, (part, source)] if source else kept

    def source(self, name: str, part: Range) -> Source | None:
        """The latch load that all of a range comes from, if that is known."""
        for known, source in self.sources.get(name, []):
            if known is part or known == part or _inside(part, known):
                return source
        return None


def _const(part: Range) -> Interval | None:
    if not (part.start.is_const and part.size.is_const):
        return None
    return part.start.const, part.start.const + part.size.const


def _disjoint(a: Range, b: Range) -> bool:
    first, second = _const(a), _const(b)
    return bool(first and second and (first[1] <= second[0] or second[1] <= first[0]))


def _inside(inner: Range, outer: Range) -> bool:
    first, second = _const(inner), _const(outer)
    return bool(first and second and second[0] <= first[0] and first[1] <= second[1])


class _Follower:
    """Follows the instructions of one layer."""

    def __init__(
        self, scope: Scope, section: Section, layer: Layer, numbers: Iterator[int]
    ) -> None:
        self.scope = scope
        self.section = section
        self.layer = layer
        self.limit = 1 << scope.program.target.acc_bits
        self.steps = 0
        self.numbers = numbers
        # the variables of loops that are followed one by one
        self.env: dict[str, int] = {}

    def body(self, body: list[Instr | Loop], loops: tuple[Loop, ...], state: _State) -> None:
        """Follow a body; loops that are followed one by one stand in `loops` as loops of
        one iteration."""
        for item in body:
            if isinstance(item, Loop):
                self._loop(item, loops, state)
                continue
            self.steps += 1
            self._step(Site(self.section.name, self.layer.name, loops, item), state)

    def _loop(self, loop: Loop, loops: tuple[Loop, ...], state: _State) -> None:
        least, most = trips(loop, loops)
        low = extent(loop.lo, loops)
        size = sum(1 for _ in walk(loop.body))
        affordable = self.steps + most * size <= MAX_STEPS
        own = own_range(loop)
        if own:
            self._multiply(loop, loops, state, own)
        elif least != most or low[0] != low[1] or not affordable:
            self._multiply(loop, loops, state)
        elif any(expr.uses(loop.var) for expr, _ in sensitive(loop.body)):
            self._each(loop, range(low[0], low[0] + most), loops, state)
        elif any(expr.uses(loop.var) for expr in segments(loop.body)):
            # only the last segment may be shorter
            last = low[0] + most - 1
            rest = Loop(loop.kind, loop.var, Affine(low[0]), Affine(last), loop.body)
            self._multiply(rest, loops, state)
            self._each(loop, range(last, last + 1), loops, state)
        else:
            self._multiply(loop, loops, state)

    def _each(self, loop: Loop, values: range, loops: tuple[Loop, ...], state: _State) -> None:
        """Follow the iterations one by one."""
        for value in values:
            one = Loop(loop.kind, loop.var, Affine(value), Affine(value + 1), [])
            self.env[loop.var] = value
            self.body(loop.body, (*loops, one), state)
        self.env.pop(loop.var, None)

    def _multiply(
        self,
        loop: Loop,
        loops: tuple[Loop, ...],
        state: _State,
        own: frozenset[str] = frozenset(),
    ) -> None:
        """Follow one iteration for all; nothing is known of the variable but its bounds. An
        accumulator in `own` may be changed by any number of the iterations."""
        least, most = trips(loop, loops)
        inner = _State(self.scope)
        inner.own = state.own | own
        inner.outer, inner.written = state, written(loop)
        inner.latches = dict(state.latches)
        inner.sources = {name: list(known) for name, known in state.sources.items()}
        self._forget(loop, inner)
        self.body(loop.body, (*loops, loop), inner)
        for name, pieces in inner.pieces.items():
            for piece in pieces:
                fewest = 0 if name in own else max(0, least)
                change = repeat(piece.change(), fewest, most, self.limit)
                for target in state.part(name, piece.lo, piece.hi):
                    target.apply(change)
        self._forget(loop, state)

    def _forget(self, loop: Loop, state: _State) -> None:
        """What the loop writes may stem from any iteration, or from before it."""
        for name in written(loop):
            state.sources.pop(name, None)
            if name in state.latches:
                state.load_latch(name, self._fresh(self.scope.program.target.cols))

    def _fresh(self, width: int) -> Source:
        return next(self.numbers), width

    def _step(self, site: Site, state: _State) -> None:
        instr = site.instr
        first = instr.args[0]
        if not isinstance(first, Reg):
            return
        if instr.op in ("ld.window", "ld.vector", "ld.row"):
            state.load_latch(first.name, self._fresh(loaded(self.scope, site)))
        elif instr.op == "ld.fill":
            state.load_latch(first.name, self._latch(instr.args[1], state))
        elif instr.op.startswith("read."):
            self._read(site, first, state)
        elif instr.op == "popc":
            bits = instr.args[1]
            assert isinstance(bits, Reg)
            source = state.source(bits.name, self._resolved(bits))
            width = option(site, "width").const
            if source is not None and width:
                # part of the columns: a sum apart from those of the whole latch
                source = -1 - source[0], min(width, source[1])
            state.set_source(first.name, self._resolved(first), source)
        elif instr.op.startswith("acc."):
            self._accumulate(site, first, state)

    def _latch(self, arg: object, state: _State) -> Source:
        assert isinstance(arg, Reg)
        known = state.latches.get(arg.name)
        return known if known else self._fresh(self.scope.program.target.cols)

    def _read(self, site: Site, bits: Reg, state: _State) -> None:
        source = self._latch(site.instr.args[2], state)
        cols = site.instr.opts.get("cols")
        if isinstance(cols, Range):
            width = extent(cols.size, site.loops)[1]
            # fewer columns than were loaded: a count of its own, not bound to `valid`
            source = source if width >= source[1] else self._fresh(width)
        state.set_source(bits.name, self._resolved(bits), source)

    def _accumulate(self, site: Site, acc: Reg, state: _State) -> None:
        part = self._resolved(acc)
        exact = _const(part) is not None or acc.name in state.own
        start = extent(part.start, site.loops)[0]
        end = extent(part.start + part.size, site.loops)[1]
        for piece in state.part(acc.name, start, end):
            if site.instr.op == "acc.clr" and exact:
                piece.clear()
            elif site.instr.op == "acc.clr":
                # some of the range is cleared, some is not
                piece.clear((-self.limit, self.limit))
            elif site.instr.op == "acc.mac":
                low, high = self._product(site, state)
                piece.add((low, high) if exact else (min(0, low), max(0, high)))
                piece.see(site)
            else:
                self._add(site, piece, state, exact)
                piece.see(site)

    def _add(self, site: Site, piece: Piece, state: _State, exact: bool) -> None:
        """acc.add and acc.sub: `exact` if all of the piece is certainly changed."""
        arg = site.instr.args[1]
        sign = 1 if site.instr.op == "acc.add" else -1
        least, most = (1 << s for s in extent(self._pin(option(site, "shl")), site.loops))
        if isinstance(arg, Ref):
            low, high = self._constants(site, arg)
        else:
            assert isinstance(arg, Reg)
            source = self._addend(arg, state)
            if source is not None and exact and least == most:
                _contribute(state.group(piece, source), arg, sign * most)
                return
            low, high = 0, source[1] if source else self.scope.program.target.cols
        ends = sorted(sign * value * factor for value in (low, high) for factor in (least, most))
        piece.add((ends[0], ends[-1]) if exact else (min(0, ends[0]), max(0, ends[-1])))

    def _product(self, site: Site, state: _State) -> Interval:
        """The range of a scalar times constants."""
        scalar, table = site.instr.args[1:]
        assert isinstance(table, Ref)
        known: Interval | None = None
        if isinstance(scalar, Ref):
            known = int_range(elem(self.scope, site, 1))
        elif isinstance(scalar, Reg) and (part := _const(self._resolved(scalar))):
            known = state.value(scalar.name, part[0])
        known = known or (-self.limit, self.limit)
        ends = [a * b for a in known for b in self._constants(site, table)]
        return min(ends), max(ends)

    def _resolved(self, reg: Reg) -> Range:
        """The range of a register with the variables that are known filled in."""
        assert reg.range is not None
        if reg.range.start.is_const and reg.range.size.is_const:
            return reg.range
        return Range(self._pin(reg.range.start), self._pin(reg.range.size))

    def _pin(self, expr: Affine) -> Affine:
        if expr.is_const:
            return expr
        const, rest = expr.const, tuple[tuple[str, int], ...]()
        for name, coef in expr.terms:
            if name in self.env:
                const += coef * self.env[name]
            else:
                rest = (*rest, (name, coef))
        return Affine(const, rest)

    def _addend(self, arg: Reg, state: _State) -> Source | None:
        if arg.field is not None:
            return self._latch(arg, state)
        return state.source(arg.name, self._resolved(arg))

    def _constants(self, site: Site, ref: Ref) -> Interval:
        """Smallest and largest constant of a data operand."""
        data = self.scope.names[ref.name]
        assert isinstance(data, Data)
        values = data.array
        if ref.index is not None:
            first, last = extent(self._pin(ref.index), site.loops)
            values = values[first : last + 1]
        if ref.range is not None:
            low = extent(ref.range.start, site.loops)[0]
            high = extent(ref.range.start + ref.range.size, site.loops)[1]
            values = values[low:high] if ref.index is None else values[:, low:high]
        return (int(np.min(values)), int(np.max(values))) if values.size else (0, 0)


def _contribute(group: Group, arg: Reg, factor: int) -> None:
    if arg.field == "valid":
        group.alpha += factor
    elif factor < 0:
        group.negative += factor
    else:
        group.positive += factor
