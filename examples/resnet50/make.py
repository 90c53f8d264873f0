"""Makes an int8 network of the shape of ResNet-50 with random weights: 25.5 million of them, in
QLinearConv, QLinearAdd and the like. For measuring size and speed; it recognises nothing.

python examples/resnet50/make.py resnet50_int8.onnx
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))  # blocks, channels, stride
MICROSOFT = "com.microsoft"


class _Network:
    """ONNX nodes and weights in the making. Every activation is uint8 around 128, with a scale
    that keeps random sums within its range."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.scale = self.const("scale", np.float32(0.05))
        self.zero = self.const("zero", np.uint8(128))
        self.no_zero = self.const("no_zero", np.int8(0))

    def const(self, name: str, array: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op: str, inputs: list[str], name: str, domain: str = "", **attrs: Any) -> str:
        out = f"{name}.out"
        self.nodes.append(helper.make_node(op, inputs, [out], name, domain=domain, **attrs))
        return out

    def conv(self, x: str, name: str, cin: int, cout: int, kernel: int, stride: int = 1) -> str:
        weights = self.rng.integers(-127, 128, (cout, cin, kernel, kernel), dtype=np.int8)
        spread = 64 * 73 * np.sqrt(cin * kernel * kernel)  # of a random sum
        steps = self.rng.uniform(0.5, 1.5, cout) * 50 / spread
        w = self.const(f"{name}.w", weights)
        s = self.const(f"{name}.scale", steps.astype(np.float32))
        b = self.const(f"{name}.b", self.rng.integers(-5000, 5000, cout).astype(np.int32))
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

    def block(self, x: str, name: str, cin: int, width: int, stride: int) -> str:
        y = self.relu(self.conv(x, f"{name}.conv1", cin, width, 1), f"{name}.relu1")
        y = self.relu(self.conv(y, f"{name}.conv2", width, width, 3, stride), f"{name}.relu2")
        y = self.conv(y, f"{name}.conv3", width, 4 * width, 1)
        if cin != 4 * width or stride != 1:
            x = self.conv(x, f"{name}.shortcut", cin, 4 * width, 1, stride)
        return self.relu(self.add(x, y, f"{name}.add"), f"{name}.relu3")


def resnet50(seed: int = 0, size: int = 224, classes: int = 1000) -> onnx.ModelProto:
    """The model: uint8 images [1,3,size,size] to uint8 scores [1,classes]."""
    net = _Network(seed)
    x = net.relu(net.conv("image", "stem", 3, 64, 7, 2), "stem.relu")
    x = net.node("MaxPool", [x], "stem.pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for stage, (blocks, width, stride) in enumerate(STAGES, 1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            x = net.block(x, name, channels, width, stride if block == 0 else 1)
            channels = 4 * width
    parts = [x, net.scale, net.zero, net.scale, net.zero]
    x = net.node("QLinearGlobalAveragePool", parts, "pool", MICROSOFT, channels_last=0)
    x = net.node("Flatten", [x], "flatten")
    weights = net.rng.integers(-127, 128, (channels, classes), dtype=np.int8)
    w = net.const("fc.w", weights)
    s = net.const("fc.scale", np.float32(50 / (64 * 73 * np.sqrt(channels))))
    scores = [x, net.scale, net.zero, w, s, net.no_zero, net.scale, net.zero]
    net.nodes.append(helper.make_node("QLinearMatMul", scores, ["scores"], "fc"))
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 3, size, size])
    found = helper.make_tensor_value_info("scores", TensorProto.UINT8, [1, classes])
    graph = helper.make_graph(net.nodes, "resnet50", [image], [found], net.constants)
    imports = [helper.make_opsetid("", 13), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, producer_name="cimc")


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "resnet50_int8.onnx")
    model = resnet50()
    onnx.save(model, path)
    weights = sum(np.prod(t.dims) for t in model.graph.initializer)
    print(f"{path}: {int(weights):,} constants, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
