"""Weights as numbers, where a model stores them behind quantisers and layout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cimc.driver.layout import RESHAPES
from cimc.driver.rewrite import Rewriter
from cimc.frontend.evaluate import Evaluator, outline
from cimc.frontend.quantisers import DEQUANTIZE, QUANTIZE
from cimc.ir.graph import Node, Value
from cimc.ir.types import Array

_LAYOUT = (*RESHAPES, "onnx.Transpose", "cim.transpose", "cim.reshape")
# What lies between stored weights and their use; the clean-up leaves quantisers in place.
_STORED = (
    *QUANTIZE, *DEQUANTIZE, "onnx.Cast", "onnx.Mul", "onnx.Div", "cim.sign", "cim.dequant",
    *_LAYOUT,
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
        if node in nodes:
            continue
        nodes.add(node)
        pending += [v for v in node.inputs if v is not None and v.const is None]
    part = outline(rw.graph, sorted(nodes, key=rw.graph.nodes.index))
    return next(iter(Evaluator(replace(part, outputs=[value]))({}).values()))


def held_steps(rw: Rewriter, value: Value) -> Array | None:
    """The step of the QONNX quantiser that made stored weights, at each of them, with only
    layout between; None if there is none."""
    layout: list[Node] = []
    node = rw.producer(value)
    while node is not None and node.op in _LAYOUT:
        layout.append(node)
        node = rw.producer(node.arg(0))
    if node is None or node.op not in ("qonnx.Quant", "qonnx.IntQuant"):
        return None
    scale = node.arg(1).const
    if scale is None or node.output.tensor.static is None:
        return None
    full = np.ascontiguousarray(np.broadcast_to(scale, node.output.tensor.static))
    if not layout:
        return full
    part = outline(rw.graph, layout[::-1])
    part = replace(part, inputs=[node.output], input_names=["steps"], outputs=[value])
    return next(iter(Evaluator(part)({"steps": full}).values()))
