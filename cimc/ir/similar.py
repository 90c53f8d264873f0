"""`cim.similar`: type rule and numpy meaning, and the fractions that it states as texts."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from cimc.ir.planes import bit_planes, plane_weights
from cimc.ir.rules import Misfit
from cimc.ir.types import Array, TensorType, Type
from cimc.similarity.criteria import BINARY_B, BINARY_C
from cimc.similarity.criteria import MODES as MODES
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
    fractions(attrs["b"], attrs["c"])
    return [TensorType("bool", (w.shape[axis],))]


def evaluate(
    args: Sequence[Array], attrs: dict[str, Any], types: Sequence[TensorType]
) -> list[Array]:
    """The criterion on the bit planes of the kernels, in exact integers."""
    w: Any = np.moveaxis(args[0], attrs["axis"], 0)
    rows, elem = w.reshape(len(w), -1), attrs["of"]
    b, c = fractions(attrs["b"], attrs["c"])
    planes = bit_planes(rows, elem)
    return [stored_decision(rows, planes, plane_weights(elem), b, c, attrs["mode"]).pruned]


def fractions(b: str, c: str) -> tuple[Fraction, Fraction]:
    """b and c as 73/500 or 0.146, exactly. Raises Misfit, which names the range."""
    found = _fraction(b), _fraction(c)
    if found[0] is None or found[0] < 0:
        raise Misfit(f"b={b} must be a number of at least 0, such as 0.146 or 73/500")
    if found[1] is None or not 0 <= found[1] <= 1:
        raise Misfit(f"c={c} must be a number from 0 to 1, such as 0.15 or 3/20")
    return found[0], found[1]


def _fraction(text: str) -> Fraction | None:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None
