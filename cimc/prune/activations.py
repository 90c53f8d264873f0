"""Values of a graph on calibration data, and what its layers see of them.

A graph is run over batches of samples from one layer to the next, so that a layer can be changed
before what lies behind it is run. Of many positions a fixed, seeded part is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from cimc.errors import CompileError
from cimc.frontend.evaluate import Evaluator, input_names, outline
from cimc.frontend.windows import conv_attrs
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.rules import window
from cimc.ir.types import Array, TensorType
from cimc.prune.layers import Layer

Matrix = npt.NDArray[np.float32]
_BATCH = 100  # samples run at once
_ELEMENTS = 1 << 27  # float32 elements of one value over all samples: 512 MiB
_WINDOWED = ("onnx.Conv", "cim.conv")
_PLAIN = ("onnx.Gemm", "onnx.MatMul", "cim.matmul")


@dataclass(frozen=True)
class Batches:
    """feeds: arrays by input name, for each run of the graph. sizes: samples of each run."""

    feeds: list[dict[str, Array]]
    sizes: list[int]

    @property
    def count(self) -> int:
        return sum(self.sizes)


def most_samples(graph: Graph) -> int:
    """How many samples the largest value of a graph may be held for."""
    sizes = [
        prod(d if isinstance(d, int) else 1 for d in v.type.shape)
        for n in graph.nodes
        for v in n.outputs
        if isinstance(v.type, TensorType) and v.type.shape is not None
    ]
    return max(1, _ELEMENTS // max(sizes, default=1))


def batches(graph: Graph, samples: Sequence[Mapping[str, Array]]) -> Batches:
    """Samples side by side where the graph's batch axes are open and it takes several at once;
    one by one otherwise."""
    single = Batches([dict(s) for s in samples], [1] * len(samples))
    if len(samples) < 2 or not all(_open(v) for v in graph.inputs):
        return single
    joined = [_joined(samples[i : i + _BATCH]) for i in range(0, len(samples), _BATCH)]
    sizes = [min(_BATCH, len(samples) - i) for i in range(0, len(samples), _BATCH)]
    try:
        found = Evaluator(graph)(_joined(samples[:2]))
    except CompileError:
        return single
    whole = all(array.ndim > 0 and len(array) % 2 == 0 for array in found.values())
    return Batches(joined, sizes) if whole else single


def _open(value: Value) -> bool:
    return bool(
        isinstance(value.type, TensorType)
        and value.type.shape
        and isinstance(value.type.shape[0], str)
    )


def _joined(samples: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([s[name] for s in samples]) for name in samples[0]}


class Walk:
    """A graph run over batches, a part at a time. Operations that have run are not run again;
    values that nothing needs any more are let go."""

    def __init__(self, graph: Graph, data: Batches) -> None:
        self.graph = graph
        self._done: set[Node] = set()
        self._values: list[dict[Value, Array]] = [
            {v: feed[name] for v, name in zip(graph.inputs, input_names(graph))}
            for feed in data.feeds
        ]

    def before(self, node: Node) -> None:
        """Run everything in front of an operation."""
        self._run(self.graph.nodes[: self.graph.nodes.index(node)])

    def through(self, node: Node) -> None:
        """Run everything up to an operation, itself included."""
        self._run(self.graph.nodes[: self.graph.nodes.index(node) + 1])

    def finish(self) -> list[Array]:
        """Run the rest; the graph's outputs, samples along the first axis."""
        self._run(self.graph.nodes)
        return [
            np.concatenate([np.atleast_1d(np.asarray(a)) for a in self.of(v)])
            for v in self.graph.outputs
        ]

    def of(self, value: Value) -> list[Array]:
        """A value that was run and is still needed, by batch."""
        if value.const is not None:
            return [value.const for _ in self._values]
        return [env[value] for env in self._values]

    def _run(self, nodes: Sequence[Node]) -> None:
        todo = [n for n in nodes if n not in self._done]
        if not todo:
            return
        self._done.update(todo)
        part = outline(self.graph, todo)
        run = Evaluator(part)
        left = [n for n in self.graph.nodes if n not in self._done]
        needed = {v for n in left for v in n.reads()} | set(self.graph.outputs)
        for i, env in enumerate(self._values):
            found = run({v.name: env[v] for v in part.inputs})
            env.update((v, found[v.name]) for v in part.outputs)
            self._values[i] = {v: a for v, a in env.items() if v in needed}


