"""The published criteria: which kernels of one layer are pruned, all from one snapshot.

Source: the scripts of arXiv 2506.13151 (binary networks, float networks). A pair is near where
its distance lies below a threshold that follows from the distances of all pairs; a kernel
goes where it is near to more than a share of the others. Both kernels of a pair count.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.similarity.distances import Bools, Floats, Ints, euclidean, flat, hamming, signs

MODES = ("intent", "literal")
BINARY_B, BINARY_C = Fraction(146, 1000), Fraction(15, 100)
"""Defaults of the published script for binary networks."""
FLOAT_B, FLOAT_C = Fraction(1), Fraction(1, 10)
"""Defaults of the published scripts for float networks."""
_ZERO = 1e-8  # a float kernel whose absolute weights sum to no more is pruned already


@dataclass(frozen=True)
class Decision:
    """pruned: kernels that go, [N]; live: kernels that were compared, [N]; counts: to how many
    others each is near, [N]; distances: [N, N]; threshold: below it a pair is near (None
    where no pair was compared)."""

    pruned: Bools
    live: Bools
    counts: Ints
    distances: Ints | Floats
    threshold: Fraction | float | None


def published_binary(
    weights: npt.NDArray[Any],
    b: Fraction = BINARY_B,
    c: Fraction = BINARY_C,
    mode: str = "intent",
) -> Decision:
    """Hamming distance of signs; near below mean - b·variance; gone where near to more than
    c·(N - 1) others. In exact integers.

    weights: [N, …], any numbers; only their signs count, and a weight of 0 is its own level.
    mode: `literal` leaves out a kernel whose signs sum to 0, as the script does, and takes all
    kernels for N, those that are zero already included; `intent` leaves out kernels of zeros
    only, and N counts the others.
    """
    codes = signs(weights)
    live: Any = codes.sum(axis=1) != 0 if mode == "literal" else codes.any(axis=1)
    distances = hamming(codes)
    others = (len(codes) if mode == "literal" else int(live.sum())) - 1
    return decide(distances, live, others, b, c)


def decide(distances: Ints, live: Bools, others: int, b: Fraction, c: Fraction) -> Decision:
    """The decision from integer distances [N, N] of the live kernels [N]: near where
    d·P² < S1·P - b·(P·S2 - S1²), S1 and S2 being the sums of the distances and of their
    squares over the P pairs; gone where the count exceeds c·others."""
    pairs = distances[np.triu(live[:, None] & live[None], 1)]
    count = len(pairs)
    if not count:
        return _nobody(distances, live)
    # Python's integers: sums of large distances leave 64 bits.
    found = [(int(d), int(n)) for d, n in zip(*np.unique(pairs, return_counts=True))]
    first = sum(d * n for d, n in found)
    second = sum(d * d * n for d, n in found)
    threshold = Fraction(first, count) - b * Fraction(count * second - first**2, count**2)
    below = -(-threshold.numerator // threshold.denominator)  # d < T is d < ceil(T) for integers
    return _counted(distances, live, distances < below, others, c, threshold)


def published_float(
    weights: npt.NDArray[Any], b: Fraction = FLOAT_B, c: Fraction = FLOAT_C
) -> Decision:
    """L2 distance; near below max(mean - b·standard deviation, 0); gone where near to more than
    c·(live kernels - 1) others. weights: [N, …]; kernels of zeros are not compared. Distances
    in float64."""
    live = np.abs(flat(weights).astype(np.float64)).sum(axis=1) > _ZERO
    distances = euclidean(weights)
    pairs = distances[np.triu(live[:, None] & live[None], 1)]
    if not len(pairs):
        return _nobody(distances, live)
    low = pairs.min()
    above = pairs - low  # so that equal distances have exactly themselves as their mean
    threshold = max(float(low + above.mean() - float(b) * above.std()), 0.0)
    return _counted(distances, live, distances < threshold, int(live.sum()) - 1, c, threshold)


def _nobody(distances: Ints | Floats, live: Bools) -> Decision:
    none = np.zeros(len(live), np.bool_)
    return Decision(none, live, np.zeros(len(live), np.int64), distances, None)


def _counted(
    distances: Ints | Floats,
    live: Bools,
    near: Bools,
    others: int,
    c: Fraction,
    threshold: Fraction | float,
) -> Decision:
    compared = live[:, None] & live[None]
    np.fill_diagonal(compared, False)
    counts: Ints = (near & compared).sum(axis=1, dtype=np.int64)
    # Python's integers: the share may be any fraction.
    pruned = np.array([int(n) * c.denominator > c.numerator * others for n in counts], np.bool_)
    return Decision(pruned & live, live, counts, distances, threshold)
