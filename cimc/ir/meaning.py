"""The numpy meaning of the native operations: operand arrays to result arrays.

Values are unpacked, in the container of their element type (`types.container`). This is
the definition that passes, programs and exports are held against: plain rather than fast.
Integer sums go through float64 products, exact below 2**53.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from cimc.ir.rules import quantised_limits, window
from cimc.ir.types import Array, TensorType, container, int_range

Attrs = dict[str, Any]
Types = Sequence[TensorType]


def sign(args: Sequence[Array], attrs: Attrs, types: Types) -> list[Array]:
    x: Any = args[0]
    above, below = (1, 0) if attrs["to"] == "u1" else (1, -1)
    at_zero = below if attrs["zero"] < 0 else above if attrs["zero"] > 0 else 0
    y = np.where(x > 0, above, np.where(x < 0, below, at_zero))
    return [y.astype(container(types[0].elem))]


def windows(
    x: Array, kernel: Sequence[int], attrs: Attrs, fill: float
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """All windows of x [N, C, *spatial] as float64 [N, C, *out, *kernel], padded with fill."""
    rank = len(kernel)
    strides, pads, dilations = window(attrs, rank)
    margin = [(0, 0), (0, 0), *((pads[i], pads[rank + i]) for i in range(rank))]
    padded = np.pad(x.astype(np.float64), margin, constant_values=fill)
    reach = tuple(dilations[i] * (kernel[i] - 1) + 1 for i in range(rank))
    if not rank:
        return padded
    view = sliding_window_view(padded, reach, axis=tuple(range(2, 2 + rank)))
    steps = tuple(slice(None, None, s) for s in strides)
    taps = tuple(slice(None, None, d) for d in dilations)
    return view[(slice(None), slice(None), *steps, *taps)]


def conv(args: Sequence[Any], attrs: Attrs, types: Types) -> list[Array]:
    x, w, bias = _centred(args, 0)
    kernel, group = w.shape[2:], attrs["group"]
    view = windows(spread(x, attrs["up"]), kernel, attrs, 0.0)
    batch, channels, *rest = view.shape
    out = rest[: len(kernel)]
    taps = int(np.prod(kernel)) * (channels // group)
    # [N, C, *out, *kernel] -> [group, N, *out, C/group * taps]
    view = view.reshape(batch, group, channels // group, *rest)
    axes = (1, 0, *range(3, 3 + len(out)), 2, *range(3 + len(out), view.ndim))
    columns = view.transpose(axes).reshape(group, -1, taps)
    kernels = w.astype(np.float64).reshape(group, -1, taps)
    sums = columns @ kernels.transpose(0, 2, 1)
    sums = sums.reshape(group, batch, *out, w.shape[0] // group)
    y = np.moveaxis(sums, (0, -1), (1, 2)).reshape(batch, w.shape[0], *out)
    y = y + (bias if bias.ndim > 1 else bias.reshape(-1, *(1,) * len(out)))
    return [y.astype(np.int32)]


def matmul(args: Sequence[Any], attrs: Attrs, types: Types) -> list[Array]:
    x, w, bias = _centred(args, 1)
    return [(x @ w + bias).astype(np.int32)]


def _centred(args: Sequence[Any], axis: int) -> tuple[Any, Any, Any]:
    """x - zx, w - zw and b of a layer as float64, exact; `axis` of w holds the channels."""
    x, w = args[:2]
    zx, zw, b = ([*args[2:], None, None, None])[:3]
    x = x.astype(np.float64) - (0.0 if zx is None else float(zx[0]))
    w = w.astype(np.float64)
    if zw is not None:
        w = w - lying_along(zw, w.ndim, axis)
    return x, w, np.zeros(1) if b is None else b.astype(np.float64)


def lying_along(vector: Any, rank: int, axis: int) -> Any:
    """A vector shaped to meet arrays of that rank along one axis; a single number meets any."""
    dims = [1] * rank
    if vector.size != 1:
        dims[axis] = -1
    return vector.reshape(dims)


def spread(x: Any, up: Sequence[int]) -> Any:
    """x [N, C, *spatial] with up - 1 zeros between the elements of each spatial axis."""
    if not any(k > 1 for k in up):
        return x
    sizes = [(size - 1) * k + 1 if size else 0 for size, k in zip(x.shape[2:], up)]
    wide = np.zeros((*x.shape[:2], *sizes), x.dtype)
    taken = [slice(None), slice(None), *(slice(None, None, k) for k in up)]
    wide[tuple(taken)] = x
    return wide


def threshold(args: Sequence[Array], attrs: Attrs, types: Types) -> list[Array]:
    x: Any = args[0].astype(np.int64)
    th: Any = args[1].astype(np.int64)
    axis, to = attrs["axis"], attrs["to"]
    columns = th.reshape(th.shape[0], -1)
    level: Any = x * 0
    for k in range(columns.shape[1]):
        level = level + (x >= lying_along(columns[:, k], x.ndim, axis))
    if len(args) > 2:
        flip = lying_along(args[2], x.ndim, axis)
        level = np.where(flip < 0, columns.shape[1] - level, level)
    return [level_value(level, to).astype(container(to))]


def level_value(level: Any, to: str) -> Any:
    """The value of element type `to` that level 0, 1, … stands for, from its lowest on."""
    low, _ = int_range(to)
    return 2 * level - 1 if to == "bip" else level + low


def max_pool(args: Sequence[Array], attrs: Attrs, types: Types) -> list[Array]:
    view = windows(args[0], attrs["kernel"], attrs, -np.inf)
    rank = len(attrs["kernel"])
    return [view.max(axis=tuple(range(-rank, 0))).astype(args[0].dtype)]


def add(args: Sequence[Array], attrs: Attrs, types: Types) -> list[Array]:
    return [args[0].astype(np.int32) + args[1].astype(np.int32)]


def relu(args: Sequence[Array], attrs: Attrs, types: Types) -> list[Array]:
    positive = np.maximum(args[0], np.zeros((), args[0].dtype))
    return [positive.astype(container(types[0].elem), copy=False)]


def slice_(args: Sequence[Any], attrs: Attrs, types: Types) -> list[Array]:
    part = [slice(None)] * attrs["axis"] + [slice(attrs["start"], attrs["stop"])]
    return [np.ascontiguousarray(args[0][tuple(part)])]


def take(args: Sequence[Any], attrs: Attrs, types: Types) -> list[Array]:
    return [np.take(args[0], args[1].astype(np.int64), axis=attrs["axis"])]


def dequant(args: Sequence[Array], attrs: Attrs, types: Types) -> list[Array]:
    x: Any = args[0]
    if attrs["zero"]:
        x = x.astype(np.int64) - attrs["zero"]
    return [x.astype(np.float32) * np.float32(attrs["scale"])]


ROUNDING: dict[str, Callable[[Any], Any]] = {
    "ROUND": np.rint, "CEIL": np.ceil, "FLOOR": np.floor, "ROUND_TO_ZERO": np.trunc,
}  # fmt: skip
"""By QONNX's names."""


