"""A layer's weights as rows and columns of cells.

Column (tap · channels of a group + channel), taps row-major over the kernel, so that a
window of channel-packed positions is a run of words. One bit matrix a plane: `bip` has one
(1 means +1), `tern` has two (where the weight is +1, where it is -1).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from cimc.ir.graph import Node
from cimc.ir.types import Array


@dataclass(frozen=True)
class KernelShape:
    """groups × planes × channels (of one group) rows, each of `columns` cells."""

    groups: int
    channels: int
    columns: int
    planes: int

    def segments(self, width: int) -> int:
        return -(-self.columns // width) if self.columns else 0

    def blocks(self, width: int) -> int:
        """How many (group, segment, plane) blocks there are at that segment width."""
        return self.groups * self.segments(width) * self.planes

    def unit(self, width: int) -> int:
        """Blocks that stay together: the planes of a segment, or with several groups all
        planes and segments of a group."""
        return self.planes if self.groups == 1 else self.planes * self.segments(width)


def kernel_shape(node: Node) -> KernelShape:
    """The shape of the kernels of a cim.conv or cim.matmul."""
    w = node.arg(1)
    dims = w.tensor.static
    assert dims is not None
    planes = 2 if w.elem == "tern" else 1
    if node.op == "cim.matmul":
        return KernelShape(1, dims[1], dims[0], planes)
    groups = node.int_attr("group", 1)
    return KernelShape(groups, dims[0] // groups, prod(dims[1:]), planes)


def cells(node: Node) -> Array:
    """uint8 0/1 of shape [groups · planes · channels, columns]; plane before channel."""
    shape, w = kernel_shape(node), node.arg(1)
    array: Any = w.const
    if node.op == "cim.matmul":
        rows = array.T
    else:  # [channel, in, *taps] -> [channel, taps, in]
        rows = np.moveaxis(array, 1, -1).reshape(array.shape[0], -1)
    rows = rows.reshape(shape.groups, 1, shape.channels, shape.columns)
    planes = [rows > 0, rows < 0][: shape.planes]
    return np.concatenate(planes, axis=1).astype(np.uint8).reshape(-1, shape.columns)
