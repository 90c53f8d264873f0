"""What the control unit's instructions (`ctl.*`) do, one function a row of `table.py`.

The unit decides over results: it sums integers of buffers, and their squares, in scalars of 128
bits, and compares with them. Scalars never wrap. Functions take their operands as those of
`effects.py` do; `.update` runs once, so that there is one sample.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from cimc.isa.state import Ints, Scalar, Trap, Vec

Tally = Counter[str]

WORD = 32
"""Bits of an element, and of what the unit multiplies in one operation."""
PRODUCT = (Scalar.BITS // WORD) ** 2
"""Operations of a product of two scalars; a quotient takes one for each of its bits."""


def ctl_set(n: Tally, s: Scalar, value: int = 0) -> None:
    """s = value."""
    s.set(value)
    n["ops"] += 1


def ctl_sum(n: Tally, s: Scalar, x: Vec, mask: Vec | None = None) -> None:
    """s += the sum of x, where the mask isn't 0."""
    s.set(s.value + _sum(_chosen(x, mask), 1))
    n["ops"] += x.size


def ctl_squares(n: Tally, s: Scalar, x: Vec, mask: Vec | None = None) -> None:
    """s += the sum of the squares of x, where the mask isn't 0."""
    s.set(s.value + _sum(_chosen(x, mask), 2))
    n["ops"] += x.size


def ctl_mul(n: Tally, s: Scalar, a: Scalar, b: Scalar) -> None:
    """s = a * b."""
    s.set(a.value * b.value)
    n["ops"] += PRODUCT


def ctl_sub(n: Tally, s: Scalar, a: Scalar, b: Scalar) -> None:
    """s = a - b."""
    s.set(a.value - b.value)
    n["ops"] += 1


def ctl_div(n: Tally, s: Scalar, a: Scalar, b: Scalar) -> None:
    """s = a / b, rounded down; 0 for b = 0."""
    s.set(a.value // b.value if b.value else 0)
    n["ops"] += Scalar.BITS


def ctl_lt(n: Tally, y: Vec, x: Vec, t: Scalar, mask: Vec | None = None) -> None:
    """y = 1 where x < t and the mask isn't 0, else 0."""
    _mark(n, y, _integers(x) < _held(t.value), mask)


def ctl_gt(n: Tally, y: Vec, x: Vec, t: Scalar, mask: Vec | None = None) -> None:
    """y = 1 where x > t and the mask isn't 0, else 0."""
    _mark(n, y, _integers(x) > _held(t.value), mask)


def ctl_st(n: Tally, v: Vec, s: Scalar) -> None:
    """Store the scalar; a value outside the buffer's type is refused."""
    if not -(1 << 62) <= s.value < 1 << 62:
        raise Trap(f"{s.value} is not a value of {v.buffer.elem}")
    v.store(np.array([[s.value]]))
    n["ops"] += 1


def _mark(n: Tally, y: Vec, found: Any, mask: Vec | None) -> None:
    if mask is not None:
        found = found & (_integers(mask) != 0)
    y.store(found.astype(np.int64))
    n["ops"] += y.size


def _integers(x: Vec) -> Ints:
    return x.values.astype(np.int64)


def _chosen(x: Vec, mask: Vec | None) -> Ints:
    values = _integers(x)
    return values if mask is None else values[_integers(mask) != 0]


def _largest(values: Ints) -> int:
    return max(abs(int(values.max(initial=0))), abs(int(values.min(initial=0))))


def _sum(values: Ints, power: int) -> int:
    """Of the values or their squares: in 64 bits where it fits, else in Python's integers."""
    if _largest(values) ** power * values.size < 1 << 63:
        return int((values**power).sum())
    return sum(int(value) ** power for value in values.flat)


def _held(limit: int) -> int:
    """The limit, or the next one that 64 bits hold: elements have 32."""
    return max(-(1 << 62), min(1 << 62, limit))
