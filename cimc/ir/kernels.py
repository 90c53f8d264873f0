"""A layer's weights as rows and columns of cells.

Column (tap · channels of a group + channel), taps row-major over the kernel, so that a
window of channel-packed positions is a run of words. One bit matrix a plane, see `planes.py`.

The kernels of a group that fills less than half of a row can share rows with other groups, side
by side: `packed` is such a *pack*, and counts as one group of more columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from cimc.ir.graph import Node
from cimc.ir.planes import bit_planes, weight_planes
from cimc.ir.types import Array


@dataclass(frozen=True)
class KernelShape:
    """groups × planes × channels (of one group) rows, each of `columns` cells. `pack` groups of
    the layer lie side by side in a row; then `groups` counts packs."""

    groups: int
    channels: int
    columns: int
    planes: int
    pack: int = 1

    def segments(self, width: int) -> int:
        return -(-self.columns // width) if self.columns else 0

    def blocks(self, width: int) -> int:
        """How many (group, segment, plane) blocks there are at that segment width."""
        return self.groups * self.segments(width) * self.planes

    def unit(self, width: int) -> int:
        """Blocks that stay together: the planes of a segment, or with several groups all
        planes and segments of a group."""
        return self.planes if self.groups == 1 else self.planes * self.segments(width)

    def packed(self, pack: int) -> KernelShape:
        """The shape with `pack` groups side by side."""
        groups = -(-self.groups // pack)
        return replace(self, groups=groups, columns=self.columns * pack, pack=pack)


def kernel_shape(node: Node, width: int = 0) -> KernelShape:
    """The shape of the kernels of a cim.conv or cim.matmul, in rows of `width` columns: rows
    that are wider than the kernels of two groups hold packs."""
    w = node.arg(1)
    dims = w.tensor.static
    assert dims is not None
    count = weight_planes(w.elem)
    if node.op == "cim.matmul":
        return KernelShape(1, dims[1], dims[0], count)
    groups = node.int_attr("group", 1)
    shape = KernelShape(groups, dims[0] // groups, prod(dims[1:]), count)
    fit = width // shape.columns if shape.columns else 0
    return shape.packed(fit) if groups > 1 and fit > 1 else shape


def kernel_rows(node: Node) -> Any:
    """The weights of a cim.conv or cim.matmul as integers [channels, columns of a group]."""
    array: Any = node.arg(1).const
    if node.op == "cim.matmul":
        return array.T
    # [channel, in, *taps] -> [channel, taps, in]
    return np.moveaxis(array, 1, -1).reshape(array.shape[0], -1)


def by_channel(bias: Any) -> Any:
    """The bias of a layer, [C] or [1, C, *out], as [C, positions]; a [C] has one position."""
    found = bias.reshape(bias.shape[0] if bias.ndim == 1 else bias.shape[1], -1)
    return found if found.shape[1] else np.zeros((len(found), 1), found.dtype)


def cells(node: Node, width: int = 0) -> Array:
    """uint8 0/1 of shape [groups · planes · channels, columns]; plane before channel. Packs are
    filled up with zeros."""
    shape, rows = kernel_shape(node, width), kernel_rows(node)
    bits = bit_planes(rows, node.arg(1).elem).reshape(
        shape.planes, -1, shape.channels, rows.shape[1]
    )
    if shape.pack > 1:
        missing = shape.groups * shape.pack - bits.shape[1]
        bits = np.pad(bits, ((0, 0), (0, missing), (0, 0), (0, 0)))
        bits = bits.reshape(shape.planes, shape.groups, shape.pack, shape.channels, -1)
        bits = bits.swapaxes(2, 3)
    bits = bits.reshape(shape.planes, shape.groups, shape.channels, shape.columns)
    return np.ascontiguousarray(bits.swapaxes(0, 1)).reshape(-1, shape.columns)
