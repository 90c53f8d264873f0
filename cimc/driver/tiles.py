"""Whether a layer can lie on tiles, and whether its kernels can be compared there."""

from __future__ import annotations

from fractions import Fraction
from math import prod

from cimc.driver.base import Geometry
from cimc.ir.graph import Node
from cimc.ir.kernels import kernel_shape
from cimc.ir.ops import LAYERS
from cimc.ir.planes import plane_weights
from cimc.ir.rules import Misfit, input_planes

SCALAR_BITS = 128
"""Bits of the control unit's integers, with their sign."""
MAX_DIGITS = 18
"""Of a number in a program's text."""
_DISTANCE_BITS = 32  # of the integers that the control unit takes


def refusal(node: Node, geometry: Geometry, sizes: bool = True) -> str:
    """Why a cim.conv or cim.matmul can't be on a tile; empty if it can. sizes: they are bound by
    now, so that an unknown one is a reason."""
    x, w = node.arg(0), node.arg(1)
    try:
        input_planes(x.elem)
    except Misfit as misfit:
        return f"its input: {misfit}"
    if sizes and x.tensor.static is None:
        return f"its input has the shape {x.type}: sizes must be known"
    if w.const is not None and not w.const.size:
        return "its weights are empty"
    signs = ("bip", "tern")
    if x.elem not in signs and w.elem != "bip" and set(geometry.functions) == {"xor"}:
        kind = "ternary" if w.elem == "tern" else "integer"
        return f"integers times {kind} weights need and, nand or or; the target has only xor"
    if sizes and any(v.tensor.static is None for v in node.inputs[2:3] if v is not None):
        return "the shape of its zero point is not known"
    return ""


def search_refusal(node: Node, b: Fraction, c: Fraction, geometry: Geometry) -> str:
    """Why the kernels of a layer that lies on tiles can't be compared there by mean - b·variance
    and c; empty if they can."""
    assert node.op in LAYERS
    shape = kernel_shape(node)
    if shape.groups > 1:
        return f"its kernels see different inputs, in {shape.groups} groups"
    if shape.channels < 2:
        return "it has one kernel"
    if "xor" not in geometry.functions:
        return "the target has no function xor"
    largest = shape.columns * sum(plane_weights(node.arg(1).elem))
    bits = min(_DISTANCE_BITS, geometry.acc_bits)
    if largest >= 1 << (bits - 1):
        return f"its distances reach {largest}, which {bits} bits don't hold"
    return _scalar_refusal(shape.channels, largest, b, c)


def _scalar_refusal(kernels: int, largest: int, b: Fraction, c: Fraction) -> str:
    """Whether a number of the decision can leave the control unit's scalars."""
    pairs = kernels * (kernels - 1) // 2
    stated = (pairs, b.numerator, b.denominator, c.numerator * kernels, c.denominator)
    if any(number >= 10**MAX_DIGITS for number in stated):
        return f"b and c must be fractions of fewer digits; a program's numbers have {MAX_DIGITS}"
    # d·P²·bd, S1·P·bd and bn·(P·S2 - S1²), of distances d up to D
    reach = prod((pairs, pairs, largest)) * max(2 * b.denominator, 2 * b.numerator * largest)
    if reach >= 1 << (SCALAR_BITS - 1):
        return f"b must be a fraction of fewer digits: its numbers leave {SCALAR_BITS} bits"
    return ""
