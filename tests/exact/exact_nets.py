"""Small ONNX networks for the tests of exactness, node by node.

A `Net` keeps the shape of each value, so that layers can be drawn without shape inference.
Weights come from a seeded generator: what a test draws is structure, not elements.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

QONNX = "qonnx.custom_op.general"
TYPES = {"f32": TensorProto.FLOAT, "u8": TensorProto.UINT8, "i8": TensorProto.INT8}


class Net:
    """An ONNX graph in the making. `linear` counts its Conv, MatMul and Gemm nodes, `ternary`
    says whether weights may be 0."""

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.inits, self.inputs = [], [], []
        self.shapes = {}
        self.linear = 0
        self.ternary = False
        self.huge = False
        self.feeds = {}

    def input(self, name, shape, elem="f32", samples=2, batched=True):
        """An input with `samples` random samples; floats are halves in -2..2, many of them 0.

        batched: its first axis, of size 1 in `shape`, is symbolic. Another first axis of size 1
        takes samples too, any other none."""
        dims = ["N", *shape[1:]] if batched else list(shape)
        self.inputs.append(helper.make_tensor_value_info(name, TYPES[elem], dims))
        self.shapes[name] = tuple(shape)
        along = batched or shape[0] == 1
        size = (samples * shape[0], *shape[1:]) if along else (samples, *shape)
        if elem == "f32":
            array = np.asarray(self.rng.integers(-4, 5, size) / 2, np.float32)
        else:
            low, high = (0, 256) if elem == "u8" else (-128, 128)
            array = self.rng.integers(low, high, size).astype(np.uint8 if elem == "u8" else np.int8)
            array[self.rng.random(size) < 0.1] = 0
        self.feeds[name] = array
        return name

    def const(self, array, name="c"):
        """A constant; floats as float32."""
        array = np.asarray(array)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        name = f"{name}{len(self.inits)}"
        self.inits.append(numpy_helper.from_array(array, name))
        return name

    def op(self, op, *inputs, shape=None, domain="", **attrs):
        """A node with one result, which has the first input's shape unless `shape` is given.
        Inputs are names, or arrays and numbers, which become constants."""
        names = [x if isinstance(x, str) else self.const(np.asarray(x)) for x in inputs]
        attrs = {k: v for k, v in attrs.items() if v is not None}
        out = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [out], name=out, domain=domain, **attrs))
        self.shapes[out] = tuple(shape if shape is not None else self.shapes[names[0]])
        self.linear += op in ("Conv", "MatMul", "Gemm")
        return out

    def model(self, *outputs):
        """The model with these values as outputs; their shapes are left to inference."""
        infos = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, infos, self.inits)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(QONNX, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    # -- random constants --

    def signs(self, shape):
        """±1, random."""
        return np.where(self.rng.random(shape) < 0.5, -1.0, 1.0).astype(np.float32)

    def weights(self, shape, kind, axis=0):
        """Weights: `bip` ±1, `alpha` ±α, `alphas` ±α by channel along `axis`, `tern` -1, 0, 1,
        `terns` ternary with α by channel. Each α is a power of two."""
        w = self.signs(shape)
        self.ternary |= kind.startswith("tern")
        if kind.startswith("tern"):
            w *= self.rng.random(shape) < 0.6
        if kind == "alpha":
            w *= np.float32(0.25)
        if kind in ("alphas", "terns"):
            dims = [1] * len(shape)
            dims[axis] = -1
            w = w * (2.0 ** self.rng.integers(-3, 3, shape[axis])).reshape(dims)
        return w.astype(np.float32)

    def per_channel(self, x, values, axis=1):
        """`values` (one a channel) shaped to broadcast along `axis` of x."""
        dims = [1] * len(self.shapes[x])
        dims[axis] = -1
        return np.asarray(values, np.float32).reshape(dims)

    def reach(self, x, axis=1):
        """Random integers about as large as the sums of a small layer, one a channel."""
        return self.rng.integers(-4, 5, self.shapes[x][axis]).astype(np.float32)

    # -- layers --

    def conv(self, x, out, kernel, kind="bip", bias=None, group=1, w=None, **attrs):
        """Conv with random weights. attrs: strides, dilations, pads, auto_pad."""
        batch, channels, *sizes = self.shapes[x]
        if w is None:
            w = self.const(self.weights((out, channels // group, *kernel), kind), "w")
        args = [x, w] if bias is None else [x, w, self.const(bias, "b")]
        spatial = out_sizes(sizes, kernel, **attrs)
        named = {"group": group} if group > 1 else {}
        return self.op("Conv", *args, shape=(batch, out, *spatial), **named, **attrs)

    def max_pool(self, x, kernel, **attrs):
        """MaxPool. attrs: strides, dilations, pads, auto_pad, ceil_mode."""
        batch, channels, *sizes = self.shapes[x]
        spatial = out_sizes(sizes, kernel, **attrs)
        return self.op(
            "MaxPool", x, shape=(batch, channels, *spatial), kernel_shape=kernel, **attrs
        )

    def batch_norm(self, x, scale, bias, mean, var):
        """BatchNormalization with these parameters, one of each a channel."""
        return self.op("BatchNormalization", x, *(np.asarray(v, np.float32) for v in
                       (scale, bias, mean, var)), epsilon=1e-5)  # fmt: skip


def out_sizes(sizes, kernel, strides=None, dilations=None, pads=None, auto_pad=None, ceil_mode=0):
    """Output sizes of a window, by the formulas of the ONNX operators Conv and MaxPool.

    Empty or negative where the window does not fit."""
    rank = len(kernel)
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    pads = pads or [0] * (2 * rank)
    found = []
    for i, size in enumerate(sizes):
        reach = dilations[i] * (kernel[i] - 1) + 1
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            found.append(-(-size // strides[i]))
            continue
        span = size + pads[i] + pads[rank + i] - reach
        steps = span // strides[i] + 1
        # with ceil_mode, no window may begin beyond the input and its begin padding
        last = -(-span // strides[i])
        if ceil_mode and last * strides[i] < size + pads[i]:
            steps = last + 1
        found.append(steps)
    return found
