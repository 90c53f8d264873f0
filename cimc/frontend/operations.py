"""Operations of a graph by layer: multiply-accumulates with spatial size, and what of them meets
weights that are not zero. From shapes and constant weights; nothing is run but what makes weights.

`reduction.py` sets them against those of a dense original.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from cimc.errors import CompileError
from cimc.frontend.evaluate import Evaluator, outline
from cimc.frontend.macs import COUNTED, macs
from cimc.ir.graph import Graph, Node, Value, layer_name
from cimc.ir.types import Array


@dataclass(frozen=True)
class LayerOps:
    """A layer, for one sample (the batch axis is what the graph was bound to).

    name:      its name in the file; `kind` its operator, such as `Conv`.
    kernels:   output channels; `inputs` weights of one kernel (channels of a group x taps).
    groups, taps: groups of channels, and taps of a kernel (1 for products).
    positions: dot products with each kernel.
    macs:      positions x kernels x inputs, padding included.
    effective: the MACs without kernels whose weights are all zero and without input channels for
               which all kernels (of the group) have zeros. Single zeros count as work.
    weights, zeros: how many weights there are, and how many are zero.
    live:      kernels with a weight that is not zero.

    Weights that are no constants have `zeros` None, and nothing is known to be zero.
    """

    name: str
    kind: str
    kernels: int
    inputs: int
    groups: int
    taps: int
    positions: int
    macs: int
    effective: int
    weights: int
    zeros: int | None
    live: int

    @property
    def convolution(self) -> bool:
        """Whether it is one, transposed ones included."""
        return self.kind in _CONVOLUTIONS

    @property
    def depthwise(self) -> bool:
        """One input channel a group, several groups."""
        return self.groups > 1 and self.inputs == self.taps

    @property
    def scripted(self) -> bool:
        """Whether the published scripts look at it: convolutions, not depthwise or transposed."""
        return self.convolution and not self.depthwise and self.kind != "ConvTranspose"


_CONVOLUTIONS = ("Conv", "ConvInteger", "QLinearConv", "ConvTranspose", "conv")


@dataclass(frozen=True)
class Kernels:
    """A layer with its operation and its weights, less their zero point: [groups, kernels of a
    group, input channels of a group, taps along each axis], None where they are no constants."""

    ops: LayerOps
    node: Node
    weights: Array | None


# -- counting --------------------------------------------------------------------------


def count(graph: Graph) -> list[LayerOps]:
    """The layers of a graph of known shapes in its order, those of nested graphs included once.
    A layer whose sizes are not known has 0 MACs."""
    return [layer.ops for layer in layers(graph)]


def layers(graph: Graph) -> Iterator[Kernels]:
    """What `count` counts, with weights."""
    counted = [n for n in graph.nodes if n.op in COUNTED]
    known = _constants(graph, [v for n in counted for v in n.inputs if v is not None])
    for node in graph.nodes:
        for inner in node.graphs():
            yield from layers(inner)
        if node.op in COUNTED:
            yield _layer(node, known)


def _constants(graph: Graph, wanted: Sequence[Value]) -> dict[Value, Array]:
    """The values among `wanted` that constants alone decide, such as dequantised weights."""
    fixed: set[Value] = set()
    for node in graph.nodes:
        if node.inputs and not node.graphs() and all(_fixed(v, fixed) for v in node.inputs):
            fixed.update(node.outputs)
    known = {v: v.const for v in wanted if v.const is not None}
    asked = [v for v in dict.fromkeys(wanted) if v in fixed]
    if not asked:
        return known
    needed, nodes = set(asked), list[Node]()
    for node in reversed(graph.nodes):
        if any(v in needed for v in node.outputs):
            needed.update(node.reads())
            nodes.insert(0, node)
    part = outline(graph, nodes)
    part.outputs = asked
    try:
        results = Evaluator(part)({})
    except CompileError:
        return known  # what can't be computed isn't known
    return known | dict(zip(asked, results.values()))


def _fixed(value: Value | None, fixed: set[Value]) -> bool:
    return value is None or value.const is not None or value in fixed


def _layer(node: Node, known: dict[Value, Array]) -> Kernels:
    total = macs(node)
    kind = node.op.rsplit(".", 1)[-1]
    weights = _FORMS.get(node.op, _opaque)(node, known)
    if weights is None:
        return Kernels(_unknown(layer_name(node), kind, node, total), node, None)
    groups, kernels, channels, *axes = weights.shape
    taps = prod(axes)
    positions = total // weights.size if weights.size else 0
    nonzero = (weights != 0).reshape(groups, kernels, channels, taps)
    used = nonzero.any(axis=3)  # [group, kernel, channel]
    live_kernels, live_channels = used.any(axis=2).sum(axis=1), used.any(axis=1).sum(axis=1)
    ops = LayerOps(
        name=layer_name(node),
        kind=kind,
        kernels=groups * kernels,
        inputs=channels * taps,
        groups=groups,
        taps=taps,
        positions=positions,
        macs=total,
        effective=positions * taps * int(live_kernels @ live_channels),
        weights=weights.size,
        zeros=int(weights.size - nonzero.sum()),
        live=int(live_kernels.sum()),
    )
    return Kernels(ops, node, weights)


def _unknown(name: str, kind: str, node: Node, total: int) -> LayerOps:
    """A product of two results, or a recurrent cell: nothing is known of kernels."""
    out = node.outputs[0].type
    dims = getattr(out, "static", None) or ()
    kernels = dims[-1] if dims else 0
    inputs = total // prod(dims) if dims and prod(dims) else 0
    positions = prod(dims[:-1]) if dims else 0
    return LayerOps(
        name, kind, kernels, inputs, 1, 1, positions, total, total, 0, None, kernels
    )  # fmt: skip


# -- weights ---------------------------------------------------------------------------

Form = Callable[[Node, dict[Value, Array]], Any]
"""The weights in the form of `Kernels`; None where they are not known."""


def _levels(node: Node, known: dict[Value, Array], index: int, zero: int, axis: int) -> Any:
    """The weights (operand `index`) less their zero point (operand `zero`, -1 for none), which
    is one value or one for each index of `axis`."""
    value = node.operand(index)
    if value is None or value not in known:
        return None
    weights: Any = known[value]
    point = node.operand(zero) if zero >= 0 else None
    if point is None:
        return weights
    if point not in known:
        return None
    levels: Any = np.asarray(known[point])
    if levels.size > 1:
        axis %= weights.ndim
        levels = levels.reshape([-1 if i == axis else 1 for i in range(weights.ndim)])
    return weights.astype(np.int64) - levels.astype(np.int64)


def _conv(index: int, zero: int = -1) -> Form:
    def form(node: Node, known: dict[Value, Array]) -> Any:
        found = _levels(node, known, index, zero, 0)
        return None if found is None else _grouped(found, node)

    return form


def _conv_transpose(node: Node, known: dict[Value, Array]) -> Any:
    found = _levels(node, known, 1, -1, 0)
    return None if found is None else _grouped(found, node).swapaxes(1, 2)


def _grouped(weights: Any, node: Node) -> Any:
    groups = node.int_attr("group", 1)
    return weights.reshape(groups, weights.shape[0] // groups, *weights.shape[1:])


def _product(left: int, right: int, zeros: tuple[int, int] = (-1, -1)) -> Form:
    """The columns of the right side are the kernels, or the rows of a constant left side."""

    def form(node: Node, known: dict[Value, Array]) -> Any:
        found = _levels(node, known, right, zeros[1], -1)
        if found is not None:
            found = found[:, None] if found.ndim == 1 else found
            found = found.T if node.op == "onnx.Gemm" and node.int_attr("transB", 0) else found
            return found.reshape(-1, *found.shape[-2:]).swapaxes(1, 2)
        found = _levels(node, known, left, zeros[0], -2)
        if found is None or found.ndim < 2:
            return None
        found = found.T if node.op == "onnx.Gemm" and node.int_attr("transA", 0) else found
        return found.reshape(-1, *found.shape[-2:])

    return form


def _opaque(node: Node, known: dict[Value, Array]) -> Any:
    return None


_FORMS: dict[str, Form] = {
    "cim.conv": _conv(1, 3),
    "cim.matmul": _product(0, 1, (2, 3)),
    "onnx.Conv": _conv(1),
    "onnx.ConvInteger": _conv(1, 3),
    "onnx.QLinearConv": _conv(3, 5),
    "onnx.ConvTranspose": _conv_transpose,
    "onnx.MatMul": _product(0, 1),
    "onnx.MatMulInteger": _product(0, 1, (2, 3)),
    "onnx.QLinearMatMul": _product(0, 3, (2, 5)),
    "onnx.Gemm": _product(0, 1),
}
