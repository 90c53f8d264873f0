"""A copy of a graph, for passes that want to know what others would do with it."""

from __future__ import annotations

import copy
from typing import Any

from cimc.ir.graph import Graph, Node


def clone(graph: Graph) -> tuple[Graph, dict[Node, Node]]:
    """A copy that can be changed on its own, and the original of each of its operations.
    Both share the arrays of constants."""
    memo: dict[int, Any] = {id(v.const): v.const for v in graph.all_values() if v.const is not None}
    twin = copy.deepcopy(graph, memo)
    return twin, {memo[id(node)]: node for node in graph.nodes}
