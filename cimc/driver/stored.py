"""Weights as numbers, where a model stores them behind quantisers and layout."""

from __future__ import annotations

from dataclasses import replace

from cimc.driver.rewrite import Rewriter
from cimc.frontend.evaluate import Evaluator, outline
from cimc.ir.graph import Node, Value
from cimc.ir.types import Array

# What lies between stored weights and their use; the clean-up leaves quantisers in place.
_STORED = (
    "onnx.QuantizeLinear", "onnx.DequantizeLinear", "onnx.Cast", "onnx.Mul", "onnx.Div",
    "onnx.Transpose", "onnx.Reshape", "onnx.Squeeze", "onnx.Unsqueeze", "onnx.Flatten",
    "cim.sign", "cim.dequant", "cim.transpose", "cim.reshape",
)  # fmt: skip


def held(rw: Rewriter, value: Value) -> Array | None:
    """A constant, or what quantisers make of constants, computed as it would be at run time."""
    if value.const is not None:
        return value.const
    nodes: set[Node] = set()
    pending = [value]
    while pending:
        node = rw.producer(pending.pop())
        if node is None or (node.op not in _STORED and node.domain != "qonnx"):
            return None
        nodes.add(node)
        pending += [v for v in node.inputs if v is not None and v.const is None]
    part = outline(rw.graph, sorted(nodes, key=rw.graph.nodes.index))
    return next(iter(Evaluator(replace(part, outputs=[value]))({}).values()))
