"""Stores integers in as few bits as their values need: tiles read their inputs plane by plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cimc.driver import Pass, PassContext, Rewriter
from cimc.driver.rewrite import scalar
from cimc.driver.widths import any_width
from cimc.frontend.quantisers import QUANTIZE, Scale, scale_of
from cimc.ir.graph import Graph, Node
from cimc.ir.types import is_small, narrowest, planes


def _quantise(rw: Rewriter, node: Node) -> None:
    """1. QuantizeLinear behind a Clip"""
    found, cut = scale_of(node), rw.producer(node.arg(0), "onnx.Clip")
    if cut is None or not isinstance(found, Scale) or found.axis is not None:
        return
    scale, zero = found.one
    ends = [scalar(cut.operand(i)) for i in (1, 2)]
    if zero or None in ends or node.arg(0).elem != "f32":
        return
    low, high = (int(np.rint(np.float32(e) / np.float32(scale))) for e in ends)
    to = narrowest(low, high)
    if not is_small(node.output.elem) or planes(to) >= planes(node.output.elem):
        return
    attrs: dict[str, Any] = {"scale": scale, "to": to}
    rw.replace(
        node.output, rw.op("cim.quantize", [node.arg(0)], f"{node.output.name}.q", node, attrs)
    )


@dataclass(frozen=True)
class NarrowIntegers(Pass):
    """Rules, where only layers without a zero point read the result, through pools and layout:
    1. `QuantizeLinear(Clip(x, low, high))`, one scale and the zero point 0, whose integers need
       fewer bits than its type has ⇒ `cim.quantize` to a narrower type
    """

    name = "narrow-integers"
    summary = "store integers in as few bits as their values need"
    kind = "exact"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        rw = Rewriter(graph)
        for node in [n for n in graph.nodes if n.op in QUANTIZE]:
            if any_width(rw, node.output):
                _quantise(rw, node)
        if rw.changed:
            graph.remove_dead()
            rw.retype()
        return rw.changed
