"""Random programs: the packed engine gives the outputs, cells, counts and errors of the reference
interpreter, whatever its options.

What fails is cut down by `program_reducer.py` and shown as a program text."""

from collections import Counter
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from engine_agreement import difference, expected, outcome
from hypothesis import HealthCheck, Phase, given, settings
from program_reducer import reduced
from random_draws import PLANES, Draw
from random_programs import cases, instructions, random_case, readable

from cimc.isa.program import Ref
from cimc.isa.table import TABLE
from cimc.sim import reference
from cimc.sim.feed import Feed
from cimc.sim.packed import state
from cimc.sim.packed.engine import Engine


def search(count):
    """Settings for `count` cases, the same ones in every run."""
    return settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


def packed(case, **options):
    """The outcome of the packed engine."""
    return outcome(Engine(case.program, **options).run, case.feeds, tiles=case.tiles)


# -- ways to run a case: each returns where it differs from the reference ----------------


def _as_it_is(case, right, **options):
    return difference(right, packed(case, **options))


def _shared_out(case, right):
    """Every kernel by rows or lanes on several threads, however little it has to do."""
    with patch.object(state, "_SHARED_WORK", 0):
        return difference(right, packed(case, threads=3))


def _again(case, right):
    """One engine twice: what it keeps from the first run doesn't show."""
    engine = Engine(case.program)
    outcome(engine.run, case.feeds, tiles=case.tiles)
    return difference(right, outcome(engine.run, case.feeds, tiles=case.tiles))


def _resumed(case, right):
    """A second run goes on from the cells that the first one left, packed as they come."""
    if right.error:
        return ""
    first = packed(case)
    after = outcome(reference.run, case.program, case.feeds, tiles=right.result.tiles)
    return difference(after, packed(replace(case, tiles=first.result.state)))


def _little_memory(case, right):
    """A few samples at a time, as many as the smallest budget has room for that is enough."""
    memory = 64
    while "budget" in (found := packed(case, memory=memory, threads=1)).error:
        memory *= 2
    return difference(right, found)


def _in_other_order(case, right):
    """The samples shuffled: so are the results."""
    count = Feed(case.program, case.feeds).samples
    order = Draw(count).sample(range(count), count)
    if not count or not _is_batched(case):
        return ""
    mixed = replace(case, feeds=_picked(case, order))
    return difference(expected(mixed), packed(mixed, threads=2))


def _one_by_one(case, right):
    """Some samples alone, on an engine that has run all: each gives what it gives alone."""
    count = Feed(case.program, case.feeds).samples
    if count < 2 or not _is_batched(case):
        return ""
    engine = Engine(case.program)
    outcome(engine.run, case.feeds, tiles=case.tiles)
    for number in {0, count // 2, count - 1}:
        one = replace(case, feeds=_picked(case, [number]))
        found = outcome(engine.run, one.feeds, tiles=one.tiles)
        words = difference(expected(one), found)
        if words:
            return f"sample {number} alone: {words}"
    return ""


def _is_batched(case):
    return any(mem.batch is not None for mem in case.program.inputs)


def _picked(case, numbers):
    """The inputs of some samples, by number."""
    feeds = {}
    for mem in case.program.inputs:
        array = case.feeds[mem.input]
        axis, size = (0, 1) if mem.batch is None else (mem.batch, mem.shape[mem.batch])
        if mem.batch is None and array.ndim == len(mem.shape):
            feeds[mem.input] = array
            continue
        feeds[mem.input] = np.take(
            array, [n * size + k for n in numbers for k in range(size)], axis
        )
    return feeds


WAYS = {
    "two threads": lambda case, right: _as_it_is(case, right, threads=2),
    "shared out": _shared_out,
    "planes kept": lambda case, right: _as_it_is(case, right, contract=False),
    "little memory": _little_memory,
    "run twice": _again,
    "resumed": _resumed,
    "shuffled": _in_other_order,
    "one by one": _one_by_one,
}


def check_case(case, ways):
    """Assert that the engine agrees with the reference, with defaults and in some `ways`."""
    right = expected(case)
    for name, way in {"as it is": _as_it_is, **{name: WAYS[name] for name in ways}}.items():
        if way(case, right):
            _fail(case, name, way)


def _fail(case, name, way):
    small = reduced(case, lambda smaller: bool(way(smaller, expected(smaller))))
    words = way(small, expected(small))
    text = f"{name}: {words}\n\n{readable(small.program)}\n\ncut down from {case.made}"
    pytest.fail(text, pytrace=False)


def _check_drawn(case, count=1):
    """With defaults, and in one or more ways that follow from the case."""
    draw = Draw(len(readable(case.program)))
    check_case(case, draw.sample(list(WAYS), count))


@search(280)
@given(cases(("plain", "mutated")))
def test_compiled_programs(case):
    _check_drawn(case)


@search(180)
@given(cases(("apart",)))
def test_programs_of_layers_apart(case):
    _check_drawn(case)


@search(160)
@given(cases(("wild",)))
def test_wild_programs(case):
    _check_drawn(case)


@pytest.mark.slow
@search(1800)
@given(cases(first=1 << 32))
def test_many_programs(case):
    _check_drawn(case, 4)


# -- the programs are what they should be ------------------------------------------------


def test_the_programs_cover_the_instruction_set():
    """Every instruction and option, every element type of a latch, and results of many types."""
    seen, options, types, ways, plain, loops = Counter(), set(), set(), Counter(), 0, 0
    failed, rows = 0, 0
    for seed in range(300):
        case = random_case(seed)
        instrs = instructions(case.program)
        seen.update({instr.op for instr in instrs})
        types |= {mem.type for mem in case.program.mems.values()}
        ways[case.way] += 1
        plain, loops = plain + case.plain, loops + case.loops
        failed += bool(expected(case).error)
        options |= {(instr.op, name) for instr in instrs for name in instr.opts}
        addends = [i.args[1] for i in instrs if i.op in ("acc.add", "acc.sub")]
        rows += any(isinstance(a, Ref) and a.index is not None for a in addends)
    assert set(TABLE) - {op for op, count in seen.items() if count >= 3} == set()
    wanted = {(op, opt.name) for op, row in TABLE.items() for opt in row.opts}
    assert wanted - options == set()
    assert {*PLANES, "i16", "u16", "i32", "u32", "i64", "f16", "f32", "f64"} - types == set()
    assert min(ways.values()) > 20
    assert 0.3 < plain / loops < 0.7
    assert 0.02 < failed / 300 < 0.3
    assert rows > 30  # programs with a row of a table for a position
