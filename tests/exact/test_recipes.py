"""Recipes of reads (cimc/driver/recipes.py) against numpy, for every set of functions."""

from itertools import combinations

import numpy as np
import pytest
from exact_draw import cases
from hypothesis import given
from hypothesis import strategies as st

from cimc.driver.recipes import powers, recipe

FUNCTIONS = ("and", "nand", "or", "xor")
SUBSETS = [s for n in range(1, 5) for s in combinations(FUNCTIONS, n)]
READS = {
    "and": np.logical_and,
    "nand": lambda a, b: ~np.logical_and(a, b),
    "or": np.logical_or,
    "xor": np.logical_xor,
}


def _by_recipe(x, w, x_elem, w_elem, functions):
    """The dot product as the reads of a tile give it."""
    if x_elem in ("bip", "tern"):
        bits, valid = x > 0, x != 0
    else:
        bits, valid = x > 0, np.ones(len(x), bool)
    if x_elem == "bip":
        valid = np.ones(len(x), bool)
    planes = [w > 0, w < 0]
    made = recipe(x_elem, w_elem, functions)
    latches = {"x": bits, "0": bits & False, "1": bits | True}
    total = made.valid * int(valid.sum()) + made.ones * int((bits & valid).sum())
    for term in made.terms:
        assert term.function in functions
        result = READS[term.function](planes[term.plane], latches[term.latch]) & valid
        total += term.weight * int(result.sum())
    return total


@pytest.mark.parametrize("functions", SUBSETS, ids="-".join)
@pytest.mark.parametrize("x", ["bip", "tern", "u1", "u8"])
@pytest.mark.parametrize("w", ["bip", "tern"])
def test_recipe_is_the_dot_product(x, w, functions):
    rng = np.random.default_rng(len(functions))
    levels = {"bip": (-1, 1), "tern": (-1, 0, 1), "u1": (0, 1), "u8": (0, 1)}
    if x in ("u1", "u8") and w == "tern" and functions == ("xor",):
        with pytest.raises(ValueError, match="not xor alone"):
            recipe(x, w, functions)
        return
    for size in (0, 1, 2, 7, 30):
        xs, ws = rng.choice(levels[x], size), rng.choice(levels[w], size)
        assert _by_recipe(xs, ws, x, w, functions) == int(xs @ ws)


@cases(50)
@given(st.integers(-1000, 1000))
def test_powers_add_up(weight):
    assert sum({"add": 1, "sub": -1}[op] << shift for op, shift in powers(weight)) == weight
