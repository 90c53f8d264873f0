"""Maps of few integers as tables, made by running the map on all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cimc.frontend.evaluate import Evaluator
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.types import Array, TensorType, container, int_range


def table_of(graph: Graph, nodes: Sequence[Node], source: Value, result: Value) -> Array:
    """The results for all values of `source`'s integer type, from the lowest on: [2**bits].

    nodes: element-wise operations, first to last, that make `result` from `source` and from
    constants of one element. They run as they would at run time."""
    low, high = int_range(source.elem)
    size = high - low + 1
    shape = (1, size)
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
    values = np.arange(low, high + 1).astype(container(source.elem)).reshape(shape)
    found: Array = Evaluator(part)({"given": values})["found"].reshape(-1)
    return found.astype(container(result.elem))
