"""The published criteria against transcriptions of the published rules, written without
knowledge of `cimc.similarity`: loops over pairs, Python integers, Fractions and `math`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from cimc.similarity.criteria import (
    BINARY_B,
    BINARY_C,
    FLOAT_B,
    FLOAT_C,
    decide,
    published_binary,
    published_float,
)

Rows = list[list[float]]
SETS = 200


# -- the rules, pair by pair -----------------------------------------------------------


@dataclass
class Verdict:
    live: list[bool]
    counts: list[int]
    pruned: list[bool]
    threshold: Fraction | float | None


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _pairs(live: list[bool]) -> list[tuple[int, int]]:
    size = len(live)
    return [(i, j) for i in range(size) for j in range(i + 1, size) if live[i] and live[j]]


def _judged(
    live: list[bool], near: list[tuple[int, int]], limit: Fraction, threshold: Any
) -> Verdict:
    counts = [0] * len(live)
    for i, j in near:
        counts[i] += 1
        counts[j] += 1
    return Verdict(live, counts, [count > limit for count in counts], threshold)


def _exact(
    distances: dict[tuple[int, int], int], live: list[bool], others: int, b: Fraction, c: Fraction
) -> Verdict:
    """mean - b·variance of the pairs' distances, population variance, as a Fraction."""
    if not distances:
        return Verdict(live, [0] * len(live), [False] * len(live), None)
    values = [Fraction(d) for d in distances.values()]
    mean = sum(values) / len(values)
    variance = sum((d - mean) ** 2 for d in values) / len(values)
    threshold = mean - b * variance
    near = [pair for pair, d in distances.items() if d < threshold]
    return _judged(live, near, c * others, threshold)


def binary(rows: Rows, b: Fraction, c: Fraction, literal: bool) -> Verdict:
    signs = [[_sign(w) for w in row] for row in rows]
    if literal:
        live = [sum(row) != 0 for row in signs]
        others = len(rows) - 1
    else:
        live = [any(row) for row in signs]
        others = sum(live) - 1
    distances = {(i, j): sum(p != q for p, q in zip(signs[i], signs[j])) for i, j in _pairs(live)}
    return _exact(distances, live, others, b, c)


def real(rows: Rows, b: Fraction, c: Fraction) -> Verdict:
    live = [sum(abs(w) for w in row) > 1e-8 for row in rows]
    if len(rows) <= 1 or sum(live) <= 1:
        return Verdict(live, [0] * len(rows), [False] * len(rows), None)
    distances = {
        (i, j): math.sqrt(math.fsum((p - q) ** 2 for p, q in zip(rows[i], rows[j])))
        for i, j in _pairs(live)
    }
    values = list(distances.values())
    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((d - mean) ** 2 for d in values) / len(values))
    threshold = max(mean - float(b) * deviation, 0.0)
    near = [pair for pair, d in distances.items() if d < threshold]
    return _judged(live, near, c * (sum(live) - 1), threshold)


# -- random weights --------------------------------------------------------------------


def _case(seed: int, whole: bool) -> tuple[np.ndarray, Fraction, Fraction]:
    """Weights and constants: the published ones in half of the cases, else others, from such
    that no pair is near to such that all are. whole: few levels, so that distances tie."""
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 25)), int(rng.integers(1, 5)), *rng.choice([1, 2, 3], 2))
    if whole or seed % 4 == 0:
        weights = rng.integers(-2, 3, shape).astype(np.float32)
    else:
        weights = rng.standard_normal(shape).astype(np.float32)
    if seed % 3 == 0:  # dead kernels
        weights[rng.random(len(weights)) < 0.3] = 0
    if seed % 5 == 0:  # kernels that are alike
        weights[rng.random(len(weights)) < 0.4] = weights[0]
    if seed % 7 == 0:  # as many of one sign as of the other, where their number is even
        flat = weights.reshape(len(weights), -1)
        flat[:] = rng.permuted(np.tile([1, -1], flat.size)[: flat.size].reshape(flat.shape), axis=1)
    if seed % 2:
        b, c = (BINARY_B, BINARY_C) if whole else (FLOAT_B, FLOAT_C)
    else:
        b = Fraction(int(rng.integers(-3000, 3001)), 1000)
        c = Fraction(int(rng.integers(0, 101)), 100)
    return weights, b, c


def _rows(weights: np.ndarray) -> Rows:
    return [[float(w) for w in kernel.ravel()] for kernel in weights]


def _assert_same(found: Any, wanted: Verdict, where: str) -> None:
    assert found.live.tolist() == wanted.live, where
    assert found.counts.tolist() == wanted.counts, where
    assert found.pruned.tolist() == wanted.pruned, where


