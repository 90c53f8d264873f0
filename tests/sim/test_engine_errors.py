"""Values that are refused at run time: the packed engine raises the error of the reference, at the
same place, whichever sample and position it is, and whatever else is wrong behind it."""

import numpy as np
import pytest
from build_program import (
    cells,
    data,
    i,
    image,
    ints,
    loop,
    program,
    reg,
    result,
    rows,
    vec,
    write,
    x,
)
from engine_agreement import difference, outcome

from cimc.errors import CompileError
from cimc.isa.check import check
from cimc.isa.printer import print_program
from cimc.isa.program import Affine, Mem, Win
from cimc.isa.text import parse
from cimc.sim import reference
from cimc.sim.packed.engine import Engine

SAMPLES, POSITIONS, CHANNELS = 7, 6, 3
BAD = (4, 3)  # sample and position of the one value that is refused


def _values(elem, usual, wrong, samples=SAMPLES, bad=BAD):
    """[samples, CHANNELS, POSITIONS] of a usual value, the wrong one in one place."""
    found = np.full((samples, CHANNELS, POSITIONS), usual, elem)
    found[bad[0], 1, bad[1]] = wrong
    return found


def _mems(source, target):
    shape = (1, CHANNELS, POSITIONS)
    return [image("v", source, shape), result("y", target, shape)]


def _steps(source, target, *body, more=(), items=()):
    """A program of one loop over positions."""
    return program([*_mems(source, target), *more], [loop("p", POSITIONS, *body)], items=items)


def _sums(target, *before, acc_bits=32):
    """A program that stores how many of three ones each position has, twice."""
    body = [
        i("ld.vector", x(), vec("v", "p")),
        i("read.and", reg("d", CHANNELS), rows(CHANNELS), x()),
        i("popc", reg("c", CHANNELS), reg("d", CHANNELS)),
        i("acc.clr", reg("a", CHANNELS)),
        *before,
        i("acc.add", reg("a", CHANNELS), reg("c", CHANNELS)),
        i("st.acc", vec("y", "p"), reg("a", CHANNELS)),
    ]
    image_ = cells("w", np.ones((CHANNELS, CHANNELS)))
    return program(
        _mems("bip", target), [loop("p", POSITIONS, *body)], write("w", CHANNELS),
        items=[image_, ints("minus", np.full(CHANNELS, -1, np.int32))], acc_bits=acc_bits,
    )  # fmt: skip


def _bits(ones, wrong):
    """Signs with `ones` of +1 at each position, and `wrong` of them at the bad one."""
    found = -np.ones((SAMPLES, CHANNELS, POSITIONS), np.int8)
    found[:, :ones] = 1
    found[BAD[0], :, BAD[1]] = -1
    found[BAD[0], :wrong, BAD[1]] = 1
    return found


SUM = Win("w", CHANNELS, (2,), (POSITIONS,), (1,), (1, 0), (1,))
MOVE = i("pp.mov", vec("y", "p"), vec("v", "p"))
ONCE = i("acc.add", reg("a", CHANNELS), data("minus"))

CASES = {
    "st.acc u1": (_sums("u1"), _bits(1, 2), "2 is not a value of u1"),
    "st.acc bip": (_sums("bip", ONCE), _bits(2, 1), "0 is not a value of bip"),
    "st.acc tern": (_sums("tern"), _bits(1, 3), "3 is not a value of tern"),
    "st.acc below": (_sums("u8", ONCE), _bits(1, 0), "-1 is not a value of u8"),
    "pp.add": (
        _steps("i8", "i8", i("pp.add", vec("y", "p"), vec("v", "p"), vec("v", "p"))),
        _values("i1", 5, 64), "128 is not a value of i8",
    ),
    "pp.mov": (_steps("i16", "u8", MOVE), _values("i2", 7, 256), "256 is not a value of u8"),
    "pp.mov f16": (_steps("i16", "f16", MOVE), _values("i2", 7, 2049), "2049 is not a value of f"),
    "pp.mov bip": (_steps("tern", "bip", MOVE), _values("i1", 1, 0), "0 is not a value of bip"),
    "pp.mov float": (_steps("f32", "i8", MOVE), _values("f4", 1, 0.5), "0.5 is not a value of i8"),
    "pp.relu": (
        _steps("i8", "u4", i("pp.relu", vec("y", "p"), vec("v", "p"))),
        _values("i1", -5, 16), "16 is not a value of u4",
    ),
    "pp.sum": (
        _steps("u8", "u8", i("pp.sum", vec("y", "p"), vec("v", "p"), data("w")), more=[SUM]),
        _values("u1", 100, 156), "256 is not a value of u8",
    ),
}  # fmt: skip


def _same(made, feeds, **options):
    """Both ways end in the same error; its text."""
    right = outcome(reference.run, made, feeds)
    found = outcome(Engine(made, **options).run, feeds)
    assert difference(right, found) == ""
    return right.error


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("spans", [False, True])
def test_a_value_that_does_not_fit(name, spans):
    made, values, message = CASES[name]
    check(made)
    error = _same(parse(print_program(made)) if spans else made, {"v": values})
    assert message in error
    assert f"p = {BAD[1]}" in error
    assert ("^" in error) == spans


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("options", [{"threads": 2}, {"contract": False}])
def test_options_do_not_change_the_error(name, options):
    made, values, message = CASES[name]
    assert message in _same(made, {"v": values}, **options)


@pytest.mark.parametrize("name", CASES)
def test_the_same_program_runs_without_the_value(name):
    made, values, _ = CASES[name]
    good = values[: BAD[0]]
    right = outcome(reference.run, made, {"v": good})
    assert not right.error
    assert difference(right, outcome(Engine(made).run, {"v": good})) == ""


