"""Padding in front of a convolution."""

from __future__ import annotations

import numpy as np

from cimc.driver.rewrite import Rewriter, scalar
from cimc.frontend.quantisers import DEQUANTIZE, QUANTIZE
from cimc.ir.graph import Node, Value


def unpadded(rw: Rewriter, x: Value, fill: float = 0.0) -> tuple[Value, tuple[int, ...]]:
    """The image below a Pad that puts the number `fill` around it, and those pads; else x and
    none."""
    pad = rw.producer(x, "onnx.Pad")
    if pad is None or pad.attrs.get("mode", "constant") != "constant":
        return x, ()
    value, axes = (pad.operand(k) for k in (2, 3))
    sizes = pad.arg(1).const if len(pad.inputs) > 1 else np.asarray(pad.ints_attr("pads"))
    found = pad.float_attr("value", 0.0) if value is None else scalar(value)
    if sizes is None or axes is not None or found != fill:
        return x, ()
    pads: list[int] = sizes.astype(np.int64).tolist()
    rank = len(pads) // 2
    if min(pads, default=0) < 0 or any((*pads[:2], *pads[rank : rank + 2])):
        return x, ()
    return pad.arg(0), (*pads[2:rank], *pads[rank + 2 :])


def unquantised_pad(rw: Rewriter, x: Value) -> Value:
    """Pad(DQ(q)) for DQ(Q(Pad(DQ(q)))) of one scale and zero point: whatever is a multiple of the
    scale stays what it is; else x."""
    again = rw.producer(x, *DEQUANTIZE)
    quantise = rw.producer(again.arg(0), *QUANTIZE) if again is not None else None
    pad = rw.producer(quantise.arg(0), "onnx.Pad") if quantise is not None else None
    first = rw.producer(pad.arg(0), *DEQUANTIZE) if pad is not None else None
    if again is None or quantise is None or pad is None or first is None:
        return x
    found = {_numbers(node) for node in (again, quantise, first)}
    same = len(found) == 1 and None not in found and first.arg(0).elem == again.arg(0).elem
    return pad.output if same else x


def _numbers(node: Node) -> tuple[float, float] | None:
    """The one scale and zero point of a quantiser or dequantiser."""
    scale, zero = scalar(node.operand(1)), node.operand(2)
    number = 0.0 if zero is None else scalar(zero)
    return None if scale is None or number is None else (scale, number)
