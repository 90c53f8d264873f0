"""Constants of a layer or operation as a program's data has them."""

from __future__ import annotations

import numpy as np

from cimc.ir.graph import Node
from cimc.ir.types import Array, int_range


def narrowest(table: Array) -> str:
    """The smallest integer type that holds all of a table."""
    low, high = int(table.min(initial=0)), int(table.max(initial=0))
    kinds = ("i8", "u8", "i16", "u16", "i32")
    return next(k for k in kinds if int_range(k)[0] <= low and high <= int_range(k)[1])


def scales_of(node: Node) -> Array:
    """The constants of a cim.qadd in the order of `pp.qadd`."""
    names = ("x_scale", "x_zero", "y_scale", "y_zero", "scale", "zero")
    return np.array([node.float_attr(name, 0.0) for name in names], np.float32)
