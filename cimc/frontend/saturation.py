"""Keeps onnxruntime exact on processors whose integer kernels saturate.

Without VNNI, x86 multiplies u8 by s8 and adds pairs of products in 16 bits, which clips sums
beyond 32767: onnxruntime's results are wrong there. Kernels for u8 by u8 do not clip, so the
same weights are given as u8 with a zero point that is larger by 128.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

# operator: positions of x, its zero point, the weights and theirs
_SLOTS = {
    ("", "ConvInteger"): (0, 2, 1, 3),
    ("", "MatMulInteger"): (0, 2, 1, 3),
    ("", "QLinearConv"): (0, 2, 3, 5),
    ("", "QLinearMatMul"): (0, 2, 3, 5),
    ("com.microsoft", "QGemm"): (0, 2, 3, 5),
}
_NAMES = tuple(name.encode() for _, name in _SLOTS)


def exact(model: bytes) -> bytes:
    """A serialised model, or where this processor's kernels saturate, one that does not run
    into that."""
    if not any(name in model for name in _NAMES) or not saturates():
        return model
    return bytes(unsaturated(ModelProto.FromString(model)).SerializeToString())


@cache
def saturates() -> bool:
    """Whether onnxruntime clips here: asked once, with products whose sums are known."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    model = _probe()
    providers = ["CPUExecutionProvider"]
    session = ort.InferenceSession(model.SerializeToString(), options, providers=providers)
    x = np.full((1, _TAPS, 4, 4), 255, np.uint8)
    conv, product, requantised = (np.asarray(y) for y in session.run(None, {"x": x}))
    total = 255 * 127 * _TAPS
    return not ((conv == total).all() and (product == total).all() and (requantised == 254).all())


_TAPS = 64


def _probe() -> ModelProto:
    """Sums of `_TAPS` products 255 · 127, by three operators; the third divided by 127.5 · taps."""
    consts = {
        "w": np.full((16, _TAPS, 1, 1), 127, np.int8),
        "m": np.full((_TAPS, 16), 127, np.int8),
        "rows": np.array([-1, _TAPS]),
        "one": np.float32(1.0),
        "y_scale": np.float32(127.5 * _TAPS),
        "zx": np.uint8(0),
        "zw": np.int8(0),
    }
    nodes = [
        helper.make_node("ConvInteger", ["x", "w"], ["conv"]),
        helper.make_node("Reshape", ["x", "rows"], ["flat"]),
        helper.make_node("MatMulInteger", ["flat", "m"], ["product"]),
        helper.make_node(
            "QLinearConv", ["x", "one", "zx", "w", "one", "zw", "y_scale", "zx"], ["requantised"]
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, _TAPS, 4, 4])],
        [
            helper.make_tensor_value_info("conv", TensorProto.INT32, None),
            helper.make_tensor_value_info("product", TensorProto.INT32, None),
            helper.make_tensor_value_info("requantised", TensorProto.UINT8, None),
        ],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in consts.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def unsaturated(model: ModelProto) -> ModelProto:
    """The model with constant s8 weights of u8 inputs as u8, zero point + 128: the same values,
    so the same outputs. The model itself is left as it is."""
    copy = ModelProto()
    copy.CopyFrom(model)
    _Rewrite(copy).graph(copy.graph, {})
    return copy


class _Rewrite:
    """Over one model; nested graphs see the constants of those around them."""

    def __init__(self, model: ModelProto) -> None:
        self._names = set(_names(model.graph))
        self._types = _types(model)

    def graph(self, graph: GraphProto, outer: dict[str, Any]) -> None:
        consts = outer | _constants(graph)
        added: dict[str, str] = {}  # of a constant: its copy in u8
        for node in graph.node:
            for inner in _nested(node):
                self.graph(inner, consts)
            slots = _SLOTS.get((node.domain, node.op_type))
            if slots is not None:
                self._node(graph, node, slots, consts, added)

    def _node(
        self,
        graph: GraphProto,
        node: NodeProto,
        slots: tuple[int, int, int, int],
        consts: dict[str, Any],
        added: dict[str, str],
    ) -> None:
        x, x_zero, weights, zero = slots
        names = [*node.input, *[""] * (max(slots) + 1 - len(node.input))]
        w, held = consts.get(names[weights]), consts.get(names[zero])
        if w is None or w.dtype != np.int8 or (names[zero] and held is None):
            return
        shift = consts.get(names[x_zero])
        if shift is None and self._types.get(names[x]) != TensorProto.UINT8:
            return
        if shift is not None and shift.dtype != np.uint8:
            return
        names[weights] = self._moved(graph, names[weights], w, added)
        held = np.zeros((), np.int8) if held is None else held
        names[zero] = self._moved(graph, names[zero] or f"{names[weights]}.zero", held, added)
        del node.input[:]
        node.input.extend(names)

    def _moved(self, graph: GraphProto, name: str, array: Any, added: dict[str, str]) -> str:
        """A constant of the array + 128 in u8, made once a graph."""
        if name not in added:
            fresh, k = f"{name}.u8", 2
            while fresh in self._names:
                fresh, k = f"{name}.u8.{k}", k + 1
            self._names.add(fresh)
            moved = np.asarray(array.astype(np.int16) + 128, np.uint8)
            graph.initializer.append(numpy_helper.from_array(moved, fresh))
            added[name] = fresh
        return added[name]


def _constants(graph: GraphProto) -> dict[str, Any]:
    """Byte-sized constants by name: other types are no weights and no zero points."""
    wanted = (TensorProto.INT8, TensorProto.UINT8)
    found = {t.name: t for t in graph.initializer if t.data_type in wanted}
    for node in graph.node:
        if node.op_type == "Constant" and not node.domain and node.attribute[0].name == "value":
            tensor = node.attribute[0].t
            if tensor.data_type in wanted:
                found[node.output[0]] = tensor
    return {name: numpy_helper.to_array(tensor) for name, tensor in found.items()}


def _types(model: ModelProto) -> dict[str, int]:
    """Element types by name, as far as ONNX infers them."""
    with suppress(onnx.shape_inference.InferenceError, ValueError):
        model = onnx.shape_inference.infer_shapes(model)
    found: dict[str, int] = {}
    pending = [model.graph]
    while pending:
        graph = pending.pop()
        for info in (*graph.input, *graph.output, *graph.value_info):
            found[info.name] = info.type.tensor_type.elem_type
        pending += [inner for node in graph.node for inner in _nested(node)]
    return found


def _names(graph: GraphProto) -> Iterator[str]:
    yield from (t.name for t in graph.initializer)
    yield from (i.name for i in graph.input)
    for node in graph.node:
        yield from node.output
        for inner in _nested(node):
            yield from _names(inner)


def _nested(node: NodeProto) -> list[GraphProto]:
    return [graph for attr in node.attribute for graph in (attr.g, *attr.graphs) if graph.node]
