"""Small ONNX models for the tests of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Consts = dict[str, Any]


def model(
    nodes: list[NodeProto],
    inputs: list[tuple[str, int, list[Any]]],
    outputs: list[tuple[str, int, list[Any] | None]],
    consts: Consts | None = None,
    opset: int = 13,
) -> ModelProto:
    """A model from nodes, (name, type, shape) of its interface, and arrays."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(*i) for i in inputs],
        [helper.make_tensor_value_info(*o) for o in outputs],
        [numpy_helper.from_array(a, n) for n, a in (consts or {}).items()],
    )
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def bnn(batch: Any = "N", size: Any = 6, dense: bool = True) -> ModelProto:
    """u8 image -> binary 3x3 convolution, batch normalisation, sign, binary Gemm -> scores."""
    rng = np.random.default_rng(0)

    def bits(*shape: int) -> Any:
        return (rng.integers(0, 2, shape) * 2 - 1).astype(np.float32)

    consts: Consts = {"conv.w": bits(4, 1, 3, 3)}
    for name in ("scale", "bias", "mean"):
        consts[f"bn.{name}"] = rng.standard_normal(4).astype(np.float32)
    consts["bn.var"] = np.ones(4, np.float32)
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["pixels"], "cast", to=TensorProto.FLOAT),
        node("Conv", ["pixels", "conv.w"], ["sums"], "conv"),
        node("BatchNormalization", ["sums", *list(consts)[1:]], ["normal"], "bn"),
        node("Sign", ["normal"], ["signs"], "sign"),
    ]
    if dense:
        consts["fc.w"] = bits(64, 3)
        nodes += [
            node("Flatten", ["signs"], ["flat"], "flatten"),
            node("Gemm", ["flat", "fc.w"], ["scores"], "fc"),
        ]
    out = ("scores", TensorProto.FLOAT, [batch, 3]) if dense else ("signs", TensorProto.FLOAT, None)
    return model(nodes, [("image", TensorProto.UINT8, [batch, 1, size, size])], [out], consts)


def save(proto: ModelProto, path: Path) -> str:
    """Write a model; returns the path as text."""
    path.write_bytes(proto.SerializeToString())
    return str(path)


def cut(proto: ModelProto, keep: list[int]) -> ModelProto:
    """`bnn()` with these kernels of its convolution alone: rows, parameters and columns."""
    found = ModelProto()
    found.CopyFrom(proto)
    arrays = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    spots = len(arrays["fc.w"]) // len(arrays["conv.w"])
    columns = [spots * k + i for k in keep for i in range(spots)]
    del found.graph.initializer[:]
    for name, array in arrays.items():
        part = array[columns] if name == "fc.w" else array[keep]
        found.graph.initializer.append(numpy_helper.from_array(part, name))
    del found.graph.value_info[:]
    return found


def zeroed(proto: ModelProto, gone: list[int]) -> ModelProto:
    """`bnn()` with kernels of zeros."""
    found = ModelProto()
    found.CopyFrom(proto)
    for tensor in found.graph.initializer:
        if tensor.name == "conv.w":
            array = numpy_helper.to_array(tensor).copy()
            array[gone] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return found