def quantize(args: Sequence[Any], attrs: Attrs, types: Types) -> list[Array]:
    low, high = quantised_limits(attrs["to"], attrs["narrow"])
    value = args[0].astype(np.float32) / np.float32(attrs["scale"]) + np.float32(attrs["zero"])
    value = ROUNDING[attrs["rounding"]](np.clip(value, np.float32(low), np.float32(high)))
    return [np.nan_to_num(value).astype(container(attrs["to"]))]


def requant(args: Sequence[Any], attrs: Attrs, types: Types) -> list[Array]:
    x, scale = args
    return [requantise(x, lying_along(scale, x.ndim, attrs["axis"]), attrs["zero"], attrs["to"])]


def requantise(x: Any, scale: Any, zero: int, to: str) -> Array:
    """q = round_half_even(clamp(f32(x) * scale, low - zero, high - zero)) + zero, [low, high]
    the range of element type `to`: the float32 steps of onnxruntime's QLinear kernels."""
    with np.errstate(over="ignore"):  # an infinite product is clamped like a large one
        value = x.astype(np.float32) * scale.astype(np.float32)
    return _stored(value, zero, to)


def _stored(value: Any, zero: int, to: str) -> Array:
    """float32 values clamped to the range of element type `to` less zero, rounded half to even,
    plus zero."""
    low, high = int_range(to)
    value = np.clip(value, np.float32(low - zero), np.float32(high - zero))
    result: Array = (np.rint(value).astype(np.int32) + zero).astype(container(to))
    return result


def lut(args: Sequence[Any], attrs: Attrs, types: Types) -> list[Array]:
    x, table = args
    low = 0 if x.dtype.kind == "u" else -(table.size // 2)
    return [table[x.astype(np.int64) - low]]


def sum_pool(args: Sequence[Any], attrs: Attrs, types: Types) -> list[Array]:
    x = args[0].astype(np.float64) - attrs["zero"]
    rank = len(attrs["kernel"])
    view = windows(x, attrs["kernel"], attrs, 0.0)
    return [view.sum(axis=tuple(range(-rank, 0))).astype(np.int32)]


def qadd(args: Sequence[Any], attrs: Attrs, types: Types) -> list[Array]:
    names = ("x_scale", "x_zero", "y_scale", "y_zero", "scale", "zero")
    numbers = np.array([attrs[name] for name in names], np.float32)
    return [quantised_sum(args[0], args[1], numbers, attrs["fused"], attrs["to"])]


def quantised_sum(x: Any, y: Any, numbers: Any, fused: int, to: str) -> Array:
    """The sum of two quantised tensors; numbers: float32 [6], x_scale, x_zero, y_scale, y_zero,
    scale, zero.

    fused: as onnxruntime's QLinearAdd, f32 with fused multiply-adds and the scales divided
    first (its kernels for processors with FMA; equal on all 65,536 pairs of bytes)."""
    sx, zx, sy, zy, s, zero = numbers
    x, y = x.astype(np.float32), y.astype(np.float32)
    if fused:
        a, b = sx / s, sy / s
        fixed = zero - (a * zx + b * zy)
        # Products of a byte and a float32, and these sums, are exact in float64 but for the
        # last rounding: float32(float64 sum) is the fused multiply-add.
        inner = (y.astype(np.float64) * b + fixed).astype(np.float32)
        value = (x.astype(np.float64) * a + inner).astype(np.float32)
        return _stored(value, 0, to)
    return _stored(((x - zx) * sx + (y - zy) * sy) / s, int(zero), to)


def concat(args: Sequence[Any], attrs: Attrs, types: Types) -> list[Array]:
    return [np.concatenate(args, axis=attrs["axis"])]


def reshape(args: Sequence[Array], attrs: Attrs, types: Types) -> list[Array]:
    return [args[0].reshape(attrs["shape"])]


def transpose(args: Sequence[Array], attrs: Attrs, types: Types) -> list[Array]:
    return [args[0].transpose(attrs["perm"])]
