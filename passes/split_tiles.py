"""Cuts each kernel matrix into blocks that fit a tile: segments of columns, chunks of rows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from cimc.driver import Geometry, Pass, PassContext
from cimc.driver.recipes import PACKING, recipe
from cimc.ir.graph import Graph, Node, Place
from cimc.ir.kernels import kernel_shape

LAYERS = ("cim.conv", "cim.matmul")


def _pack(node: Node, geometry: Geometry) -> int:
    """How many groups lie side by side in a row: as even packs as there is room for. One, where
    the sum over a group can't be told from that of its neighbours in the latch."""
    shape = kernel_shape(node)
    sums_input = len(node.inputs) > 3 and node.inputs[3] is not None  # a zero point of w
    if shape.groups == 1 or not shape.columns or shape.channels > geometry.rows or sums_input:
        return 1
    most, functions = geometry.cols // shape.columns, geometry.functions
    if most < 2 or not set(PACKING) <= set(functions):
        return 1
    packs = -(-shape.groups // most)
    x, w = node.arg(0).elem, node.arg(1).elem
    alone, packed = (len(recipe(x, w, functions, p).terms) for p in (False, True))
    if packs * packed >= shape.groups * alone:
        return 1  # more reads than rows are saved
    return -(-shape.groups // packs)


def _places(node: Node, geometry: Geometry) -> list[Place]:
    """Full chunks of as many channels as a tile has rows, then the rest; full packs of groups,
    then the rest."""
    w, rows = node.arg(1), geometry.rows
    pack = _pack(node, geometry)
    if pack > 1:
        shape = kernel_shape(node).packed(pack)
        blocks, width = shape.blocks(shape.columns), shape.columns
        last = blocks - shape.planes if node.int_attr("group", 1) % pack else blocks
        cuts = sorted({0, last, blocks})
        return [Place(w, (0, shape.channels), a, b - a, width) for a, b in pairwise(cuts)]
    shape = kernel_shape(node)
    width = min(geometry.cols, shape.columns)
    blocks = shape.blocks(width)
    cuts = [*range(0, shape.channels, rows), shape.channels]
    return [Place(w, (a, b), 0, blocks, width) for a, b in pairwise(cuts) if b > a]


@dataclass(frozen=True)
class SplitTiles(Pass):
    """Rules:
    1. a kernel of K columns ⇒ segments of at most the tile's columns
    2. more channels than a tile has rows ⇒ chunks of that many, and the rest
    3. groups of few columns (depthwise) ⇒ packs of several, side by side in a row
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
                found += _places(node, ctx.geometry)
        graph.places += found
        return bool(found)
