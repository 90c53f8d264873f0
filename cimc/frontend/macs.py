"""Counts multiply-accumulates, spatial size and groups included, of native and ONNX layers."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from cimc.ir.graph import Graph, Node, Value
from cimc.ir.types import TensorType


def macs(node: Node) -> int:
    """Multiply-accumulates of one operation, nested graphs included once; 0 for operations
    other than those of `_COUNT`, and where a size is not known."""
    count = _COUNT.get(node.op)
    own = count(node) if count is not None else 0
    return own + sum(graph_macs(g) for g in node.graphs())


def graph_macs(graph: Graph) -> int:
    """The sum over all operations of a graph."""
    return sum(macs(n) for n in graph.nodes)


def _dims(value: Value | None) -> tuple[int, ...] | None:
    if value is None or not isinstance(value.type, TensorType):
        return None
    return value.type.static


def _conv(weights: int) -> Callable[[Node], int]:
    def count(node: Node) -> int:
        out, w = _dims(node.outputs[0]), _dims(node.inputs[weights])
        return 0 if out is None or w is None else prod(out) * prod(w[1:])

    return count


def _conv_transpose(node: Node) -> int:
    x, w = _dims(node.inputs[0]), _dims(node.inputs[1])
    return 0 if x is None or w is None else prod(x) * prod(w[1:])


def _matmul(left: int, flag: str = "") -> Callable[[Node], int]:
    def count(node: Node) -> int:
        out, a = _dims(node.outputs[0]), _dims(node.inputs[left])
        if out is None or not a:
            return 0
        inner = a[0] if flag and node.attrs.get(flag, 0) else a[-1]
        return prod(out) * inner

    return count


def _recurrent(node: Node) -> int:
    x, w, r = (_dims(v) for v in node.inputs[:3])
    if x is None or w is None or r is None:
        return 0
    return x[0] * x[1] * (prod(w) + prod(r))


_COUNT: dict[str, Callable[[Node], int]] = {
    "cim.conv": _conv(1),
    "cim.matmul": _matmul(0),
    "onnx.Conv": _conv(1),
    "onnx.ConvInteger": _conv(1),
    "onnx.QLinearConv": _conv(3),
    "onnx.ConvTranspose": _conv_transpose,
    "onnx.MatMul": _matmul(0),
    "onnx.MatMulInteger": _matmul(0),
    "onnx.QLinearMatMul": _matmul(0),
    "onnx.Gemm": _matmul(0, "transA"),
    "onnx.LSTM": _recurrent,
    "onnx.GRU": _recurrent,
    "onnx.RNN": _recurrent,
}

COUNTED = frozenset(_COUNT)
"""The operations that have multiply-accumulates of their own."""
