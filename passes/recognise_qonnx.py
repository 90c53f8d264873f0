"""Finds where QONNX quantises a value: the integer behind it and the float that it stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cimc.driver import Pass, PassContext, Rewriter
from cimc.driver.rewrite import scalar
from cimc.frontend.qonnx import ROUNDING
from cimc.ir.graph import Graph, Node
from cimc.ir.types import INPUT_PLANES, int_range


def _settings(node: Node) -> dict[str, Any] | None:
    """The attributes of the cim.quantize that makes the integers of a Quant; None if its
    settings differ between elements or fit no integer type of a tile."""
    if node.arg(0).const is not None or node.arg(0).elem != "f32":
        return None
    scale, zero, bits = (scalar(v) for v in node.inputs[1:4])
    if scale is None or zero is None or bits is None or not np.float32(scale) > 0:
        return None
    signed, narrow = bool(node.attrs.get("signed", 1)), int(bool(node.attrs.get("narrow", 0)))
    mode = str(node.attrs.get("rounding_mode", "ROUND")).upper()
    least = 2 if signed or narrow else 1  # one signed bit is a sign
    if bits != int(bits) or not least <= bits <= INPUT_PLANES or mode not in ROUNDING:
        return None
    to = f"{'i' if signed else 'u'}{int(bits)}"
    low, high = int_range(to)
    if zero != int(zero) or not low <= zero <= high:
        return None
    rounding = "ROUND" if mode == "HALF_EVEN" else mode
    return {"scale": scale, "zero": int(zero), "narrow": narrow, "rounding": rounding, "to": to}


@dataclass(frozen=True)
class RecogniseQonnx(Pass):
    """Rules:
    1. `Quant(x, s, z, bits)` with one scale, an integer zero point and 1 to 8 bits, x not a
       constant ⇒ `cim.dequant(cim.quantize(x))` with the same scale and zero point
    """

    name = "recognise-qonnx"
    summary = "turn QONNX's Quant of activations into integers"
    kind = "exact"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        rw = Rewriter(graph)
        for node in list(graph.nodes):
            if node.op not in ("qonnx.Quant", "qonnx.IntQuant"):
                continue
            attrs = _settings(node)
            if attrs is None:
                continue
            q = rw.op("cim.quantize", [node.arg(0)], f"{node.output.name}.q", node, attrs)
            rw.encode(node.output, q, attrs["scale"], node, attrs["zero"])
        graph.remove_dead()
        return rw.changed
