"""Least squares of kernels from second moments: free weights, and weights of one magnitude."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_BLOCK = 20_000  # rows whose products are summed in float32 at once
_GAIN = 1e-5  # share of the target's variance that a change of sign has to explain
_ROUNDS = 1000


@dataclass(frozen=True)
class Moments:
    """Of rows x [R, K] with targets t [R, M], all about the mean: within: x'x / R [K, K], cross:
    x't / R [K, M], target: variances of t [M]; and the means themselves. Of several groups side by
    side, every array has one more axis in front."""

    rows: int
    within: Floats
    cross: Floats
    target: Floats
    x_mean: Floats
    t_mean: Floats

    def group(self, g: int) -> Moments:
        """Those of one group."""
        return Moments(
            self.rows, self.within[g], self.cross[g], self.target[g], self.x_mean[g], self.t_mean[g]
        )


def moments(x: npt.NDArray[np.float32], t: npt.NDArray[np.float32]) -> Moments:
    """x: [..., R, K], t: [..., R, M], in front the groups."""
    rows = x.shape[-2]
    x_mean, t_mean = x.mean(-2, dtype=np.float64), t.mean(-2, dtype=np.float64)
    within = np.zeros((*x_mean.shape, x.shape[-1]))
    cross, target = np.zeros((*x_mean.shape, t.shape[-1])), np.zeros(t_mean.shape)
    for i in range(0, rows, _BLOCK):
        a = x[..., i : i + _BLOCK, :] - x_mean[..., None, :].astype(np.float32)
        b = t[..., i : i + _BLOCK, :] - t_mean[..., None, :].astype(np.float32)
        within += a.swapaxes(-1, -2) @ a
        cross += a.swapaxes(-1, -2) @ b
        target += np.einsum("...ij,...ij->...j", b, b, dtype=np.float64)
    return Moments(rows, within / rows, cross / rows, target / rows, x_mean, t_mean)


def ridge(m: Moments, start: Floats) -> tuple[Floats, Floats]:
    """Weights [..., M, K] and offsets [..., M] of least squares, drawn towards `start`.

    The penalty is the mean variance of a column times K/R: what the noise of R rows is worth."""
    columns = m.within.shape[-1]
    level = np.trace(m.within, axis1=-2, axis2=-1) / m.rows
    system = m.within + np.eye(columns) * np.maximum(level, 1e-12)[..., None, None]
    left = m.cross - m.within @ start.swapaxes(-1, -2)
    weights = start + np.linalg.solve(system, left).swapaxes(-1, -2)
    return weights, m.t_mean - (weights @ m.x_mean[..., None])[..., 0]


def affine(m: Moments, weights: Floats) -> tuple[Floats, Floats]:
    """Gain and offset [M] with which x·weights [M, K] comes nearest to the target. The gain of a
    kernel that is unrelated to it, or negatively, is 1."""
    hit = np.einsum("mk,km->m", weights, m.cross)
    size = np.einsum("mk,mk->m", weights @ m.within, weights)
    fits = (hit > 0) & (size > 0)
    gain = np.where(fits, hit / np.where(fits, size, 1.0), 1.0)
    return gain, m.t_mean - gain * (weights @ m.x_mean)


def affine_of(y: npt.NDArray[np.float32], t: npt.NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Gain and offset [..., M] with which y [..., R, M] comes nearest to t, as in `affine`."""
    y_mean, t_mean = y.mean(-2, dtype=np.float64), t.mean(-2, dtype=np.float64)
    hit = ((y - y_mean[..., None, :]) * (t - t_mean[..., None, :])).mean(-2)
    size = y.var(-2, dtype=np.float64)
    fits = (hit > 0) & (size > 0)
    gain = np.where(fits, hit / np.where(fits, size, 1.0), 1.0)
    return gain, t_mean - gain * y_mean


def flip(m: Moments, weights: Floats) -> Floats:
    """Kernels [M, K] with some signs changed, so that each comes nearer to its target up to a gain
    and an offset. Magnitudes and zeros stay.

    One sign of each kernel at a time, the one that raises the correlation most: the gain of a
    kernel w is hit²/size with hit = w·cross, size = w'·within·w."""
    w = weights.T.copy()
    product = m.within @ w
    hit = np.einsum("km,km->m", w, m.cross)
    size = np.einsum("km,km->m", w, product)
    diagonal = np.diag(m.within)[:, None]
    active = np.arange(w.shape[1])
    for _ in range(_ROUNDS):
        v = w[:, active]
        new_hit = hit[active] - 2 * v * m.cross[:, active]
        new_size = size[active] - 4 * v * product[:, active] + 4 * v * v * diagonal
        score = np.where((v != 0) & (new_hit > 0), new_hit**2 / np.maximum(new_size, 1e-12), -1.0)
        best = score.argmax(0)
        at = np.arange(len(active))
        now = np.where(hit[active] > 0, hit[active] ** 2 / np.maximum(size[active], 1e-12), 0.0)
        better = score[best, at] > now + _GAIN * m.target[active]
        if not better.any():
            break
        rows, active = best[better], active[better]
        hit[active], size[active] = new_hit[rows, at[better]], new_size[rows, at[better]]
        product[:, active] -= 2 * w[rows, active] * m.within[:, rows]
        w[rows, active] *= -1
    flipped: Floats = w.T.copy()
    return flipped
