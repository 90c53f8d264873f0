"""Dot products on a Boolean array: which reads, with which weight, for each pair of encodings.

Identities (x bits on the input latch, w bits in the cells, both under the valid mask;
N valid columns, X ones of x, W ones of w, A = popcount of x AND w):

    bip or tern x · bip w    N - 2·XOR(x, w)          (a zero of x is not valid)
    bip or tern x · tern w   XOR(x, w=-1) - XOR(x, w=+1)
    bit x · bip w            2·A - X
    bit x · tern w           A(x, w=+1) - A(x, w=-1)
    bip or tern x · int w    sum over planes j of ±2^j · (X - XOR(x, w_j))
    bit x · int w            sum over planes j of ±2^j · A(x, w_j)

A target that lacks a function reads others instead, with
    XOR = X + W - 2·A,  NAND = N - A,  OR = X + W - A,
where W is read from the same cells with a latch of all ones (AND, NAND) or all zeros (OR,
XOR). The bits are the same; the reads are more.

N and X are counted over the whole latch. Where kernels of several groups share a row (a pack),
each group's share is read instead: N = OR(1, w), X = OR(x, w) + A(x, w) - A(1, w).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cimc.ir.types import planes

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
    """One input plane's share of a dot product: reads, plus `valid`·N + `ones`·X. With a
    ladder, the terms hold for each of its planes j, times 2^j, the top one negative if
    `signed`; `valid` and `ones` stand for all planes together."""

    terms: tuple[Term, ...]
    valid: int
    ones: int
    ladder: int = 0
    signed: bool = False

    @property
    def latches(self) -> tuple[str, ...]:
        """Filled latches that the terms need, in order."""
        return tuple(dict.fromkeys(t.latch for t in self.terms if t.latch != "x"))


PACKING = ("and", "or", "xor")
"""The functions that packs need."""


def recipe(x: str, w: str, functions: Sequence[str], packed: bool = False) -> Recipe:
    """The reads for input encoding x and weight encoding w on a target with `functions`;
    packed: rows hold several groups, and the target has all functions of `PACKING`.

    Raises ValueError if the functions can't make it (integers · tern with XOR alone).
    """
    signs = x in ("bip", "tern")
    ladder = 0 if w in ("bip", "tern") else planes(w)
    wanted = "xor" if signs else "and"
    parts, valid, ones = _parts(signs, w)
    if packed:
        return Recipe(_alone(wanted, parts, valid, ones), 0, 0, ladder, w[0] == "i")
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
    rungs = 1 if not ladder else -1 if w[0] == "i" else 2**ladder - 1  # sum of ±2^j
    return Recipe(
        tuple(Term(p, f, latch, int(k)) for p, f, latch, k in terms if k),
        int(valid) * rungs,
        int(ones) * rungs,
        ladder,
        w[0] == "i",
    )


def _parts(signs: bool, w: str) -> tuple[list[tuple[int, float]], float, float]:
    """(plane, weight) of the reads with XOR for signs, AND for bits; weights of N and of X."""
    if w == "bip":
        return ([(0, -2.0)], 1.0, 0.0) if signs else ([(0, 2.0)], 0.0, -1.0)
    if w == "tern":
        return ([(0, -1.0), (1, 1.0)] if signs else [(0, 1.0), (1, -1.0)]), 0.0, 0.0
    return ([(0, -1.0)], 0.0, 1.0) if signs else ([(0, 1.0)], 0.0, 0.0)


def _alone(
    wanted: str, parts: list[tuple[int, float]], valid: float, ones: float
) -> tuple[Term, ...]:
    """The reads with N and X of each group read too, equal reads joined."""
    reads: dict[tuple[int, str, str], int] = {}
    shares = [(plane, wanted, "x", weight) for plane, weight in parts]
    shares += [(0, "or", "1", valid)]
    shares += [(0, "or", "x", ones), (0, "and", "x", ones), (0, "and", "1", -ones)]
    for plane, function, latch, weight in shares:
        key = plane, function, latch
        reads[key] = reads.get(key, 0) + int(weight)
    return tuple(Term(*key, weight) for key, weight in reads.items() if weight)


def _order(wanted: str) -> tuple[str, ...]:
    """Functions to try: the wanted one, then those with the fewest extra reads."""
    return (wanted, "and", "nand", "or", "xor")


def powers(weight: int) -> list[tuple[str, int]]:
    """A weight as additions and subtractions of shifted values, as few as possible: (`add` or
    `sub`, shift)."""
    found, shift = [], 0
    while weight:
        if weight & 1:  # the digit +1 or -1 that leaves a multiple of four
            digit = 2 - weight % 4
            found.append(("add" if digit > 0 else "sub", shift))
            weight -= digit
        weight >>= 1
        shift += 1
    return found
