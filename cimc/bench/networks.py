"""Small networks that are measured, in the shape of well-known ones, with random weights that
keep their values in range. `mnist.py` and `resnet.py` hold the two that have baselines of their
own."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from cimc.bench.builder import QONNX, Builder, tensor

# MobileNetV2: expansion, channels, blocks, stride of the first; channels are 0.35 times those of
# the paper, as multiples of 8.
_INVERTED = (
    (1, 8, 1, 1), (6, 8, 2, 2), (6, 16, 3, 2), (6, 24, 4, 2), (6, 32, 3, 1), (6, 56, 3, 2),
    (6, 112, 1, 1),
)  # fmt: skip


def tfc_1w1a(seed: int = 0) -> ModelProto:
    """784-64-64-64-10 in QONNX operators, as the zoo's TFC_1W1A: weights and activations are
    BipolarQuant, BatchNormalization between the layers, one scale and offset for all logits.

    image f32 [N,1,28,28] within 0..1 -> logits f32 [N,10]. Four layers on tiles."""
    net = Builder(seed)
    one = net.const("one", np.float32(1))
    x = net.node("Flatten", ["image"], "flatten")
    x = net.node("Mul", [x, net.const("two", np.float32(2))], "double")
    x = net.node("Sub", [x, one], "centre")
    sizes = (784, 64, 64, 64, 10)
    for i, (inputs, outputs) in enumerate(pairwise(sizes), 1):
        x = net.node("BipolarQuant", [x, one], f"sign{i}", QONNX)
        weights = net.rng.standard_normal((outputs, inputs)).astype(np.float32)
        w = net.node("BipolarQuant", [net.const(f"fc{i}.w", weights), one], f"w{i}", QONNX)
        w = net.node("Transpose", [w], f"w{i}.t", perm=[1, 0])
        x = net.node("MatMul", [x, w], f"fc{i}")
        x = _normalised(net, x, f"bn{i}", outputs, inputs) if i < 4 else x
    x = net.node("Mul", [x, net.const("out.scale", np.float32(0.1))], "out.mul")
    x = net.node("Add", [x, net.const("out.offset", np.float32(-0.03))], "out.add")
    return net.model("tfc", _images(28, 1), (x, tensor("logits", TensorProto.FLOAT, ["N", 10])))


def _images(size: int, channels: int) -> Any:
    return tensor("image", TensorProto.FLOAT, ["N", channels, size, size])


def _normalised(net: Builder, x: str, name: str, channels: int, terms: int) -> str:
    """BatchNormalization of sums of so many random signs; some channels are turned around."""
    spread = float(np.sqrt(terms))
    parts = {
        "scale": net.rng.choice([-1.0, 1.0], channels) * net.rng.uniform(0.5, 1.5, channels),
        "bias": net.rng.normal(0, 0.2, channels),
        "mean": net.rng.normal(0, spread / 4, channels),
        "var": net.rng.uniform(0.5, 1.5, channels) * terms,
    }
    consts = [net.const(f"{name}.{key}", np.float32(value)) for key, value in parts.items()]
    return net.node("BatchNormalization", [x, *consts], name, epsilon=1e-5)


class _MobileNet(Builder):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._low, self._high = self.const("low", np.float32(0)), self.const("high", np.float32(6))

    def conv(
        self, x: str, name: str, cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> str:
        taps = cin // groups * kernel * kernel
        weights = self.rng.normal(0, np.sqrt(2 / taps), (cout, cin // groups, kernel, kernel))
        w = self.const(f"{name}.w", np.float32(weights))
        b = self.const(f"{name}.b", np.float32(self.rng.normal(0, 0.1, cout)))
        pads = [kernel // 2] * 4
        return self.node("Conv", [x, w, b], name, strides=[stride] * 2, pads=pads, group=groups)

    def relu6(self, x: str, name: str) -> str:
        return self.node("Clip", [x, self._low, self._high], f"{name}.relu6")

    def block(self, x: str, name: str, cin: int, cout: int, grow: int, stride: int) -> str:
        width, y = cin * grow, x
        if grow > 1:
            y = self.relu6(self.conv(y, f"{name}.grow", cin, width, 1), f"{name}.grow")
        y = self.conv(y, f"{name}.depth", width, width, 3, stride, width)
        y = self.conv(self.relu6(y, f"{name}.depth"), f"{name}.shrink", width, cout, 1)
        return self.node("Add", [x, y], f"{name}.add") if (cin, stride) == (cout, 1) else y


def mobilenet_v2(seed: int = 0, size: int = 128, classes: int = 5) -> ModelProto:
    """MobileNetV2 of width 0.35 in float, normalisation folded into the convolutions: 52 of them,
    17 depthwise. image f32 [N,3,size,size] -> scores f32 [N,classes]."""
    net = _MobileNet(seed)
    x = net.relu6(net.conv("image", "stem", 3, 16, 3, 2), "stem")
    channels = 16
    for stage, (grow, cout, blocks, stride) in enumerate(_INVERTED, 1):
        for block in range(blocks):
            x = net.block(
                x, f"block{stage}.{block}", channels, cout, grow, stride if not block else 1
            )
            channels = cout
    x = net.relu6(net.conv(x, "head", channels, 1280, 1), "head")
    x = net.node("Flatten", [net.node("GlobalAveragePool", [x], "pool")], "flatten")
    w = net.const("fc.w", np.float32(net.rng.normal(0, 1280**-0.5, (1280, classes))))
    x = net.node("Gemm", [x, w, net.const("fc.b", np.zeros(classes, np.float32))], "fc")
    scores = tensor("scores", TensorProto.FLOAT, ["N", classes])
    return net.model("mobilenet", _images(size, 3), (x, scores))


class _DsCnn(Builder):
    """Every activation behind a ReLU is i8 with the zero point -128, as converters write it."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.step, self.low = 0.05, self.const("low", np.int8(-128))
        self.scale = self.const("scale", np.float32(self.step))
        self._no_zero = self.const("no_zero", np.zeros(64, np.int8))
        self._fresh_scale = self.const("in.scale", np.float32(0.05))
        self._fresh_zero = self.const("in.zero", np.int8(0))

    def source(self) -> str:
        return self.node(
            "DequantizeLinear", ["features", self._fresh_scale, self._fresh_zero], "in.dq"
        )

    def conv(self, x: str, name: str, shape: tuple[int, ...], groups: int = 1, **how: Any) -> str:
        weights = self.rng.integers(-127, 128, shape, dtype=np.int8)
        spread = 73 * np.sqrt(np.prod(shape[1:]))
        steps = np.float32(self.rng.uniform(0.5, 1.5, shape[0]) / spread)
        w = self.const(f"{name}.w", weights)
        s = self.const(f"{name}.step", steps)
        bias = self.rng.integers(-1000, 1000, shape[0]).astype(np.int32)
        b = self.const(f"{name}.b", bias)
        t = self.const(f"{name}.b.step", np.float32(self.step) * steps)
        wf = self.node("DequantizeLinear", [w, s, self._no_zero], f"{name}.wf", axis=0)
        bf = self.node("DequantizeLinear", [b, t], f"{name}.bf", axis=0)
        y = self.node("Conv", [x, wf, bf], name, group=groups, **how)
        y = self.node("Relu", [y], f"{name}.relu")
        return self.quantize(y, self.scale, self.low, f"{name}.out8")


