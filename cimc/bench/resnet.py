"""A network of the shape of ResNet-50 with random weights, 25.5 million of them: int8 in
QLinearConv, QLinearAdd and the like, and the same weights in float. It recognises nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from cimc.bench.builder import MICROSOFT, Builder, tensor

STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))  # blocks, channels, stride
_STEP = 0.05  # what a step of an activation is worth


class _Network(Builder):
    """The shape; how an operation is written is up to the two classes below."""

    def random_conv(self, cin: int, cout: int, kernel: int) -> tuple[Any, Any, Any]:
        """int8 weights, what a step is worth for each channel, int32 offsets."""
        weights = self.rng.integers(-127, 128, (cout, cin, kernel, kernel), dtype=np.int8)
        spread = 64 * 73 * np.sqrt(cin * kernel * kernel)  # of a random sum
        steps = self.rng.uniform(0.5, 1.5, cout) * 50 / spread
        bias = self.rng.integers(-5000, 5000, cout).astype(np.int32)
        return weights, steps.astype(np.float32), bias

    def random_layer(self, inputs: int, outputs: int) -> tuple[Any, Any]:
        weights = self.rng.integers(-127, 128, (inputs, outputs), dtype=np.int8)
        return weights, np.float32(50 / (64 * 73 * np.sqrt(inputs)))

    def conv(self, x: str, name: str, cin: int, cout: int, kernel: int, stride: int = 1) -> str:
        raise NotImplementedError

    def relu(self, x: str, name: str) -> str:
        raise NotImplementedError

    def add(self, x: str, y: str, name: str) -> str:
        raise NotImplementedError

    def block(self, x: str, name: str, cin: int, width: int, stride: int) -> str:
        y = self.relu(self.conv(x, f"{name}.conv1", cin, width, 1), f"{name}.relu1")
        y = self.relu(self.conv(y, f"{name}.conv2", width, width, 3, stride), f"{name}.relu2")
        y = self.conv(y, f"{name}.conv3", width, 4 * width, 1)
        if cin != 4 * width or stride != 1:
            x = self.conv(x, f"{name}.shortcut", cin, 4 * width, 1, stride)
        return self.relu(self.add(x, y, f"{name}.add"), f"{name}.relu3")

    def body(self) -> str:
        """From `image` to the value before the average pool, of 2048 channels."""
        x = self.relu(self.conv("image", "stem", 3, 64, 7, 2), "stem.relu")
        pads = [1] * 4
        x = self.node("MaxPool", [x], "stem.pool", kernel_shape=[3, 3], strides=[2, 2], pads=pads)
        channels = 64
        for stage, (blocks, width, stride) in enumerate(STAGES, 1):
            for block in range(blocks):
                name = f"layer{stage}.{block}"
                x = self.block(x, name, channels, width, stride if block == 0 else 1)
                channels = 4 * width
        return x


class _Integers(_Network):
    """Every activation is uint8 around 128, its scale keeps random sums within that range."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.scale = self.const("scale", np.float32(_STEP))
        self.zero = self.const("zero", np.uint8(128))
        self.no_zero = self.const("no_zero", np.int8(0))

    def conv(self, x: str, name: str, cin: int, cout: int, kernel: int, stride: int = 1) -> str:
        weights, steps, bias = self.random_conv(cin, cout, kernel)
        w, s = self.const(f"{name}.w", weights), self.const(f"{name}.scale", steps)
        b = self.const(f"{name}.b", bias)
        inputs = [x, self.scale, self.zero, w, s, self.no_zero, self.scale, self.zero, b]
        pads = [kernel // 2] * 4
        return self.node("QLinearConv", inputs, name, strides=[stride] * 2, pads=pads)

    def relu(self, x: str, name: str) -> str:
        """max(x, 0): with a zero point of 128, the larger of the two."""
        parts = [x, self.scale, self.zero, self.scale, self.zero]
        return self.node("QLinearLeakyRelu", parts, name, MICROSOFT, alpha=0.0)

    def add(self, x: str, y: str, name: str) -> str:
        parts = [x, self.scale, self.zero, y, self.scale, self.zero, self.scale, self.zero]
        return self.node("QLinearAdd", parts, name, MICROSOFT)

    def head(self, x: str, classes: int) -> str:
        parts = [x, self.scale, self.zero, self.scale, self.zero]
        x = self.node("QLinearGlobalAveragePool", parts, "pool", MICROSOFT, channels_last=0)
        x = self.node("Flatten", [x], "flatten")
        weights, step = self.random_layer(4 * STAGES[-1][1], classes)
        w, s = self.const("fc.w", weights), self.const("fc.scale", step)
        parts = [x, self.scale, self.zero, w, s, self.no_zero, self.scale, self.zero]
        return self.node("QLinearMatMul", parts, "fc")


class _Floats(_Network):
    """Everything is float32, and no activation is rounded or cut."""

    def conv(self, x: str, name: str, cin: int, cout: int, kernel: int, stride: int = 1) -> str:
        weights, steps, bias = self.random_conv(cin, cout, kernel)
        w = self.const(f"{name}.w", weights * steps.reshape(-1, 1, 1, 1))
        b = self.const(f"{name}.b", np.float32(bias * np.float32(_STEP) * steps))
        pads = [kernel // 2] * 4
        return self.node("Conv", [x, w, b], name, strides=[stride] * 2, pads=pads)

    def relu(self, x: str, name: str) -> str:
        return self.node("Relu", [x], name)

    def add(self, x: str, y: str, name: str) -> str:
        return self.node("Add", [x, y], name)

    def head(self, x: str, classes: int) -> str:
        x = self.node("Flatten", [self.node("GlobalAveragePool", [x], "pool")], "flatten")
        weights, step = self.random_layer(4 * STAGES[-1][1], classes)
        return self.node("MatMul", [x, self.const("fc.w", weights * step)], "fc")


def resnet50(seed: int = 0, size: int = 224, classes: int = 1000) -> ModelProto:
    """The int8 network: uint8 images [1,3,size,size] to uint8 scores [1,classes]. In a program
    all its work is on tiles and between them."""
    net = _Integers(seed)
    scores = net.head(net.body(), classes)
    image = tensor("image", TensorProto.UINT8, [1, 3, size, size])
    result = (scores, tensor("scores", TensorProto.UINT8, [1, classes]))
    return net.model("resnet50", image, result)


def resnet50_float(seed: int = 0, size: int = 224, classes: int = 1000) -> ModelProto:
    """The float network: the same shape, the same weights as floats; float images."""
    net = _Floats(seed)
    scores = net.head(net.body(), classes)
    image = tensor("image", TensorProto.FLOAT, [1, 3, size, size])
    result = (scores, tensor("scores", TensorProto.FLOAT, [1, classes]))
    return net.model("resnet50_float", image, result)
