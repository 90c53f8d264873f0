"""The published criterion on kernels as a tile stores them: bit planes, each with its weight.

What the search inside the array finds is held against it. For kernels of signs it is
`published_binary`.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from cimc.similarity.criteria import Decision, decide
from cimc.similarity.distances import Bools, Ints, hamming


def stored_distances(planes: Any, weights: Sequence[int]) -> Ints:
    """In how many of its cells each pair of kernels differs, a cell of plane p counting as
    weights[p]: [N, N]. planes: 0 and 1 of shape [P, N, K]."""
    count = planes.shape[1]
    total: Ints = np.zeros((count, count), np.int64)
    for bits, weight in zip(planes, weights, strict=True):
        total += weight * hamming((bits.astype(np.int8) * 2 - 1).reshape(count, -1))
    return total


def stored_live(rows: Any, mode: str) -> Bools:
    """Which kernels are compared: with mode=literal those whose weights don't sum to 0, else
    those that have a weight other than 0. rows: the weights, integers of shape [N, K]."""
    alive: Bools = rows.sum(axis=1, dtype=np.int64) != 0 if mode == "literal" else rows.any(axis=1)
    return alive


def stored_decision(
    rows: Any, planes: Any, weights: Sequence[int], b: Fraction, c: Fraction, mode: str
) -> Decision:
    """Near below mean - b·variance of the distances; gone where near to more than c·(N - 1)
    others, N being all kernels with mode=literal, else those that are compared."""
    live = stored_live(rows, mode)
    others = (len(rows) if mode == "literal" else int(live.sum())) - 1
    return decide(stored_distances(planes, weights), live, others, b, c)
