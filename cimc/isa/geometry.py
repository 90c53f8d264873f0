"""How windows, vectors and segments map to tile columns.

Shared by the checker, the interpreters, the counters and the backend, so that one place
says which value lies on which column. Knows windows and shapes; nothing of instructions,
machine state or text.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod

import numpy as np
import numpy.typing as npt

from cimc.isa.program import Win


def win_taps(win: Win) -> int:
    """Positions of the kernel: kh * kw for a 2-D window."""
    return prod(win.kernel)


def win_columns(win: Win) -> int:
    """K, the columns of one group: taps times channels of the group."""
    return win_taps(win) * (win.channels // win.groups)


def segments(k: int, seg: int) -> int:
    """Number of segments that `k` columns are cut into; `seg == 0` means no limit."""
    return 1 if seg == 0 else -(-k // seg)


def segment(k: int, seg: int, s: int) -> tuple[int, int]:
    """First column and number of columns of segment `s`; only the last may be shorter."""
    if seg == 0:
        return 0, k
    start = s * seg
    return start, min(seg, k - start)


def win_packs(win: Win) -> int:
    """Number of loads that the groups of a window take: groups, or packs of them."""
    return -(-win.groups // win.pack)


def win_load(win: Win, group: int, seg: int) -> tuple[int, int, int, int]:
    """What one load takes: the first group and how many, the first column of each and how
    many."""
    first = group * win.pack
    count = min(win.pack, win.groups - first)
    return first, count, *segment(win_columns(win), win.seg, seg)


def positions(shape: tuple[int, ...], axis: int) -> int:
    """Number of vectors along `axis` in a buffer of `shape`."""
    return prod(shape[:axis]) * prod(shape[axis + 1 :])


def win_out(win: Win, spatial: tuple[int, ...]) -> tuple[int, ...]:
    """Output size for each axis of an input of size `spatial` (ONNX Conv, floor rounding);
    not positive where the kernel doesn't fit."""
    n = len(spatial)
    wide = [(size - 1) * k + 1 for size, k in zip(spatial, win.spread, strict=True)]
    return tuple(
        (size + begin + end - dilation * (kernel - 1) - 1) // stride + 1
        for size, begin, end, dilation, kernel, stride in zip(
            wide, win.pads[:n], win.pads[n:], win.dilations, win.kernel, win.strides, strict=True
        )
    )


def inside_shares(win: Win, spatial: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """For each of the K columns, in which share of all windows (0 to 1) its tap lies inside an
    input of size `spatial`."""
    shares = np.ones(1)
    for axis, size in enumerate(spatial):
        first = np.arange(win.out[axis]) * win.strides[axis] - win.pads[axis]
        coord = first[:, None] + np.arange(win.kernel[axis]) * win.dilations[axis]
        coord, gap = np.divmod(coord, win.spread[axis])
        inside = (coord >= 0) & (coord < size) & (gap == 0)
        shares = np.outer(shares, inside.sum(axis=0) / max(1, len(inside))).reshape(-1)
    return np.repeat(shares, win.channels // win.groups)


def window_index(
    win: Win, shape: tuple[int, ...]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Where each column of each window reads in a buffer of `shape` [batch, channels, *spatial].

    Returns `index` int64 [positions, groups, K], the flat row-major element of the buffer
    (0 where the tap is outside), and `inside` bool [positions, K], whether the tap lies in
    the buffer. Both are read-only and shared between calls.
    """
    return _window_index(
        win.kernel, win.out, win.strides, win.pads, win.dilations, win.spread, win.groups, shape
    )


@lru_cache(maxsize=8)
def _window_index(
    kernel: tuple[int, ...],
    out: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
    up: tuple[int, ...],
    groups: int,
    shape: tuple[int, ...],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    batch, channels, *spatial = shape
    area = prod(spatial)
    # the element of one image's channel that each (output, tap) pair reads
    outputs = np.indices(out).reshape(len(out), -1)
    taps = np.indices(kernel).reshape(len(kernel), -1)
    place = np.zeros((outputs.shape[1], taps.shape[1]), dtype=np.int64)
    inside = np.ones(place.shape, dtype=np.bool_)
    for axis, size in enumerate(spatial):
        first = outputs[axis] * strides[axis] - pads[axis]
        coord = first[:, None] + taps[axis] * dilations[axis]
        coord, gap = np.divmod(coord, up[axis])
        inside &= (coord >= 0) & (coord < size) & (gap == 0)
        place = place * size + coord
    image = np.arange(batch, dtype=np.int64) * (channels * area)
    channel = np.arange(channels, dtype=np.int64).reshape(groups, -1) * area
    # [batch, outputs, groups, taps, channels of a group]
    index = (
        image[:, None, None, None, None]
        + place[None, :, None, :, None]
        + channel[None, None, :, None, :]
    )
    index *= inside[None, :, None, :, None]
    width = taps.shape[1] * (channels // groups)
    index = index.reshape(-1, groups, width)
    inside = np.tile(np.repeat(inside, channels // groups, axis=1), (batch, 1))
    index.setflags(write=False)
    inside.setflags(write=False)
    return index, inside
