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
    win_load,
    win_out,
    win_packs,
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
    win.up = tuple(draw(sizes) for _ in range(rank))
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
            gap = any(a % k for a, k in zip(at, win.up, strict=True))
            at = [a // k for a, k in zip(at, win.up, strict=True)]
            valid = not gap and all(0 <= a < size for a, size in zip(at, spatial, strict=True))
            assert inside[position, column] == valid
            for group in range(win.groups):
                expected = flat[(image, group * per_group + c, *at)] if valid else 0
                assert index[position, group, column] == expected


def test_a_spread_input_is_that_of_a_transposed_convolution() -> None:
    """onnx ConvTranspose: stride 2 and kernel 3 make 5 -> 11 without padding, 9 with 1."""
    for pad, out in ((2, 11), (1, 9)):
        win = Win("w", 1, (3,), (out,), (1,), (pad, pad), (1,), up=(2,))
        assert win_out(win, (5,)) == (out,)
        index, inside = window_index(win, (1, 1, 5))
        places = [[int(i) if ok else None for i, ok in zip(*row, strict=True)]
                  for row in zip(index[:3, 0], inside[:3], strict=True)]  # fmt: skip
        first = [[None, None, 0], [None, 0, None], [0, None, 1], [None, 1, None]]
        assert places == first[2 - pad :][:3]


def test_an_input_that_is_not_spread_has_no_factors() -> None:
    win = Win("w", 1, (3, 3), (1, 1), (1, 1), (0,) * 4, (1, 1), up=(1, 1))
    assert (win.up, win.spread) == ((), (1, 1))
    assert win == Win("w", 1, (3, 3), (1, 1), (1, 1), (0,) * 4, (1, 1))


def test_packs() -> None:
    win = Win("w", 14, (3,), (1,), (1,), (0, 0), (1,), groups=7, pack=3)
    assert win_packs(win) == 3
    assert [win_load(win, q, 0) for q in range(3)] == [(0, 3, 0, 6), (3, 3, 0, 6), (6, 1, 0, 6)]
    alone = Win("w", 14, (3,), (1,), (1,), (0, 0), (1,), groups=7, seg=4)
    assert win_packs(alone) == 7
    assert win_load(alone, 5, 1) == (5, 1, 4, 2)


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
