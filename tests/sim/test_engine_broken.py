"""An engine that is broken on purpose must be caught: each of these mistakes shows in one of the
first random programs."""

import numpy as np
import pytest
from engine_agreement import difference, expected, outcome
from random_programs import random_case

from cimc.sim.packed import engine, finish, plan, terms

SEEDS = range(200)


def _caught():
    """Whether the engine differs from the reference in some case."""
    for seed in SEEDS:
        case = random_case(seed, ("plain", "mutated"))
        run = engine.Engine(case.program, threads=1).run
        if difference(expected(case), outcome(run, case.feeds, tiles=case.tiles)):
            return True
    return False


def _a_cell(patch):
    """The first cell of each tile is read as the opposite."""
    real = engine.Cells

    def cells(words, *rest):
        flipped = words.copy()
        flipped[:, 0, 0] ^= np.uint64(1)
        return real(flipped, *rest)

    patch.setattr(engine, "Cells", cells)


def _of_terms(change):
    """A mistake in the terms of each sum."""

    def broken(patch):
        real = terms.Reader.sum_of

        def sum_of(self, use, reg):
            found = real(self, use, reg)
            found.terms = change(found.terms.copy())
            return found

        patch.setattr(terms.Reader, "sum_of", sum_of)

    return broken


def _without_last(found):
    return found[:-1]


def _other_coefficient(found):
    found["coef"][:1] += 1
    return found


def _other_plane(found):
    found["plane"][-1:] ^= 1
    return found


def _fewer_columns(found):
    found["size"][-1:] -= 1
    return found


def _a_threshold(patch):
    """Each threshold is one too high."""
    real = finish.integers_at_least
    patch.setattr(finish, "integers_at_least", lambda limits: real(limits) + 1)


def _a_row(patch):
    """No kernel does its last row."""
    real = engine.make_plan

    def make_plan(*args):
        made = real(*args)
        for step in made.steps:
            step.rows -= step.rows > 1
        return made

    patch.setattr(engine, "make_plan", make_plan)


def _ones(patch):
    """The ones that reads find are not counted."""
    patch.setattr(plan, "ones_of", lambda *args: iter(()))


def _the_cells_afterwards(patch):
    """`.update` begins with other cells than it should."""
    real = engine.run_section

    def run_section(machine, program, name, counts):
        if name == "update":
            machine.cells[:] ^= np.uint64(1)
        real(machine, program, name, counts)

    patch.setattr(engine, "run_section", run_section)


BREAKS = {
    "a cell": _a_cell,
    "a term left out": _of_terms(_without_last),
    "a coefficient": _of_terms(_other_coefficient),
    "a plane": _of_terms(_other_plane),
    "a column less": _of_terms(_fewer_columns),
    "a threshold": _a_threshold,
    "a row left out": _a_row,
    "ones not counted": _ones,
    "cells of update": _the_cells_afterwards,
}


def test_the_whole_engine_passes():
    assert not _caught()


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_engine_is_caught(name, monkeypatch):
    BREAKS[name](monkeypatch)
    assert _caught()
