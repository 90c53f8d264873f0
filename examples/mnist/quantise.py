"""Make the fully connected layers of the MNIST example int8: `mnist_bnn.onnx` to
`mnist_int8.onnx`, whose whole work fits on tiles.

    python examples/mnist/quantise.py --data ../shared/data/mnist.npz

The ranges of the activations are those of 5,000 training images. fc1 and fc2 become QDQ groups
with a scale for each output, fc3 a MatMulInteger with one scale, so that its integer sums are
the logits. Needs numpy, onnx and onnxruntime.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper, numpy_helper

HERE = Path(__file__).resolve().parent
CALIBRATION = 5000
LAYERS = ("fc1", "fc2", "fc3")


def session(model: ModelProto) -> Any:
    """onnxruntime on the model, graph optimisation off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def largest(model: ModelProto, images: Any, names: list[str]) -> list[float]:
    """The largest value of each named tensor over the images."""
    probe = ModelProto()
    probe.CopyFrom(model)
    for name in names:
        probe.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    run = session(probe)
    parts = [run.run(names, {"image": images[i : i + 500]}) for i in range(0, len(images), 500)]
    return [max(float(part[k].max()) for part in parts) for k in range(len(names))]


class Rebuild:
    """The model with its Gemm layers taken out and integer ones put in."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self.added: list[TensorProto] = []

    def const(self, name: str, array: Any) -> str:
        self.added.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op: str, inputs: list[str], out: str, name: str = "", **attrs: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [out], name or f"{out}.{op}", **attrs))
        return out

    def gemm(self, node: onnx.NodeProto) -> tuple[Any, Any]:
        """Weights [inputs, outputs] and bias of a float layer."""
        w = self.constants[node.input[1]]
        turned = any(a.name == "transB" and a.i for a in node.attribute)
        return (w.T if turned else w), self.constants[node.input[2]]

    def quantised(self, node: onnx.NodeProto, x: str, step: str, scale: float) -> str:
        """A layer as DQ, Gemm of quantised weights with a scale for each output, in float."""
        name = node.name
        w, b = self.gemm(node)
        steps = (np.abs(w).max(axis=0) / 127).astype(np.float32)
        levels = np.rint(w / steps).astype(np.int8)
        bias_step = (np.float32(scale) * steps).astype(np.float32)
        zero8 = self.const(f"{name}.w.zero", np.zeros(len(steps), np.int8))
        zero32 = self.const(f"{name}.b.zero", np.zeros(len(steps), np.int32))
        stored = [self.const(f"{name}.w.int8", levels), self.const(f"{name}.w.step", steps), zero8]
        bias = np.rint(b / bias_step).astype(np.int32)
        b32, b_step = self.const(f"{name}.b.int32", bias), self.const(f"{name}.b.step", bias_step)
        offsets = [b32, b_step, zero32]
        return self.node(
            "Gemm",
            [
                self.node("DequantizeLinear", [x, step, "zero"], f"{name}.x"),
                self.node("DequantizeLinear", stored, f"{name}.wf", axis=1),
                self.node("DequantizeLinear", offsets, f"{name}.bf", axis=0),
            ],
            name,
            name,
        )

    def integer(self, node: onnx.NodeProto, x: str, scale: float) -> None:
        """The last layer: integer sums, all of one scale, as logits."""
        w, b = self.gemm(node)
        step = np.float32(np.abs(w).max() / 127)
        levels = self.const(f"{node.name}.w.int8", np.rint(w / step).astype(np.int8))
        bias = np.rint(b / (np.float32(scale) * step)).astype(np.int32)
        sums = self.node("MatMulInteger", [x, levels, "zero"], f"{node.name}.sums", node.name)
        self.node("Add", [sums, self.const(f"{node.name}.b.int32", bias)], "logits")


def quantise(model: ModelProto, images: Any) -> ModelProto:
    """The model with int8 layers; images calibrate the activations."""
    gemms = {n.name: n for n in model.graph.node if n.op_type == "Gemm"}
    layers = [gemms[name] for name in LAYERS]
    tops = largest(model, images, [n.input[0] for n in layers])
    made = Rebuild(model)
    made.const("zero", np.uint8(0))
    scales = [float(np.float32(top / 255)) for top in tops]
    for node in model.graph.node:
        if node.name not in LAYERS:
            made.nodes.append(node)
            continue
        index = LAYERS.index(node.name)
        step = made.const(f"{node.name}.step", np.float32(scales[index]))
        x = made.node("QuantizeLinear", [node.input[0], step, "zero"], f"{node.name}.q")
        if index == len(LAYERS) - 1:
            made.integer(node, x, scales[index])
            continue
        y = made.quantised(node, x, step, scales[index])
        made.nodes.append(helper.make_node("Identity", [y], [node.output[0]]))
    used = {name for node in made.nodes for name in node.input}
    kept = [t for t in model.graph.initializer if t.name in used]
    logits = helper.make_tensor_value_info("logits", TensorProto.INT32, ["N", 10])
    graph = helper.make_graph(
        made.nodes, "mnist_int8", list(model.graph.input), [logits], [*kept, *made.added]
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def accuracy(model: ModelProto, images: Any, labels: Any) -> float:
    run = session(model)
    found = [
        run.run(["logits"], {"image": images[i : i + 500]})[0].argmax(1)
        for i in range(0, len(images), 500)
    ]
    return float((np.concatenate(found) == labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="mnist.npz")
    parser.add_argument("--out", type=Path, default=HERE / "mnist_int8.onnx")
    options = parser.parse_args()
    data = np.load(options.data)
    model = onnx.load(HERE / "mnist_bnn.onnx")
    found = quantise(model, data["x_train"][:CALIBRATION, None])
    onnx.checker.check_model(found)
    onnx.save(found, options.out)
    score = accuracy(found, data["x_test"][:, None], data["y_test"])
    print(f"{options.out}: {options.out.stat().st_size:,} bytes, test accuracy {score:.2%}")


if __name__ == "__main__":
    main()
