"""Weights of few levels that bring a layer's outputs nearer to given ones: where rounding each
weight on its own leaves off, errors of one are made up for by others.

Arrays alone; knows nothing of graphs. Everything summed is an integer below 2**53, so that the
result is the same on every processor.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cimc.ir.types import Array

_STEPS = 1 << 12  # outputs are rounded to so many steps
_ROWS = 1 << 16  # positions that are looked at, at most
_GATHERED = 1 << 37  # positions * inputs * inputs
_HELD = 1 << 25  # inputs * inputs
_RIDGE = 0.1  # of the mean variance of inputs: weights that few samples say little of stay
_SWEEPS = 10
_WORK = 1 << 33  # inputs * inputs * outputs of all sweeps


def _sweeps(groups: int, inputs: int, outputs: int) -> int:
    return min(_SWEEPS, _WORK // max(1, groups * inputs * inputs * outputs))


def worth(q: Array) -> bool:
    """Whether levels [groups, inputs, outputs] are few enough to be refined."""
    groups, inputs, outputs = q.shape
    return groups * inputs * inputs <= _HELD and _sweeps(groups, inputs, outputs) > 0


class Refiner:
    """Gathers what a layer's levels are judged by, for each group of channels:
    inputs -1, 0, 1 [groups, rows, inputs] and float outputs [groups, rows, outputs].

    tops: the largest |output| of each channel, [groups, outputs]. most: rows that count."""

    def __init__(self, groups: int, inputs: int, tops: Any) -> None:
        outputs = int(tops.shape[1])
        self._scale: Any = _STEPS / np.where(tops > 0, tops, 1.0)
        self.most = min(_ROWS, _GATHERED // max(1, groups * inputs * inputs))
        self._rows = 0
        self._x, self._y = np.zeros((groups, inputs)), np.zeros((groups, outputs))
        self._xx = np.zeros((groups, inputs, inputs))
        self._xy = np.zeros((groups, inputs, outputs))
        self._sweeps = _sweeps(groups, inputs, outputs)

    def take(self, x: Array, y: Array) -> None:
        """More rows."""
        rows = min(x.shape[1], self.most - self._rows)
        a: Any = x[:, :rows].astype(np.float64)
        b: Any = np.rint(y[:, :rows] * self._scale[:, None])
        self._rows += rows
        self._x += a.sum(1)
        self._y += b.sum(1)
        self._xx += a.transpose(0, 2, 1) @ a
        self._xy += a.transpose(0, 2, 1) @ b

    def refine(self, q: Array, levels: tuple[int, ...]) -> Array:
        """Levels like q [groups, inputs, outputs] by coordinate descent from q: each weight in
        turn takes the level with which the best line from the sums to the outputs leaves the
        smallest squares, until none changes."""
        found = [
            self._descend(group, q[group].astype(np.float64), levels) for group in range(len(q))
        ]
        return np.stack(found).astype(np.int8)

    def _descend(self, group: int, q: Any, levels: tuple[int, ...]) -> Any:
        x, y, n = self._x[group], self._y[group], self._rows
        variance = n * self._xx[group] - np.outer(x, x)
        common = n * self._xy[group] - np.outer(x, y)
        ridge = np.rint(_RIDGE * np.trace(variance) / max(1, len(x)))
        variance[np.diag_indices(len(x))] += ridge
        along = variance @ q
        top, size = (common * q).sum(0), (q * along).sum(0)
        for _ in range(self._sweeps):
            flips = 0
            for i, row in enumerate(variance):
                step = _best(q[i], top, size, common[i], along[i], row[i], levels)
                moved = np.flatnonzero(step)
                if not moved.size:
                    continue
                top = top + step * common[i]
                size = size + 2 * step * along[i] + step * step * row[i]
                along[:, moved] += np.outer(row, step[moved])
                q[i] += step
                flips += moved.size
            if not flips:
                break
        return q


def _best(
    q: Any, top: Any, size: Any, common: Any, along: Any, own: Any, levels: tuple[int, ...]
) -> Any:
    """By how much one weight of each output should change.

    With sums s = x · q, the line gain · s + shift leaves |y|² - cov(s, y)² / var(s): the square
    is to grow, its sign to stay positive."""
    best, step = _score(top, size), np.zeros_like(top)
    for level in levels:
        by = level - q
        score = _score(top + by * common, size + by * (2 * along + by * own))
        better = score > best
        best, step = np.where(better, score, best), np.where(better, by, step)
    return step


def _score(top: Any, size: Any) -> Any:
    return np.where(size > 0, top * np.abs(top) / np.where(size > 0, size, 1.0), 0.0)
