"""Random programs that no compiler would write: any instruction, anywhere, on anything.

A `Wild` holds the declarations and makes statements for a `Scope`, which knows the loops around
and the registers that have been written. What comes out is valid almost always; the rest is
repaired or left out by `random_programs.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import numpy as np
from random_declarations import Declarations
from random_draws import bits, values

from cimc.ir.types import int_range, is_integer, planes
from cimc.isa.geometry import positions, segments, win_columns, win_packs
from cimc.isa.loops import extent, trips
from cimc.isa.program import (
    Affine,
    Instr,
    Loop,
    Mem,
    Range,
    Ref,
    Reg,
    Rows,
)

BANKS = {"bits": ("d", "e"), "counts": ("c", "k"), "acc": ("a", "b", "s")}
BANK = 14  # elements of a register bank, at most


@dataclass
class Scope:
    """Where a statement stands: the section, the loops around it, and the registers that have
    certainly been written, as ranges by name."""

    section: str
    loops: tuple[Loop, ...] = ()
    latches: set[str] = field(default_factory=set)
    loaded: bool = False  # a latch, since the loop around began
    banks: dict[str, list[Range]] = field(default_factory=dict)

    def inside(self, loop):
        """The scope of a loop's body."""
        banks = {name: list(ranges) for name, ranges in self.banks.items()}
        return Scope(self.section, (*self.loops, loop), set(self.latches), False, banks)

    def leave(self, inner, loop):
        """Take over what the body of a loop, which runs at least once, has written."""
        if loop.kind == "par":  # what its body writes ends with it
            gone = [n for n, ranges in inner.banks.items() if ranges != self.banks.get(n)]
            self.banks = {n: r for n, r in self.banks.items() if n not in gone}
            if inner.loaded:
                self.latches.clear()
            return
        if trips(loop, self.loops)[0] < 1:
            return
        self.latches |= inner.latches
        self.loaded |= inner.loaded
        for name, ranges in inner.banks.items():
            known = [r for r in ranges if not r.start.uses(loop.var)]
            self.banks[name] = known

    def wrote(self, name, part):
        self.banks.setdefault(name, []).append(part)

    def written(self, kind):
        """(name, range) of each known range of the banks of a kind."""
        return [(n, r) for n in BANKS[kind] for r in self.banks.get(n, [])]


