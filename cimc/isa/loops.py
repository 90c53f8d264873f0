"""Affine expressions over loop nests: their extremes, and all their values.

Used by the static checks. Knows loops and affine expressions; nothing of instructions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cimc.isa.program import Affine, Loop

IntArray = npt.NDArray[np.int64]


def substitute(expr: Affine, var: str, value: Affine) -> Affine:
    """`expr` with `value` in place of the loop variable."""
    coef = _coef(expr, var)
    return expr if coef == 0 else expr + (value - Affine.of(var)) * coef


def extent(expr: Affine, loops: Sequence[Loop]) -> tuple[int, int]:
    """Smallest and largest value of `expr` in the nest `loops`, outermost first.

    Bounds may depend on outer variables: the innermost variable is replaced by the end of
    its range that is extreme, then the next one. Exact where every loop runs at least once.
    """
    if expr.is_const:
        return expr.const, expr.const
    low = high = expr
    for loop in reversed(loops):
        if low.is_const and high.is_const:
            break
        low = substitute(low, loop.var, _end(loop, _coef(low, loop.var) > 0))
        high = substitute(high, loop.var, _end(loop, _coef(high, loop.var) < 0))
    assert low.is_const, "undefined loop variable"
    return low.const, high.const


def trips(loop: Loop, outer: Sequence[Loop]) -> tuple[int, int]:
    """Smallest and largest number of iterations of a loop; negative where hi < lo."""
    return extent(loop.hi - loop.lo, outer)


def iteration_count(loops: Sequence[Loop]) -> int:
    """An upper bound of the iterations of a nest; exact where bounds are constant."""
    total = 1
    for depth, loop in enumerate(loops):
        total *= max(0, trips(loop, loops[:depth])[1])
    return total


def iterations(loops: Sequence[Loop]) -> tuple[int, dict[str, IntArray]]:
    """Number of iterations of a nest, and each variable's value in each, in order."""
    count, env = 1, dict[str, IntArray]()
    for loop in loops:
        low = values(loop.lo, env, count)
        runs = np.maximum(values(loop.hi, env, count) - low, 0)
        before = np.cumsum(runs) - runs
        outer = np.repeat(np.arange(count), runs)
        count = len(outer)
        env = {name: array[outer] for name, array in env.items()}
        env[loop.var] = low[outer] + np.arange(count) - before[outer]
    return count, env


def values(expr: Affine, env: dict[str, IntArray], count: int) -> IntArray:
    """The value of `expr` in each of `count` iterations."""
    total = np.full(count, expr.const, dtype=np.int64)
    for name, coef in expr.terms:
        total += coef * env[name]
    return total


def _coef(expr: Affine, var: str) -> int:
    return next((coef for name, coef in expr.terms if name == var), 0)


def _end(loop: Loop, first: bool) -> Affine:
    return loop.lo if first else loop.hi - 1
