"""What is done with finished sums: the last part of a step of products."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cimc.sim.packed import parameters, products
from cimc.sim.packed.context import Context
from cimc.sim.packed.elements import BIT, BYTE
from cimc.sim.packed.flow import Refused
from cimc.sim.packed.matrix import Matrix
from cimc.sim.packed.parameters import P
from cimc.sim.packed.step import Step, float_bits
from cimc.sim.packed.stores import Part

Ints = npt.NDArray[np.int64]
Group = tuple[int, int, int, npt.NDArray[np.uint32]]

_TABLE_BYTES = 1 << 20


@dataclass
class Outcome:
    """What is known of the sums: `start` [classes, channels], each position's class, matrices with
    the range of the inputs that meet them, and the groups of popcounts."""

    start: Ints
    matrices: list[tuple[Matrix, int, int]]
    classes: Ints | None = None
    groups: list[Group] = field(default_factory=list)
    aligned: bool = False

    def range(self) -> tuple[int, int]:
        """Bounds of all sums without scalars."""
        low, high = self.start.min(axis=0), self.start.max(axis=0)
        for m, least, most in self.matrices:
            wide = m.astype(np.int64)
            low = low + np.minimum(wide * least, wide * most).sum(axis=1)
            high = high + np.maximum(wide * least, wide * most).sum(axis=1)
        return int(low.min(initial=0)), int(high.max(initial=0))


def finish(ctx: Context, step: Step, part: Part, outcome: Outcome) -> None:
    """Fill in the output's parameters. Raises Refused."""
    target = part.target
    form, p = ctx.layout.slot(target.buffer).format, step.params
    if target.op == "st.acc":
        p[P.FINISH] = parameters.STORE
        return
    if target.op == "st.rq":
        if form.kind != BYTE:
            raise Refused("requantised to more than a byte")
        scales = part.constants(ctx, 0).astype(np.float32)
        _requantise(step, target.zero, scales, form.low, (form.least, form.most))
        return
    limits = part.constants(ctx, 0)
    limits = integers_at_least(limits.reshape(len(limits), -1))
    flips = np.zeros(len(limits), np.uint8)
    if len(target.tables) > 1:
        flips = (part.constants(ctx, 1).astype(np.int64) < 0).astype(np.uint8)
    if not form.is_small:
        raise Refused("levels of more than a byte")
    _levels(step, limits, flips, outcome, form.kind)


def integers_at_least(limits: npt.NDArray[np.generic]) -> Ints:
    """Thresholds for integers [channels, T], ascending, cut to 32 bits: x >= limit as before for
    every x of 32 bits."""
    wide = limits
    if limits.dtype.kind == "f":
        exact = np.ceil(limits.astype(np.float64))
        wide = np.where(np.isnan(exact), np.inf, exact).clip(-(2.0**40), 2.0**40).astype(np.int64)
    held: Ints = np.sort(wide.astype(np.int64), axis=1)
    # one above the largest sum is never reached; sums stay below 2^31 - 1 in magnitude
    return held.clip(-(1 << 31), (1 << 31) - 1)


def _requantise(
    step: Step,
    zero: int,
    scales: npt.NDArray[np.float32],
    low: int,
    limits: tuple[int, int],
) -> None:
    p, vecs = step.params, int(step.params[P.VECS])
    wide = np.zeros(16 * vecs, np.float32)
    wide[: len(scales)] = scales
    p[P.FINISH], p[P.SCALES] = parameters.REQUANTISE, step.address(wide)
    p[P.CLAMP_LOW] = float_bits(limits[0] - zero)
    p[P.CLAMP_HIGH] = float_bits(limits[1] - zero)
    p[P.PLUS] = zero - low


def _levels(
    step: Step, limits: Ints, flips: npt.NDArray[np.uint8], outcome: Outcome, kind: int
) -> None:
    """Thresholds [channels, T] as signs, a table, or a search."""
    p, number = step.params, limits.shape[1]
    if number > 255:
        raise Refused("more than 255 thresholds")
    if kind == BIT and number == 1 and _signs(step, limits[:, 0], flips, outcome):
        return
    low, high = outcome.range()
    span = high - low + 1
    if not p[P.SCALARS] and span * len(limits) <= _TABLE_BYTES and number > 1:
        table = np.zeros((len(limits), span), np.uint8)
        sums = np.arange(low, high + 1)
        for row, limit, flip in zip(table, limits, flips):
            level = np.searchsorted(limit, sums, side="right")
            row[...] = number - level if flip else level
        p[P.FINISH], p[P.LIMITS] = parameters.TABLE, step.address(table)
        p[P.FIRST], p[P.LEVELS] = low, span
        return
    p[P.FINISH], p[P.LEVELS] = parameters.LEVEL, number
    p[P.LIMITS] = step.address(limits.astype(np.int32))
    p[P.FLIPS] = step.address(flips)


def _signs(step: Step, limits: Ints, flips: npt.NDArray[np.uint8], outcome: Outcome) -> bool:
    """Compare the popcount itself, 16 channels to two bytes, where the bits lie so."""
    p, size = step.params, len(limits)
    fitting = outcome.aligned and size % 16 == 0  # bits that fill whole bytes
    if not fitting or len(outcome.groups) != 1 or p[P.SCALARS]:
        return False
    start, words, coef, _ = outcome.groups[0]
    if start != 0 or words != p[P.WORDS]:
        return False  # one of several planes
    # coef * count + start >= limit, as count <= bound or not
    rest = limits - outcome.start
    bound = np.floor_divide(-rest, -coef) if coef < 0 else -np.floor_divide(-rest, coef) - 1
    flipped = (flips > 0) != (coef > 0)
    vecs = int(p[P.VECS])
    p[P.FINISH] = parameters.SIGN
    p[P.LIMITS] = step.address(bound.clip(-(1 << 31), (1 << 31) - 1).astype(np.int32))
    assert size == 16 * vecs
    p[P.FLIPS] = step.address(np.packbits(flipped, bitorder="little"))
    step.kernel = products.signs
    return True