class Wild(Declarations):
    """A program in the making."""

    # -- expressions --

    def affine(self, scope, count, size=1, position=False):
        """The start of `size` elements among `count`: a number, or a loop variable moved,
        mirrored or stretched to fit. Where layers stand apart, nothing but positions goes with
        the outermost loop, or hardly anything."""
        room = count - size
        names = [loop.var for loop in scope.loops]
        if self.apart and not position and self.draw.chance(0.98):
            names = names[1:]
        for var in self.draw.some(self.draw.sample(names, len(names)), 0.8):
            expr = Affine.of(var) * self.draw.choice([size, 1, 1, 1, -1, 2])
            low, high = extent(expr, scope.loops)
            if high - low <= room:
                fits = low >= 0 and high <= room
                return expr + self.draw.choice([0, 0, -low, room - high] if fits else [-low])
        return Affine(self.draw.choice([0, self.draw.randint(0, room)]))

    def ranges(self, scope, count, size):
        return Range(self.affine(scope, count, size), Affine(size))

    def vec(self, scope, buffer, size=None):
        """A vector of a buffer; of `size` channels, or all of them, or some."""
        channels = buffer.shape[buffer.axis]
        index = self.affine(scope, positions(buffer.shape, buffer.axis), position=True)
        if size is None and self.draw.chance(0.7):
            return Ref(buffer.name, index)
        size = size or self.draw.randint(1, channels)
        if size == channels and self.draw.chance(0.5):
            return Ref(buffer.name, index)
        return Ref(buffer.name, index, self.ranges(scope, channels, size))

    def size_of(self, ref):
        """Channels of a vector."""
        buffer = next(d for d in self.buffers() if d.name == ref.name)
        return buffer.shape[buffer.axis] if ref.range is None else ref.range.size.const

    def place(self, scope, elem, size):
        """A vector of `size` channels to write to, in a buffer of its own or one that is there."""
        known = [
            b for b in self.buffers(elem=lambda e: e == elem)
            if b.shape[b.axis] >= size and not b.name.startswith("in")
        ]  # fmt: skip
        if known and not self.apart and self.draw.chance(0.6):
            return self.vec(scope, self.draw.choice(known), size)
        number = sum(isinstance(d, Mem) for d in self.decls)
        buffer = self.buffer(f"y{number}", elem, size + self.draw.choice([0, 0, 0, 1, 3]))
        if not self.apart:
            return self.vec(scope, buffer, size)
        last = extent(Affine.of("p"), scope.loops)[1]
        self.roomy(buffer, last + 1)
        lo = self.draw.randint(0, buffer.shape[buffer.axis] - size)
        return Ref(buffer.name, self.position(scope, buffer), Range.of(lo, size))

    def roomy(self, buffer, count):
        """Give a buffer at least `count` positions."""
        shape, axis = list(buffer.shape), 0 if buffer.axis else len(buffer.shape) - 1
        if axis != buffer.axis:
            shape[axis] *= -(-count // positions(buffer.shape, buffer.axis))
        buffer.shape = tuple(shape)

    def position(self, scope, buffer):
        """A position of its own for each iteration of the loop over `p`."""
        p, last = Affine.of("p"), extent(Affine.of("p"), scope.loops)[1]
        room = positions(buffer.shape, buffer.axis) - 1 - last
        if room < 0:
            return Affine()
        return self.draw.choice([p, p, p, p, p + room, Affine(last) - p])

    def opts(self, **given):
        """Options without those that are zero."""
        made = {k: v if isinstance(v, (Ref, Range)) else Affine.of(v) for k, v in given.items()}
        return {k: v for k, v in made.items() if v != Affine()}

    # -- latches --

    def load(self, scope):
        """A latch filled with something."""
        name = self.draw.choice(["x", "x", "y"])
        ways = [self._ld_window] * 4 + [self._ld_vector] * 4
        if scope.latches:
            ways.append(self._ld_fill)
        if scope.section == "update":
            ways += [self._ld_row] * 3
        made = self.draw.choice(ways)(scope, Reg(name))
        if made is None:
            made = self._ld_vector(scope, Reg(name))
        scope.latches.add(name)
        scope.loaded = True
        return [made]

    def cut(self, scope, columns, longest):
        """Segment and first column of a load or of cells."""
        low, length = 0, longest or columns
        seg = self.affine(scope, segments(columns, longest))
        if extent(seg, scope.loops)[0] == segments(columns, longest) - 1 and longest:
            length = columns - longest * extent(seg, scope.loops)[0]
        room = self.target.cols - length
        col = self.affine(scope, room + 1) if self.draw.chance(0.3) else Affine(low)
        return seg, col

    def _plane(self, scope, elem):
        return self.affine(scope, planes(elem))

    def _ld_vector(self, scope, latch):
        buffer = self.draw.choice(self.buffers(elem=is_integer))
        ref = self.vec(scope, buffer)
        channels, cols = self.size_of(ref), self.target.cols
        width = 0
        if channels > cols or self.draw.chance(0.3):
            width = self.draw.randint(1, min(cols, channels))
        seg, col = self.cut(scope, channels, width)
        opts = self.opts(seg=seg, plane=self._plane(scope, buffer.type), width=width, col=col)
        return Instr("ld.vector", (latch, ref), opts)

    def _ld_window(self, scope, latch):
        found = [b for b in self.buffers(elem=is_integer, rank=3) if b.axis == 1]
        buffer = self.draw.choice(found) if found else None
        win = buffer and self.window(buffer.shape)
        if win is None or (win.pack * win_columns(win) > self.target.cols and not win.seg):
            return None
        index = self.affine(scope, buffer.shape[0] * prod(win.out), position=True)
        seg, col = self.cut(scope, win.pack * win_columns(win), win.seg)
        opts = self.opts(
            seg=seg, plane=self._plane(scope, buffer.type), col=col,
            group=self.affine(scope, win_packs(win)),
        )  # fmt: skip
        if buffer.type[0] in "ui" and self.draw.chance(0.4):
            opts["pad"] = self._pad(scope, buffer.type)
        return Instr("ld.window", (latch, Ref(buffer.name, index), Ref(win.name)), opts)

    def _pad(self, scope, elem):
        """A number, or one of a buffer that fits most of the time."""
        low, high = int_range(elem)
        fitting = self.fitting(elem)
        if fitting and self.draw.chance(0.5):
            known = self.buffers(elem=is_integer)
            return self.vec(
                scope, self.draw.choice(fitting if self.draw.chance(0.95) else known), 1
            )
        least, most = max(low, -(1 << 50)), min(high, 1 << 50)  # a text takes 18 digits
        return Affine(self.draw.choice([least, most, 0, self.draw.randint(least, most)]))

    def fitting(self, elem):
        """Buffers all of whose values are values of an integer type."""
        low, high = int_range(elem)
        return [
            b
            for b in self.buffers(elem=is_integer)
            if int_range(b.type)[0] >= low and int_range(b.type)[1] <= high
        ]

    def _ld_fill(self, scope, latch):
        source = self.draw.choice(sorted(scope.latches))
        return Instr("ld.fill", (latch, Reg(source)), self.opts(value=self.affine(scope, 2)))

    def _ld_row(self, scope, latch):
        return Instr("ld.row", (latch, self.rows(scope, 1)), self.cols(scope, 0.5))

    # -- reads and sums --

    def rows(self, scope, size):
        """`size` rows of a tile."""
        tile = self.affine(scope, self.target.tiles)
        return Rows(tile, self.ranges(scope, self.target.rows, size))

    def cols(self, scope, share):
        """The option `cols` with some columns, in a share of draws."""
        if not self.draw.chance(share):
            return {}
        size = self.draw.randint(1, self.target.cols)
        return {"cols": self.ranges(scope, self.target.cols, size)}

    def read(self, scope):
        """Rows read with a latch."""
        if not scope.latches:
            return self.load(scope)
        latch = Reg(self.draw.choice(sorted(scope.latches)))
        size = self.draw.randint(1, min(self.target.rows, 9))
        name, part = self._bank(scope, "bits", size)
        op = f"read.{self.draw.choice(self.target.functions)}"
        made = Instr(op, (Reg(name, part), self.rows(scope, size), latch), self.cols(scope, 0.2))
        scope.wrote(name, part)
        return [made]

    def _bank(self, scope, kind, size):
        """A range of a register bank, to write."""
        part = Range(self.affine(scope, BANK, size), Affine(size))
        return self.draw.choice(BANKS[kind]), part

    def known(self, scope, kind, size=None):
        """(name, range) that has been written, whole or a part of it; None if there is none."""
        found = [
            (n, r) for n, r in scope.written(kind) if size is None or r.size.const >= size
        ]  # fmt: skip
        if not found:
            return None
        name, part = self.draw.choice(found)
        if size is None and self.draw.chance(0.75):
            return name, part
        size = size or self.draw.randint(1, part.size.const)
        offset = self.draw.randint(0, part.size.const - size)
        return name, Range(part.start + offset, Affine(size))

    def popc(self, scope):
        """Ones of result bits, of whole rows or of some columns."""
        known = self.known(scope, "bits")
        if known is None:
            return self.read(scope)
        name, part = known
        size, width = part.size.const, 0
        if self.draw.chance(0.25):
            parts = self.draw.randint(1, max(1, min(BANK // size, self.target.cols)))
            width, size = self.draw.randint(1, self.target.cols // parts), size * parts
        if size > BANK:
            return self.read(scope)
        to, into = self._bank(scope, "counts", size)
        scope.wrote(to, into)
        return [Instr("popc", (Reg(to, into), Reg(name, part)), self.opts(width=width))]

    def clear(self, scope):
        name, part = self._bank(scope, "acc", self.draw.randint(1, BANK))
        scope.wrote(name, part)
        return [Instr("acc.clr", (Reg(name, part),))]

    def accumulate(self, scope):
        """Something added to accumulators, or subtracted from them."""
        known = self.known(scope, "acc")
        if known is None:
            return self.clear(scope)
        name, part = known
        size = part.size.const
        counts = self.known(scope, "counts", size)
        ways = [self.constants] + [self._field] * 2 * bool(scope.latches) + [self._mac]
        if counts is not None and self.draw.chance(0.7):
            ways = [lambda scope, size: Reg(*counts)]
        found = self.draw.choice(ways)(scope, size)
        if isinstance(found, tuple):
            return [Instr("acc.mac", (Reg(name, part), *found))]
        op = self.draw.choice(["acc.add", "acc.add", "acc.sub"])
        shl = self.draw.choice([0, 0, 1, 1, 2, 3, 7]) if self.draw.chance(0.8) else 0
        if scope.loops and self.draw.chance(0.3):
            shl = self.affine(scope, 10)
        return [Instr(op, (Reg(name, part), found), self.opts(shl=shl))]

    def constants(self, scope, size):
        """Integers to add, one for each channel; at times those of a position."""
        if self.draw.chance(0.3):
            return self.row_of_table(scope, size)
        return self.table(scope, self.draw.choice(["i32", "i8", "u4", "i16"]), size)

    def row_of_table(self, scope, size):
        """Part of a row of a table, or all of it, at a position that goes with the loops or
        doesn't."""
        kind, more = self.draw.choice(["i32", "i8", "u4", "i16"]), self.draw.choice([0, 0, 2])
        rows = max([extent(Affine.of(loop.var), scope.loops)[1] for loop in scope.loops] + [0])
        rows += self.draw.randint(1, 3)
        array = values(self.draw, kind, (rows, size + more))
        if kind == "i32":
            array = np.clip(array, -500, 500)
        name, index = self.constant(kind, array), self.affine(scope, rows, position=True)
        part = self.ranges(scope, size + more, size) if more or self.draw.chance(0.5) else None
        return Ref(name, index, part)

    def table(self, scope, kind, size):
        """Constants for each channel: all of an item, or part of a longer one."""
        more = self.draw.choice([0, 0, 0, 2, 5])
        array = values(self.draw, kind, (size + more,))
        if kind == "i32":
            array = np.clip(array, -500, 500)
        name = self.constant(kind, array)
        return Ref(name, None, self.ranges(scope, size + more, size)) if more else Ref(name)

    def _field(self, scope, size):
        return Reg(
            self.draw.choice(sorted(scope.latches)), None, self.draw.choice(["valid", "ones"])
        )

    def _mac(self, scope, size):
        """A scalar and constants."""
        acc = self.known(scope, "acc", 1)
        small = self.buffers(elem=lambda e: is_integer(e) and planes(e) <= 16)
        if (acc is not None and self.draw.chance(0.4)) or not small:
            scalar = Reg(*acc) if acc else None
        else:
            scalar = self.vec(scope, self.draw.choice(small), 1)
        table = self.table(scope, self.draw.choice(["i8", "u4", "i2"]), size)
        return (scalar, table) if scalar is not None else table

    # -- cells --

    def cells(self, scope):
        """Rows set or reset, or both, from data of their own."""
        size = self.draw.randint(1, self.target.rows)
        columns = self.draw.randint(1, self.target.cols)
        seg = self.draw.randint(1, columns) if self.draw.chance(0.3) else 0
        name = self.constant("cells", bits(self.draw, (size, columns)), seg)
        part, col = self.cut(scope, columns, seg)
        target, opts = self.rows(scope, size), self.opts(seg=part, col=col)
        ops = self.draw.choice([("reset", "set"), ("reset", "set"), ("set",), ("reset",)])
        return [Instr(op, (target, Ref(name)), dict(opts)) for op in ops]
