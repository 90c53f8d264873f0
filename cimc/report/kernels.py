"""Which kernels of a model are left in its pruned form, found by comparing their weights.

Kernels that stay keep their order, so they are matched by an alignment of least distance. A kernel
is compared on the input channels that are left of it: those whose makers were matched before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.frontend.operations import Kernels, layers
from cimc.ir.graph import Graph, Value

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Layer:
    """A layer before and after pruning.

    before, after: kernels as rows [N, channels of a group, *taps]; after is None if it is gone.
    kept: for each kernel that is left, its index before; None where they could not be matched.
    """

    name: str
    before: Floats
    after: Floats | None
    kept: Indices | None

    @property
    def removed(self) -> Indices:
        """Indices before of those that went. A kernel that is there, but has become zeros or one
        value everywhere (which is what the published scripts leave of it), went too."""
        gone = np.ones(len(self.before), np.bool_)
        if self.after is not None and self.kept is not None:
            wiped = _flat(self.after) & ~_flat(self.before)[self.kept] | ~_live(self.after)
            gone[self.kept[~wiped]] = False
        return np.flatnonzero(gone & _live(self.before))

    @property
    def matched(self) -> bool:
        return self.after is None or self.kept is not None


def compare_kernels(before: Graph, after: Graph) -> list[Layer]:
    """The layers of `before` with constant weights, in its order, matched by name."""
    found: list[Layer] = []
    kept: dict[str, Indices] = {}
    left = {layer.ops.name: layer for layer in layers(after) if layer.weights is not None}
    dense = [layer for layer in layers(before) if layer.weights is not None]
    makers = _Makers(before, dense)
    for layer in dense:
        name, other = layer.ops.name, left.get(layer.ops.name)
        rows, columns = _rows(layer), _rows(other) if other is not None else None
        index = None
        if other is not None:
            index = _matched(layer, other, _inputs(makers.of(layer), kept))
        if index is not None:
            kept[name] = index
        found.append(Layer(name, rows, columns, index))
    return found


def _live(rows: Floats) -> npt.NDArray[np.bool_]:
    return np.asarray(rows.reshape(len(rows), -1).any(axis=1), np.bool_)


def _flat(rows: Floats) -> npt.NDArray[np.bool_]:
    """Whether all weights of a kernel are the same."""
    flat = rows.reshape(len(rows), -1)
    return np.asarray((flat == flat[:, :1]).all(axis=1), np.bool_)


def _rows(layer: Kernels) -> Floats:
    weights: Any = layer.weights
    return np.ascontiguousarray(weights.reshape(-1, *weights.shape[2:]), np.float32)


# -- matching --------------------------------------------------------------------------


def _matched(before: Kernels, after: Kernels, inputs: Indices | None) -> Indices | None:
    """For each kernel after its index before. inputs: channels that are left of the data, None
    where that isn't known."""
    a, b = _rows(after), _rows(before)
    if len(a) > len(b) or a.shape[2:] != b.shape[2:]:
        return None
    if before.ops.depthwise and inputs is not None and len(inputs) == len(a):
        return inputs  # as many kernels as channels, each on its own
    if a.shape[1] == b.shape[1]:
        return align(_distances(a, b))
    if inputs is None or before.ops.groups > 1:
        return None
    best: tuple[float, Indices] | None = None
    for columns in _spread(inputs, b.shape[1], a.shape[1]):
        cost = _distances(a, b[:, columns])
        index = align(cost)
        total = float(cost[np.arange(len(a)), index].sum())
        if best is None or total < best[0]:
            best = total, index
    return best[1] if best is not None else None


def _spread(channels: Indices, before: int, after: int) -> list[Indices]:
    """The columns of a layer behind channels, which may have been flattened with their positions,
    channels first or last."""
    factor = after // len(channels) if len(channels) else 0
    if not factor or after != factor * len(channels) or before % factor:
        return []
    places = np.arange(factor)
    first = (channels[:, None] * factor + places).ravel()
    last = (channels[None] + places[:, None] * (before // factor)).ravel()
    return [first] if factor == 1 else [first, last]


def _distances(a: Floats, b: Floats) -> Floats:
    """Squared L2 distance of each kernel of a from each of b, [M, N]."""
    left, right = a.reshape(len(a), -1), b.reshape(len(b), -1)
    squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None]
    found: Floats = np.maximum(squares - 2 * (left @ right.T), 0)
    return found


def align(cost: npt.NDArray[np.floating[Any]]) -> Indices:
    """The increasing indices j_0 < j_1 < … for which the sum of cost[i, j_i] is least, the first
    such ones. cost: [M, N], M <= N."""
    count, size = cost.shape
    assert count <= size
    best = np.zeros(size + 1)  # [j]: of the rows so far, all within the first j columns
    steps = []
    for i in range(count):
        here = np.full(size + 1, np.inf)
        here[1:] = best[:-1] + cost[i]
        best = np.minimum.accumulate(here)
        steps.append(here)
    index, end = np.zeros(count, np.intp), size
    for i in reversed(range(count)):
        end = int(np.argmin(steps[i][: end + 1])) - 1
        index[i] = end
    return index


# -- channels --------------------------------------------------------------------------


class _Makers:
    """Which layers made the channels that a layer reads, one behind the other; None where the
    way isn't followed. The model's inputs are a layer without name."""

    def __init__(self, graph: Graph, found: Sequence[Kernels]) -> None:
        self._made = graph.producers()
        self._names = {layer.node: layer for layer in found}
        self._known: dict[Value, list[Kernels] | None] = {}

    def of(self, layer: Kernels) -> list[Kernels] | None:
        data = next((v for v in layer.node.inputs if v is not None and self._runs(v)), None)
        return None if data is None else self._behind(data)

    def _runs(self, value: Value) -> bool:
        """Whether it is known at run time only."""
        seen = value
        while seen in self._made:
            ins = [v for v in self._made[seen].inputs if v is not None]
            if not ins:
                return False
            seen = next((v for v in ins if v.const is None), ins[0])
        return seen.const is None

    def _behind(self, value: Value) -> list[Kernels] | None:
        path = []
        while value not in self._known:
            path.append(value)
            node = self._made.get(value)
            if node is None or node.op in _CHOOSE:
                self._known[value] = None
            elif node in self._names:
                self._known[value] = [self._names[node]]
            elif node.op in ("onnx.Concat", "cim.concat"):
                parts = [self._behind(v) for v in node.inputs if v is not None]
                whole = [p for part in parts if part is not None for p in part]
                self._known[value] = None if None in parts else whole
            else:
                ins = [v for v in node.inputs if v is not None]
                if not ins:
                    self._known[value] = None
                    continue
                value = next((v for v in ins if v.const is None), ins[0])
        for passed in path:
            self._known[passed] = self._known[value]
        return self._known[value]


_CHOOSE = ("onnx.Split", "onnx.Slice", "onnx.Gather", "cim.slice")


def _inputs(makers: list[Kernels] | None, kept: dict[str, Indices]) -> Indices | None:
    """The channels that are left of those that the layers make, one behind the other."""
    if not makers:
        return None
    parts, start = [], 0
    for maker in makers:
        if maker.ops.name not in kept:
            return None
        parts.append(kept[maker.ops.name] + start)
        start += maker.ops.kernels
    return np.concatenate(parts)
