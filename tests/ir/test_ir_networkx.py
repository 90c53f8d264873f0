"""The view of a graph as a networkx graph."""

from __future__ import annotations

import networkx as nx

from cimc.ir.text import parse_graph

TEXT = """\
graph @g(%x: bip[1,3]) -> (%y) {
  const %w: bip[3,2] = [1, -1, 1, 1, -1, -1]
  const %th: i32[2] = [0, 1]

  %sum = cim.matmul(%x, %w): i32[1,2]
  %y = cim.threshold(%sum, %th): bip[1,2]
}
"""


def test_values_and_operations_are_vertices() -> None:
    net = parse_graph(TEXT).to_networkx()
    kinds = {name: data["kind"] for name, data in net.nodes(data=True)}
    assert kinds == {
        "%x": "input", "%w": "const", "%th": "const",
        "sum": "op", "%sum": "result", "y": "op", "%y": "result",
    }  # fmt: skip
    assert net.nodes["sum"]["op"] == "cim.matmul"
    assert net.nodes["%sum"]["type"] == "i32[1,2]"


def test_edges_carry_the_operand_index() -> None:
    net = parse_graph(TEXT).to_networkx()
    assert {(a, b, slot) for a, b, slot in net.edges(data="slot")} == {
        ("%x", "sum", 0), ("%w", "sum", 1), ("sum", "%sum", 0),
        ("%sum", "y", 0), ("%th", "y", 1), ("y", "%y", 0),
    }  # fmt: skip
    assert nx.is_directed_acyclic_graph(net)
