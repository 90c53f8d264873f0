"""Float weights as integers times a scale for each output channel, where they are that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cimc.driver.rewrite import power_of_two
from cimc.ir.types import Array, container, narrowest


@dataclass(frozen=True)
class Weights:
    """w = levels * alpha: integers of element type `elem`, alpha float32, one for each output
    channel or a single one."""

    levels: Array
    elem: str
    alpha: Array


def split(w: Array, axis: int, steps: Array | None, any_alpha: bool) -> Weights | str:
    """Weights w as ±α or 0 with one α for each channel along `axis`, or as the integers that
    their quantiser made, which has the step `steps` (an array like w) there; else why not.

    any_alpha: whether an α that is no power of two will do, with which sums round."""
    found = _bits(w, axis)
    if found is None and steps is not None:
        found = _integers(w, axis, steps)
    if found is None:
        return "the weights of a kernel are not ±α"
    if not any_alpha and not all(power_of_two(a) for a in found.alpha.tolist()):
        return "α of its weights ±α is not a power of two, so the sum rounds"
    return found


def _bits(w: Any, axis: int) -> Weights | None:
    size = np.abs(w)
    others = tuple(i for i in range(w.ndim) if i != axis)
    largest = size.max(axis=others, initial=0.0, keepdims=True)
    if not np.all((size == 0) | (size == largest)):
        return None
    alpha = largest.reshape(-1).astype(np.float64)
    alpha[alpha == 0] = 1.0
    levels = np.sign(w).astype(np.int8)
    elem = "tern" if bool(np.any(levels == 0)) else "bip"
    return Weights(levels, elem, _joined(alpha))


def _integers(w: Any, axis: int, steps: Any) -> Weights | None:
    others = tuple(i for i in range(w.ndim) if i != axis)
    alpha = steps.max(axis=others, initial=0.0, keepdims=True)
    if not w.size or not np.all(steps == alpha) or not np.all(alpha > 0):
        return None
    levels = np.rint(w / alpha)
    if not np.array_equal(levels.astype(np.float32) * alpha.astype(np.float32), w):
        return None
    if np.abs(levels).max() > 255:
        return None
    elem = narrowest(int(levels.min()), int(levels.max()))
    return Weights(levels.astype(container(elem)), elem, _joined(alpha.reshape(-1)))


def _joined(alpha: Any) -> Array:
    one = bool(np.all(alpha == alpha[0])) if alpha.size else True
    found: Array = (alpha[:1] if one else alpha).astype(np.float32)
    return found
