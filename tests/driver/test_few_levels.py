"""Nearest two and three levels, against all there are; lines, against numpy's."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from cimc.driver.few_levels import Line, binary, ternary, two_levels

RNG = np.random.default_rng(11)


def _floats(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def _error(w: Any, q: Any) -> Any:
    """|w - α·q|² with the best α."""
    size = (q * q).sum()
    return (w * w).sum() - ((w * q).sum() ** 2 / size if size else 0.0)


@pytest.mark.parametrize(("nearest", "levels"), [(binary, (-1, 1)), (ternary, (-1, 0, 1))])
@pytest.mark.parametrize("seed", range(20))
def test_no_other_levels_are_nearer(nearest: Any, levels: Any, seed: int) -> None:
    w = np.random.default_rng(seed).standard_normal((3, 6)).round(1).astype(np.float32)
    q, alpha = nearest(w, 0)
    assert q.dtype == np.int8
    for row, found, scale in zip(w.astype(np.float64), q.astype(np.float64), alpha):
        best = min(_error(row, np.array(p)) for p in itertools.product(levels, repeat=6))
        assert np.square(row - scale * found).sum() == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("axis", range(4))
def test_channels_lie_along_an_axis(axis: int) -> None:
    w = _floats(3, 4, 2, 5)
    for nearest in (binary, ternary):
        q, alpha = nearest(w, axis)
        moved = np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1)
        flat, same = nearest(moved, 0)
        assert q.shape == w.shape
        assert np.array_equal(np.moveaxis(q, axis, 0).reshape(moved.shape), flat)
        assert np.array_equal(alpha, same)


def test_zeros() -> None:
    q, alpha = binary(np.array([[0, 0], [0, -2]], np.float32), 0)
    assert q.tolist() == [[1, 1], [1, -1]]
    assert alpha.tolist() == [0, 1]
    q, alpha = ternary(np.array([[0, 0], [0, -2]], np.float32), 0)
    assert q.tolist() == [[0, 0], [0, -1]]
    assert alpha.tolist() == [0, 2]


def _cuts(x: Any) -> list[Any]:
    """What lies above, for every threshold between numbers."""
    return [x > t for t in np.unique(x)]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", ["signed", "relu", "few", "falling"])
def test_no_other_two_levels_are_nearer(seed: int, kind: str) -> None:
    x = np.random.default_rng(seed).standard_normal(25).astype(np.float32)
    x = {"signed": x, "relu": np.maximum(x, 0), "few": np.rint(x), "falling": -abs(x) - 1}[kind]
    wide = x.astype(np.float64)
    found = two_levels(x, True)
    best = min(
        np.square(wide - np.where(above, wide[above].mean() if above.any() else 0.0,
                                  wide[~above].mean())).sum()
        for above in _cuts(x)
    )  # fmt: skip
    assert found.error == pytest.approx(best, abs=1e-9)
    _is_met(found, wide)
    found = two_levels(x, False)
    candidates = [_error(wide, above.astype(np.float64)) for above in _cuts(x)]
    candidates += [_error(wide, np.where(above, 1.0, -1.0)) for above in (*_cuts(x), x > 0)]
    assert found.error == pytest.approx(min(candidates), abs=1e-9)
    assert found.mean == 0
    _is_met(found, wide)


def _is_met(found: Any, x: Any) -> None:
    """The stated error is that of the stated levels and threshold."""
    q = np.where(x.astype(np.float32) > np.float32(found.threshold), found.high, found.low)
    error = np.square(x - found.mean - found.size * q).sum()
    assert error == pytest.approx(found.error, abs=1e-9)


def test_levels_of_what_never_varies() -> None:
    found = two_levels(np.full(5, 3, np.float32), True)
    assert (found.mean, found.size, found.error) == (3, 0, pytest.approx(0))
    assert two_levels(np.zeros(5, np.float32), False).size == 0


def test_a_threshold_between_neighbours() -> None:
    low = np.float32(1)
    high = np.nextafter(low, np.float32(2))
    assert two_levels(np.array([low, high]), True).threshold == low


def test_lines() -> None:
    x, y = _floats(4, 3, 5), _floats(4, 3, 5)
    x[:, 2], y[:, 1] = 7, 2 * x[:, 1] - 3
    line = Line(3)
    for part in (slice(0, 1), slice(1, 4)):
        line.take(x[part], y[part], 1)
    gain, shift = line.fit(np.array([9, 9, 0.5]))
    assert gain.dtype == shift.dtype == np.float32
    expected = np.polyfit(x[:, 0].ravel().astype(np.float64), y[:, 0].ravel(), 1)
    np.testing.assert_allclose([gain[0], shift[0]], expected, rtol=1e-5)
    np.testing.assert_allclose([gain[1], shift[1]], [2, -3], rtol=1e-5)
    np.testing.assert_allclose([gain[2], shift[2]], [0.5, y[:, 2].mean() - 3.5], rtol=1e-5)