@pytest.mark.parametrize("mode", ["literal", "intent"])
def test_binary_on_random_weights(mode: str) -> None:
    some = {"pruned": 0, "all live": 0, "one kernel": 0, "dead": 0, "balanced": 0, "tie": 0}
    some |= {"below none": 0, "above all": 0}
    for seed in range(SETS):
        weights, b, c = _case(seed, whole=seed % 2 == 0)
        rows = _rows(weights)
        wanted = binary(rows, b, c, mode == "literal")
        found = published_binary(weights, b, c, mode)
        _assert_same(found, wanted, f"seed {seed}")
        assert found.threshold == wanted.threshold, f"seed {seed}"
        distances = [int(found.distances[i, j]) for i, j in _pairs(wanted.live)]
        some["pruned"] += any(wanted.pruned)
        some["all live"] += all(wanted.live)
        some["one kernel"] += len(rows) == 1
        some["dead"] += any(not any(row) for row in rows)
        some["balanced"] += any(any(row) and not sum(map(_sign, row)) for row in rows)
        some["tie"] += wanted.threshold in distances
        some["below none"] += wanted.threshold is not None and wanted.threshold < 0
        some["above all"] += wanted.threshold is not None and wanted.threshold > max(distances)
    assert all(count >= 3 for count in some.values()), some


def test_float_on_random_weights() -> None:
    some = {"pruned": 0, "all live": 0, "one kernel": 0, "dead": 0, "zero": 0, "above all": 0}
    for seed in range(SETS):
        weights, b, c = _case(seed, whole=False)
        wanted = real(_rows(weights), b, c)
        found = published_float(weights, b, c)
        _assert_same(found, wanted, f"seed {seed}")
        some["pruned"] += any(wanted.pruned)
        some["all live"] += all(wanted.live)
        some["one kernel"] += len(weights) == 1
        some["dead"] += not all(wanted.live)
        some["zero"] += wanted.threshold == 0
        if wanted.threshold is not None:
            assert found.threshold == pytest.approx(wanted.threshold, rel=1e-12, abs=1e-12)
            near = sum(wanted.counts) // 2
            some["above all"] += near == len(_pairs(wanted.live)) > 0
    assert all(count >= 3 for count in some.values()), some


# -- directed cases --------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["literal", "intent"])
def test_one_distance_is_its_own_threshold(mode: str) -> None:
    """Two kernels: the variance is 0, the mean the distance, and a tie is not near."""
    weights = np.array([[1, 1, 1], [1, 1, -1]])
    assert published_binary(weights, mode=mode).threshold == 1
    assert not published_binary(weights, mode=mode).pruned.any()


@pytest.mark.parametrize("size", range(2, 41))
@pytest.mark.parametrize("scale", [1.0, 0.1, 1 / 3, 7e-5])
@pytest.mark.parametrize("b", [Fraction(0), Fraction(1, 2), Fraction(1)])
def test_equal_float_distances_are_not_near(size: int, scale: float, b: Fraction) -> None:
    """All pairs at one distance that is no float (√2): the mean is that distance, none is
    below it, however sums are rounded."""
    assert not published_float(scale * np.eye(size), b=b).counts.any()


def test_the_lowest_byte_is_no_zero() -> None:
    """-128 has no absolute value in int8."""
    weights = np.array([[-128, 0], [127, 1], [3, 3]], np.int8)
    assert published_float(weights).live.all()
    assert published_binary(weights).live.all()


def test_balanced_kernels_differ_by_mode() -> None:
    """Signs that sum to 0 leave a kernel out in `literal` only."""
    weights = np.array([[1, -1, 1, -1], [1, 1, 1, -1], [1, 1, 1, 1], [1, 1, 1, -1]])
    assert published_binary(weights, mode="literal").live.tolist() == [False, True, True, True]
    assert published_binary(weights, mode="intent").live.all()


def test_share_of_near_kernels_is_exact() -> None:
    """Near to 3 of 20 others is not more than 0.15 · 20."""
    live = np.ones(21, np.bool_)
    distances = np.full((21, 21), 10)
    for other in (1, 2, 3):
        distances[0, other] = distances[other, 0] = 1
    kept = decide(distances, live, 20, Fraction(0), Fraction(15, 100))
    gone = decide(distances, live, 20, Fraction(0), Fraction(149, 1000))
    assert kept.counts[0] == gone.counts[0] == 3
    assert not kept.pruned[0]
    assert gone.pruned[0]


@pytest.mark.parametrize("top", [1 << 20, 1 << 34, 1 << 44, 1 << 60])
@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_sums_beyond_64_bits(top: int, offset: int) -> None:
    """d·P² and P·S2 of large distances need more than 64 bits. A distance at, just above and
    just below the threshold is told apart."""
    size = 24
    rng = np.random.default_rng(top % 1000 + offset)
    live = [bool(v) for v in rng.random(size) < 0.9]
    square = np.full((size, size), top)
    for i, j in _pairs(live):
        square[i, j] = square[j, i] = top + int(rng.integers(-2, 3))
    first, second = _pairs(live)[:2]
    for pair in (first, second):
        square[pair] = square[pair[::-1]] = top + offset
    distances = {pair: int(square[pair]) for pair in _pairs(live)}
    for b in (Fraction(0), BINARY_B, Fraction(1, 1 << 40), Fraction(-5, 3)):
        wanted = _exact(distances, live, size - 1, b, BINARY_C)
        found = decide(square, np.array(live), size - 1, b, BINARY_C)
        _assert_same(found, wanted, f"b={b}")
        assert found.threshold == wanted.threshold
