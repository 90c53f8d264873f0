"""Windows and segments against their definition, written with plain loops."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cimc.isa.geometry import (
    positions,
    segment,
    segments,
    win_columns,
    win_out,
    win_taps,
    window_index,
)
from cimc.isa.program import Win

sizes = st.integers(1, 3)


@st.composite
def windows(draw: st.DrawFn) -> tuple[Win, tuple[int, ...]]:
    """A window and the shape of a buffer that it fits, in one to three dimensions."""
    rank, groups = draw(st.integers(1, 3)), draw(sizes)
    per_group, batch = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel, strides, dilations, spatial = (
        tuple(draw(sizes) for _ in range(rank)) for _ in range(4)
    )
    pads = tuple(draw(st.integers(0, 2)) for _ in range(2 * rank))
    win = Win("w", groups * per_group, kernel, (), strides, pads, dilations, groups)
    win.out = tuple(max(1, size) for size in win_out(win, spatial))
    return win, (batch, groups * per_group, *spatial)


@settings(max_examples=100, deadline=None)
@given(windows())
def test_window_index(case: tuple[Win, tuple[int, ...]]) -> None:
    win, shape = case
    index, inside = window_index(win, shape)
    batch, channels, *spatial = shape
    per_group = channels // win.groups
    k = win_columns(win)
    assert index.shape == (batch * int(np.prod(win.out)), win.groups, k)
    assert inside.shape == (len(index), k)
    flat = np.arange(int(np.prod(shape))).reshape(shape)
    places = product(range(batch), *map(range, win.out))
    taps = list(product(*map(range, win.kernel)))
    assert len(taps) == win_taps(win)
    for position, (image, *out) in enumerate(places):
        for (t, tap), c in product(enumerate(taps), range(per_group)):
            column = t * per_group + c
            at = [
                o * s - p + x * d
                for o, s, p, x, d in zip(
                    out, win.strides, win.pads[: len(out)], tap, win.dilations, strict=True
                )
            ]
            valid = all(0 <= a < size for a, size in zip(at, spatial, strict=True))
            assert inside[position, column] == valid
            for group in range(win.groups):
                expected = flat[(image, group * per_group + c, *at)] if valid else 0
                assert index[position, group, column] == expected


def test_segments() -> None:
    assert segments(288, 128) == 3
    assert [segment(288, 128, s) for s in range(3)] == [(0, 128), (128, 128), (256, 32)]
    assert (segments(288, 0), segment(288, 0, 0)) == (1, (0, 288))
    assert segments(256, 128) == 2


def test_positions() -> None:
    assert positions((2, 32, 14, 7), 1) == 2 * 14 * 7
    assert positions((10,), 0) == 1


def test_window_index_is_shared_and_read_only() -> None:
    win = Win("w", 1, (2,), (3,), (1,), (0, 0), (1,))
    index, inside = window_index(win, (1, 1, 4))
    assert window_index(Win("v", 1, (2,), (3,), (1,), (0, 0), (1,)), (1, 1, 4))[0] is index
    assert not index.flags.writeable
    assert not inside.flags.writeable