def ds_cnn(seed: int = 0) -> ModelProto:
    """The keyword-spotting network of MLPerf Tiny as int8 QDQ: a 10x4 convolution of stride 2,
    four times a depthwise 3x3 and a pointwise one with 64 channels, average pool, 12 outputs;
    weights with a scale for each channel.

    features i8 [N,1,49,10] -> scores i8 [N,12]. No work on the host."""
    net = _DsCnn(seed)
    x = net.conv(net.source(), "conv", (64, 1, 10, 4), strides=[2, 2], pads=[4, 1, 5, 1])
    for i in range(1, 5):
        x = net.conv(x, f"depth{i}", (64, 1, 3, 3), groups=64, pads=[1] * 4)
        x = net.conv(x, f"point{i}", (64, 64, 1, 1))
    x = net.node("AveragePool", [x], "pool", kernel_shape=[25, 5], strides=[25, 5])
    x = net.quantize(x, net.scale, net.low, "pool")
    x = net.quantize(net.node("Flatten", [x], "flatten"), net.scale, net.low, "flatten")
    weights = net.rng.integers(-127, 128, (64, 12), dtype=np.int8)
    step = np.float32(1 / (73 * 8))
    s, zero = net.const("fc.step", step), net.const("fc.no_zero", np.int8(0))
    t = net.const("fc.b.step", np.float32(net.step) * step)
    bias = net.rng.integers(-1000, 1000, 12).astype(np.int32)
    w = net.node("DequantizeLinear", [net.const("fc.w", weights), s, zero], "fc.wf")
    b = net.node("DequantizeLinear", [net.const("fc.b", bias), t], "fc.bf")
    x = net.node("Gemm", [x, w, b], "fc")
    out_scale = net.const("out.scale", np.float32(0.01))
    x = net.node("QuantizeLinear", [x, out_scale, net.const("out.zero", np.int8(4))], "out")
    features = tensor("features", TensorProto.INT8, ["N", 1, 49, 10])
    return net.model("ds-cnn", features, (x, tensor("scores", TensorProto.INT8, ["N", 12])))


def binary_layer(channels: int, rows: int, kernel: int, size: int, seed: int = 0) -> ModelProto:
    """One binary convolution between two signs, of stride 1 and without padding, so that every
    product counts: K = channels * kernel**2 columns, size**2 positions.

    image u8 [N,channels,size+kernel-1,size+kernel-1] -> sign -> convolution -> sign -> maximum
    over the image and a second binary layer of 8 rows, which only make the output small -> sums
    u8 [N,8,1,1]. No work on the host. Biases lie between integers, so that no sum is zero, and
    so low that maxima differ."""
    net = Builder(seed)
    signs = np.array([-1, 1], np.float32)
    w = net.const("w", net.rng.choice(signs, (rows, channels, kernel, kernel)))
    last = net.const("last.w", net.rng.choice(signs, (8, rows, 1, 1)))
    spread = int(np.sqrt(channels) * kernel)
    bias = net.rng.integers(-4 * spread, -2 * spread, (1, rows, 1, 1)) + 0.5
    x = net.node("Cast", ["image"], "cast", to=TensorProto.FLOAT)
    x = net.node("Sub", [x, net.const("middle", np.float32(127.5))], "centre")
    x = net.node("Conv", [net.node("Sign", [x], "sign"), w], "conv")
    x = net.node("Add", [x, net.const("b", np.float32(bias))], "bias")
    x = net.node("MaxPool", [net.node("Sign", [x], "signs")], "pool", kernel_shape=[size, size])
    x = net.node("Conv", [x, last], "last")
    step, zero = net.const("step", np.float32(rows / 64)), net.const("zero", np.uint8(128))
    x = net.node("QuantizeLinear", [x, step, zero], "quantise")
    image = tensor("image", TensorProto.UINT8, ["N", channels, *[size + kernel - 1] * 2])
    sums = tensor("sums", TensorProto.UINT8, ["N", 8, 1, 1])
    return net.model("binary_layer", image, (x, sums))
