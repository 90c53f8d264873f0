"""Integer layers and what stands between them as ONNX nodes.

Sums of products are float32 (Conv, MatMul) where all of them stay below 2**24 and so are exact,
else ConvInteger and MatMulInteger. Requantisation has the float32 steps of its numpy meaning.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from cimc.errors import CompileError
from cimc.frontend.elements import carrier, code_of
from cimc.frontend.emitter import Emitter
from cimc.ir.graph import Node, layer_name
from cimc.ir.meaning import lying_along
from cimc.ir.rules import quantised_limits, window
from cimc.ir.types import F32_EXACT, Array, int_range

F32, F64, I32, U8 = (
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.UINT8,
)  # fmt: skip
_ROUNDER = 1.5 * 2**23  # adding it leaves no fraction bits: rounds half to even below 2**22


# -- layers ----------------------------------------------------------------------------


def conv(e: Emitter, node: Node, attrs: dict[str, Any], ins: list[str], out: str) -> None:
    """Conv or ConvInteger, with one spatial axis where there is none."""
    w = _centred_weights(node, 0)
    rank = w.ndim - 2
    strides, pads, dilations = window(attrs, rank)
    up = attrs["up"] or (1,) * rank
    settings: dict[str, Any] = {"group": attrs["group"]}
    if rank:
        settings |= {"strides": strides, "pads": pads, "dilations": dilations}
    else:
        w = w[:, :, None]
    zero = _zero(e, node, ins)
    if _fits_float(node, w):
        x = e.cast(ins[0], F32)
        if zero is not None:
            x = e.node("Sub", x, e.cast(zero, F32))
        x = _spread(e, x, up, e.const(0.0, np.float32))
        x = x if rank else _unsqueeze(e, x)
        y = e.cast(e.node("Conv", x, e.const(w.astype(np.float32)), **settings), I32)
    else:
        x, zero = _bytes(e, node, ins[0], zero)
        x = _spread(e, x, up, zero)
        x = x if rank else _unsqueeze(e, x)
        parts = [
            e.node("ConvInteger", x, e.const(part), zero, **settings) for part in _int8_parts(w)
        ]
        y = _total(e, parts)
    if not rank:
        y = e.node("Reshape", y, e.const([0, -1], np.int64))
    _biased(e, node, y, out, (-1, *(1,) * rank))


def matmul(e: Emitter, node: Node, attrs: dict[str, Any], ins: list[str], out: str) -> None:
    """MatMul or MatMulInteger."""
    w = _centred_weights(node, 1)
    zero = _zero(e, node, ins)
    if _fits_float(node, w):
        x = e.cast(ins[0], F32)
        if zero is not None:
            x = e.node("Sub", x, e.cast(zero, F32))
        y = e.cast(e.node("MatMul", x, e.const(w.astype(np.float32))), I32)
    else:
        x, zero = _bytes(e, node, ins[0], zero)
        scalar = e.node("Reshape", zero, e.const(np.zeros(0, np.int64)))
        y = _total(e, [e.node("MatMulInteger", x, e.const(p), scalar) for p in _int8_parts(w)])
    _biased(e, node, y, out, (-1,))


def _zero(e: Emitter, node: Node, ins: list[str]) -> str | None:
    """The zero point of x; one that is known in bytes, as 4-bit values travel."""
    known = _const(node, 2)
    if known is not None:
        return e.const(known)
    return ins[2] if _has_zero(node) else None


def _const(node: Node, index: int) -> Any:
    value = node.operand(index)
    return None if value is None else value.const


def _centred_weights(node: Node, axis: int) -> Any:
    """w - zw as int64."""
    w: Any = _const(node, 1)
    zero = _const(node, 3)
    w = w.astype(np.int64)
    return w if zero is None else w - lying_along(zero.astype(np.int64), w.ndim, axis)


def _fits_float(node: Node, w: Any) -> bool:
    """Whether every partial sum is an integer below 2**24."""
    x = node.arg(0).elem
    low, high = int_range(x)
    width = high - low if _has_zero(node) else max(abs(low), high)
    axes = tuple(range(1, w.ndim)) if node.op == "cim.conv" else 0
    return bool(width * np.abs(w).sum(axis=axes).max(initial=0) < F32_EXACT)


def _has_zero(node: Node) -> bool:
    return node.operand(2) is not None


def _bytes(e: Emitter, node: Node, x: str, zero: str | None) -> tuple[str, str]:
    """x and its zero point as UINT8: the integer kernels take no other left side everywhere.
    Signed values move up by 128, and so does their zero point."""
    elem = node.arg(0).elem
    low, _ = int_range(elem)
    if low < 0:
        shift = e.const(np.asarray(128, np.int32))
        x = e.cast(e.node("Add", e.cast(x, I32), shift), U8)
        if zero is None:
            return x, e.const(np.asarray([128], np.uint8))
        return x, e.cast(e.node("Add", e.cast(zero, I32), shift), U8)
    zero = e.const(np.zeros(1, np.uint8)) if zero is None else e.cast(zero, U8)
    return e.cast(x, U8), zero


def _int8_parts(w: Any) -> list[Array]:
    """Weights as a sum of int8 tensors; one, unless zero points made them wider."""
    parts: list[Array] = []
    while True:
        part = np.clip(w, -128, 127)
        parts.append(part.astype(np.int8))
        w = w - part
        if not w.any():
            return parts


def _total(e: Emitter, parts: list[str]) -> str:
    total = parts[0]
    for part in parts[1:]:
        total = e.node("Add", total, part)
    return total


def _biased(e: Emitter, node: Node, y: str, out: str, shape: tuple[int, ...]) -> None:
    """y + b; `shape` is that of a b with one number for each channel."""
    bias = _const(node, 4)
    if bias is None:
        e.node("Identity", y, out=out)
        return
    bias = bias if bias.ndim > 1 else bias.reshape(shape)
    e.node("Add", y, e.const(bias.astype(np.int32)), out=out)


def _unsqueeze(e: Emitter, x: str) -> str:
    if e.opset >= 13:
        return e.node("Unsqueeze", x, e.const([2], np.int64))
    return e.node("Unsqueeze", x, axes=[2])


def _spread(e: Emitter, x: str, up: tuple[int, ...], fill: str) -> str:
    """x with up - 1 elements `fill` between its elements, axis after axis: each element gets a
    row of gaps behind it, and the last row of gaps is cut off."""
    scalar = None
    for axis, k in enumerate(up, 2):
        if k == 1:
            continue
        if scalar is None:
            scalar = e.node("Reshape", fill, e.const(np.zeros(0, np.int64)))
        rank = len(up) + 2
        # [.., n, ..] -> [.., n, 1, ..] -> pad the new axis -> [.., n * k, ..] -> cut
        shape = e.node("Shape", x)
        head = e.node("Slice", shape, e.const([0], np.int64), e.const([axis + 1], np.int64))
        tail = e.node("Slice", shape, e.const([axis + 1], np.int64), e.const([rank], np.int64))
        size = e.node("Slice", shape, e.const([axis], np.int64), e.const([axis + 1], np.int64))
        front = e.node("Slice", shape, e.const([0], np.int64), e.const([axis], np.int64))
        one = e.const([1], np.int64)
        apart = e.node("Reshape", x, e.node("Concat", head, one, tail, axis=0))
        pads = [0] * (2 * (rank + 1))
        pads[rank + 1 + axis + 1] = k - 1
        wide = e.node("Pad", apart, e.const(pads, np.int64), scalar)
        long = e.node("Mul", size, e.const([k], np.int64))
        joined = e.node("Reshape", wide, e.node("Concat", front, long, tail, axis=0))
        end = e.node("Sub", long, e.const([k - 1], np.int64))
        x = e.node("Slice", joined, e.const([0], np.int64), end, e.const([axis], np.int64))
    return x


# -- between layers --------------------------------------------------------------------


def quantize(e: Emitter, node: Node, attrs: dict[str, Any], ins: list[str], out: str) -> None:
    """The steps of QONNX's Quant, then a cast."""
    low, high = quantised_limits(attrs["to"], attrs["narrow"])
    x = e.node("Div", e.cast(ins[0], F32), e.const(np.asarray(attrs["scale"], np.float32)))
    x = e.node("Add", x, e.const(np.asarray(attrs["zero"], np.float32)))
    x = e.node("Min", x, e.const(np.asarray(high, np.float32)))
    x = e.node("Max", x, e.const(np.asarray(low, np.float32)))
    mode = attrs["rounding"]
    if mode == "ROUND":
        x = _rounded(e, x)
    elif mode in ("CEIL", "FLOOR"):
        x = e.node(mode.capitalize(), x)
    else:  # towards zero: the floor of what is above it, the ceiling of what is below
        zero = e.const(0.0, np.float32)
        above = e.node("Floor", e.node("Max", x, zero))
        x = e.node("Add", above, e.node("Ceil", e.node("Min", x, zero)))
    e.cast(x, carrier(attrs["to"]), out)


