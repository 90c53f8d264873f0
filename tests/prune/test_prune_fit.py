"""Least squares of kernels, and the effect of channels, against direct computation."""

from __future__ import annotations

import numpy as np
import pytest

from cimc.prune.effect import Effects, Inputs, representatives, similarity
from cimc.prune.fit import affine, affine_of, flip, moments, ridge


def _rows(count: int, columns: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((count, columns)) @ rng.standard_normal((columns, columns))
    return (mixed + rng.standard_normal(columns)).astype(np.float32)


def test_ridge_solves_its_penalised_problem() -> None:
    x, rng = _rows(300, 6), np.random.default_rng(1)
    t = rng.standard_normal((300, 2)).astype(np.float32)
    start = rng.standard_normal((2, 6))
    weights, offset = ridge(moments(x, t), start)
    # The same with the penalty as more rows of the system.
    a = (x - x.mean(0)).astype(np.float64)
    level = np.sqrt(a.var(0).sum())  # R · (variance / K) · (K / R)
    left = np.vstack([t - t.mean(0) - a @ start.T, np.zeros((6, 2))])
    move = np.linalg.lstsq(np.vstack([a, level * np.eye(6)]), left, rcond=None)[0]
    np.testing.assert_allclose(weights, start + move.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(offset, t.mean(0) - weights @ x.mean(0), rtol=1e-4, atol=1e-5)


def test_groups_side_by_side_are_fitted_each_for_itself() -> None:
    x = np.stack([_rows(100, 4, s) for s in range(3)])
    t = np.stack([_rows(100, 2, s + 9) for s in range(3)])
    start = np.zeros((3, 2, 4))
    weights, offset = ridge(moments(x, t), start)
    for g in range(3):
        one, shift = ridge(moments(x[g], t[g]), start[g])
        np.testing.assert_allclose(weights[g], one)
        np.testing.assert_allclose(offset[g], shift)


def test_planted_signs_are_found_again() -> None:
    rng = np.random.default_rng(2)
    x = rng.choice([-1.0, 1.0], (4000, 24)).astype(np.float32)
    planted = rng.choice([-0.5, 0.5], (5, 24))
    planted[:, 3] = 0.0
    t = (3 * x @ planted.T + 7).astype(np.float32)
    spoilt = planted.copy()
    spoilt[:, :6] *= -1
    m = moments(x, t)
    found = flip(m, spoilt)
    np.testing.assert_array_equal(found, planted)
    gain, offset = affine(m, found)
    np.testing.assert_allclose(gain, 3.0, rtol=1e-3)
    np.testing.assert_allclose(offset, 7.0, atol=1e-2)
    for a, b in zip(affine_of((x @ planted.T).astype(np.float32), t), (gain, offset)):
        np.testing.assert_allclose(a, b, rtol=1e-4)


def _inputs(x: np.ndarray, weights: np.ndarray, fine: bool) -> Inputs:
    """x: [R, C, T]; weights: [C, T, M]."""
    flat = x.reshape(len(x), -1)
    taps = np.moveaxis(x, 2, 1).reshape(-1, x.shape[1])
    return Inputs(
        np.arange(10, 10 + x.shape[1]),
        np.cov(taps.T, bias=True),
        np.cov(flat.T, bias=True) if fine else None,
        weights.astype(np.float32),
        np.arange(100, 100 + weights.shape[2]),
    )


@pytest.mark.parametrize("gone", [(), (11,), (12, 10)])
def test_the_effect_is_the_error_that_least_squares_leaves(gone: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((500, 5, 2)) + rng.standard_normal((500, 1, 1))
    weights = rng.standard_normal((5, 2, 3))
    effects = Effects(_inputs(x, weights, fine=True), gone)

    def error(lost: set[int]) -> float:
        kept = [c for c in range(5) if 10 + c not in lost]
        a = x[:, kept].reshape(500, -1).astype(np.float64)
        a = np.hstack([a, np.ones((500, 1))])
        t = x.reshape(500, -1) @ weights.reshape(10, 3)
        return float(((t - a @ np.linalg.lstsq(a, t, rcond=None)[0]) ** 2).mean())

    for channel in {10, 11, 12, 13, 14} - set(gone):
        more = error({*gone, channel}) - error(set(gone))
        assert effects.of(channel) == pytest.approx(more, rel=0.05)


@pytest.mark.parametrize("fine", [True, False])
def test_a_complement_costs_nothing_and_has_its_representative(fine: bool) -> None:
    x = _rows(400, 4, 5).reshape(400, 4, 1)
    x[:, 2] = 1 - 2 * x[:, 0]
    inputs = _inputs(x, np.random.default_rng(6).standard_normal((4, 1, 3)), fine)
    effects = Effects(inputs, ())
    assert effects.of(12) < 0.1 * effects.of(11)  # not zero: the covariance is damped
    effects.remove(12)
    assert effects.of(10) > 0.01
    assert 12 not in effects
    similar = similarity(inputs)
    assert similar.has_edge(10, 12)
    found = representatives(inputs, similar, {12})
    assert found[12] == (10, pytest.approx(-2.0, rel=1e-5))
    assert representatives(inputs, similar, {10, 12}).get(12, (0, 0))[0] not in (10, 12)


def test_kernels_that_go_too_do_not_count() -> None:
    x = _rows(400, 3, 7).reshape(400, 3, 1)
    weights = np.zeros((3, 1, 2))
    weights[0, 0, 0] = weights[1, 0, 1] = weights[2, 0, 1] = 1.0
    effects = Effects(_inputs(x, weights, True), {100})
    assert effects.of(10) < 1e-6 < effects.of(11)
