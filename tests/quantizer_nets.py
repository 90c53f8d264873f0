"""Float networks for onnxruntime's own quantizer, with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

node = helper.make_node


@dataclass(frozen=True)
class Net:
    """Nodes from x to y, constants, the shape of x (first the samples), layers with weights, and
    those that onnxruntime's quantizer leaves in float but for QDQ."""

    nodes: list[NodeProto]
    consts: dict[str, Any]
    shape: tuple[int, ...]
    layers: int
    floats: int = 0

    def save(self, path: Path, opset: int = 14) -> Path:
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *self.shape[1:]])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.asarray(a), name) for name, a in self.consts.items()],
        )
        imports = [helper.make_opsetid("", opset)]
        onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
        return path


def weights(*shape: int) -> Any:
    """Seeded by the shape, in the size that keeps activations near 1."""
    fan = int(np.prod(shape[1:])) if len(shape) > 1 else 4
    numbers = np.random.default_rng(shape).standard_normal(shape) / np.sqrt(fan)
    return numbers.astype(np.float32)


def _norm(channels: int, name: str) -> dict[str, Any]:
    """Scale, bias, mean and variance of a BatchNormalization."""
    rng = np.random.default_rng((channels, len(name)))
    rows = [rng.uniform(0.5, 1.5, channels), *rng.normal(0, 0.2, (2, channels)),
            rng.uniform(0.5, 1.5, channels)]  # fmt: skip
    return {f"{name}{k}": row.astype(np.float32) for k, row in enumerate(rows)}


def _normed(before: str, name: str) -> NodeProto:
    return node("BatchNormalization", [before, *(f"{name}{k}" for k in range(4))], [name])


