"""The numpy meaning of the native operations: operand arrays to result arrays.

Values are unpacked, in the container of their element type (`types.container`). This is
the definition that passes, programs and exports are held against: plain rather than fast.
Integer sums go through float64 products, exact below 2**53.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from cimc.ir.rules import window
from cimc.ir.types import Array, TensorType, container

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


def conv(args: Sequence[Array], attrs: Attrs, types: Types) -> list[Array]:
    x, w = args
    kernel, group = w.shape[2:], attrs["group"]
    view = windows(x, kernel, attrs, 0.0)
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
    return [y.astype(np.int32)]


def matmul(args: Sequence[Array], attrs: Attrs, types: Types) -> list[Array]:
    x, w = (a.astype(np.float64) for a in args)
    return [(x @ w).astype(np.int32)]


def threshold(args: Sequence[Array], attrs: Attrs, types: Types) -> list[Array]:
    x: Any = args[0].astype(np.int64)
    th: Any = args[1].astype(np.int64)
    axis, to = attrs["axis"], attrs["to"]
    columns = th.reshape(th.shape[0], -1)
    along = [1] * x.ndim
    along[axis] = -1
    level = sum((x >= columns[:, k].reshape(along) for k in range(columns.shape[1])), start=x * 0)
    value = {"bip": 2 * level - 1, "tern": level - 1}.get(to, level)
    if len(args) > 2:
        flip: Any = args[2].reshape(along)
        mirrored = columns.shape[1] - level if to[0] == "u" else -value
        value = np.where(flip < 0, mirrored, value)
    return [value.astype(container(to))]


def max_pool(args: Sequence[Array], attrs: Attrs, types: Types) -> list[Array]:
    view = windows(args[0], attrs["kernel"], attrs, -np.inf)
    rank = len(attrs["kernel"])
    return [view.max(axis=tuple(range(-rank, 0))).astype(args[0].dtype)]


def add(args: Sequence[Array], attrs: Attrs, types: Types) -> list[Array]:
    return [args[0].astype(np.int32) + args[1].astype(np.int32)]


def relu(args: Sequence[Array], attrs: Attrs, types: Types) -> list[Array]:
    positive = np.maximum(args[0], np.zeros((), args[0].dtype))
    return [positive.astype(container(types[0].elem), copy=False)]


def dequant(args: Sequence[Array], attrs: Attrs, types: Types) -> list[Array]:
    return [args[0].astype(np.float32) * np.float32(attrs["scale"])]


def reshape(args: Sequence[Array], attrs: Attrs, types: Types) -> list[Array]:
    return [args[0].reshape(attrs["shape"])]


def transpose(args: Sequence[Array], attrs: Attrs, types: Types) -> list[Array]:
    return [args[0].transpose(attrs["perm"])]
