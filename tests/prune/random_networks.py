"""Random ONNX networks with kernels of zeros, for the tests of pruning.

Two kinds. `integers`: weights, biases and inputs are small integers, and no value ever needs more
than 22 bits, so that float32 computes them exactly in any order. Floats: anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper, numpy_helper

BITS = 22
FLOAT = TensorProto.FLOAT


@dataclass(frozen=True)
class Val:
    """A value: shape with a batch of 1; in integer networks no element is larger than `bound` or
    has more than `frac` binary places."""

    name: str
    shape: tuple[int, ...]
    bound: float = 4.0
    frac: int = 0

    @property
    def channels(self) -> int:
        return self.shape[1]


class Network:
    """A network in the making: `model` has it, `feeds` random inputs, `steps` what was drawn.

    gates: whether products of two results were drawn. convs: the names of ungrouped and
    grouped convolutions, their weights by name in `weights`."""

    def __init__(self, seed, integers=True, blocks=None, depth=None):
        self.rng = np.random.default_rng(seed)
        self.integers = integers
        self.opset = int(self.rng.choice([13, 17, 18]))
        self.symbolic = bool(self.rng.random() < 0.5)
        self.nodes, self.inits, self.infos, self.steps = [], [], [], []
        self.arrays = {}
        self.shared_bias = {}
        self.shared_weights = {}
        self.gates = False
        size = int(self.rng.choice([4, 6, 8]))
        x = Val("x", (1, int(self.rng.integers(1, 5)), size, size))
        self.source = x
        x = self.conv(x) or self.conv(x, same=True)
        names = list(blocks or BLOCKS)
        weights = np.array([BLOCKS.get(n, 1) for n in names], float)
        for _ in range(depth or int(self.rng.integers(3, 9))):
            name = str(self.rng.choice(names, p=weights / weights.sum()))
            made = getattr(self, name)(x)
            if made is None:
                continue
            self.steps.append(name)
            if self.rng.random() < 0.05:
                self.infos.append(made)
            x = made
        self.infos.append(self.head(x))
        self.model = self._model()

    def feeds(self, count=3, scale=1.0):
        """Samples, one after the other."""
        shape = (count, *self.source.shape)
        if self.integers:
            values = self.rng.integers(-4, 5, shape)
        else:
            values = self.rng.normal(size=shape) * scale
        return [{"x": v.astype(np.float32)} for v in values]

    def _model(self):
        batch = "N" if self.symbolic else 1
        values = {v.name: v for v in (self.source, *self.infos)}.values()
        given, *outs = [
            helper.make_tensor_value_info(v.name, FLOAT, [batch, *v.shape[1:]]) for v in values
        ]
        inits = [numpy_helper.from_array(a, n) for n, a in self.arrays.items()]
        graph = helper.make_graph(self.nodes, "net", [given], outs, inits)
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    # -- parts --

    def const(self, array, name="c"):
        array = np.asarray(array)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        name = f"{name}{len(self.arrays)}"
        self.arrays[name] = array
        return name

    def op(self, kind, *inputs, outputs=1, **attrs):
        names = [
            "" if i is None else i if isinstance(i, str) else self.const(np.asarray(i))
            for i in inputs
        ]
        out = f"{kind.lower()}{len(self.nodes)}"
        outs = [out] if outputs == 1 else [f"{out}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, names, outs, name=out, **attrs))
        return out if outputs == 1 else outs

    def draw(self, *values):
        return values[int(self.rng.integers(len(values)))]

    def numbers(self, shape, low=-2, high=2):
        """Random constants: integers low..high, or normal floats."""
        if self.integers:
            return self.rng.integers(low, high + 1, shape).astype(np.float32)
        return self.rng.normal(size=shape).astype(np.float32)

    def fits(self, bound, frac):
        return not self.integers or bound * 2.0**frac < 2.0**BITS

    def tame(self, x, gain):
        """x, clipped and floored if a layer of this gain would need too many bits."""
        if self.fits(x.bound * gain + 8, x.frac + 2):
            return x
        y = self.op("Floor", x.name) if x.frac else x.name
        return Val(self.op("Clip", y, np.float32(-3), np.float32(4)), x.shape, 4.0, 0)

    def kernels(self, shape, axis=0, values=None):
        """Weights of which some kernels, and some inputs, are zeros."""
        w = self.numbers(shape) if values is None else values
        w = np.moveaxis(w, axis, 0).copy()
        part = self.draw(0.0, 0.3, 0.6)
        w[self.rng.random(len(w)) < part] = 0
        if self.rng.random() < 0.02:
            w[:] = 0
        if w.ndim > 1 and self.rng.random() < 0.2:
            w[:, self.rng.random(w.shape[1]) < 0.3] = 0
        return np.moveaxis(w, 0, axis)

    def bias(self, count):
        """None, or a vector that may be another layer's too."""
        if self.rng.random() < 0.3:
            return None
        if count in self.shared_bias and self.rng.random() < 0.3:
            return self.shared_bias[count]
        self.shared_bias[count] = self.const(self.numbers(count, -3, 3), "b")
        return self.shared_bias[count]

    def gain(self, w, axis=0):
        return float(np.abs(np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1)).sum(1).max())

    # -- layers --

    def window(self, x, kernel):
        """Attributes of a window, and the sizes of its result; None where it doesn't fit."""
        strides = [self.draw(1, 1, 1, 2) for _ in kernel]
        dilations = [self.draw(1, 1, 1, 2) for _ in kernel]
        reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel)]
        attrs = {"strides": strides, "dilations": dilations, "kernel_shape": list(kernel)}
        form = self.draw("pads", "same", "uneven", "none")
        pads = [0] * 4
        if form == "same":
            attrs |= {"auto_pad": self.draw("SAME_UPPER", "SAME_LOWER"), "dilations": [1, 1]}
            sizes = [-(-s // t) for s, t in zip(x.shape[2:], strides)]
            return attrs, sizes
        if form == "pads":
            pads = [r // 2 for r in reach] * 2
        if form == "uneven":
            pads = [int(self.rng.integers(0, k)) for k in (*kernel, *kernel)]
        attrs["pads"] = pads
        sizes = [
            (s + pads[i] + pads[i + 2] - reach[i]) // strides[i] + 1
            for i, s in enumerate(x.shape[2:])
        ]
        return (attrs, sizes) if min(sizes) > 0 else None

    def conv(self, x, out=None, same=False, group=1, w=None):
        if len(x.shape) != 4:
            return None
        kernel = self.draw((1, 1), (3, 3), (2, 2), (3, 1))
        form = None
        if same:
            kernel = (3, 3)
            form = {"pads": [1] * 4, "kernel_shape": [3, 3]}, x.shape[2:]
        form = form or self.window(x, kernel)
        if form is None:
            return None
        attrs, sizes = form
        out = out or int(self.rng.integers(1, 4)) * group * self.draw(1, 2)
        if w is None:
            w = self.kernels((out, x.channels // group, *kernel))
        gain = self.gain(w)
        x = self.tame(x, gain)
        key = out, w.shape
        if group == 1 and key in self.shared_weights and self.rng.random() < 0.3:
            name = self.shared_weights[key]
            gain = self.gain(self.arrays[name])
            x = self.tame(x, gain)
        else:
            name = self.shared_weights[key] = self.const(w, "w")
        bias = self.bias(out)
        args = [x.name, name, *([bias] if bias else [])]
        y = self.op("Conv", *args, **attrs, **({"group": group} if group > 1 else {}))
        return Val(y, (1, out, *sizes), x.bound * gain + 3, x.frac)

    def depthwise(self, x):
        if len(x.shape) != 4 or x.channels < 2:
            return None
        return self.conv(x, x.channels * self.draw(1, 1, 2), group=x.channels)

    def grouped(self, x):
        if len(x.shape) != 4 or x.channels < 4 or x.channels % 2:
            return None
        return self.conv(x, 2 * int(self.rng.integers(1, 4)), group=2)

    def transposed(self, x):
        if len(x.shape) != 4 or max(x.shape[2:]) > 8:
            return None
        out, stride, pad = int(self.rng.integers(1, 5)), self.draw(1, 2), self.draw(0, 1)
        w = self.kernels((x.channels, out, 3, 3), 1)
        x = self.tame(x, self.gain(w, 1))
        bias = self.bias(out)
        sizes = [(s - 1) * stride + 3 - 2 * pad for s in x.shape[2:]]
        if min(sizes) < 1:
            return None
        args = [x.name, self.const(w, "w"), *([bias] if bias else [])]
        y = self.op("ConvTranspose", *args, strides=[stride] * 2, pads=[pad] * 4)
        return Val(y, (1, out, *sizes), x.bound * self.gain(w, 1) + 3, x.frac)

    def norm(self, x):
        scale = self.numbers(x.channels, -2, 2)
        if self.rng.random() < 0.7:
            scale[scale == 0] = 1
        x = self.tame(x, 2)
        var = np.ones(x.channels) if self.integers else self.rng.uniform(0.5, 2, x.channels)
        mean, bias = self.numbers(x.channels), self.numbers(x.channels)
        epsilon = 0.0 if self.integers else 1e-5
        args = [x.name, scale, bias, mean, var.astype(np.float32)]
        y = self.op("BatchNormalization", *args, epsilon=epsilon)
        return Val(y, x.shape, 2 * x.bound + 8, x.frac)

    def activation(self, x):
        kinds = ["Relu", "Clip", "LeakyRelu", "PRelu", "Abs", "Neg"]
        kinds += [] if self.integers else ["Sigmoid", "Tanh", "Elu", "HardSwish", "Softplus"]
        kind = self.draw(*kinds)
        if kind == "HardSwish" and self.opset < 14:
            kind = "Sigmoid"
        if kind == "Clip":
            low, high = self.draw((0.0, 6.0), (-1.0, 1.0), (1.0, 3.0))
            y = self.op("Clip", x.name, np.float32(low), np.float32(high))
            return Val(y, x.shape, high, x.frac)
        frac = x.frac
        if kind == "LeakyRelu":
            y, frac = self.op(kind, x.name, alpha=0.5), frac + 1
        elif kind == "PRelu":
            slope = self.rng.choice([-1.0, 0.0, 0.5, 2.0], x.channels).astype(np.float32)
            x = self.tame(x, 2)
            frac = x.frac + 1
            y = self.op(kind, x.name, slope.reshape(-1, *(1,) * (len(x.shape) - 2)))
            return Val(y, x.shape, 2 * x.bound, frac)
        else:
            y = self.op(kind, x.name)
        return Val(y, x.shape, x.bound, frac)

    def binary(self, x):
        """Sign as a comparison, then a convolution with ±1 or ±α."""
        if not self.integers or len(x.shape) != 4:
            return None
        above = self.op("Greater", x.name, np.float32(0))
        y = Val(self.op("Where", above, np.float32(1), np.float32(-1)), x.shape, 1.0)
        out, alpha = int(self.rng.integers(2, 7)), self.draw(1.0, 1.0, 0.5)
        w = np.where(self.rng.random((out, x.channels, 3, 3)) < 0.5, -alpha, alpha)
        w = self.kernels(w.shape, values=w.astype(np.float32))
        made = self.conv(y, out, same=True, w=w)
        return None if made is None else Val(made.name, made.shape, made.bound, made.frac + 1)

    def pool(self, x):
        if len(x.shape) != 4 or min(x.shape[2:]) < 3:
            return None
        kind = self.draw("MaxPool", "AveragePool", "AveragePool")
        pads = self.draw([0] * 4, [1, 0, 0, 1], [1] * 4)
        attrs = {"kernel_shape": [2, 2], "strides": [self.draw(1, 2)] * 2, "pads": pads}
        sizes = [(s + pads[i] + pads[i + 2] - 2) // attrs["strides"][i] + 1
                 for i, s in enumerate(x.shape[2:])]  # fmt: skip
        frac = x.frac
        if kind == "AveragePool":
            attrs["count_include_pad"] = self.draw(0, 1)
            frac += 2
            x = self.tame(x, 4)
            frac = x.frac + 2
        return Val(self.op(kind, x.name, **attrs), (*x.shape[:2], *sizes), x.bound, frac)

    # -- several branches --

    def residual(self, x):
        if len(x.shape) != 4:
            return None
        y = self.conv(x, x.channels, same=True)
        if self.rng.random() < 0.5:
            y = self.norm(y)
        if self.rng.random() < 0.5:
            y = self.activation(y)
        if self.rng.random() < 0.3:
            scale = self.numbers((x.channels, 1, 1), -1, 2)
            y = self.tame(y, 2)
            y = Val(self.op("Mul", y.name, scale), y.shape, 2 * y.bound, y.frac)
        bound, frac = x.bound + y.bound, max(x.frac, y.frac)
        if not self.fits(bound, frac):
            return y
        if self.rng.random() < 0.5:
            x, y = y, x
        return Val(self.op(self.draw("Add", "Add", "Sub", "Max"), x.name, y.name),
                   x.shape, bound, frac)  # fmt: skip

    def concat(self, x):
        if len(x.shape) != 4 or x.channels > 10:
            return None
        y = self.conv(x, int(self.rng.integers(1, 5)), same=True)
        y = self.activation(y)
        parts = self.draw([x, y], [y, x], [y, y])
        shape = (1, sum(p.channels for p in parts), *x.shape[2:])
        made = self.op("Concat", *(p.name for p in parts), axis=self.draw(1, -3))
        return Val(made, shape, max(x.bound, y.bound), max(x.frac, y.frac))

    def split(self, x):
        if len(x.shape) != 4 or x.channels < 2:
            return None
        at = int(self.rng.integers(1, x.channels))
        if self.opset >= 18 and x.channels % 2 == 0 and self.rng.random() < 0.5:
            at = x.channels // 2
            a, b = self.op("Split", x.name, outputs=2, axis=1, num_outputs=2)
        else:
            sizes = np.array([at, x.channels - at], np.int64)
            a, b = self.op("Split", x.name, sizes, outputs=2, axis=1)
        a = Val(a, (1, at, *x.shape[2:]), x.bound, x.frac)
        b = Val(b, (1, x.channels - at, *x.shape[2:]), x.bound, x.frac)
        a = self.activation(a)
        made = self.op("Concat", b.name, a.name, axis=1)
        return Val(made, x.shape, max(a.bound, b.bound), max(a.frac, b.frac))

    def cut(self, x):
        if x.channels < 2:
            return None
        start = int(self.rng.integers(0, x.channels - 1))
        stop = int(self.rng.integers(start + 1, x.channels + 1))
        ints = [np.array([v], np.int64) for v in (start - self.draw(0, x.channels), stop, 1)]
        y = self.op("Slice", x.name, *ints)
        return Val(y, (1, stop - start, *x.shape[2:]), x.bound, x.frac)

    def shuffle(self, x):
        order = self.rng.permutation(x.channels)
        if self.rng.random() < 0.3:
            order = self.rng.integers(-x.channels, x.channels, x.channels)
        y = self.op("Gather", x.name, order.astype(np.int64), axis=1)
        return Val(y, x.shape, x.bound, x.frac)

    def groups_shuffle(self, x):
        """As in ShuffleNet: [N, 2, C/2, H, W] transposed."""
        if len(x.shape) != 4 or x.channels % 2:
            return None
        h, w = x.shape[2:]
        first = self.draw(0, -1)
        y = self.op("Reshape", x.name, np.array([first, 2, x.channels // 2, h, w], np.int64))
        y = self.op("Transpose", y, perm=[0, 2, 1, 3, 4])
        y = self.op("Reshape", y, np.array([first, x.channels, h, w], np.int64))
        return Val(y, x.shape, x.bound, x.frac)

    def last_axis(self, x):
        """Channels last and a product with a matrix, and back."""
        if len(x.shape) != 4:
            return None
        out = int(self.rng.integers(1, 6))
        w = self.kernels((x.channels, out), 1)
        x = self.tame(x, self.gain(w, 1))
        y = self.op("Transpose", x.name, perm=[0, 2, 3, 1])
        y = self.op("MatMul", y, self.const(w, "w"))
        if self.rng.random() < 0.5:
            y = self.op("Add", y, self.numbers(out))
        y = self.op("Transpose", y, perm=[0, 3, 1, 2])
        return Val(y, (1, out, *x.shape[2:]), x.bound * self.gain(w, 1) + 3, x.frac)

    def left(self, x):
        """A constant on the left: its rows are kernels."""
        if len(x.shape) != 4:
            return None
        out, (h, w) = int(self.rng.integers(1, 6)), x.shape[2:]
        m = self.kernels((out, x.channels))
        x = self.tame(x, self.gain(m))
        y = self.op("Reshape", x.name, np.array([0, x.channels, h * w], np.int64))
        y = self.op("MatMul", self.const(m, "w"), y)
        y = self.op("Reshape", y, np.array([0, out, h, w], np.int64))
        return Val(y, (1, out, h, w), x.bound * self.gain(m), x.frac)

    def gate(self, x):
        """Squeeze and excite."""
        h, w = x.shape[2:] if len(x.shape) == 4 else (3, 3)
        if self.integers and (h * w) & (h * w - 1):
            return None
        x = self.tame(x, 2 * h * w)
        frac = x.frac + int(np.log2(h * w)) if self.integers else 0
        y = Val(self.op("GlobalAveragePool", x.name), (*x.shape[:2], 1, 1), x.bound, frac)
        for out in (2, x.channels):
            k = self.kernels((out, y.channels, 1, 1))
            y = self.tame(y, self.gain(k))
            bias = self.bias(out)
            name = self.op("Conv", y.name, self.const(k, "w"), *([bias] if bias else []))
            y = Val(name, (1, out, 1, 1), y.bound * self.gain(k) + 3, y.frac)
            if out == 2:
                y = self.activation(y)
        if self.integers:
            g = self.op("Clip", self.op("Floor", y.name), np.float32(0), np.float32(2))
        else:
            g = self.op("Sigmoid", y.name)
        self.gates = True
        return Val(self.op("Mul", x.name, g), x.shape, 2 * x.bound, x.frac)

    def pad(self, x):
        if len(x.shape) != 4 or max(x.shape[2:]) > 10:
            return None
        mode = self.draw("constant", "reflect", "edge")
        if mode == "reflect" and min(x.shape[2:]) < 2:
            mode = "edge"
        pads = [int(v) for v in self.rng.integers(0, 2, 4)]
        full = np.array([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64)
        value = [np.float32(self.draw(0.0, 1.0))] if mode == "constant" else []
        y = self.op("Pad", x.name, full, *value, mode=mode)
        sizes = [s + pads[i] + pads[i + 2] for i, s in enumerate(x.shape[2:])]
        return Val(y, (*x.shape[:2], *sizes), max(x.bound, 1.0), x.frac)

    def resize(self, x):
        if len(x.shape) != 4 or max(x.shape[2:]) > 6:
            return None
        sizes = [2 * s for s in x.shape[2:]]
        if self.rng.random() < 0.5 and not self.symbolic:
            args = [None, None, np.array([1, x.channels, *sizes], np.int64)]
        else:
            args = [None, np.array([1, 1, 2, 2], np.float32)]
        attrs = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        y = self.op("Resize", x.name, *args, mode="nearest", **attrs)
        return Val(y, (*x.shape[:2], *sizes), x.bound, x.frac)

    def branch(self, x):
        """An If whose branches capture the value."""
        total = self.op("ReduceSum", x.name, keepdims=0)
        positive = self.op("Greater", total, np.float32(0))
        out = f"if{len(self.nodes)}"
        bodies = []
        for op in ("Relu", "Neg"):
            inner = f"{out}_{op}"
            node = helper.make_node(op, [x.name], [inner])
            batch = "N" if self.symbolic else 1
            info = helper.make_tensor_value_info(inner, FLOAT, [batch, *x.shape[1:]])
            bodies.append(helper.make_graph([node], inner, [], [info]))
        self.nodes.append(
            helper.make_node(
                "If", [positive], [out], name=out, then_branch=bodies[0], else_branch=bodies[1]
            )
        )
        return Val(out, x.shape, x.bound, x.frac)

    # -- the end --

    def head(self, x):
        form = self.draw("flatten", "reshape", "pool", "spatial")
        if form == "spatial":
            return x
        if form == "pool":
            if self.integers:
                x = Val(self.op("GlobalMaxPool", x.name), (1, x.channels, 1, 1), x.bound, x.frac)
            else:
                x = Val(self.op("GlobalAveragePool", x.name), (1, x.channels, 1, 1))
        size = int(np.prod(x.shape[1:]))
        x = self.tame(x, 2 * size)
        if form == "reshape":
            y = self.op("Reshape", x.name, np.array([self.draw(0, -1), size], np.int64))
        else:
            y = self.op("Flatten", x.name)
        y = Val(y, (1, size), x.bound, x.frac)
        for _ in range(self.draw(1, 2)):
            y = self.dense(y)
            if self.rng.random() < 0.5:
                y = self.activation(y)
        if self.rng.random() < 0.3 and not self.integers:
            y = Val(self.op("Softmax", y.name, axis=1), y.shape)
        return y

    def dense(self, x):
        out, turned = int(self.rng.integers(2, 7)), self.draw(0, 1)
        shape = (out, x.channels) if turned else (x.channels, out)
        w = self.kernels(shape, 0 if turned else 1)
        x = self.tame(x, 2 * self.gain(w, 0 if turned else 1))
        bound = 2 * x.bound * self.gain(w, 0 if turned else 1) + 6
        if self.rng.random() < 0.3:
            m = w.T.copy() if turned else w
            y = self.op("MatMul", x.name, self.const(m, "w"))
            if self.rng.random() < 0.5:
                y = self.op("Add", y, self.numbers(self.draw((out,), (1, out), (1,))))
            return Val(y, (1, out), bound, x.frac)
        given, attrs = x.name, {"transB": turned}
        if self.rng.random() < 0.2:
            given, attrs["transA"] = self.op("Transpose", x.name, perm=[1, 0]), 1
        frac = x.frac
        if self.rng.random() < 0.3:
            attrs |= {"alpha": self.draw(0.5, 2.0), "beta": self.draw(0.5, 2.0)}
            frac += 1
        bias = [self.numbers(self.draw((out,), (1, out), (1,)))] if self.rng.random() < 0.7 else []
        y = self.op("Gemm", given, self.const(w, "w"), *bias, **attrs)
        return Val(y, (1, out), bound, frac)


BLOCKS = {
    "conv": 4, "depthwise": 2, "grouped": 1, "transposed": 1, "norm": 2, "activation": 2,
    "binary": 1, "pool": 1, "residual": 2, "concat": 1, "split": 1, "cut": 1, "shuffle": 1,
    "groups_shuffle": 1, "last_axis": 1, "left": 1, "gate": 1, "pad": 1, "resize": 1,
    "branch": 0.5,
}  # fmt: skip
"""How often each is drawn."""
