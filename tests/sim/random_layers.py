"""Random layers that stand on their own: a loop over positions that clears sums, adds up reads of
one source, and stores them, as the compiler's do, but with any functions, coefficients, columns,
rows, planes, ranges and stores.

An engine can see through all of them; nothing else of the compiler's habits is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from random_steps import between, stored
from random_wild import Scope

from cimc.ir.types import is_integer, planes
from cimc.isa.geometry import positions, segments, win_columns, win_packs
from cimc.isa.program import Affine, Instr, Layer, Loop, Range, Ref, Reg, Rows, Win

MOST_POSITIONS = 12


@dataclass
class Source:
    """What a layer loads: windows of a buffer, or its vectors; how many positions, segments and
    columns of a segment there are."""

    ref: Ref
    elem: str
    win: Win | None
    positions: int
    width: int  # columns of a segment, 0: all
    columns: int
    groups: int = 1


@dataclass
class Maker:
    """Makes the body of one layer. Its registers have names of their own."""

    wild: object
    source: Source
    number: int
    size: int
    pad: dict = field(default_factory=dict)

    def reg(self, name, part=None):
        return Reg(f"{name}{self.number}", part)

    # -- terms --

    def load(self, scope):
        """One plane of a segment, at times filled with a constant."""
        source, wild = self.source, self.wild
        opts = {"plane": wild.affine(scope, planes(source.elem))}
        opts["seg"], opts["col"] = wild.cut(scope, source.columns, source.width)
        opts |= self.pad
        latch = self.reg("x")
        if source.win is None:
            opts["width"] = source.width
            made = [Instr("ld.vector", (latch, source.ref), wild.opts(**opts))]
        else:
            args = latch, source.ref, Ref(source.win.name)
            group = wild.affine(scope, source.groups)
            made = [Instr("ld.window", args, wild.opts(group=group, **opts))]
        if wild.draw.chance(0.1):
            value = wild.opts(value=wild.draw.randint(0, 1))
            made.append(Instr("ld.fill", (self.reg("z"), latch), value))
        return made

    def term(self, scope, sums):
        """Rows read with a latch, their ones added to the sums; or ones and valid columns."""
        wild, draw = self.wild, self.wild.draw
        op, opts = draw.choice(["acc.add", "acc.add", "acc.sub"]), self.shl(scope)
        if draw.chance(0.2):
            name = draw.choice(["valid", "ones"])
            return [Instr(op, (sums, Reg(f"x{self.number}", None, name)), opts)]
        size = sums.range.size.const
        latch = draw.choice([*scope.latches])
        function = f"read.{draw.choice(wild.target.functions)}"
        cols = wild.cols(scope, 0.15)
        width, rows = {}, size
        if size > 1 and draw.chance(0.15):
            parts = draw.choice([k for k in range(1, size + 1) if size % k == 0])
            if parts <= wild.target.cols:
                most = wild.target.cols // parts
                usual = max(1, min(most, self.source.columns // parts))
                rows, width = size // parts, {"width": draw.choice([usual, draw.randint(1, most)])}
        if rows > wild.target.rows:
            return []
        d, c = self.reg("d", Range.of(0, rows)), self.reg("c", Range.of(0, size))
        where = Rows(wild.affine(scope, wild.target.tiles), self.row(scope, rows))
        return [
            Instr(function, (d, where, Reg(latch)), cols),
            Instr("popc", (c, d), wild.opts(**width)),
            *[Instr(op, (sums, c), opts) for op in ([op] if draw.chance(0.9) else [op, "acc.add"])],
        ]

    def row(self, scope, size):
        return self.wild.ranges(scope, self.wild.target.rows, size)

    def shl(self, scope):
        """A shift that goes with the loops, or doesn't."""
        expr = Affine(self.wild.draw.choice([0, 0, 0, 1, 1, 2, 3, 6]))
        for loop in scope.loops[1:]:
            if self.wild.draw.chance(0.5):
                expr = expr + Affine.of(loop.var) * self.wild.draw.choice([1, 1, 1, 2])
        return self.wild.opts(shl=expr)

    def terms(self, scope, sums, depth=0):
        """Loads and terms, in loops over segments, planes and rows or not."""
        draw = self.wild.draw
        body = [] if depth and draw.chance(0.3) else self.load(scope)
        scope.latches |= {f"x{self.number}"}
        if any(i.op == "ld.fill" for i in body):
            scope.latches |= {f"z{self.number}"}
        for _ in range(draw.randint(1, 3)):
            body += self.term(scope, sums)
        if depth < 2 and draw.chance(0.6):
            count = draw.choice([2, 2, 3, 4, planes(self.source.elem)])
            kind = draw.choice(["for", "for", "par"])
            loop = Loop(kind, "bwk"[depth], Affine(), Affine(count), [])
            loop.body = self.terms(scope.inside(loop), sums, depth + 1)
            body.insert(draw.choice([len(body), draw.randint(0, len(body))]), loop)
        return body

    # -- sums --

    def sums(self, scope, start):
        """Sums of `size` channels from accumulator `start` on, ready to be stored."""
        wild, draw = self.wild, self.wild.draw
        acc = self.reg("a", Range.of(start, self.size))
        body = [Instr("acc.clr", (acc,))]
        if draw.chance(0.4):
            body.append(Instr("acc.add", (acc, wild.constants(scope, self.size)), self.shl(scope)))
        small = wild.buffers(elem=lambda e: is_integer(e) and planes(e) <= 8)
        if small and draw.chance(0.2):
            scalar = wild.vec(scope, draw.choice(small), 1)
            table = wild.table(scope, draw.choice(["i8", "u4", "i2"]), self.size)
            body.append(Instr("acc.mac", (acc, scalar, table)))
        for _ in range(draw.choice([1, 1, 1, 2])):
            body += self.terms(scope, acc)
        if draw.chance(0.2):
            total = self.reg("s", Range.of(0, 1))
            add = Instr("acc.add", (total, Reg(f"x{self.number}", None, "ones")), self.shl(scope))
            table = wild.table(scope, "i8", self.size)
            body += [Instr("acc.clr", (total,)), add, Instr("acc.mac", (acc, total, table))]
        return body

    def stores(self, scope, start, many):
        """One to three stores of the sums or of parts of them, in a buffer each. `many`: how many
        channels the loop around stores in all, and where those of this iteration start."""
        wild, draw = self.wild, self.wild.draw
        body = []
        for _ in range(draw.choice([1, 1, 1, 2, 3])):
            lo = draw.choice([0, 0, 0, draw.randint(0, self.size - 1)])
            size = draw.choice([self.size - lo, self.size - lo, draw.randint(1, self.size - lo)])
            acc = self.reg("a", Range.of(start + lo, size))
            instr = stored(wild, scope, acc, size)
            count, offset = many
            buffer = next(d for d in wild.decls if getattr(d, "name", "") == instr.args[0].name)
            shape = list(buffer.shape)
            shape[buffer.axis] = count + draw.choice([0, 0, 0, 1])
            buffer.shape = tuple(shape)
            wild.roomy(buffer, self.source.positions)
            target = Ref(
                buffer.name, wild.position(scope, buffer), Range(offset + lo, Affine(size))
            )
            instr.args = (target, *instr.args[1:])
            body.append(instr)
        return body


