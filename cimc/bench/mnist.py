"""The binary network of `examples/mnist` in shape, with random weights, and what onnxruntime
gets to run in its place.

image u8 [N,1,28,28] -> sign -> three 3x3 convolutions 1-32-64-16 with weights of +-1, a sign
behind the first two and then a maximum over 2x2, a ReLU and eight bits behind the third -> int8
layers 784-256-128-10, whose int32 sums are the logits: 4.5 million multiply-accumulates.

All three models have the same weights. Biases of convolutions lie between integers, so that no
sum is zero and a sign is a sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from cimc.bench.builder import Builder, tensor

_CHANNELS = (1, 32, 64, 16)
_FEATURES = (784, 256, 128, 10)
# What a step of eight bits is worth: four standard deviations of random sums fill the range.
_STEPS = (96 / 255, 4 / 255, 4 / 255)
# Half a unit: signs, biases and sums are whole numbers of it, and saturation keeps the sign.
_HALF = 0.5


@dataclass(frozen=True)
class _Layer:
    """A fully connected layer: levels int8 [in, out], what they are worth [out], offsets."""

    levels: Any
    steps: Any
    bias: Any


class _Mnist(Builder):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._convs = [self._random_conv(i) for i in range(3)]
        self._layers = [self._random_layer(i) for i in range(3)]
        self._step = [self.const(f"fc{i}.step", np.float32(s)) for i, s in enumerate(_STEPS, 1)]
        self._zero = self.const("zero", np.uint8(0))

    def _random_conv(self, index: int) -> tuple[Any, Any]:
        cin, cout = _CHANNELS[index : index + 2]
        weights = self.rng.choice(np.array([-1, 1], np.int8), (cout, cin, 3, 3))
        spread = int(np.sqrt(9 * cin))
        return weights, self.rng.integers(-spread, spread, cout) + _HALF

    def _random_layer(self, index: int) -> _Layer:
        inputs, outputs = _FEATURES[index : index + 2]
        levels = self.rng.integers(-127, 128, (inputs, outputs), dtype=np.int8)
        # of a sum of random products, the inputs being half of a normal distribution
        spread = 73 * np.sqrt(inputs / 2) * _STEPS[index] * 255 / 4
        steps = (self.rng.uniform(0.5, 1.5, outputs) / spread).astype(np.float32)
        if index == 2:
            steps[:] = np.float32(1 / spread)
        bias = self.rng.integers(-2000, 2000, outputs).astype(np.int32)
        return _Layer(levels, steps, bias)

    def sign_of_image(self) -> str:
        x = self.node("Cast", ["image"], "cast", to=TensorProto.FLOAT)
        x = self.node("Sub", [x, self.const("middle", np.float32(127.5))], "centre")
        return self.node("Sign", [x], "sign0")

    def float_convs(self, x: str) -> str:
        """Convolutions of floats that are +-1, up to the ReLU."""
        for i, (weights, bias) in enumerate(self._convs, 1):
            w = self.const(f"conv{i}.w", weights.astype(np.float32))
            b = self.const(f"conv{i}.b", bias.astype(np.float32).reshape(1, -1, 1, 1))
            x = self.node("Conv", [x, w], f"conv{i}", pads=[1] * 4)
            x = self.node("Add", [x, b], f"bias{i}")
            if i < 3:
                x = self.node("Sign", [x], f"sign{i}")
                x = self.node("MaxPool", [x], f"pool{i}", kernel_shape=[2, 2], strides=[2, 2])
        return self.node("Relu", [x], "relu3")

    def qdq_convs(self, x: str) -> str:
        """The same convolutions as QDQ groups, u8 by i8, with the bias in the convolution."""
        half, middle = self.const("half", np.float32(_HALF)), self.const("mid", np.uint8(128))
        one, no_zero = self.const("one", np.float32(1)), self.const("no_zero", np.int8(0))
        x = self.quantize(x, half, middle, "sign0")
        for i, (weights, bias) in enumerate(self._convs, 1):
            w, b = self.const(f"conv{i}.w", weights), (bias / _HALF).astype(np.int32)
            wf = self.node("DequantizeLinear", [w, one, no_zero], f"conv{i}.wf")
            bf = self.node("DequantizeLinear", [self.const(f"conv{i}.b", b), half], f"conv{i}.bf")
            x = self.node("Conv", [x, wf, bf], f"conv{i}", pads=[1] * 4)
            if i < 3:
                x = self.node("Sign", [self.quantize(x, half, middle, f"conv{i}")], f"sign{i}")
                x = self.quantize(x, half, middle, f"sign{i}")
                x = self.node("MaxPool", [x], f"pool{i}", kernel_shape=[2, 2], strides=[2, 2])
                x = self.quantize(x, half, middle, f"pool{i}")
        # before Flatten, too: onnxruntime fuses a convolution with the quantiser next to it only
        return self.quantize(self.node("Relu", [x], "relu3"), self._step[0], self._zero, "relu3")

    def qdq_layers(self, x: str) -> str:
        """Two QDQ groups and a MatMulInteger, as in `examples/mnist`."""
        x = self.node("Flatten", [x], "flatten")
        for i, layer in enumerate(self._layers, 1):
            step = self._step[i - 1]
            w, b = self.const(f"fc{i}.w", layer.levels), self.const(f"fc{i}.b", layer.bias)
            if i == 3:
                x = self.node("QuantizeLinear", [x, step, self._zero], "fc3.q")
                sums = self.node("MatMulInteger", [x, w, self._zero], "fc3")
                return self.node("Add", [sums, b], "bias")
            none = self.const(f"fc{i}.no_zero", np.zeros(len(layer.steps), np.int8))
            s = self.const(f"fc{i}.w.step", layer.steps)
            t = self.const(f"fc{i}.b.step", np.float32(_STEPS[i - 1]) * layer.steps)
            x = self.quantize(x, step, self._zero, f"fc{i}")
            wf = self.node("DequantizeLinear", [w, s, none], f"fc{i}.wf", axis=1)
            bf = self.node("DequantizeLinear", [b, t], f"fc{i}.bf", axis=0)
            x = self.node("Relu", [self.node("Gemm", [x, wf, bf], f"fc{i}")], f"fc{i}.relu")
        raise AssertionError("the third layer returns")

    def float_layers(self, x: str) -> str:
        """The same layers in float, nothing rounded."""
        x = self.node("Flatten", [x], "flatten")
        for i, layer in enumerate(self._layers, 1):
            w = self.const(f"fc{i}.w", np.float32(layer.levels * layer.steps))
            bias = layer.bias * np.float32(_STEPS[i - 1]) * layer.steps
            b = self.const(f"fc{i}.b", np.float32(bias))
            x = self.node("Gemm", [x, w, b], f"fc{i}")
            x = self.node("Relu", [x], f"fc{i}.relu") if i < 3 else x
        return x

    def finish(self, x: str, kind: int) -> ModelProto:
        used = {name for node in self.nodes for name in node.input}
        self.constants = [t for t in self.constants if t.name in used]
        image = tensor("image", TensorProto.UINT8, ["N", 1, 28, 28])
        return self.model("mnist", image, (x, tensor("logits", kind, ["N", 10])))


def mnist_binary(seed: int = 0) -> ModelProto:
    """What is compiled: the convolutions in float with weights of +-1, the rest int8 as QDQ. The
    program has six layers on tiles and no work on the host."""
    net = _Mnist(seed)
    x = net.float_convs(net.sign_of_image())
    return net.finish(net.qdq_layers(x), TensorProto.INT32)


def mnist_float(seed: int = 0) -> ModelProto:
    """Baseline `float +-1`: Conv of floats that are +-1, Add, Sign, MaxPool, float Gemm. The same
    function but for the rounding to eight bits: its logits are close, in another unit."""
    net = _Mnist(seed)
    x = net.float_convs(net.sign_of_image())
    return net.finish(net.float_layers(x), TensorProto.FLOAT)


def mnist_qdq(seed: int = 0) -> ModelProto:
    """Baseline `int8 QDQ`: convolutions and pools as QDQ groups too, u8 by i8, which onnxruntime
    fuses to QLinearConv and QGemm; between them Sign is float. Its scales keep every sign, so it
    is the same function as `mnist_binary`, bit for bit."""
    net = _Mnist(seed)
    x = net.qdq_convs(net.sign_of_image())
    return net.finish(net.qdq_layers(x), TensorProto.INT32)
