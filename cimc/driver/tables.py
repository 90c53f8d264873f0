"""Maps of few integers as tables, made by running the map on all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cimc.frontend.evaluate import Evaluator
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.types import Array, TensorType, container, int_range

# What runs in one IEEE step or copies: the same wherever an element lies. Approximated functions
# may compute the end of a vector in another way than its middle.
_EVEN = {
    "onnx.Relu", "onnx.Clip", "onnx.Add", "onnx.Sub", "onnx.Mul", "onnx.Div", "onnx.Max",
    "onnx.Min", "onnx.Abs", "onnx.Neg", "onnx.Floor", "onnx.Ceil", "onnx.Round", "onnx.Sign",
    "onnx.Identity", "onnx.Cast", "onnx.QuantizeLinear", "onnx.DequantizeLinear",
    "ms.QuantizeLinear", "ms.DequantizeLinear",
}  # fmt: skip


def table_of(graph: Graph, nodes: Sequence[Node], source: Value, result: Value) -> Array:
    """The results for all values of `source`'s integer type, from the lowest on: [2**bits].

    nodes: element-wise operations, first to last, that make `result` from `source` and from
    constants of one element. They run as they would at run time."""
    return _map_of(graph, nodes, source, result)(all_values(source.elem))


def even_table_of(
    graph: Graph, nodes: Sequence[Node], source: Value, result: Value
) -> Array | None:
    """`table_of`; None where a result depends on where its element lies in the tensor."""
    run, values = _map_of(graph, nodes, source, result), all_values(source.elem)
    table = run(values)
    if all(n.op in _EVEN or n.op.startswith("cim.") for n in nodes):
        return table
    shifted = run(np.concatenate([values[-3:], values]))[3:]
    alone = np.concatenate([run(values[i : i + 1]) for i in range(len(values))])
    same = np.array_equal(table, shifted) and np.array_equal(table, alone)
    return table if same else None


def all_values(elem: str) -> Array:
    """All integers of an element type, from the lowest on."""
    low, high = int_range(elem)
    values: Array = np.arange(low, high + 1).astype(container(elem))
    return values


def _map_of(
    graph: Graph, nodes: Sequence[Node], source: Value, result: Value
) -> Callable[[Array], Array]:
    """The map, made ready to run on any number of values."""
    shape = (1, "n")
    swapped: dict[Value, Value] = {source: Value("given", TensorType(source.elem, shape))}
    consts: list[Value] = []
    copies = []
    for node in nodes:
        for value in node.inputs:
            if value is not None and value.const is not None and value not in swapped:
                swapped[value] = value
                consts.append(value)
        outputs = []
        for value in node.outputs:
            swapped[value] = Value(value.name, TensorType(value.elem, shape))
            outputs.append(swapped[value])
        inputs: list[Any] = [None if v is None else swapped[v] for v in node.inputs]
        copies.append(Node(node.op, inputs, outputs, dict(node.attrs)))
    part = Graph("table", [swapped[source]], [swapped[result]], copies, consts,
                 opsets=graph.opsets)  # fmt: skip
    part = replace(part, input_names=["given"], output_names=["found"])
    evaluate = Evaluator(part)

    def run(values: Array) -> Array:
        found: Array = evaluate({"given": values.reshape(1, -1)})["found"].reshape(-1)
        return found.astype(container(result.elem))

    return run
