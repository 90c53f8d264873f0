"""Cuts each kernel matrix into blocks that fit a tile: segments of columns, chunks of rows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from cimc.driver import Geometry, Pass, PassContext, Rewriter
from cimc.driver.recipes import PACKING, recipe
from cimc.ir.graph import Graph, Node, Place, Value
from cimc.ir.kernels import KernelShape, kernel_shape
from cimc.ir.ops import LAYERS

_Layout = tuple[KernelShape, int]
"""The shape of a layer's kernels, and how many groups share a row."""


def _pack(node: Node, geometry: Geometry) -> int:
    """How many groups lie side by side in a row: as even packs as there is room for. One, where
    the sum over a group can't be told from that of its neighbours in the latch."""
    shape = kernel_shape(node)
    sums_input = node.operand(3) is not None  # a zero point of w
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
    4. a kernel of layers with other groups or packs ⇒ a copy for each way in which it lies
    Each chunk becomes one `place` statement over all its (group, segment, plane) blocks.
    """

    name = "split-tiles"
    summary = "cut kernels into segments, planes and chunks that fit a tile"
    kind = "exact"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        stated = {p.value for p in graph.places}
        made: dict[Value, dict[_Layout, Value]] = {}
        found, rw = [], Rewriter(graph)
        for node in graph.nodes:
            if node.op not in LAYERS or node.arg(1) in stated:
                continue
            w, layout = node.arg(1), (kernel_shape(node), _pack(node, ctx.geometry))
            copies = made.setdefault(w, {})
            if layout not in copies:
                copies[layout] = w
                if len(copies) > 1 and w.const is not None:
                    copies[layout] = node.inputs[1] = rw.const(w.name, w.const, w.elem)
                found += _places(node, ctx.geometry)
            node.inputs[1] = copies[layout]
        graph.places += found
        return bool(found)
