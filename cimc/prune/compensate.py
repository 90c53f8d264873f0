"""Layers behind removed channels are fitted to what they made before.

In order, each on the inputs that it has now, to the results that it had in the original network,
on calibration data. Nothing is trained: each layer is one least-squares problem.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from cimc.driver.clone import clone
from cimc.driver.rewrite import Rewriter, power_of_two
from cimc.ir.graph import Graph, Node, layer_name
from cimc.ir.types import Array
from cimc.prune.activations import Batches, Matrix, View, Walk, as_matrix, view_of
from cimc.prune.effect import Inputs, representatives, similarity
from cimc.prune.fit import Floats, affine, affine_of, flip, moments, ridge
from cimc.prune.parameters import bias_of, follower, set_affine, set_offset, set_weights
from cimc.prune.remove import remove_channels
from cimc.prune.spaces import Kernels, Spaces

ROWS = 30_000
_ELEMENTS = 1 << 25  # columns times positions
_COLUMNS = 2_500  # more columns than this: merging alone
_SPREAD = 8  # rows for each column of a covariance
_LEAST = 5_000  # but that many, if there are
_FINE = 1_200  # columns up to which their covariance is taken apart by taps


@dataclass(frozen=True)
class Pruned:
    """graph: without the channels, its layers fitted. left: why layers could not be fitted, by
    name."""

    graph: Graph
    left: dict[str, str]


class Original:
    """A network, what its layers make of calibration data, and how alike their inputs are.

    Raises CompileError where the graph does not run.
    """

    def __init__(self, graph: Graph, spaces: Spaces, data: Batches, rows: int = ROWS) -> None:
        """rows: positions at which a layer is looked at, fewer where it is large."""
        self.graph, self.spaces, self.data = graph, spaces, data
        self.position = {k.node: i for i, k in enumerate(spaces.kernels)}
        self.views: list[View | None] = []
        self.results: list[Matrix | None] = []
        self.shapes: list[list[tuple[int, ...]]] = []
        self.inputs: list[Inputs | None] = []
        self._similar: dict[int, Any] = {}
        walk = Walk(graph, data)
        for i, layer in enumerate(spaces.kernels):
            view = view_of(layer.node, layer.layer, _rows(layer, rows))
            walk.before(layer.node)
            held = walk.of(layer.node.arg(layer.layer.data))
            walk.through(layer.node)
            made = walk.of(layer.node.outputs[0])
            self.views.append(view)
            self.shapes.append([y.shape for y in made])
            self.results.append(None if view is None else view.result(made, i))
            x = None if view is None else self.seen(i, layer.node, view, held)
            self.inputs.append(None if x is None else self._inputs(i, x))
        walk.finish()

    def similar(self, i: int) -> Any:
        """The graph of similar channels in front of layer i."""
        if i not in self._similar:
            inputs = self.inputs[i]
            assert inputs is not None
            self._similar[i] = similarity(inputs)
        return self._similar[i]

    def seen(self, i: int, node: Node, view: View, held: list[Array]) -> Matrix | None:
        """What layer i is applied to, [rows, groups, columns]: in this graph or another, in which
        it is `node` and its data are `held`. None where these have a zero point that varies."""
        slot = view.layer.shift
        shift = None if slot is None else node.operand(slot)
        if shift is not None and shift.const is None:
            return None
        zero = 0 if shift is None or shift.const is None else int(shift.const.reshape(-1)[0])
        return view.data(held, self.shapes[i], i, zero)

    def _inputs(self, i: int, x: Matrix) -> Inputs | None:
        """x: [rows, groups, columns]."""
        layer, view, made = self.spaces.kernels[i], self.views[i], self.results[i]
        w = layer.weights.const
        assert view is not None
        assert made is not None
        if w is None or layer.groups > 1 or _feeds_itself(layer):
            return None
        numbers, order = _by_channel(layer)
        if order is None:
            return None
        taps = as_matrix(w, view).shape[-1] // layer.columns.shape[1]
        spread = np.maximum(made.std(0), 1e-6)
        columns = as_matrix(w, view)[0].astype(np.float32) / spread[:, None]
        columns = columns.reshape(len(columns), -1, taps)[:, order]
        columns = columns.reshape(len(columns), len(numbers), -1)
        rows = x[:, 0].reshape(len(x), -1, taps)[:, order].reshape(len(x), len(numbers), -1)
        flat = rows.reshape(len(x), -1)
        fine = _covariance(flat) if flat.shape[1] <= _FINE else None
        cov = _covariance(np.moveaxis(rows, 2, 1).reshape(-1, len(numbers)))
        return Inputs(numbers, cov, fine, columns.transpose(1, 2, 0), layer.out)


def _covariance(x: Matrix) -> Floats:
    most = max(_LEAST, _SPREAD * x.shape[1])
    if len(x) > most:
        x = x[np.random.default_rng(0).choice(len(x), most, replace=False)]
    return moments(x, x[:, :1]).within


def _feeds_itself(layer: Kernels) -> bool:
    """Whether kernels make channels that the layer reads: depthwise, or around a residual sum."""
    return bool(set(layer.out.tolist()) & set(layer.columns.ravel().tolist()))


def _by_channel(layer: Kernels) -> tuple[Any, Any]:
    """Channels of the columns, and the columns in their order; (…, None) where the channels have
    different numbers of columns."""
    row = layer.columns[0]
    numbers, counts = np.unique(row, return_counts=True)
    if len(set(counts.tolist())) != 1:
        return numbers, None
    return numbers, np.argsort(row, kind="stable")


def _rows(layer: Kernels, most: int) -> int:
    columns = prod(layer.weights.tensor.static or ()) // len(layer.out)
    return max(1, min(most, _ELEMENTS // max(columns * layer.groups, len(layer.out))))


def prune(original: Original, gone: set[int]) -> Pruned:
    """A copy of the original without some channels (none of them locked or spared), its layers
    fitted."""
    twin, back = clone(original.graph)
    remove_channels(twin, Spaces(twin), gone)
    fitting = _Fitting(original, twin, back, gone)
    return Pruned(fitting.run(), fitting.left)


class _Fitting:
    def __init__(
        self, original: Original, twin: Graph, back: dict[Node, Node], gone: set[int]
    ) -> None:
        self.original, self.twin, self.gone = original, twin, gone
        self.left: dict[str, str] = {}
        self.layers = [
            (node, original.position[back[node]])
            for node in twin.nodes
            if node in back and back[node] in original.position
        ]

    def run(self) -> Graph:
        walk = Walk(self.twin, self.original.data)
        changed = set[Any]()
        seen = 0
        for node, i in self.layers:
            at = self.twin.nodes.index(node)
            for earlier in self.twin.nodes[seen:at]:
                if changed & set(earlier.reads()):
                    changed.update(earlier.outputs)
            seen = at
            layer = self.original.spaces.kernels[i]
            lost = bool(self.gone & set(layer.columns.ravel().tolist()))
            if not lost and not changed & set(node.reads()):
                continue
            changed.update(node.outputs)
            walk.before(node)
            why = self._fit(walk, node, i)
            if why:
                self.left[layer_name(node)] = why
        self.twin.remove_dead()
        return self.twin

    def _fit(self, walk: Walk, node: Node, i: int) -> str | None:
        """Fit a layer; the reason if that can't be done."""
        layer, view = self.original.spaces.kernels[i], self.original.views[i]
        made, slot = self.original.results[i], layer.layer.weights
        old, w = layer.weights.const, node.arg(slot).const
        now = view_of(node, layer.layer, 0 if view is None else view.rows)
        if now is None or view is None or made is None or w is None or old is None:
            return "its weights are not constants of a plain product or convolution"
        rw = Rewriter(self.twin)
        signs, floating = _one_magnitude(as_matrix(old, view)), w.dtype.kind == "f"
        if not floating and not (signs and follower(rw, node)):
            return "its weights are integers"
        if layer.layer.zero is not None and node.operand(layer.layer.zero) is not None:
            return "its weights have a zero point"
        if bias_of(node, layer) is None:
            return "its bias is not constant"
        x = self.original.seen(i, node, now, walk.of(node.arg(layer.layer.data)))
        if x is None:
            return "the zero point of its data is not constant"
        target = made[:, ~np.isin(layer.out, list(self.gone))]
        target = target.reshape(len(target), now.groups, -1)
        if signs:
            _fit_signs(rw, node, layer, now, x, target, as_matrix(w, now))
        else:
            _fit_free(rw, node, layer, now, x, target, self._merged(i, as_matrix(w, now)))
        return None

    def _merged(self, i: int, matrix: Any) -> Floats:
        """Weights [groups, kernels, columns] with those of removed channels moved to their
        representatives: w[r] += s·w[u]."""
        layer, view, inputs = (
            self.original.spaces.kernels[i], self.original.views[i], self.original.inputs[i],
        )  # fmt: skip
        merged: Floats = matrix.astype(np.float64)
        old = layer.weights.const
        if inputs is None or view is None or old is None:
            return merged
        row = layer.columns[0]
        kept = row[~np.isin(row, list(self.gone))]
        full = as_matrix(old, view)[0][~np.isin(layer.out, list(self.gone))].astype(np.float64)
        full = full.reshape(len(full), len(row), -1)
        target = merged.reshape(len(full), len(kept), -1)
        for channel, (other, factor) in representatives(
            inputs, self.original.similar(i), self.gone
        ).items():
            target[:, kept == other] += factor * full[:, row == channel]
        return target.reshape(merged.shape)


