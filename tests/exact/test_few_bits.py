"""Networks of fewer than 8 bits in bytes, cut by Clip as exporters do (quantise, clip, dequantise):
the bits of the model, and no more bit planes than it has."""

import numpy as np
from exact_draw import SEEDS, cases
from hypothesis import given
from hypothesis import strategies as st
from integer_nets import Quant, check


class Cut(Quant):
    """quantise, clip, dequantise."""

    def activation(self, x, kind, bits, scale):
        """Of a float; kind: u or i. As one Clip, or Max and Min."""
        byte, low, high = self._range(kind, bits)
        step = self.const("f32", np.float32(scale))
        zero = self.const(byte, 0)
        q, shape = (
            self.op("QuantizeLinear", [x, step, zero], byte, self.types[x][1]),
            self.types[x][1],
        )
        q = self._cut(q, byte, shape, low, high)
        return self.dequantise(q, step, zero)

    def weight(self, shape, axis, bits, stored):
        """stored: as integers, or as floats that are quantised and cut when the model runs."""
        _, low, high = self._range("i", bits)
        scales = self.rng.uniform(0.05, 0.2, shape[axis]).astype(np.float32)
        step, zero = self.const("f32", scales), self.const("i8", np.zeros(shape[axis]))
        if stored:
            q = self.const("i8", self.rng.integers(low, high, shape, endpoint=True))
        else:
            q = self.const("f32", self.rng.standard_normal(shape))
            q = self.op("QuantizeLinear", [q, step, zero], "i8", shape, axis=axis)
            q = self._cut(q, "i8", shape, low + 1, high)
        self.types.setdefault(q, ("i8", shape))
        return self.dequantise(q, step, zero, axis=axis)

    def _cut(self, q, byte, shape, low, high):
        ends = self.const(byte, low), self.const(byte, high)
        if self.rng.random() < 0.7:
            return self.op("Clip", [q, *ends], byte, shape)
        return self.op("Min", [self.op("Max", [q, ends[0]], byte, shape), ends[1]], byte, shape)

    @staticmethod
    def _range(kind, bits):
        if kind == "u":
            return "u8", 0, 2**bits - 1
        return "i8", -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


@st.composite
def networks(draw):
    """Two convolutions and a linear layer; with the types that their inputs must have."""
    net = Cut(draw(SEEDS), opset=13)
    channels = [draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 4))]
    kinds = draw(st.lists(st.sampled_from("ui"), min_size=3, max_size=3))
    bits = draw(st.lists(st.integers(2, 7), min_size=3, max_size=3))
    size, x = 6, net.input("f32", (1, channels[0], 6, 6))
    for i in (0, 1):
        x = net.activation(x, kinds[i], bits[i], net.rng.uniform(0.1, 0.5))
        w = net.weight((channels[i + 1], channels[i], 3, 3), 0, draw(st.integers(2, 5)),
                       draw(st.booleans()))  # fmt: skip
        size -= 2
        x = net.op("Conv", [x, w], "f32", (1, channels[i + 1], size, size))
        if kinds[i + 1] == "u" and draw(st.booleans()):
            x = net.op("Relu", [x], "f32", net.types[x][1])
    x = net.activation(x, kinds[2], bits[2], net.rng.uniform(0.1, 0.5))
    if draw(st.booleans()):
        size //= 2
        x = net.op(
            "MaxPool", [x], "f32", (1, channels[2], size, size), kernel_shape=[2, 2], strides=[2, 2]
        )
    wide = channels[2] * size * size
    x = net.op("Flatten", [x], "f32", (1, wide))
    x = net.op("Gemm", [x, net.weight((5, wide), 0, 4, True)], "f32", (1, 5), transB=1)
    return net, x, [f"{kind}{n}" for kind, n in zip(kinds, bits)]


@cases(60)
@given(networks())
def test_inputs_have_the_planes_of_the_model(case):
    net, result, types = case
    graph, _ = check(net, result, layers=3, left=("onnx.Clip", "onnx.Mul"))
    found = [n.arg(0).elem for n in graph.nodes if n.op in ("cim.conv", "cim.matmul")]
    for elem, most in zip(found, types):
        assert int(elem[1:]) <= int(most[1:]), (found, types)
