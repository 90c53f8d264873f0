"""Draws for random programs: a seeded source of choices, element types and values.

One seed gives one program: hypothesis draws the seed, and everything else follows from it in a
few milliseconds.
"""

from __future__ import annotations

import random

import numpy as np

from cimc.ir.types import container, int_range, is_float

PLANES = ("bip", "tern", *(f"{s}{bits}" for s in "ui" for bits in range(1, 9)))
"""Element types of an input that the compiler gives to a tile, and of weights."""
FLOATS = ("f32", "f32", "f64", "f16", "bf16")
FUNCTIONS = ("and", "nand", "or", "xor")
SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33)
WIDE = (40, 63, 64, 65, 96, 100, 130, 257)


class Draw(random.Random):
    """Choices from a seed; `arrays` is numpy's generator from the same seed."""

    def __init__(self, seed):
        super().__init__(seed)
        self.arrays = np.random.default_rng(seed)

    def chance(self, share):
        """True in that share of draws."""
        return self.random() < share

    def some(self, items, share=0.5):
        """Each of the items with a chance of `share`, in their order."""
        return [item for item in items if self.chance(share)]

    def small(self, low, high):
        """An integer in [low, high], more often a low one."""
        return min(self.randint(low, high), self.randint(low, high))

    def weighted(self, table):
        """A key of the table; its value is the weight."""
        return self.choices(list(table), list(table.values()))[0]


def values(draw, elem, shape):
    """Random values of an element type in its container: often the ends, at times all alike;
    floats with infinities, NaN and both zeros now and then."""
    if is_float(elem):
        return _floats(draw, elem, shape)
    if elem == "bool":
        return draw.arrays.random(shape) < 0.5
    low, high = int_range(elem)
    if draw.chance(0.2):
        low, high = max(low, -3), min(high, 3)
    found = draw.arrays.integers(low, high, shape, container(elem), endpoint=True)
    if draw.chance(0.3):
        ends = draw.arrays.choice(np.array([low, high], container(elem)), shape)
        found = np.where(draw.arrays.random(shape) < draw.choice([0.1, 0.9]), ends, found)
    if elem == "bip":
        found = np.where(found == 0, 1, found)
    if draw.chance(0.05) and found.size:
        found[...] = found.flat[0]
    return found.astype(container(elem))


def _floats(draw, elem, shape):
    found = draw.arrays.standard_normal(shape) * draw.choice([1, 4, 100])
    if draw.chance(0.5):
        found = np.round(found)
    if draw.chance(0.2):
        odd = draw.arrays.choice([0.0, -0.0, np.inf, -np.inf, np.nan, 1e30], shape)
        found = np.where(draw.arrays.random(shape) < 0.2, odd, found)
    with np.errstate(over="ignore"):
        return found.astype(container(elem))


def bits(draw, shape):
    """Cells: 0 and 1, dense, sparse or all alike."""
    share = draw.choice([0.5, 0.5, 0.5, 0.1, 0.9, 0.0, 1.0])
    return (draw.arrays.random(shape) < share).astype(np.uint8)


def scales(draw, count, target, spread):
    """float32 factors that bring values within +-spread into the range of `target`; at times
    tiny or huge ones."""
    low, high = int_range(target)
    usual = (high - low) / (2 * spread + 1)
    if draw.chance(0.2):
        usual = 2.0 ** round(np.log2(usual))  # products that lie halfway between integers
    found = np.full(count, usual) * draw.arrays.choice([1.0, 1.0, 0.5, 0.3, 2.0, 3.0], count)
    if draw.chance(0.1):
        found = found * draw.arrays.choice([1.0, 1e-38, 1e-20, 1e20, 1e38], count)
    return np.clip(found, 1e-45, 3e38).astype(np.float32)