def own_layer(wild):
    """Add a layer to `.infer`: a loop that a packed engine can see through, and steps on what it
    stores."""
    number = sum(map(len, wild.bodies.values()))
    source = _source(wild)
    if source is None:
        return
    draw = wild.draw
    size = draw.choice([1, 2, 3, 4, 5, 8, 9, 16, 17])
    maker = Maker(wild, source, number, size)
    if source.win is not None and source.elem[0] in "ui" and draw.chance(0.4):
        maker.pad = {"pad": draw.choice([0, 1, -1 if source.elem[0] == "i" else 1])}
        if draw.chance(0.4) and (fitting := wild.fitting(source.elem)):
            maker.pad = {"pad": wild.vec(Scope("infer"), draw.choice(fitting), 1)}
    low = draw.choice([0, 0, 0, min(1, source.positions - 1)])
    loop = Loop(draw.choice(["for", "for", "par"]), "p", Affine(low), Affine(source.positions), [])
    scope = Scope("infer").inside(loop)
    groups = draw.choice([1, 1, 2, 3]) if draw.chance(0.4) else 1
    if groups == 1:
        loop.body = [*maker.sums(scope, 0), *maker.stores(scope, 0, (size, Affine()))]
    else:
        inner = Loop(draw.choice(["for", "par"]), "g", Affine(), Affine(groups), [])
        within, offset = scope.inside(inner), Affine.of("g") * size
        inner.body = [*maker.sums(within, 0),
                      *maker.stores(within, 0, (size * groups, offset))]  # fmt: skip
        loop.body = [inner]
    wild.bodies["infer"].append(Layer(f"l{number}", [loop]))
    for _ in range(draw.choice([0, 1, 1, 2, 3])):
        _steps(wild)


def _steps(wild):
    """A layer of one step at every position of some buffer, into a buffer of its own."""
    number = sum(map(len, wild.bodies.values()))
    buffer = wild.draw.choice(wild.buffers())
    count = min(positions(buffer.shape, buffer.axis), MOST_POSITIONS)
    loop = Loop("for", "p", Affine(), Affine(count), [])
    loop.body = between(wild, Scope("infer").inside(loop))
    if loop.body:
        wild.bodies["infer"].append(Layer(f"l{number}", [loop]))


def _source(wild):
    """A buffer to load from; None where there is none."""
    draw, cols = wild.draw, wild.target.cols
    found = wild.buffers(elem=lambda e: is_integer(e) and planes(e) <= 16)
    if not found:
        return None
    buffer = draw.choice(found)
    win = wild.window(buffer.shape) if len(buffer.shape) > 2 and buffer.axis == 1 else None
    if win is not None and (win.seg or win.pack * win_columns(win) <= cols):
        count = min(buffer.shape[0] * prod(win.out), MOST_POSITIONS)
        columns = win.pack * win_columns(win)
        ref = Ref(buffer.name, Affine.of("p"))
        return Source(ref, buffer.type, win, count, win.seg, columns, win_packs(win))
    channels = buffer.shape[buffer.axis]
    width = draw.randint(1, min(channels, cols)) if channels > cols or draw.chance(0.3) else 0
    if segments(channels, width) > 6:
        width = min(channels, cols)
    count = min(positions(buffer.shape, buffer.axis), MOST_POSITIONS)
    index = draw.choice([Affine.of("p"), Affine.of("p"), Affine(count - 1) - Affine.of("p")])
    return Source(Ref(buffer.name, index), buffer.type, None, count, width, channels)
