"""QONNX operators by their definition, in numpy.

Definitions: github.com/fastmachinelearning/qonnx, docs/qonnx-custom-ops. All arithmetic is
float32, in the order given there. onnxruntime has none of these operators; on the host they
run as the ONNX nodes of `expand_qonnx.py`, which tests hold against this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cimc.ir import meaning
from cimc.ir.types import Array

DOMAINS = (
    "onnx.brevitas",
    "qonnx.custom_op.general",
    "finn.custom_op.general",
)
Attrs = dict[str, Any]

ROUNDING = meaning.ROUNDING | {"HALF_EVEN": meaning.ROUNDING["ROUND"]}
"""By the names that models use; two are of one meaning."""


def int_limits(signed: bool, narrow: bool, bits: Any) -> tuple[Array, Array]:
    """Smallest and largest integer of a quantised tensor, as float32."""
    two = np.float64(2.0)
    if signed:
        low = -(two ** (bits - 1)) + (1 if narrow else 0)
        high = two ** (bits - 1) - 1
    else:
        low = np.zeros_like(bits, dtype=np.float64)
        high = two**bits - (2 if narrow else 1)
    return np.asarray(low, np.float32), np.asarray(high, np.float32)


def _floats(args: Sequence[Array]) -> list[Any]:
    return [np.asarray(a, np.float32) for a in args]


def quant(args: Sequence[Array], attrs: Attrs) -> Array:
    """Quant / IntQuant(x, scale, zero_point, bit_width; signed, narrow, rounding_mode):
    (round(clip(x / scale + zero_point)) - zero_point) * scale."""
    x, scale, zero, bits = _floats(args)
    signed, narrow = bool(attrs.get("signed", 1)), bool(attrs.get("narrow", 0))
    q = x / scale + zero
    if signed and bits.size == 1 and bits.item() == 1:
        q = np.where(q >= 0, np.float32(1), np.float32(-1))
    else:
        low, high = int_limits(signed, narrow, bits)
        q = np.where(q > high, high, q)
        q = np.where(q < low, low, q)
        q = ROUNDING[attrs.get("rounding_mode", "ROUND").upper()](q)
    return np.asarray((q - zero) * scale, np.float32)


def bipolar_quant(args: Sequence[Array], attrs: Attrs) -> Array:
    """BipolarQuant(x, scale): +scale where x >= 0, else -scale."""
    x, scale = _floats(args)
    return np.asarray(np.where(x >= 0, np.float32(1), np.float32(-1)) * scale, np.float32)


def trunc(args: Sequence[Array], attrs: Attrs) -> Array:
    """Trunc(x, scale, zero_point, in_bits, out_bits), version 1: drop the low bits."""
    x, scale, zero, in_bits, out_bits = _floats(args)
    q = np.round(x / scale + zero)
    q = q / np.float32(2.0) ** (in_bits - out_bits)
    q = ROUNDING[attrs.get("rounding_mode", "FLOOR").upper()](q)
    return np.asarray((q - zero) * scale, np.float32)


def multi_threshold(args: Sequence[Array], attrs: Attrs) -> Array:
    """MultiThreshold(x, thresholds[C,T]; out_scale, out_bias, data_layout): how many of the
    channel's thresholds x reaches, times out_scale, plus out_bias."""
    x, thresholds = _floats(args)
    last = str(attrs.get("data_layout", "NCHW")).endswith("C") and x.ndim > 2
    along = np.moveaxis(x, -1, 1) if last else x
    shape = (1, thresholds.shape[0], *(1,) * (along.ndim - 2), thresholds.shape[1])
    level = (along[..., None] >= thresholds.reshape(shape)).sum(-1).astype(np.float32)
    y = np.float32(attrs.get("out_scale", 1.0)) * level + np.float32(attrs.get("out_bias", 0.0))
    return np.asarray(np.moveaxis(y, 1, -1) if last else y, np.float32)


EVALUATE = {
    "Quant": quant,
    "IntQuant": quant,
    "BipolarQuant": bipolar_quant,
    "Trunc": trunc,
    "MultiThreshold": multi_threshold,
}
"""Definition by operator name."""