def _rounded(e: Emitter, x: str) -> str:
    """Round half to even, of numbers below 2**22."""
    if e.opset >= 11:
        return e.node("Round", x)
    shift = e.const(np.asarray(_ROUNDER, np.float32))
    return e.node("Sub", e.node("Add", x, shift), shift)


def requant(e: Emitter, node: Node, attrs: dict[str, Any], ins: list[str], out: str) -> None:
    scale: Any = _const(node, 1)
    scale = lying_along(scale, len(node.arg(0).tensor.shape or ()), attrs["axis"])
    scaled = e.node("Mul", e.cast(ins[0], F32), e.const(scale))
    _store(e, scaled, attrs["zero"], attrs["to"], out)


def _store(e: Emitter, x: str, zero: int, to: str, out: str) -> None:
    """Clamp, round half to even, add the zero point."""
    low, high = int_range(to)
    x = e.node("Max", x, e.const(np.asarray(low - zero, np.float32)))
    x = e.node("Min", x, e.const(np.asarray(high - zero, np.float32)))
    x = _rounded(e, x)
    if zero:
        x = e.node("Add", x, e.const(np.asarray(zero, np.float32)))
    e.cast(x, carrier(to), out)


def lut(e: Emitter, node: Node, attrs: dict[str, Any], ins: list[str], out: str) -> None:
    low, _ = int_range(node.arg(0).elem)
    index = e.cast(ins[0], I32)
    if low:
        index = e.node("Sub", index, e.const(np.asarray(low, np.int32)))
    table, held = ins[1], node.arg(1)
    if carrier(held.elem) != code_of(held.elem) and held.const is not None:
        table = e.const(held.const)  # in bytes, which Gather takes
    e.node("Gather", table, index, out=out, axis=0)