# -- layers as matrices -------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """How a layer's data and result are read as rows: one row is one position of one sample.

    groups: of a convolution, else 1. attrs: its window. rows: about how many rows are looked at.
    """

    layer: Layer
    groups: int
    kernel: tuple[int, ...]
    attrs: dict[str, Any] | None
    rows: int

    def result(self, arrays: Sequence[Any], seed: int) -> Matrix:
        """The chosen rows of a result, [rows, N]."""
        parts = []
        for i, y in enumerate(arrays):
            flat = self._flat(y)
            parts.append(flat[self._chosen(len(flat), len(arrays), (seed, i))])
        return np.concatenate(parts).astype(np.float32)

    def data(self, arrays: Sequence[Any], outs: Sequence[Any], seed: int, shift: int) -> Matrix:
        """What the kernels are multiplied by at the same rows, [rows, groups, C * taps], less
        `shift`. outs: shapes of the results, by batch."""
        parts = []
        for i, (x, shape) in enumerate(zip(arrays, outs)):
            moved = x if not shift else x.astype(np.int64) - shift
            if self.attrs is None:
                flat = moved.reshape(-1, moved.shape[-1])
                parts.append(flat[self._chosen(len(flat), len(arrays), (seed, i))])
                continue
            total = shape[0] * prod(shape[2:])
            parts.append(self._patches(moved, shape, self._chosen(total, len(arrays), (seed, i))))
        found = np.concatenate(parts).astype(np.float32)
        return found.reshape(len(found), self.groups, -1)

    def _flat(self, y: Any) -> Any:
        """[positions, N], those of a sample together."""
        if self.attrs is None:
            return y.reshape(-1, y.shape[-1])
        return np.moveaxis(y, 1, -1).reshape(-1, y.shape[1])

    def _chosen(self, total: int, parts: int, seed: tuple[int, int]) -> Any:
        wanted = max(1, self.rows // parts)
        if total <= wanted:
            return np.arange(total)
        return np.sort(np.random.default_rng(seed).choice(total, wanted, replace=False))

    def _patches(self, x: Any, shape: Sequence[int], chosen: Any) -> Any:
        """Windows of x [n, C, *spatial] at chosen positions of the result, [rows, C * taps]."""
        rank = len(self.kernel)
        strides, pads, dilations = window(self.attrs or {}, rank)
        margin = [(0, 0), (0, 0), *((pads[i], pads[rank + i]) for i in range(rank))]
        padded = np.pad(x, margin)
        reach = tuple(d * (k - 1) + 1 for d, k in zip(dilations, self.kernel))
        view = sliding_window_view(padded, reach, axis=tuple(range(2, 2 + rank)))
        taps = tuple(slice(None, None, d) for d in dilations)
        view = view[(slice(None),) * (2 + rank) + taps]
        sample, *place = np.unravel_index(chosen, (shape[0], *shape[2:]))
        at = (sample, slice(None), *(p * s for p, s in zip(place, strides)))
        return np.ascontiguousarray(view[at]).reshape(len(chosen), -1)


def view_of(node: Node, layer: Layer, rows: int) -> View | None:
    """None for layers that are not read as matrices: transposed convolutions, constant left
    sides, products with several matrices, sizes that are not known."""
    w, x = node.arg(layer.weights), node.arg(layer.data)
    if not isinstance(x.type, TensorType) or x.type.shape is None:
        return None
    if node.op in _WINDOWED:
        kernel = (w.tensor.static or ())[2:]
        stated = {"strides": (), "pads": (), "dilations": ()}
        own = {**stated, **node.attrs} if node.op == "cim.conv" else conv_attrs(node, kernel)
        if not kernel or own is None or any(k != 1 for k in node.ints_attr("up")):
            return None
        return View(layer, node.int_attr("group", 1), kernel, {**stated, **own}, rows)
    rank = len(x.type.shape)
    plain = w.tensor.static is not None and len(w.tensor.static) == 2
    if node.op not in _PLAIN or not plain or layer.data_axis % rank != rank - 1:
        return None
    if layer.result_axis != -1 or any(node.float_attr(k, 1.0) != 1.0 for k in ("alpha", "beta")):
        return None
    return View(layer, 1, (), None, rows)


def as_matrix(w: Any, view: View) -> Any:
    """Weights as [groups, kernels of a group, C * taps]."""
    rows = view.layer.rows(w, view.groups)
    return rows.reshape(*rows.shape[:2], -1)


def as_weights(matrix: Any, like: Any, view: View) -> Any:
    """The inverse of `as_matrix`, in the shape and type of `like`."""
    return np.ascontiguousarray(view.layer.weights_of(matrix, like.shape), like.dtype)