def _one_magnitude(matrix: Any) -> bool:
    """Whether each kernel [groups, kernels, columns] holds ±α and 0 only."""
    size = np.abs(matrix.astype(np.float64))
    most = size.max(-1, keepdims=True)
    return matrix.shape[-1] > 1 and bool(((size == 0) | (size >= most * (1 - 1e-6))).all())


def _scalable(w: Any) -> bool:
    """Whether magnitudes are no powers of two, so that any others do as well."""
    sizes = np.unique(np.abs(w.astype(np.float64)))
    return not all(power_of_two(float(v)) for v in sizes if v)


def _fit_free(
    rw: Rewriter, node: Node, layer: Kernels, view: View, x: Matrix, target: Matrix, start: Floats
) -> None:
    """New weights and a bias. x: [rows, groups, columns]; target: [rows, groups, kernels]."""
    x, target = np.moveaxis(x, 1, 0), np.moveaxis(target, 1, 0)
    if x.shape[-1] > _COLUMNS:
        means = x.mean(1, dtype=np.float64)[..., None]
        weights, offsets = start, target.mean(1) - (start @ means)[..., 0]
    else:
        weights, offsets = ridge(moments(x, target), start)
    set_weights(rw, node, layer, view, weights)
    set_offset(rw, node, layer, offsets.reshape(-1))


def _fit_signs(
    rw: Rewriter, node: Node, layer: Kernels, view: View, x: Matrix, target: Matrix, start: Any
) -> None:
    """Signs that fit better, then a gain and an offset for each kernel."""
    weights = start.astype(np.float64)
    gain, offset = np.ones(start.shape[:2]), np.zeros(start.shape[:2])
    x, target = np.moveaxis(x, 1, 0), np.moveaxis(target, 1, 0)
    if x.shape[-1] > _COLUMNS:
        gain, offset = affine_of(x @ start.swapaxes(-1, -2).astype(np.float32), target)
    else:
        every = moments(x, target)
        for g in range(view.groups):
            weights[g] = flip(every.group(g), weights[g])
            gain[g], offset[g] = affine(every.group(g), weights[g])
    gain, offset = gain.reshape(-1), offset.reshape(-1)
    if _scalable(start) and follower(rw, node) is None:
        set_weights(rw, node, layer, view, weights * gain.reshape(view.groups, -1, 1))
        set_offset(rw, node, layer, offset)
        return
    set_weights(rw, node, layer, view, weights)
    bias = bias_of(node, layer)
    assert bias is not None
    set_affine(rw, node, layer, gain, offset - gain * bias)
