"""Similarity of a layer's kernels, and the order in which its picture shows them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]


def cosines(rows: npt.NDArray[Any]) -> Floats:
    """The cosine of the angle between each pair of kernels [N, …], [N, N]: 1 for the same
    direction, -1 for a complement; of signs 1 - 2 x the share of weights that differ. NaN for
    kernels of zeros."""
    flat = rows.reshape(len(rows), -1).astype(np.float32)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    unit = np.divide(flat, length, out=np.full_like(flat, np.nan), where=length > 0)
    found: Floats = np.clip(unit @ unit.T, -1, 1)
    return found


def clustered(similarity: Floats) -> Indices:
    """An order of the kernels in which similar ones, complements included, stand together.

    The kernel with most others nearer than the mean distance less one standard deviation leads a
    cluster of these, nearest first; then the rest likewise. Distance: 1 - |cosine|. Kernels of
    zeros come last."""
    distance = 1 - np.abs(np.nan_to_num(similarity, nan=0.0))
    zero = np.isnan(np.diagonal(similarity))
    live = np.flatnonzero(~zero)
    pairs = distance[np.ix_(live, live)][np.triu_indices(len(live), 1)]
    limit = float(pairs.mean() - pairs.std()) if len(pairs) else 0.0
    near = (distance <= limit) & ~zero[:, None] & ~zero[None]
    np.fill_diagonal(near, False)
    order: list[int] = []
    left = ~zero
    while left.any():
        counts = np.where(left, (near & left[None]).sum(axis=1), -1)
        leader = int(np.argmax(counts))
        if counts[leader] == 0:
            order += np.flatnonzero(left).tolist()  # nobody is near to anybody
            break
        left[leader] = False
        mates = np.flatnonzero(near[leader] & left)
        order += [leader, *mates[np.argsort(distance[leader, mates], kind="stable")].tolist()]
        left[mates] = False
    return np.array([*order, *np.flatnonzero(zero).tolist()], np.intp)
