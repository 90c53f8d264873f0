"""Channels: the indices of tensor axes that can only go together.

Index i of an axis of one value is tied to an index of another where an operation makes the
one of the other alone: the channels of a convolution's result with its kernels, those with the
channels behind a normalisation, a sum, a pool. A channel is a connected set of such indices.
It begins at the kernels that make it and ends at the columns of the layers that sum over
it. What an operation does to each index is written in `ties.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.ir.graph import Graph, Node, Value
from cimc.ir.types import TensorType
from cimc.prune.atoms import Ties
from cimc.prune.layers import LAYERS, Layer
from cimc.prune.ties import TIES

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Kernels:
    """A layer with constant weights and the channels around it, as numbers of `Spaces`.

    out: channel of each kernel, [N]. columns: channel of each input of a kernel, [groups, C]:
    column c of the kernels of group g sums over channel columns[g, c].
    """

    node: Node
    layer: Layer
    weights: Value
    out: Ints
    columns: Ints

    @property
    def groups(self) -> int:
        return len(self.columns)


class Spaces:
    """The channels of a graph, numbered from 0.

    locked: why a channel can't go, by number; a channel that is not in it can.
    kernels: the layers with weights, in order. Constants of a layer's own count as its own,
    even where the graph holds them once for several operations; weights don't.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        ties = Ties(graph)
        for node in graph.nodes:
            TIES.get(node.op, Ties.unknown)(ties, node)
        ties.settle()
        for value in graph.outputs:
            name = dict(zip(graph.outputs, graph.output_names)).get(value, value.name)
            ties.lock(value, f"they are the result '{name}'")
        for value in graph.inputs:
            ties.lock(value, "they are an input of the model")
        self._ties = ties
        self._number, self.locked = ties.channels()
        self.count = int(self._number.max(initial=-1)) + 1
        self.kernels = [k for node in graph.nodes if (k := self._kernels(node)) is not None]

    def of(self, value: Value) -> list[Ints]:
        """The channels along each axis of a result or an input; a symbolic axis has one index."""
        return [self._number[atoms] for atoms in self._ties.atoms(value)]

    def operand(self, node: Node, slot: int) -> list[Ints]:
        """The channels along each axis of an operand, constants included; empty for what is no
        tensor."""
        return [self._number[atoms] for atoms in self._ties.operand(node, slot)]

    def _kernels(self, node: Node) -> Kernels | None:
        layer = LAYERS.get(node.op)
        found = None if layer is None else layer.oriented(node, self._ties.constant)
        if found is None:
            return None
        w = node.operand(found.weights)
        out = node.outputs[0].type
        if w is None or not isinstance(w.type, TensorType) or not isinstance(out, TensorType):
            return None
        if w.tensor.static is None or out.shape is None or not self._ties.constant(w):
            return None
        kernels = self.operand(node, found.weights)[found.out_axis]
        data = self.operand(node, found.data)
        if not data:
            return None  # of unknown rank
        inputs = data[found.data_axis]
        groups = node.int_attr("group", 1) if found.spatial else 1
        return Kernels(node, found, w, kernels, inputs.reshape(groups, -1))

    def makers(self) -> list[list[tuple[int, int]]]:
        """The kernels that make each channel: (index in `kernels`, kernel)."""
        found: list[list[tuple[int, int]]] = [[] for _ in range(self.count)]
        for at, layer in enumerate(self.kernels):
            for i, channel in enumerate(layer.out.tolist()):
                found[channel].append((at, i))
        return found

    def users(self) -> list[list[tuple[int, int, int]]]:
        """The columns that sum over each channel: (index in `kernels`, group, column)."""
        found: list[list[tuple[int, int, int]]] = [[] for _ in range(self.count)]
        for at, layer in enumerate(self.kernels):
            for (group, column), channel in np.ndenumerate(layer.columns):
                found[int(channel)].append((at, group, column))
        return found

    def spared(self, gone: Iterable[int]) -> set[int]:
        """Of channels to be removed, those that must stay all the same, so that no axis becomes
        empty and the groups of grouped convolutions stay alike."""
        chosen = set(gone)
        kept = {c for c in chosen if c in self.locked}
        while True:
            more = self._emptied(chosen - kept) | self._uneven(chosen - kept)
            if not more:
                return kept
            kept |= more

    def _emptied(self, gone: set[int]) -> set[int]:
        """A channel of each axis that would be left without any."""
        found: set[int] = set()
        mask = np.zeros(self.count, np.bool_)
        mask[list(gone)] = True
        for axis in self._ties.axes():
            numbers = self._number[axis]
            if len(numbers) and mask[numbers].all() and not found & set(numbers.tolist()):
                found.add(int(numbers[0]))
        return found

    def _uneven(self, gone: set[int]) -> set[int]:
        """Channels of grouped layers where one group would keep fewer kernels, or fewer inputs,
        than another; groups that go as a whole don't count."""
        found: set[int] = set()
        for layer in self.kernels:
            if layer.groups < 2 or layer.columns.shape[1] == 1 == layer.out.size // layer.groups:
                continue
            outs = layer.out.reshape(layer.groups, -1)
            sides = [side for side in (outs, layer.columns) if side.shape[1]]
            left = [[[c for c in row if c not in gone] for row in side.tolist()] for side in sides]
            whole = [not outs and not ins for outs, ins in zip(*left)]
            for side, kept in zip(sides, left):
                most = max((len(k) for k, w in zip(kept, whole) if not w), default=0)
                for row, k, w in zip(side.tolist(), kept, whole):
                    short = 0 if w else max(most, 1) - len(k)
                    found.update([c for c in row if c in gone][:short])
        return found


def mask_of(numbers: Any, count: int) -> npt.NDArray[np.bool_]:
    """Channels as a mask [count]."""
    found = np.zeros(count, np.bool_)
    found[list(numbers)] = True
    return found
