"""QONNX operators as ONNX nodes with the same float32 arithmetic, in the same order.

`qonnx.py` has the definitions; tests hold one against the other.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from cimc.errors import CompileError
from cimc.frontend.emitter import Emitter
from cimc.frontend.qonnx import int_limits
from cimc.ir.graph import Node
from cimc.ir.types import Array

F32 = TensorProto.FLOAT


def _const(node: Node, index: int, what: str) -> Array:
    value = node.arg(index)
    if value.const is None:
        raise CompileError(f"{what} must be a constant", f"node '{node.source}' ({node.op})")
    return value.const


def _round(e: Emitter, node: Node, x: str, mode: str, limit: float) -> str:
    if mode == "CEIL":
        return e.node("Ceil", x)
    if mode == "FLOOR":
        return e.node("Floor", x)
    if mode == "ROUND_TO_ZERO" and e.opset < 9:  # no Sign yet
        zero = e.const(0.0, np.float32)
        return e.node("Add", e.node("Floor", e.node("Max", x, zero)),
                      e.node("Ceil", e.node("Min", x, zero)))  # fmt: skip
    if mode == "ROUND_TO_ZERO":
        return e.node("Mul", e.node("Sign", x), e.node("Floor", e.node("Abs", x)))
    if mode not in ("ROUND", "HALF_EVEN"):
        raise CompileError(
            f"unknown rounding_mode {mode!r}",
            f"node '{node.source}' ({node.op})",
            help="use ROUND, HALF_EVEN, CEIL, FLOOR or ROUND_TO_ZERO",
        )
    if e.opset >= 11:
        return e.node("Round", x)
    if limit >= 2**22:
        raise CompileError(
            f"rounding values up to {limit:g} needs operator set 11, the model has {e.opset}",
            f"node '{node.source}' ({node.op})",
        )
    # Adding 1.5 * 2**23 leaves no fraction bits: the FPU rounds half to even. |x| < 2**22.
    shift = e.const(np.asarray(1.5 * 2**23, np.float32))
    return e.node("Sub", e.node("Add", x, shift), shift)


def _quant(e: Emitter, node: Node, ins: list[str], out: str) -> None:
    x, scale, zero, _ = ins
    bits = np.asarray(_const(node, 3, "the bit width"), np.float32)
    signed, narrow = bool(node.attrs.get("signed", 1)), bool(node.attrs.get("narrow", 0))
    mode = str(node.attrs.get("rounding_mode", "ROUND")).upper()
    q = e.node("Add", e.node("Div", x, scale), zero)
    if signed and bits.size == 1 and bits.item() == 1:
        q = e.where(e.at_least(q, e.const(np.asarray(0, np.float32))), 1.0, -1.0, F32)
    else:
        low, high = int_limits(signed, narrow, bits)
        q = e.node("Max", e.node("Min", q, e.const(high)), e.const(low))
        q = _round(e, node, q, mode, float(max(abs(low).max(), abs(high).max())))
    e.node("Mul", e.node("Sub", q, zero), scale, out=out)


def _bipolar_quant(e: Emitter, node: Node, ins: list[str], out: str) -> None:
    positive = e.at_least(ins[0], e.const(np.asarray(0, np.float32)))
    e.node("Mul", e.where(positive, 1.0, -1.0, F32), ins[1], out=out)


def _trunc(e: Emitter, node: Node, ins: list[str], out: str) -> None:
    x, scale, zero = ins[:3]
    in_bits, out_bits = (np.asarray(_const(node, k, "a bit width"), np.float32) for k in (3, 4))
    q = e.node("Add", e.node("Div", x, scale), zero)
    limit = float(2.0 ** np.max(in_bits))
    q = _round(e, node, q, "ROUND", limit)
    q = e.node("Div", q, e.const(np.asarray(np.float32(2.0) ** (in_bits - out_bits))))
    q = _round(e, node, q, str(node.attrs.get("rounding_mode", "FLOOR")).upper(), limit)
    e.node("Mul", e.node("Sub", q, zero), scale, out=out)


def _multi_threshold(e: Emitter, node: Node, ins: list[str], out: str) -> None:
    table = np.asarray(_const(node, 1, "the thresholds"), np.float32)
    rank = len(node.arg(0).tensor.shape or ())
    last = str(node.attrs.get("data_layout", "NCHW")).endswith("C") and rank > 2
    shape = [1] * rank
    shape[-1 if last else 1] = -1
    level = None
    for k in range(table.shape[1]):
        bit = e.cast(e.at_least(ins[0], e.const(table[:, k].reshape(shape))), F32)
        level = bit if level is None else e.node("Add", level, bit)
    if level is None:
        raise CompileError("there are no thresholds", f"node '{node.source}' ({node.op})")
    scale = e.const(np.asarray(node.attrs.get("out_scale", 1.0), np.float32))
    bias = e.const(np.asarray(node.attrs.get("out_bias", 0.0), np.float32))
    e.node("Add", e.node("Mul", level, scale), bias, out=out)


EXPAND: dict[str, Callable[[Emitter, Node, list[str], str], None]] = {
    "qonnx.Quant": _quant,
    "qonnx.IntQuant": _quant,
    "qonnx.BipolarQuant": _bipolar_quant,
    "qonnx.Trunc": _trunc,
    "qonnx.MultiThreshold": _multi_threshold,
}
"""ONNX form by operation."""
