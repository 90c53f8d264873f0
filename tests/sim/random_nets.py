"""Random programs as the compiler emits them: a small network of native operations, placed and
lowered by the compiler's own passes.

Layers of all encodings, functions, groups, packs, zero points and tile sizes; thresholds,
requantisation, pools, tables and sums between them.
"""

from __future__ import annotations

from math import prod

import numpy as np
from cimc.passes.allocate_tiles import AllocateTiles
from cimc.passes.split_tiles import SplitTiles
from random_draws import FUNCTIONS, PLANES, SIZES, WIDE, scales, values

from cimc.backend.lower import lower
from cimc.driver.base import Geometry, PassContext
from cimc.driver.recipes import recipe
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.kernels import weight_planes
from cimc.ir.ops import TABLE
from cimc.ir.types import TensorType, container, int_range, is_integer, planes

COLUMNS = (1, 3, 5, 8, 9, 16, 20, 31, 32, 33, 63, 64, 65, 96, 100, 128, 130, 200)
ACC_BITS = 32


class Net:
    """A graph in the making. `budget` bounds the instructions that a run of it executes."""

    def __init__(self, draw, budget):
        self.draw, self.budget = draw, budget
        self.graph = Graph("net")
        # signs all through, or many groups whose kernels share rows
        self.style = draw.choice(["any", "any", "any", "binary", "grouped"])
        self.grouped, self.binary = self.style == "grouped", self.style == "binary"
        functions = draw.choice(
            [FUNCTIONS, FUNCTIONS, FUNCTIONS, ("xor", "and"), ("nand",), ("or",)]
        )
        functions = FUNCTIONS if self.grouped else functions
        columns = draw.choice(COLUMNS[6:] if self.grouped else COLUMNS)
        rows = draw.choice([3, 4, 7, 8, 16, 17, 32, 33, 64])
        self.geometry = Geometry(rows, columns, None, functions, ACC_BITS)
        self.made = []

    # -- graph --

    def input(self, name, elem, shape):
        value = Value(name, TensorType(elem, shape))
        self.graph.inputs.append(value)
        return value

    def const(self, name, elem, array):
        held = np.asarray(array).astype(container(elem))
        return self.graph.const(name, held, TensorType(elem, held.shape))

    def op(self, op, operands, **attrs):
        """Add an operation; returns its result."""
        row = TABLE[op]
        types = [None if v is None else v.type for v in operands]
        while types and types[-1] is None:
            types.pop()
        (type_,) = row.types(types, row.full_attrs(attrs))
        name = self.graph.fresh(f"{op[4:].replace('_', '')}{len(self.graph.nodes)}")
        value = Value(name, type_)
        self.graph.nodes.append(Node(op, list(operands), [value], attrs))
        if op not in ("cim.reshape", "cim.transpose"):
            self.made.append(value)
        return value

    def program(self):
        """The program of the graph; its outputs are the last result and some others."""
        last = self.made[-1]
        share = self.draw.choice([0.0, 0.3, 1.0])
        self.graph.outputs = [*self.draw.some(self.made[:-1], share), last]
        context = PassContext(self.geometry)
        SplitTiles().run(self.graph, context)
        AllocateTiles(strategy=self.draw.choice(["compact", "fast"])).run(self.graph, context)
        return lower(self.graph, self.geometry, "random", "exact", {"x": 0})

    # -- layers --

    def layer(self, x):
        """A convolution, or a product where x is a matrix; a bounded number of reads."""
        shape = x.tensor.shape
        matrix = len(shape) == 2 or self.draw.chance(0.15)
        for tried in range(20):
            usual = ("bip", "tern", "i2") if tried > 9 else ("bip", "i4", "i8")
            weights = self.draw.choice(PLANES if self.draw.chance(0.7) else usual)
            weights = "bip" if self.binary and self.draw.chance(0.9) else weights
            if not self._readable(x.elem, weights):
                continue
            if matrix:
                found = shape[-1], self._many() or self.draw.choice(SIZES + WIDE)
                attrs, group, positions = {}, 1, prod(shape[:-1])
            else:
                attrs, group, positions = self.window(x)
                kernel = attrs.pop("kernel")
                out = self._many() or self.draw.choice([1, 1, 2, 3] if self.grouped else SIZES)
                out = out * group if self.draw.chance(0.5) else -(-out // group) * group
                found = (out, shape[1] // group, *kernel)
                attrs["group"] = group
            cost = self._cost(x.elem, weights, found, group, positions)
            if cost <= self.budget and _reach(x.elem, weights, prod(found)) < 1 << 28:
                self.budget -= cost
                w = self.const("w", weights, values(self.draw, weights, found))
                op = "cim.matmul" if matrix else "cim.conv"
                zx, zw, b = self._corrections(x, w, matrix)
                if not matrix and self.draw.chance(0.25):
                    b = self._places(x, w, attrs)
                y = self.op(op, [x, w, zx, zw, b], **attrs)
                return self.shared(y, group) if self.draw.chance(0.2) else y
        return None

    def shared(self, y, group):
        """Channels that take the sums of a layer, of their own group or of any."""
        draw, axis = self.draw, self._axis(y)
        size = y.tensor.shape[axis]
        group = group if size % group == 0 and draw.chance(0.9) else 1
        each, count = size // group, draw.choice([size // group, draw.choice(SIZES)])
        first = np.repeat(np.arange(group) * each, count)
        index = first + draw.arrays.integers(0, each, group * count)
        return self.op("cim.take", [y, self.const("take", "i32", index)], axis=axis)

    def _many(self):
        """A number of channels that fill whole vectors, in binary networks; else 0."""
        return self.draw.choice([16, 32, 48, 64, 0]) if self.binary else 0

    def _readable(self, x, w):
        try:
            recipe(x, w, self.geometry.functions)
        except ValueError:
            return False
        return True

    def _cost(self, x, w, shape, group, positions):
        """Executed instructions, roughly."""
        matrix = len(shape) == 2
        columns, channels = (shape if matrix else (prod(shape[1:]), shape[0] // group))[:2]
        blocks = -(-columns // self.geometry.cols) * -(-channels // self.geometry.rows) * group
        terms = len(recipe(x, w, self.geometry.functions).terms)
        return positions * blocks * planes(x) * (2 + 3 * terms * weight_planes(w))

    def window(self, x, pool=False):
        """Attributes of a window that fits x, how many groups, and how many positions."""
        draw, shape = self.draw, x.tensor.shape
        sizes = shape[2:]
        kernel = tuple(draw.choice([1, 2, 3, 3][: size + (size > 2)]) for size in sizes)
        attrs = {"kernel": kernel}
        if draw.chance(0.4):
            attrs["strides"] = tuple(draw.randint(1, 3) for _ in sizes)
        if draw.chance(0.5):
            most = [k - 1 if pool else 2 for k in kernel] * 2
            attrs["pads"] = tuple(draw.randint(0, min(2, m)) for m in most)
        if draw.chance(0.25):
            reach = [(s - 1) // max(1, k - 1) for s, k in zip(sizes, kernel)]
            attrs["dilations"] = tuple(draw.randint(1, max(1, min(2, r))) for r in reach)
        if not pool and draw.chance(0.1):
            attrs["up"] = tuple(draw.randint(1, 2) for _ in sizes)
        up = attrs.get("up", (1,) * len(sizes))
        out = [
            ((size - 1) * u + sum(attrs.get("pads", (0,) * 6)[i :: len(sizes)])) + 1
            for i, (size, u) in enumerate(zip(sizes, up))
        ]
        divisors = [g for g in range(1, shape[1] + 1) if shape[1] % g == 0]
        if self.grouped and draw.chance(0.6):
            divisors = [shape[1]]  # depthwise
        group = draw.choice(divisors) if self.grouped or draw.chance(0.25) else 1
        return attrs, group, shape[0] * prod(out)

    def _corrections(self, x, w, matrix):
        """Zero points and bias, where there are some."""
        draw = self.draw
        channels = w.tensor.shape[1 if matrix else 0]
        zx = zw = bias = None
        if x.elem[0] in "ui" and draw.chance(0.4):
            known = draw.chance(0.5)
            zx = (
                self.const("zx", x.elem, values(draw, x.elem, (1,)))
                if known
                else self.input(f"zero{len(self.graph.inputs)}", x.elem, (1,))
            )
        if w.elem[0] in "ui" and draw.chance(0.2):
            zw = self.const("zw", w.elem, values(draw, w.elem, (draw.choice([1, channels]),)))
        if draw.chance(0.4):
            bias = self.const("b", "i32", draw.arrays.integers(-99, 99, channels))
        return zx, zw, bias

    def _places(self, x, w, attrs):
        """A bias for each place, many of them alike, as borders make them."""
        draw, row = self.draw, TABLE["cim.conv"]
        (type_,) = row.types([x.type, w.type], row.full_attrs(attrs))
        shape = (1, *type_.shape[1:])
        most = draw.choice([3, 99, 99, 30000, 1 << 20])
        bias = draw.arrays.integers(-most, most, shape)
        if draw.chance(0.6):
            inner = tuple(slice(min(1, n - 1), max(1, n - 1)) for n in shape[2:])
            bias[:, :, *inner] = bias[:, :, *(slice(0, 1) for _ in inner)]
        return self.const("b", "i32", bias)

    # -- what follows --

    def step(self, x):
        """An operation on integers that isn't a layer; None where none fits."""
        kinds = ["largest", "relu", "levels", "requantised", "lut", "add", "qadd", "total",
                 "part", "taken", "joined", "view"]  # fmt: skip
        self.draw.shuffle(kinds)
        for kind in kinds:
            y = getattr(self, kind)(x)
            if y is not None:
                return y
        return None

    def to_planes(self, x):
        """x as a type that a layer takes."""
        if is_integer(x.elem) and planes(x.elem) <= 8:
            return x
        return self.levels(x) if self.draw.chance(0.5) else self.requantised(x)

    def levels(self, x):
        """x compared with thresholds; None now and then."""
        draw = self.draw
        if draw.chance(0.1) and is_integer(x.elem):
            return None
        to = draw.choice(["bip", "bip", "tern", "u1", "u2", "i3", "u4", "i2"])
        to = "bip" if self.binary and draw.chance(0.9) else to
        count = {"bip": 1, "tern": 2}.get(to) or draw.randint(1, min(9, 2 ** planes(to) - 1))
        axis, spread = self._axis(x), self.spread(x)
        channels = x.tensor.shape[axis]
        shape = (channels,) if count == 1 and draw.chance(0.7) else (channels, count)
        limits = draw.arrays.integers(-spread, spread + 1, shape)
        if draw.chance(0.8):
            limits = np.sort(limits, axis=-1) if len(shape) == 2 else limits
        kind = draw.choice(["i32", "i32", "i64"]) if is_integer(x.elem) else x.elem
        th = self.const("th", kind, limits)
        flip = self.const("flip", "bip", values(draw, "bip", channels))
        return self.op("cim.threshold", [x, th, *[flip][: draw.chance(0.4)]], to=to, axis=axis)

    def _axis(self, x):
        """The axis of the channels, or another one now and then."""
        made = [n for n in self.graph.nodes if n.outputs[0] is x]
        last = len(x.tensor.shape) - 1
        if self.draw.chance(0.1):
            return self.draw.randint(1, last)
        takes = [n.inputs[0] for n in made if n.op == "cim.take"]
        made = [n for n in self.graph.nodes if n.outputs[0] in takes] or made
        return last if made and made[0].op == "cim.matmul" else 1

    def requantised(self, x):
        """x times scales, as fewer bits; None where x isn't of integers."""
        draw = self.draw
        if not is_integer(x.elem):
            return None
        to = draw.choice(["u8", "i8", "u8", "i8", "u4", "i5", "u1", "u2", "i2"])
        axis = self._axis(x)
        count = draw.choice([1, x.tensor.shape[axis]])
        scale = self.const("scale", "f32", scales(draw, count, to, self.spread(x)))
        zero = int(values(draw, to, ())) if draw.chance(0.5) else 0
        return self.op("cim.requant", [x, scale], to=to, zero=zero, axis=axis)

    def spread(self, x):
        """A size that values of x hardly exceed."""
        if x.elem not in ("i32", "f32"):
            return int_range(x.elem)[1] + 1
        return self.draw.choice([3, 10, 30, 100, 1000])

    def _pool(self, x, op, **more):
        if len(x.tensor.shape) < 3:
            return None
        attrs, _, positions = self.window(x, pool=True)
        if positions > self.budget:
            return None
        self.budget -= positions
        return self.op(op, [x], **attrs, **more)

    def largest(self, x):
        return self._pool(x, "cim.max_pool")

    def total(self, x):
        if not is_integer(x.elem) or x.elem == "i32":
            return None
        zero = int(values(self.draw, x.elem, ())) if self.draw.chance(0.5) else 0
        return self._pool(x, "cim.sum_pool", zero=zero)

    def relu(self, x):
        return self.op("cim.relu", [x])

    def lut(self, x):
        draw = self.draw
        if x.elem[0] not in "ui" or planes(x.elem) > 8:
            return None
        to = draw.choice([*PLANES, "f32", "i32", "i16"])
        table = self.const("table", to, values(draw, to, (2 ** planes(x.elem),)))
        return self.op("cim.lut", [x, table])

    def _other(self, x):
        """A value of the shape of x, that or another one."""
        alike = [v for v in self.made if v.tensor.shape == x.tensor.shape and v.elem != "f32"]
        return self.draw.choice([*alike, x])

    def add(self, x):
        y = self._other(x)
        if "i32" in (x.elem, y.elem) and self.draw.chance(0.5):
            return None
        return self.op("cim.add", [x, y])

    def qadd(self, x):
        draw, y = self.draw, self._other(x)
        if any(v.elem[0] not in "ui" or planes(v.elem) > 8 for v in (x, y)):
            return None
        to = draw.choice(["u8", "i8", "u8", "i8", "u5", "i3"])
        zeros = [int(values(draw, elem, ())) for elem in (x.elem, y.elem, to)]
        given = [draw.choice([0.5, 0.25, 0.1, 0.03, 1.7, 3e-3]) for _ in range(3)]
        return self.op(
            "cim.qadd", [x, y], x_scale=given[0], y_scale=given[1], scale=given[2],
            x_zero=zeros[0], y_zero=zeros[1], zero=zeros[2], fused=draw.randint(0, 1), to=to,
        )  # fmt: skip

    def part(self, x):
        axis = self.draw.randint(1, len(x.tensor.shape) - 1)
        stop = self.draw.randint(1, x.tensor.shape[axis])
        return self.op("cim.slice", [x], start=self.draw.randint(0, stop - 1), stop=stop, axis=axis)

    def taken(self, x):
        axis = self.draw.randint(1, len(x.tensor.shape) - 1)
        index = self.draw.arrays.integers(0, x.tensor.shape[axis], self.draw.randint(1, 6))
        return self.op("cim.take", [x, self.const("take", "i32", index)], axis=axis)

    def joined(self, x):
        alike = [v for v in self.made if v.elem == x.elem and v.tensor.shape == x.tensor.shape]
        axis = self.draw.randint(1, len(x.tensor.shape) - 1)
        return self.op("cim.concat", [x, self.draw.choice([*alike, x])], axis=axis)

    def view(self, x):
        shape = x.tensor.shape
        if len(shape) > 2 and self.draw.chance(0.5):
            order = [0, *self.draw.sample(range(1, len(shape)), len(shape) - 1)]
            return self.op("cim.transpose", [x], perm=tuple(order))
        return self.flat(x)

    def flat(self, x):
        """x as a matrix."""
        shape = x.tensor.shape
        return self.op("cim.reshape", [x], shape=(shape[0], prod(shape[1:])))


def _reach(x, w, terms):
    """The largest sum of that many products."""
    return terms * max(map(abs, int_range(x))) * max(map(abs, int_range(w))) * 4


def _first(draw, net):
    """Element type and shape of a network's input."""
    usual = {"any": ("bip", "u8", "i8"), "binary": ("bip",), "grouped": ("u8", "i8", "u4", "i5")}
    elem = draw.choice(PLANES if draw.chance(0.7) and not net.binary else usual[net.style])
    elem = draw.choice(["f32", "i32", "i16", "u12"]) if draw.chance(0.1) else elem
    rank = draw.choice([0, 1, 2, 2, 2, 2, 2, 3])
    most = [0, 6, 10 if net.binary else 6, 3][rank]
    sizes = tuple(draw.randint(1, most) for _ in range(rank))
    channels = draw.choice(SIZES[: 17 if rank < 2 else 13] + (WIDE if draw.chance(0.3) else ()))
    if net.binary and draw.chance(0.7):
        channels = draw.choice([1, 1, 2, 3, 16, 32, 64])
    return elem, (draw.choice([1, 1, 1, 1, 1, 2]), channels, *sizes)


def random_net(draw):
    """A program of one to three layers, with steps between them."""
    net = Net(draw, draw.choice([800, 1500, 2500]))
    elem, shape = _first(draw, net)
    x = net.input("x", elem, shape)
    if elem == "f32":
        x = net.levels(x)
    elif draw.chance(0.2):
        x = net.step(x) or x
    for _ in range(draw.randint(1, 3)):
        x = net.to_planes(x) or x
        y = net.layer(x) if is_integer(x.elem) and planes(x.elem) <= 8 else None
        x = y or x
        if y is not None and draw.chance(0.9 if net.binary else 0.7):
            x = net.levels(x) or net.requantised(x)
        for _ in range(draw.choice([0, 0, 1, 1, 2])):
            x = net.step(x) or x
        if len(x.tensor.shape) > 2 and draw.chance(0.2):
            x = net.flat(x)
    if not net.made:
        net.op("cim.relu", [x])
    return net.program()
