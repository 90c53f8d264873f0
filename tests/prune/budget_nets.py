"""Small networks with kernels that are known to be alike, and samples for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cimc.frontend.importer import import_model
from cimc.ir.graph import Graph


class Net:
    """Builds an ONNX graph with an open batch axis, operation by operation."""

    def __init__(self, shape: tuple[int, ...], batch: int | str = "N") -> None:
        self.nodes: list[Any] = []
        self.consts: list[Any] = []
        self.batch = batch
        self.shape = shape

    def op(self, kind: str, *inputs: Any, name: str, **attrs: Any) -> str:
        names = []
        for i, value in enumerate(inputs):
            if isinstance(value, str):
                names.append(value)
                continue
            names.append(f"{name}.c{i}")
            self.consts.append(numpy_helper.from_array(value.astype(np.float32), names[-1]))
        self.nodes.append(helper.make_node(kind, names, [f"{name}.out"], name=name, **attrs))
        return f"{name}.out"

    def graph(self, output: str) -> Graph:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [self.batch, *self.shape])
        y = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "net", [x], [y], self.consts)
        opset = [helper.make_opsetid("", 13)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=8)
        return import_model(onnx.shape_inference.infer_shapes(model), "net")


def samples(graph: Graph, count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    shape = [d for d in graph.inputs[0].tensor.shape or () if isinstance(d, int)]
    shape = shape if len(shape) == 4 else [1, *shape]
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def head(net: Net, x: str, channels: int, rng: Any) -> Graph:
    pooled = net.op("GlobalAveragePool", x, name="pool")
    flat = net.op("Flatten", pooled, name="flat")
    w, b = rng.standard_normal((4, channels)), rng.standard_normal(4)
    return net.graph(net.op("Gemm", flat, w, b, name="fc", transB=1))


def odd(batch: int | str = "N") -> Graph:
    """Kernel 3 of `first` is kernel 0, kernel 4 is -kernel 1; what follows is odd."""
    rng = np.random.default_rng(1)
    net = Net((2, 8, 8), batch)
    w = rng.standard_normal((6, 2, 3, 3))
    w[3], w[4] = w[0], -w[1]
    x = net.op("Tanh", net.op("Conv", "x", w, name="first", pads=[1] * 4), name="tanh")
    w = rng.standard_normal((5, 6, 3, 3))
    x = net.op("Relu", net.op("Conv", x, w, name="second", pads=[1] * 4), name="relu")
    return head(net, x, 5, rng)


def residual() -> Graph:
    rng = np.random.default_rng(2)
    net = Net((3, 8, 8))
    w = rng.standard_normal((8, 3, 3, 3)) / 4
    x = net.op("Relu", net.op("Conv", "x", w, name="stem", pads=[1] * 4), name="r0")
    w = rng.standard_normal((8, 8, 3, 3)) / 8
    y = net.op("Conv", x, w, name="branch", pads=[1] * 4)
    x = net.op("Relu", net.op("Add", x, y, name="sum"), name="r1")
    w = rng.standard_normal((6, 8, 1, 1))
    x = net.op("Relu", net.op("Conv", x, w, name="last"), name="r2")
    return head(net, x, 6, rng)


def depthwise() -> Graph:
    rng = np.random.default_rng(3)
    net = Net((3, 8, 8))
    w = rng.standard_normal((8, 3, 1, 1))
    x = net.op("Relu", net.op("Conv", "x", w, name="expand"), name="r0")
    w = rng.standard_normal((8, 1, 3, 3))
    x = net.op("Relu", net.op("Conv", x, w, name="depth", pads=[1] * 4, group=8), name="r1")
    x = net.op("Conv", x, rng.standard_normal((6, 8, 1, 1)), name="project")
    return head(net, x, 6, rng)


def signs() -> Graph:
    """±1 kernels on ±1 values, a normalisation behind each; kernel 5 of `first` is -kernel 2."""
    rng = np.random.default_rng(4)
    net = Net((2, 8, 8))
    x = net.op("Sign", "x", name="s0")
    w = np.sign(rng.standard_normal((8, 2, 3, 3)))
    w[5] = -w[2]
    x = _norm(net, net.op("Conv", x, w, name="first"), 8, rng, "n1", (2, 5))
    x = net.op("Sign", x, name="s1")
    w = np.sign(rng.standard_normal((6, 8, 3, 3)))
    x = _norm(net, net.op("Conv", x, w, name="second"), 6, rng, "n2", ())
    return head(net, net.op("Relu", x, name="r2"), 6, rng)


def _norm(net: Net, x: str, n: int, rng: Any, name: str, even: tuple[int, ...]) -> str:
    mean, var = rng.standard_normal(n) + 0.25, 4 + rng.random(n)
    scale, bias = 1 + rng.random(n), np.zeros(n)
    mean[list(even)] = 0.0
    return net.op("BatchNormalization", x, scale, bias, mean, var, name=name)