def residual() -> Net:
    """Residual blocks, a branch that is concatenated, global pooling."""
    nodes = [
        node("Conv", ["x", "w1"], ["c1"], "stem", pads=[1, 1, 1, 1]),
        _normed("c1", "n1"),
        node("Relu", ["n1"], ["r1"]),
        node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p1", "w2"], ["c2"], "block.1", pads=[1, 1, 1, 1]),
        _normed("c2", "n2"),
        node("Relu", ["n2"], ["r2"]),
        node("Conv", ["r2", "w3"], ["c3"], "block.2", pads=[1, 1, 1, 1]),
        _normed("c3", "n3"),
        node("Add", ["n3", "p1"], ["s1"]),
        node("Relu", ["s1"], ["r3"]),
        node("Conv", ["r3", "w4", "b4"], ["c4"], "down", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Conv", ["r3", "w5"], ["c5"], "skip", strides=[2, 2]),
        node("Add", ["c4", "c5"], ["s2"]),
        node("Relu", ["s2"], ["r4"]),
        node("Conv", ["r4", "w6", "b6"], ["c6"], "branch"),
        node("Concat", ["c6", "r4"], ["j"], axis=1),
        node("GlobalAveragePool", ["j"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "wf", "bf"], ["y"], "fc", transB=1),
    ]  # fmt: skip
    consts = {
        "w1": weights(8, 3, 3, 3), "w2": weights(8, 8, 3, 3), "w3": weights(8, 8, 3, 3),
        "w4": weights(12, 8, 3, 3), "b4": weights(12), "w5": weights(12, 8, 1, 1),
        "w6": weights(4, 12, 1, 1), "b6": weights(4), "wf": weights(10, 16), "bf": weights(10),
        **_norm(8, "n1"), **_norm(8, "n2"), **_norm(8, "n3"),
    }  # fmt: skip
    return Net(nodes, consts, (1, 3, 12, 12), 7)


def mobile() -> Net:
    """Depthwise and pointwise convolutions, clipped at 6, a classifier of MatMul and Add."""
    nodes, consts, x = [], {"zero": np.float32(0), "six": np.float32(6)}, "x"
    for name, shape, options in (
        ("stem", (8, 3, 3, 3), {"strides": [2, 2], "pads": [0, 0, 1, 1]}),
        ("depthwise.1", (8, 1, 3, 3), {"group": 8, "pads": [1, 1, 1, 1]}),
        ("pointwise.1", (12, 8, 1, 1), {}),
        ("depthwise.2", (12, 1, 3, 3), {"group": 12, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("pointwise.2", (16, 12, 1, 1), {}),
    ):
        consts |= {f"{name}.w": weights(*shape), f"{name}.b": weights(shape[0])}
        out = f"{name}.out"
        nodes += [
            node("Conv", [x, f"{name}.w", f"{name}.b"], [out], name, **options),
            node("Clip", [out, "zero", "six"], [f"{name}.cut"]),
        ]
        x = f"{name}.cut"
    nodes += [
        node("AveragePool", [x], ["a"], kernel_shape=[3, 3]),
        node("Flatten", ["a"], ["f"]),
        node("MatMul", ["f", "wf"], ["m"], "fc"),
        node("Add", ["m", "bf"], ["s"]),
        node("Softmax", ["s"], ["y"], axis=-1),
    ]
    consts |= {"wf": weights(16, 10), "bf": weights(10)}
    return Net(nodes, consts, (1, 3, 12, 12), 6)


def attention() -> Net:
    """One block of attention over a sequence, and a head of dense layers."""
    nodes = [
        node("MatMul", ["x", "wq"], ["q"], "query"),
        node("MatMul", ["x", "wk"], ["k"], "key"),
        node("MatMul", ["x", "wv"], ["v"], "value"),
        node("Reshape", ["q", "split"], ["q1"]),
        node("Reshape", ["k", "split"], ["k1"]),
        node("Reshape", ["v", "split"], ["v1"]),
        node("Transpose", ["q1"], ["q2"], perm=[0, 2, 1, 3]),
        node("Transpose", ["k1"], ["k2"], perm=[0, 2, 3, 1]),
        node("Transpose", ["v1"], ["v2"], perm=[0, 2, 1, 3]),
        node("MatMul", ["q2", "k2"], ["qk"], "scores"),
        node("Softmax", ["qk"], ["p"], axis=-1),
        node("MatMul", ["p", "v2"], ["pv"], "mix"),
        node("Transpose", ["pv"], ["t"], perm=[0, 2, 1, 3]),
        node("Reshape", ["t", "merge"], ["u"]),
        node("MatMul", ["u", "wo"], ["o"], "out"),
        node("Add", ["o", "bo"], ["o1"]),
        node("Add", ["o1", "x"], ["res"]),
        node("MatMul", ["res", "w1"], ["h"], "up"),
        node("Add", ["h", "b1"], ["h1"]),
        node("Sigmoid", ["h1"], ["g"]),
        node("Mul", ["h1", "g"], ["sw"]),
        node("MatMul", ["sw", "w2"], ["d"], "down"),
        node("LeakyRelu", ["d"], ["l"], alpha=0.1),
        node("Reshape", ["l", "flat"], ["fl"]),
        node("Gemm", ["fl", "wf", "bf"], ["z"], "fc", transB=1),
        node("HardSigmoid", ["z"], ["hs"]),
        node("Softmax", ["hs"], ["y"], axis=-1),
    ]  # fmt: skip
    consts = {
        **{f"w{k}": weights(8, 8) * np.float32(1 + i / 8) for i, k in enumerate("qkvo")},
        "split": np.array([0, 0, 2, 4]), "merge": np.array([0, 0, 8]), "flat": np.array([0, -1]),
        "bo": weights(8), "w1": weights(8, 16), "b1": weights(16), "w2": weights(16, 6),
        "wf": weights(7, 30), "bf": weights(7),
    }  # fmt: skip
    return Net(nodes, consts, (1, 5, 8), 7)


def hourglass() -> Net:
    """Down and up again: padding, halves of channels, steps by constants, resizing, transposed
    convolutions, and work between runs of layers."""
    nodes = [
        node("Sub", ["x", "mean"], ["x1"]),
        node("Mul", ["x1", "std"], ["x2"]),
        node("Pad", ["x2", "margin"], ["x3"]),
        node("Conv", ["x3", "w1", "b1"], ["c1"], "in", strides=[2, 2]),
        node("HardSigmoid", ["c1"], ["g1"], alpha=1 / 6),
        node("Mul", ["c1", "g1"], ["h1"]),
        node("Split", ["h1", "halves"], ["a1", "a2"], axis=1),
        node("Conv", ["a1", "w2", "b2"], ["c2"], "left", pads=[1, 1, 1, 1]),
        node("Relu", ["c2"], ["r2"]),
        node("Concat", ["a2", "r2"], ["j"], axis=1),
        node("Transpose", ["j"], ["j1"], perm=[0, 2, 3, 1]),
        node("MatMul", ["j1", "w3"], ["m"], "mixed"),
        node("Mul", ["m", "gain"], ["m1"]),
        node("Add", ["m1", "shift"], ["m2"]),
        node("Transpose", ["m2"], ["j2"], perm=[0, 3, 1, 2]),
        node("ConvTranspose", ["j2", "w4", "b4"], ["c4"], "up", strides=[2, 2]),
        node("LeakyRelu", ["c4"], ["r4"], alpha=0.2),
        node("Resize", ["h1", "", "scales"], ["z"], mode="nearest",
             coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        node("Add", ["r4", "z"], ["s"]),
        node("Slice", ["s", "from", "to", "axes"], ["s1"]),
        node("Conv", ["s1", "w5"], ["y"], "out"),
    ]  # fmt: skip
    consts = {
        "mean": weights(3, 1, 1), "std": np.array([[[1.5]], [[-0.7]], [[1.2]]], np.float32),
        "margin": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "w1": weights(8, 3, 4, 4), "b1": weights(8), "halves": np.array([4, 4]),
        "w2": weights(4, 4, 3, 3), "b2": weights(4), "w3": weights(8, 6), "gain": weights(6),
        "shift": np.array([0.3], np.float32), "w4": weights(6, 8, 2, 2), "b4": weights(8),
        "scales": np.array([1, 1, 2, 2], np.float32), "from": np.array([1, 1]),
        "to": np.array([9, 10]), "axes": np.array([2, 3]), "w5": weights(3, 8, 1, 1),
    }  # fmt: skip
    return Net(nodes, consts, (1, 3, 10, 10), 5, floats=1)


NETS = {
    "residual": residual(), "mobile": mobile(), "attention": attention(),
    "hourglass": hourglass(),
}  # fmt: skip
