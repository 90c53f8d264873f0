"""`cim.similar`: type rule and numpy meaning, and the fractions that it states as texts."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from cimc.ir.planes import bit_planes, plane_weights
from cimc.ir.rules import Misfit
from cimc.ir.types import Array, TensorType, Type
from cimc.similarity.criteria import BINARY_B, BINARY_C, MODES
from cimc.similarity.stored import stored_decision

MODE, B, C = MODES[0], str(BINARY_B), str(BINARY_C)
"""Defaults: those of the published script, and what it means to do."""


def types(operands: Sequence[TensorType], attrs: dict[str, Any]) -> list[Type]:
    """bool[N] for N kernels along `axis`."""
    w, axis = operands[0], attrs["axis"]
    if attrs["of"] != w.elem:
        raise Misfit(f'of="{attrs["of"]}" must be the element type of {w}')
    if w.shape is None or not 0 <= axis < len(w.shape):
        raise Misfit(f"axis={axis} is not an axis of {w}")
    if fraction("b", attrs["b"]) < 0:
        raise Misfit(f"b={attrs['b']} must be at least 0")
    if not 0 <= fraction("c", attrs["c"]) <= 1:
        raise Misfit(f"c={attrs['c']} must be 0 to 1")
    return [TensorType("bool", (w.shape[axis],))]


def evaluate(
    args: Sequence[Array], attrs: dict[str, Any], types: Sequence[TensorType]
) -> list[Array]:
    """The criterion on the bit planes of the kernels, in exact integers."""
    w: Any = np.moveaxis(args[0], attrs["axis"], 0)
    rows, elem = w.reshape(len(w), -1), attrs["of"]
    b, c = fraction("b", attrs["b"]), fraction("c", attrs["c"])
    planes = bit_planes(rows, elem)
    return [stored_decision(rows, planes, plane_weights(elem), b, c, attrs["mode"]).pruned]


def fraction(name: str, text: str) -> Fraction:
    """A fraction such as 73/500 or 0.146, exactly. Raises Misfit."""
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise Misfit(f'{name}="{text}" must be a number such as 73/500') from None
