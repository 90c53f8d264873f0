"""Which kernels go: the published criteria and our own, on the live kernels of layers.

Arrays in, masks out; knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.similarity import criteria
from cimc.train.channels import Channels, Layer

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
_NEAREST = 0.02
"""What a kernel costs whose twin stays, as a share of its importance: more than nothing, so that of
twins the less important one goes."""


@dataclass(frozen=True)
class Published:
    """A criterion of the published scripts, see `cimc.similarity.criteria`. name: `binary`
    (Hamming distance of signs) or `float` (L2). mode, of binary: `intent`, or `literal`: kernels
    are overwritten by their signs, those that go by zeros, and nothing else is taken out."""

    name: str
    mode: str = "intent"
    b: Fraction | None = None
    c: Fraction | None = None

    def __post_init__(self) -> None:
        if self.name not in ("binary", "float") or self.mode not in criteria.MODES:
            raise ValueError("published criteria are binary (intent or literal) and float")

    def pruned(self, weights: npt.NDArray[Any]) -> Bools:
        """Kernels that go, [N]. weights: [N, …], zeros where a kernel is gone already."""
        if self.name == "float":
            b, c = self.b or criteria.FLOAT_B, self.c or criteria.FLOAT_C
            return criteria.published_float(weights, b, c).pruned
        b, c = self.b or criteria.BINARY_B, self.c or criteria.BINARY_C
        return criteria.published_binary(weights, b, c, self.mode).pruned


@dataclass(frozen=True)
class Nearest:
    """Our own: of kernels that are alike one stays, up to a budget of operations.

    Kernels i and j are as alike as |cos| of their weights, so that a complement (-w) is a twin:
    for ±1 that is |1 - 2d/K| of the Hamming distance d. A kernel costs what it does to the loss
    times what no other kernel can stand for, for each multiply-accumulate saved; the cheapest goes
    first, one by one.

    remove: share of the dense convolutions' MACs that is gone in the end. most: at most this share
    of a layer's kernels goes; by layer name in `limits`. regrow: this share of the kernels that
    were masked returns at each pruning but the last, those least like living ones. merge: layers
    behind add what a kernel fed them to what its representative does.
    """

    remove: float
    most: float = 0.9
    limits: tuple[tuple[str, float], ...] = ()
    regrow: float = 0.0
    merge: bool = True

    def __post_init__(self) -> None:
        shares = (self.remove, self.most, self.regrow, *(share for _, share in self.limits))
        if not all(0 <= share < 1 for share in shares):
            raise ValueError("shares are 0 to 1, without 1")

    def least(self, layer: Layer, kernels: int) -> int:
        """How many of a layer's kernels stay at least, one or more."""
        share = dict(self.limits).get(layer.name, self.most)
        return max(1, kernels - int(share * kernels + 1e-9))


def alike(rows: npt.NDArray[Any]) -> Floats:
    """Cosines of all pairs of rows, [N, N]; 0 for rows of zeros and on the diagonal."""
    size = np.sqrt((rows.astype(np.float64) ** 2).sum(1, keepdims=True))
    unit = rows / np.where(size > 0, size, 1)
    found: Floats = unit @ unit.T
    np.fill_diagonal(found, 0)
    return found


@dataclass(frozen=True)
class Step:
    """A kernel that goes: its channel, and the one that stands for it with the sign of their
    likeness."""

    channel: int
    twin: int
    sign: int


def cheapest_first(
    channels: Channels,
    prunable: list[Layer],
    live: Bools,
    rows: Callable[[Layer], npt.NDArray[Any]],
    importance: Floats,
    least: Callable[[Layer], int],
    budget: int,
) -> tuple[list[Step], list[str]]:
    """Kernels that go until the live convolutions have at most `budget` MACs, in order, and the
    layers that reached their least.

    live, importance: by channel number. rows: a layer's kernels [N, K], zeros where an input
    channel is gone. least: how many kernels of a layer stay.
    """
    live, steps, full = live.copy(), list[Step](), list[str]()
    near = {layer.name: alike(rows(layer)) for layer in prunable}
    saving = {layer.name: [layer, *channels.readers(layer.name)] for layer in prunable}
    while _macs(channels, live) > budget:
        best: tuple[float, Step] | None = None
        for layer in prunable:
            if live[layer.out].sum() <= least(layer):
                if layer.name not in full:
                    full.append(layer.name)
                continue
            found = _cheapest(layer, saving[layer.name], live, near[layer.name], importance)
            if best is None or found[0] < best[0]:
                best = found
        if best is None:
            break
        steps.append(best[1])
        live[best[1].channel] = False
    return steps, full


def _cheapest(
    layer: Layer, around: list[Layer], live: Bools, near: Floats, importance: Floats
) -> tuple[float, Step]:
    alive = np.nonzero(live[layer.out])[0]
    likeness = near[np.ix_(alive, alive)]
    twin = np.abs(likeness).argmax(1)
    alone = 1 - np.abs(likeness)[np.arange(len(alive)), twin]
    saved = sum(_saved(one, live, layer) for one in around)
    cost = importance[layer.out[alive]] * (alone + _NEAREST) / max(saved, 1)
    i = int(cost.argmin())
    j = int(twin[i])
    sign = -1 if likeness[i, j] < 0 else 1
    channels = layer.out[alive]
    return float(cost[i]), Step(int(channels[i]), int(channels[j]), sign)


def _saved(one: Layer, live: Bools, layer: Layer) -> int:
    """MACs of a convolution that go with one kernel of `layer`."""
    if not one.convolution:
        return 0
    count = live[layer.out].sum()
    return int(one.macs(live) / count) if count else 0


def _macs(channels: Channels, live: Bools) -> int:
    return sum(layer.macs(live) for layer in channels.layers if layer.convolution)
