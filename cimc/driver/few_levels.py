"""Numbers of two or three levels nearest to given ones, by least squares: weights of a channel,
activations of calibration data, and the line that makes up for the rest.

Arrays alone; knows nothing of graphs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cimc.ir.types import Array


def binary(w: Array, axis: int) -> tuple[Array, Array]:
    """The nearest α·{-1, +1} for each channel along `axis`: levels int8 like w and α float64
    [channels]. |w - α·q|² is least for q = sign(w) and α = mean |w|
    (Rastegari et al., XNOR-Net, 2016, section 3.1)."""
    wide: Any = np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1).astype(np.float64)
    levels = np.where(np.asarray(w, np.float64) < 0, -1, 1).astype(np.int8)
    return levels, np.abs(wide).mean(1)


def ternary(w: Array, axis: int) -> tuple[Array, Array]:
    """The nearest α·{-1, 0, +1} for each channel along `axis`, as `binary` gives it.

    With the k largest |w| as ±α and the others 0, α is best as their mean, and the error is
    |w|² - (sum of the k largest)² / k: the least over all k is the optimum."""
    wide: Any = np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1).astype(np.float64)
    falling = -np.sort(-np.abs(wide), axis=1)
    sums = falling.cumsum(1)
    best = np.argmax(sums**2 / np.arange(1, wide.shape[1] + 1), axis=1)[:, None]
    least = np.take_along_axis(falling, best, 1)
    alpha = np.take_along_axis(sums, best, 1)[:, 0] / (best[:, 0] + 1)
    levels = np.sign(wide) * (np.abs(wide) >= least)
    shape = (w.shape[axis], *np.delete(w.shape, axis))
    return np.moveaxis(levels.astype(np.int8).reshape(shape), 0, axis), alpha


@dataclass(frozen=True)
class TwoLevels:
    """x ≈ mean + size·q, q = high where x > threshold, else low; error is the sum of squares."""

    low: int
    high: int
    threshold: float
    mean: float
    size: float
    error: float

    @property
    def text(self) -> str:
        """The levels in words."""
        return "±1" if self.low else "0, 1"


def two_levels(x: Array, mean_allowed: bool) -> TwoLevels:
    """The nearest two levels to all numbers x, over all thresholds between them. Without a mean,
    which padded zeros would lack, the levels are 0 and β or ±β."""
    rising: Any = np.sort(x, axis=None)
    wide = rising.astype(np.float64)
    count, total, square = len(wide), float(wide.sum()), float(np.square(wide).sum())
    below = np.arange(1, count + 1)
    low_sums, above = wide.cumsum(), count - below
    ends = np.append(rising[1:] > rising[:-1], True)  # equal numbers are on one side
    high_sums = total - low_sums
    high_means = high_sums / np.maximum(above, 1)
    if mean_allowed:
        gain = np.where(ends, low_sums**2 / below + high_sums * high_means, -1.0)
        k = int(np.argmax(gain))
        low, high = low_sums[k] / below[k], high_means[k] if above[k] else low_sums[k] / below[k]
        return TwoLevels(
            -1, 1, _between(rising, k), (low + high) / 2, (high - low) / 2, square - gain[k]
        )
    gain = np.where(ends, high_sums * high_means, -1.0)
    k = int(np.argmax(gain))
    bits = TwoLevels(0, 1, _between(rising, k), 0.0, float(high_means[k]), square - gain[k])
    size = float(np.abs(wide).mean())
    signs = TwoLevels(-1, 1, 0.0, 0.0, size, square - count * size**2)
    return bits if bits.error <= signs.error else signs


def _between(rising: Any, k: int) -> float:
    """A float32 number t that x > t tells what is behind place k by."""
    if k + 1 == len(rising):
        return float(rising[k])
    middle = np.float32((float(rising[k]) + float(rising[k + 1])) / 2)
    return float(middle if rising[k] <= middle < rising[k + 1] else rising[k])


class Line:
    """Least squares y ≈ gain·x + shift for each channel, from sums over many samples."""

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._sums: Any = np.zeros((4, channels))

    def take(self, x: Array, y: Array, axis: int) -> None:
        """More numbers, their channels along `axis`."""
        a, b = (np.moveaxis(v, axis, 0).reshape(v.shape[axis], -1).astype(np.float64)
                for v in (x, y))  # fmt: skip
        self._count += a.shape[1]
        self._sums += [a.sum(1), b.sum(1), np.square(a).sum(1), (a * b).sum(1)]

    def fit(self, otherwise: Array) -> tuple[Array, Array]:
        """gain and shift, float32 [channels]; `otherwise` is the gain where x never varies."""
        n = max(self._count, 1)
        x, y, xx, xy = self._sums
        spread, common = n * xx - x * x, n * xy - x * y
        varies = spread > 1e-9 * n * xx
        gain = np.where(varies, common / np.where(varies, spread, 1.0), otherwise)
        return gain.astype(np.float32), ((y - gain * x) / n).astype(np.float32)
