"""Resizing that repeats elements, as layout and concatenations."""

from __future__ import annotations

from math import prod

import numpy as np

from cimc.driver.layout import joined
from cimc.driver.rewrite import Rewriter
from cimc.frontend.evaluate import Evaluator
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.types import F32_EXACT, TensorType


def repeated(rw: Rewriter, node: Node, x: Value) -> Value | None:
    """`x` in the way that the Resize or Upsample treats its operand, if it gives each element a
    whole number of times along each axis; None if it does something else, or sizes are open."""
    dims, out = x.tensor.static, node.output.tensor.static
    if dims is None or out is None or len(dims) != len(out) or not 0 < prod(dims) < F32_EXACT:
        return None
    factors = [size // d for size, d in zip(out, dims)]
    if not all(f >= 1 and f * d == size for f, d, size in zip(factors, dims, out)):
        return None
    if not _repeats(rw.graph, node, dims, factors):
        return None
    name = f"{node.output.name}.q"
    for axis, factor in reversed(list(enumerate(factors))):  # the innermost first: longer runs
        if factor == 1:
            continue
        outer, inner = dims[: axis + 1], dims[axis + 1 :]
        run = x
        if len(inner) != 1:
            run = rw.op("cim.reshape", [x], name, node, {"shape": (*outer, prod(inner))})
        row = joined(rw, [run] * factor, axis + 1, name, node)
        dims = (*outer[:-1], outer[-1] * factor, *inner)
        x = rw.op("cim.reshape", [row], name, node, {"shape": dims})
    return x


def _repeats(graph: Graph, node: Node, dims: tuple[int, ...], factors: list[int]) -> bool:
    """Whether that is what the operation does, found by running it on numbered elements."""
    others = [v for v in node.inputs[1:] if v is not None]
    if node.attrs.get("mode", "nearest") != "nearest" or any(v.const is None for v in others):
        return False
    size = node.output.tensor.with_elem("f32")
    given, found = Value("given", TensorType("f32", dims)), Value("found", size)
    alone = Node(node.op, [given, *node.inputs[1:]], [found], dict(node.attrs))
    part = Graph("repeats", [given], [found], [alone], list(dict.fromkeys(others)),
                 opsets=graph.opsets)  # fmt: skip
    part.input_names, part.output_names = ["given"], ["found"]
    numbered = np.arange(1, prod(dims) + 1, dtype=np.float32).reshape(dims)
    wanted = numbered
    for axis, factor in enumerate(factors):
        wanted = np.repeat(wanted, factor, axis)
    return np.array_equal(Evaluator(part)({"given": numbered})["found"], wanted)
