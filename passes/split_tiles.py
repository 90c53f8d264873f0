"""Cuts each kernel matrix into blocks that fit a tile: segments of columns, chunks of rows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from cimc.driver import Pass, PassContext
from cimc.ir.graph import Graph, Node, Place
from cimc.ir.kernels import kernel_shape

LAYERS = ("cim.conv", "cim.matmul")


def _places(node: Node, rows: int, cols: int) -> list[Place]:
    """Full chunks of `rows` channels, then the rest."""
    shape = kernel_shape(node)
    width = min(cols, shape.columns)
    blocks = shape.blocks(width)
    cuts = [*range(0, shape.channels, rows), shape.channels]
    return [Place(node.arg(1), (a, b), 0, blocks, width) for a, b in pairwise(cuts) if b > a]


@dataclass(frozen=True)
class SplitTiles(Pass):
    """Rules:
    1. a kernel of K columns ⇒ segments of at most the tile's columns
    2. more channels than a tile has rows ⇒ chunks of that many, and the rest
    Each chunk becomes one `place` statement over all its (group, segment, plane) blocks.
    """

    name = "split-tiles"
    summary = "cut kernels into segments, planes and chunks that fit a tile"
    kind = "exact"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        placed = {p.value for p in graph.places}
        found = []
        for node in graph.nodes:
            if node.op in LAYERS and node.arg(1) not in placed:
                placed.add(node.arg(1))
                found += _places(node, ctx.geometry.rows, ctx.geometry.cols)
        graph.places += found
        return bool(found)
