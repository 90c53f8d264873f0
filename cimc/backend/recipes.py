"""Dot products on a Boolean array: which reads, with which weight, for each pair of encodings.

Identities (x bits on the input latch, w bits in the cells, both under the valid mask;
N valid columns, X ones of x, W ones of w, A = popcount of x AND w):

    bip or tern x · bip w    N - 2·XOR(x, w)          (a zero of x is not valid)
    bip or tern x · tern w   XOR(x, w=-1) - XOR(x, w=+1)
    bit x · bip w            2·A - X
    bit x · tern w           A(x, w=+1) - A(x, w=-1)

A target that lacks a function reads others instead, with
    XOR = X + W - 2·A,  NAND = N - A,  OR = X + W - A,
where W is read from the same cells with a latch of all ones (AND, NAND) or all zeros (OR,
XOR). The bits are the same; the reads are more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# How each function is made from another: reads (function, latch, weight), weight of N, of X.
# A latch is the input itself ("x") or filled with 0 or 1 under the same mask.
_Reads = tuple[tuple[str, str, float], ...]
_MADE_FROM: dict[tuple[str, str], tuple[_Reads, float, float]] = {
    ("xor", "xor"): ((("xor", "x", 1),), 0, 0),
    ("xor", "and"): ((("and", "x", -2), ("and", "1", 1)), 0, 1),
    ("xor", "nand"): ((("nand", "x", 2), ("nand", "1", -1)), -1, 1),
    ("xor", "or"): ((("or", "x", 2), ("or", "0", -1)), 0, -1),
    ("and", "and"): ((("and", "x", 1),), 0, 0),
    ("and", "nand"): ((("nand", "x", -1),), 1, 0),
    ("and", "or"): ((("or", "x", -1), ("or", "0", 1)), 0, 1),
    ("and", "xor"): ((("xor", "x", -0.5), ("xor", "0", 0.5)), 0, 0.5),
}


@dataclass(frozen=True)
class Term:
    """`weight` times the popcount of reading rows of weight plane `plane` with a function and
    a latch ("x", "0" or "1")."""

    plane: int
    function: str
    latch: str
    weight: int


@dataclass(frozen=True)
class Recipe:
    """One input plane's share of a dot product: reads, plus `valid`·N + `ones`·X."""

    terms: tuple[Term, ...]
    valid: int
    ones: int

    @property
    def latches(self) -> tuple[str, ...]:
        """Filled latches that the terms need, in order."""
        return tuple(dict.fromkeys(t.latch for t in self.terms if t.latch != "x"))


def recipe(x: str, w: str, functions: Sequence[str]) -> Recipe:
    """The reads for input encoding x and weight encoding w on a target with `functions`.

    Raises ValueError if the functions can't make it (integers · tern with XOR alone).
    """
    signs = x in ("bip", "tern")
    wanted = "xor" if signs else "and"
    if w == "bip":
        parts = [(0, -2.0 if signs else 2.0)]
        valid, ones = (1.0, 0.0) if signs else (0.0, -1.0)
    else:
        parts = [(0, -1.0), (1, 1.0)] if signs else [(0, 1.0), (1, -1.0)]
        valid = ones = 0.0
    having = next(f for f in _order(wanted) if f in functions and (wanted, f) in _MADE_FROM)
    reads, n, o = _MADE_FROM[wanted, having]
    terms = []
    for plane, weight in parts:
        terms += [(plane, f, latch, weight * k) for f, latch, k in reads]
        valid += weight * n
        ones += weight * o
    weights = [t[3] for t in terms] + [valid, ones]
    if any(k != int(k) for k in weights):
        raise ValueError(f"{x} times {w} needs and, nand or or, not {having} alone")
    return Recipe(
        tuple(Term(p, f, latch, int(k)) for p, f, latch, k in terms), int(valid), int(ones)
    )


def _order(wanted: str) -> tuple[str, ...]:
    """Functions to try: the wanted one, then those with the fewest extra reads."""
    return (wanted, "and", "nand", "or", "xor")


def powers(weight: int) -> list[tuple[str, int]]:
    """A weight as additions and subtractions of shifted values: (`add` or `sub`, shift)."""
    op = "add" if weight > 0 else "sub"
    return [(op, k) for k in range(abs(weight).bit_length()) if abs(weight) >> k & 1]
