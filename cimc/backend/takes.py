"""What becomes of cim.take and cim.slice: which sums a layer's stores take, or copies."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from cimc.backend.nest import Nest
from cimc.ir.graph import Node
from cimc.ir.kernels import KernelShape
from cimc.ir.types import Array


def index_of(take: Node) -> Any:
    """The index of a cim.take, int64."""
    index = take.arg(1).const
    assert index is not None
    return index.astype(np.int64)


def own_sums(
    node: Node, axis: int, groups: int, shape: KernelShape, nests: Sequence[Nest]
) -> Array | None:
    """Which sum each channel of a cim.take behind a layer stores, counted from the first of its
    group, or of its pack of groups: those that are summed, and so stored, together. int32. None
    where that can't be: the operation is another one or along another axis than the channels', a
    group takes sums of another one, groups take unlike many, or the sums of a group come in
    chunks."""
    if node.op != "cim.take" or node.int_attr("axis", 1) != axis:
        return None
    index = index_of(node)
    if groups == 1:
        return _int32(index)
    each, rest = divmod(len(index), groups)
    if rest or not each or any(nest.size != shape.channels for nest in nests):
        return None
    group = np.repeat(np.arange(groups), each)
    if (index // shape.channels != group).any():
        return None
    return _int32(index - group // shape.pack * (shape.pack * shape.channels))


def _int32(index: Any) -> Array:
    found: Array = index.astype(np.int32)
    return found


def copies(node: Node, size: int) -> list[tuple[int, int, int]]:
    """A cim.take or cim.slice of `size` elements as copies of elements that follow each other:
    (first of the result, first of the operand, number)."""
    if node.op == "cim.slice":
        return [(0, node.int_attr("start", 0), size)]
    index = index_of(node)
    ends = np.flatnonzero(np.r_[True, np.diff(index) != 1, True]).tolist()
    return [(a, int(index[a]), b - a) for a, b in pairwise(ends)] if size else []
