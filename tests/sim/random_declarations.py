"""Declarations of random wild programs: geometry, buffers of all shapes and types, views, windows,
moved rows, constants."""

from __future__ import annotations

from math import prod

from random_draws import FUNCTIONS, PLANES, SIZES

from cimc.isa.geometry import win_columns, win_out
from cimc.isa.program import Data, Mem, Program, Remap, Section, TargetLine, View, Win

INPUTS = (*PLANES, "bip", "tern", "u8", "i8", "u2", "i4", "u16", "i16", "i32", "u12")
RESULTS = ("i32", "i32", "i32", "i64", "f32", "i16", "i24", "u32", "u8", "i8", "f64", "f16", "u5")


class Declarations:
    """The declarations of a program in the making, and the layers of its sections."""

    def __init__(self, draw):
        self.draw = draw
        functions = tuple(draw.some(FUNCTIONS, 0.8)) or ("and",)
        cols = draw.choice([1, 2, 3, 5, 7, 8, 9, 16, 20, 31, 33, 63, 64, 65, 70, 100, 129])
        self.target = TargetLine(
            "wild", draw.choice([1, 2, 3, 5, 8, 12, 30]), cols, draw.choice([1, 1, 2, 3]),
            functions, draw.choice([20, 24, 32, 32, 33, 40, 62]),
        )  # fmt: skip
        self.decls, self.data = [], []
        self.bodies = {"load": [], "infer": [], "update": []}
        self.scopes = {}
        self.apart = False  # whether each result goes to a buffer of its own
        for i in range(draw.randint(1, 3)):
            self.buffer(f"in{i}", draw.choice(INPUTS))
        for i in range(draw.randint(0, 2)):
            self.buffer(f"t{i}", draw.choice(RESULTS[:3] + INPUTS))
        for i in range(draw.randint(0, 3)):
            self.view(f"v{i}")
        if draw.chance(0.2):
            self.remaps()

    def program(self):
        sections = [
            Section(name, layers) for name, layers in self.bodies.items() if layers
        ]  # fmt: skip
        return Program(self.target, "exact", list(self.decls), sections, list(self.data))

    # -- declarations --

    def buffer(self, name, elem, channels=None):
        """A buffer of a random shape; inputs take a batch or are shared."""
        draw = self.draw
        count = channels or draw.choice(SIZES)
        rank = draw.choice([0, 0, 0, 1, 2, 2, 3])
        sizes = [draw.small(1, 5) for _ in range(rank)]
        shape, axis = [draw.choice([1, 1, 1, 2]), count, *sizes], 1
        if draw.chance(0.2):
            axis = draw.randint(0, len(shape) - 1)
            shape[1], shape[axis] = shape[axis], count
        mem = Mem(name, elem, tuple(shape), axis)
        if name.startswith("in"):
            mem.input = name
            mem.batch = draw.choice([0, 0, 0, 0, None, draw.randint(0, len(shape) - 1)])
        if not name.startswith("in") and draw.chance(0.8):
            mem.output = name
            mem.batch = draw.choice([0, 0, None])
        self.decls.append(mem)
        return mem

    def view(self, name):
        source = self.draw.choice(self.buffers())
        shape, perm = list(source.shape), None
        if self.draw.chance(0.5):
            perm = tuple(self.draw.sample(range(len(shape)), len(shape)))
            shape = [shape[axis] for axis in perm]
        else:
            total = prod(shape)
            a = self.draw.choice([k for k in range(1, total + 1) if total % k == 0])
            b = self.draw.choice([k for k in range(1, total // a + 1) if total // a % k == 0])
            shape = self.draw.choice([[1, total], [a, total // a], [a, b, total // a // b]])
        axis = self.draw.randint(0, len(shape) - 1)
        view = View(name, source.type, tuple(shape), source.name, axis, perm)
        self.decls.append(view)
        return view

    def buffers(self, *, elem=lambda elem: True, rank=0):
        """Buffers and views with shapes whose element type and rank will do."""
        return [
            d
            for d in self.decls
            if isinstance(d, (Mem, View)) and d.shape and elem(d.type) and len(d.shape) >= rank
        ]

    def remaps(self):
        rows = self.draw.sample(range(self.target.rows), min(3, self.target.rows))
        tile = self.draw.randint(0, self.target.tiles - 1)
        moved = self.draw.sample(rows, len(rows))
        self.decls += [Remap(tile, a, b) for a, b in zip(rows, moved)]

    def constant(self, kind, array, seg=0):
        """A data item of its own."""
        name = f"k{len(self.data)}"
        self.data.append(Data(name, kind, array, seg))
        return name

    def window(self, shape):
        """A window on buffers of a shape, a new one or one that is there."""
        sizes = shape[2:]
        known = [
            d
            for d in self.decls
            if isinstance(d, Win) and d.channels == shape[1] and len(d.kernel) == len(sizes)
            and win_out(d, sizes) == d.out
        ]  # fmt: skip
        if known and self.draw.chance(0.6):
            return self.draw.choice(known)
        draw = self.draw
        groups = draw.choice([g for g in range(1, shape[1] + 1) if shape[1] % g == 0])
        groups = groups if draw.chance(0.4) else 1
        kernel = tuple(draw.randint(1, 3) for _ in sizes)
        win = Win(
            f"w{len(self.decls)}", shape[1], kernel, (1,) * len(sizes),
            tuple(draw.choice([1, 1, 2, 3]) for _ in sizes),
            tuple(draw.choice([0, 0, 1, 1, 2]) for _ in (*sizes, *sizes)),
            tuple(draw.choice([1, 1, 1, 2]) for _ in sizes),
            groups, up=tuple(draw.choice([1, 1, 1, 1, 2]) for _ in sizes),
        )  # fmt: skip
        win.out = win_out(win, sizes)
        columns = win_columns(win)
        if min(win.out) < 1:
            return None
        if columns > self.target.cols or draw.chance(0.3):
            win.seg = draw.randint(1, min(columns, self.target.cols))
        elif groups > 1 and draw.chance(0.6):
            win.pack = draw.randint(1, max(1, min(groups, self.target.cols // columns)))
        self.decls.append(win)
        return win