def sum_pool(e: Emitter, node: Node, attrs: dict[str, Any], ins: list[str], out: str) -> None:
    """A float32 convolution with ones for each channel: exact for windows of up to 65,536."""
    strides, pads, dilations = window(attrs, len(attrs["kernel"]))
    x = e.cast(ins[0], F32)
    if attrs["zero"]:
        x = e.node("Sub", x, e.const(np.asarray(attrs["zero"], np.float32)))
    channels = (node.arg(0).tensor.shape or (0, 0))[1]
    if not isinstance(channels, int):
        raise CompileError(
            f"a sum over windows of {node.arg(0).type} has no ONNX form: how many channels?",
            f"node '{layer_name(node)}' ({node.op})",
            help="give its size with --shape",
        )
    ones = np.ones((channels, 1, *attrs["kernel"]), np.float32)
    y = e.node(
        "Conv", x, e.const(ones), strides=strides, pads=pads, dilations=dilations, group=channels
    )
    e.cast(y, I32, out)


def qadd(e: Emitter, node: Node, attrs: dict[str, Any], ins: list[str], out: str) -> None:
    def number(value: float) -> Any:
        return np.asarray(value, np.float32)

    if attrs["fused"]:
        _fused_add(e, attrs, ins, out)
        return
    terms = []
    for name, x in zip("xy", ins):
        x = e.cast(x, F32)
        x = e.node("Sub", x, e.const(number(attrs[f"{name}_zero"])))
        terms.append(e.node("Mul", x, e.const(number(attrs[f"{name}_scale"]))))
    total = e.node("Div", e.node("Add", *terms), e.const(number(attrs["scale"])))
    _store(e, total, attrs["zero"], attrs["to"], out)


def _fused_add(e: Emitter, attrs: dict[str, Any], ins: list[str], out: str) -> None:
    """The fused multiply-adds of `meaning.quantised_sum` in DOUBLE."""
    sx, zx, sy, zy, s, zero = (
        np.float32(attrs[k]) for k in ("x_scale", "x_zero", "y_scale", "y_zero", "scale", "zero")
    )
    a, b = sx / s, sy / s
    fixed = zero - (a * zx + b * zy)
    total = e.const(np.asarray(fixed, np.float64))
    for factor, x in ((b, ins[1]), (a, ins[0])):
        product = e.node("Mul", e.cast(x, F64), e.const(np.asarray(factor, np.float64)))
        total = e.cast(e.cast(e.node("Add", product, total), F32), F64)
    _store(e, e.cast(total, F32), 0, attrs["to"], out)
