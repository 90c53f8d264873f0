"""Distances between all pairs of the kernels of a layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_EXACT = 1 << 24  # columns up to which counts are exact in float32


def flat(weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Kernels [N, …] as rows [N, K]."""
    return weights.reshape(len(weights), -1)


def signs(weights: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """-1, 0 or +1 for each weight, as rows [N, K]."""
    found: npt.NDArray[np.int8] = np.sign(flat(weights)).astype(np.int8)
    return found


def hamming(codes: npt.NDArray[np.int8]) -> Ints:
    """In how many of their K columns each pair of rows differs, [N, N]. codes: [N, K] of
    -1, 0 and +1."""
    columns = codes.shape[1]
    level: npt.NDArray[Any] = codes.astype(np.float32 if columns < _EXACT else np.float64)
    size = np.abs(level)
    agree_less_differ, both = level @ level.T, size @ size.T
    neither = (1 - size) @ (1 - size).T
    equal = np.rint((agree_less_differ + both) / 2 + neither)
    found: Ints = columns - equal.astype(np.int64)
    return found


def euclidean(weights: npt.NDArray[Any]) -> Floats:
    """L2 distance of each pair of kernels, [N, N], in float64. Equal kernels have 0."""
    rows = flat(weights).astype(np.float64)
    square: Floats = (rows**2).sum(axis=1)
    distances: Floats = square[:, None] + square[None] - 2 * (rows @ rows.T)
    # Where the difference is small against the squares, the sum above has lost its digits.
    lost = distances < 1e-6 * (square[:, None] + square[None])
    for i, j in zip(*np.nonzero(np.triu(lost, 1))):
        distances[i, j] = distances[j, i] = float(((rows[i] - rows[j]) ** 2).sum())
    np.fill_diagonal(distances, 0.0)
    found: Floats = np.sqrt(np.maximum(distances, 0.0))
    return found
