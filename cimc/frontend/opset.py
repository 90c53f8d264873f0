"""Converts a graph to a newer ONNX operator set, in place, by onnx's own converter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx.version_converter
from onnx import ModelProto

from cimc.errors import CompileError
from cimc.frontend import qonnx
from cimc.frontend.elements import code_of, elem_of
from cimc.frontend.evaluate import Evaluator, random_feeds
from cimc.frontend.export import to_onnx
from cimc.frontend.importer import import_model
from cimc.ir.graph import Graph, Node
from cimc.ir.types import Array, TensorType

_TOLERANCE = 1e-5  # of the largest element: a converted operation may round elsewhere


def raise_opset(graph: Graph, versions: Sequence[int]) -> str:
    """Rewrite the graph for the first of the operator sets that works: it converts, onnxruntime
    takes the result, and on a random input it gives what the graph gave. Returns why none
    does, empty if one did. Names stay; operations and values are new objects."""
    old, why = graph.opsets.get("onnx", 13), ""
    if not _onnx_only(graph):
        return f"operator set {old} can't be converted with native operations in the graph"
    for version in versions:
        try:
            found = import_model(_convert(graph, version), f"@{graph.name}")
        except CompileError as error:
            why = f": {error.message}"
            continue
        if not _agree(graph, found):
            why = ": the result computes something else"
            continue
        graph.become(found)
        return ""
    return f"operator set {old} can't be converted to {versions[-1]}{why}"


def _onnx_only(graph: Graph) -> bool:
    """Whether ONNX can carry the graph over without loss."""
    types = [v.type for v in graph.all_values() if isinstance(v.type, TensorType)]
    return all(n.domain != "cim" for n in graph.nodes) and all(
        elem_of(code_of(t.elem)) == t.elem for t in types
    )


def _convert(graph: Graph, version: int) -> ModelProto:
    """Raises CompileError. QONNX operators pass through as they are."""
    model = to_onnx(replace(graph, nodes=[_kept(n) for n in graph.nodes]))
    try:
        return onnx.version_converter.convert_version(model, version)
    except Exception as error:  # onnx has no common exception class
        raise CompileError(" ".join(str(error).split())[:120], f"@{graph.name}") from error


def _kept(node: Node) -> Node:
    if node.domain != "qonnx":
        return node
    op = f"{qonnx.DOMAINS[-1]}.{node.op.split('.')[1]}"
    return Node(op, node.inputs, node.outputs, node.attrs, source=node.source)


def _agree(before: Graph, after: Graph) -> bool:
    """Whether both give the same on a random input; True where `before` takes none."""
    try:
        feeds = random_feeds(before, 1)
        expected = Evaluator(before)(feeds)
    except CompileError:
        return True
    try:
        found = Evaluator(after)(feeds)
    except CompileError:
        return False
    return all(_same(array, found[name]) for name, array in expected.items())


def _same(a: Array, b: Any) -> bool:
    if not isinstance(a, np.ndarray) or a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    x, y = a.astype(np.float64), np.asarray(b, np.float64)
    largest = float(np.max(np.abs(x), initial=0.0, where=np.isfinite(x)))
    return x.shape == y.shape and np.allclose(x, y, rtol=0, atol=_TOLERANCE * largest,
                                              equal_nan=True)  # fmt: skip
