"""Which nodes onnxruntime can run for many samples at once with the bits of one at a time.

Those that work element by element with a single rounding, that move elements, or that work on
each channel or row alone. Not: sums of floats whose order hangs on sizes (products of matrices,
convolutions, means), approximated functions (their vector code and its remainder may differ),
and conversions from float to integer, which are undefined out of range.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnx import NodeProto, TensorProto

from cimc.sim.fragments.graph import FragmentGraph, attributes

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
_ELEMENTWISE = (
    *("Abs", "Add", "And", "Ceil", "Clip", "Equal", "Floor", "Greater", "GreaterOrEqual"),
    *("LeakyRelu", "Less", "LessOrEqual", "Max", "Min", "Mul", "Neg", "Not", "Or", "PRelu"),
    *("Relu", "Round", "Sign", "Sqrt", "Sub", "Where", "Xor"),
)


def batchable(node: NodeProto, graph: FragmentGraph) -> bool:
    """Whether N samples along axis 0 of all values give the bits of each alone."""
    if node.domain not in ("", "ai.onnx"):
        return False
    values = [name for name in node.input if name and graph.constant(name) is None]
    shapes = [graph.tensors[name].shape for name in (*values, *node.output) if name]
    if not values or any(not shape or shape[0] != 1 for shape in shapes):
        return False
    if node.op_type in _ELEMENTWISE:
        return _aligned(node, graph)
    rule = _RULES.get(node.op_type)
    return rule is not None and rule(node, graph, len(graph.tensors[values[0]].shape))


def _aligned(node: NodeProto, graph: FragmentGraph) -> bool:
    """Whether axis 0 of each operand is axis 0 of the result."""
    rank = len(graph.tensors[node.output[0]].shape)
    values = [name for name in node.input if name and graph.constant(name) is None]
    return all(len(graph.tensors[name].shape) == rank for name in values)


# -- rules of single operators; rank: that of the first operand that varies -------------

Rule = Callable[[NodeProto, FragmentGraph, int], bool]


def _is_float(graph: FragmentGraph, name: str) -> bool:
    return graph.tensors[name].elem in _FLOATS


def _divides(node: NodeProto, graph: FragmentGraph, rank: int) -> bool:
    return _is_float(graph, node.input[0]) and _aligned(node, graph)


def _casts(node: NodeProto, graph: FragmentGraph, rank: int) -> bool:
    return _is_float(graph, node.output[0]) or not _is_float(graph, node.input[0])


def _only_first_varies(node: NodeProto, graph: FragmentGraph, rank: int) -> bool:
    """Channels are worked on one by one."""
    constant = all(graph.constant(name) is not None for name in node.input[1:] if name)
    return rank >= 2 and len(node.output) == 1 and constant


def _rows(node: NodeProto, graph: FragmentGraph, rank: int) -> bool:
    """Softmax: rows are worked on one by one."""
    axis = attributes(node).get("axis", -1 if graph.opset >= 13 else 1)
    return rank >= 2 and axis % rank != 0


def _transposes(node: NodeProto, graph: FragmentGraph, rank: int) -> bool:
    return bool(attributes(node).get("perm", [1])[0] == 0)


def _joins(node: NodeProto, graph: FragmentGraph, rank: int) -> bool:
    varies = all(graph.constant(name) is None for name in node.input)
    return varies and attributes(node).get("axis", 0) % rank != 0


def _along(default: int) -> Rule:
    """Along an axis that isn't that of samples; other operands constant."""

    def rule(node: NodeProto, graph: FragmentGraph, rank: int) -> bool:
        constant = all(graph.constant(name) is not None for name in node.input[1:] if name)
        data = graph.constant(node.input[0]) is None
        return data and constant and attributes(node).get("axis", default) % rank != 0

    return rule


def _axes(node: NodeProto, graph: FragmentGraph, rank: int, at: int) -> list[int] | None:
    """The axes of a node, by attribute or operand `at`; None if they aren't given so."""
    given: Any = attributes(node).get("axes")
    if given is None and len(node.input) > at and node.input[at]:
        given = graph.constant(node.input[at])
    return None if given is None else [int(axis) % rank for axis in given]


def _without_samples(at: int) -> Rule:
    """Slices and reductions along axes that don't include that of samples."""

    def rule(node: NodeProto, graph: FragmentGraph, rank: int) -> bool:
        if graph.constant(node.input[0]) is not None:
            return False
        if any(name and graph.constant(name) is None for name in node.input[1:]):
            return False
        axes = _axes(node, graph, rank, at)
        return bool(axes) and 0 not in (axes or [])

    return rule


def _pads(node: NodeProto, graph: FragmentGraph, rank: int) -> bool:
    if any(name and graph.constant(name) is None for name in node.input[1:]):
        return False
    axes = _axes(node, graph, rank, 3) or list(range(rank))
    pads: Any = attributes(node).get("pads")
    if pads is None and len(node.input) > 1:
        pads = graph.constant(node.input[1])
    if pads is None:
        return False
    sizes = [int(pad) for pad in pads]
    return all(sizes[i] == sizes[len(axes) + i] == 0 for i, a in enumerate(axes) if a == 0)


def _always(node: NodeProto, graph: FragmentGraph, rank: int) -> bool:
    return True


_RULES: dict[str, Rule] = {
    "ArgMax": _along(0),
    "ArgMin": _along(0),
    "AveragePool": _only_first_varies,
    "BatchNormalization": _only_first_varies,
    "Cast": _casts,
    "Concat": _joins,
    "ConvInteger": _only_first_varies,
    "DepthToSpace": _always,
    "Div": _divides,
    "Gather": _along(0),
    "GlobalAveragePool": _only_first_varies,
    "GlobalMaxPool": _only_first_varies,
    "LogSoftmax": _rows,
    "MatMulInteger": _only_first_varies,
    "MaxPool": _only_first_varies,
    "Pad": _pads,
    "ReduceMax": _without_samples(1),
    "ReduceMin": _without_samples(1),
    "Slice": _without_samples(3),
    "Softmax": _rows,
    "SpaceToDepth": _always,
    "Split": _along(0),
    "Transpose": _transposes,
}