def test_one_engine_goes_on_after_an_error():
    made, values, _ = CASES["pp.mov"]
    engine = Engine(made)
    with pytest.raises(CompileError, match="p = 3: 256 is not a value of u8"):
        engine.run({"v": values})
    good = engine.run({"v": values[: BAD[0]]})
    assert good.outputs["y"].tolist() == values[: BAD[0]].tolist()


def test_the_first_sample_is_named_not_the_first_position():
    """Sample 5 fails at position 1, sample 2 at position 4: it doesn't depend on how many samples
    run at a time."""
    values = _values("i2", 7, 300, bad=(2, 4))
    values[5, 0, 1] = -1
    error = _same(CASES["pp.mov"][0], {"v": values})
    assert "p = 4: 300 is not a value of u8" in error


@pytest.mark.parametrize("sample", [0, SAMPLES - 1])
def test_the_first_instruction_of_a_sample_is_named(sample):
    """Two layers, each fails somewhere: the first one where both fail in one sample."""
    first, second = (loop("p", POSITIONS, i("pp.mov", vec(to, "p"), vec("v", "p"))) for to in "zy")
    made = program([*_mems("i16", "u4"), result("z", "u8", (1, CHANNELS, POSITIONS))],
                   [first, second])  # fmt: skip
    values = _values("i2", 7, 300, bad=(SAMPLES - 1, 5))
    values[sample, 0, 0] = 16
    error = _same(made, {"v": values})
    both = sample == SAMPLES - 1
    assert (
        "p = 5: 300 is not a value of u8" if both else "p = 0: 16 is not a value of u4"
    ) in error


@pytest.mark.parametrize("samples", [600, 1100])
def test_among_many_samples(samples):
    """The first sample that fails is named, however many run at a time."""
    made = CASES["pp.mov"][0]
    values = _values("i2", 7, 300, samples, bad=(samples - 1, 0))
    values[samples - 3, 2, 5] = 400
    for options in ({}, {"threads": 2}, {"threads": 1, "memory": 1 << 12}):
        assert "p = 5: 400 is not a value of u8" in _same(made, {"v": values}, **options)


def test_a_pad_that_the_type_does_not_hold():
    win = Win("w", CHANNELS, (2,), (POSITIONS,), (1,), (0, 1), (1,))
    body = [
        i("ld.window", x(), vec("v", "p"), data("w"), pad=vec("zero", 0)),
        i("acc.clr", reg("a", 1)), i("acc.add", reg("a", 1), x(field="ones")),
        i("st.acc", vec("y", "p", 0, 1), reg("a", 1)),
    ]  # fmt: skip
    zero = Mem("zero", "i8", (1,), 0, input="zero", batch=0)
    made = program([*_mems("u4", "i32"), zero, win], [loop("p", POSITIONS, *body)])
    check(made)
    zeros = np.zeros(SAMPLES, np.int8)
    feeds = {"v": _values("u1", 3, 9), "zero": zeros}
    assert difference(outcome(reference.run, made, feeds), outcome(Engine(made).run, feeds)) == ""
    zeros[BAD[0]] = 16
    assert "ld.window, p = 0: 16 is not a value of u4" in _same(made, feeds)


@pytest.mark.parametrize("section", ["load", "update"])
def test_sections_that_run_once(section):
    """An error of `.load` comes before all samples, one of `.update` after them."""
    once = [
        i("acc.clr", reg("a", CHANNELS)), i("acc.add", reg("a", CHANNELS), data("k"), shl=4),
        loop("q", 3, i("st.acc", vec("t", "q"), reg("a", CHANNELS)),
             i("acc.add", reg("a", CHANNELS), data("k"), shl=7)),
    ]  # fmt: skip
    scratch = Mem("t", "u8", (1, CHANNELS, 3))
    infer = [loop("p", POSITIONS, MOVE)]
    made = program([*_mems("i16", "u8"), scratch], infer, items=[ints("k", [1, 0, 1])],
                   **{section: once})  # fmt: skip
    check(made)
    feeds = {"v": _values("i2", 7, 8)}
    assert "st.acc, q = 2: 272 is not a value of u8" in _same(made, feeds)
    both = _same(made, {"v": _values("i2", 7, 256)})
    assert ("256 is not" in both) == (section == "update")


def test_an_accumulator_that_overflows():
    """The checker refuses such a program; the engines do so too when the value comes."""
    made = _sums("i32", i("acc.add", reg("a", CHANNELS), reg("c", CHANNELS), shl=1), acc_bits=4)
    with pytest.raises(CompileError, match="acc_bits=4"):
        check(made)
    error = _same(made, {"v": _bits(2, 3)})
    assert "acc.add, p = 3: accumulator holds 9, outside [-8, 7]" in error


def test_unusable_inputs_are_refused_alike():
    made, values, _ = CASES["pp.mov"]
    for feeds in ({}, {"v": values.astype("i4")}, {"v": values[:, :2]}, {"v": values, "z": values}):
        assert "error: " in _same(made, feeds)
    tiles = np.zeros((1, 4, 4), np.uint8)
    right = outcome(reference.run, made, {"v": values}, tiles=tiles)
    assert "not uint8[1, 8, 16]" in right.error
    assert difference(right, outcome(Engine(made).run, {"v": values}, tiles=tiles)) == ""


def test_positions_in_another_order():
    """The loop goes backwards through the buffer: iteration 2 is position 3."""
    back = Affine(POSITIONS - 1) - Affine.of("p")
    made = _steps("i16", "u8", i("pp.mov", vec("y", back), vec("v", back)))
    assert "p = 2: 256 is not" in _same(made, {"v": _values("i2", 7, 256)})
