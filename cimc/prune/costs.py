"""Multiply-accumulates of a network from which channels are gone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np

from cimc.ir.graph import Value
from cimc.ir.types import TensorType
from cimc.prune.spaces import Ints, Kernels, Spaces, mask_of


@dataclass(frozen=True)
class _Share:
    """Channels of a layer's kernels [groups, M] and columns [groups, C], and what a kernel and a
    column take together."""

    outs: Ints
    columns: Ints
    each: float


class Costs:
    """Multiply-accumulates of the convolutions for one sample; of all layers in a network without
    any. Sizes that are open count as 1."""

    def __init__(self, spaces: Spaces) -> None:
        spatial = [k for k in spaces.kernels if k.layer.spatial]
        self._count = spaces.count
        self._layers = []
        for layer in spatial or spaces.kernels:
            outs = layer.out.reshape(layer.groups, -1)
            pairs = outs.size * layer.columns.shape[1]
            self._layers.append(_Share(outs, layer.columns, _macs(layer) / max(pairs, 1)))
        self.total = self.of(())

    def of(self, gone: Iterable[int]) -> float:
        """What is left without the channels."""
        lost = mask_of(gone, self._count)
        kept = (
            s.each * float(np.dot((~lost[s.outs]).sum(1), (~lost[s.columns]).sum(1)))
            for s in self._layers
        )
        return sum(kept)

    def removed(self, gone: Iterable[int]) -> float:
        """The share that went with the channels."""
        return 1.0 - self.of(gone) / self.total if self.total else 0.0


def _macs(layer: Kernels) -> int:
    """Of a convolution: its weights at each position of its result (a transposed one's: of its
    data); of a product: at each row of its result."""
    if not layer.layer.spatial:
        return prod(_sizes(layer.node.outputs[0])[:-1]) * prod(_sizes(layer.weights)[-2:])
    transposed = layer.layer.out_axis != 0
    place = layer.node.arg(layer.layer.data) if transposed else layer.node.outputs[0]
    return prod(_sizes(place)[2:]) * prod(_sizes(layer.weights))


def _sizes(value: Value) -> list[int]:
    if not isinstance(value.type, TensorType) or value.type.shape is None:
        return [0]
    return [d if isinstance(d, int) else 1 for d in value.type.shape]
