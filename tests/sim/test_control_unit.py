"""The control unit's instructions against plain Python, one by one: values beyond 64 bits, and
every value that is refused."""

import numpy as np
import pytest
from build_program import Reg, i, image, loop, program, result, vec
from hypothesis import given
from hypothesis import strategies as st
from vectors import buffer_of, whole

from cimc.errors import CompileError
from cimc.isa import control
from cimc.isa.control import Tally
from cimc.isa.program import Affine, Mem
from cimc.isa.state import Scalar, Trap
from cimc.sim.counters import static_counts
from cimc.sim.reference import run

MOST = 2**127 - 1
WIDE = st.integers(-MOST - 1, MOST)
NARROW = st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=9)


def row(values, elem="i32"):
    """A vector of one sample."""
    made = np.array(values, np.int64)[None, :]
    return whole(buffer_of(made[:, None] if made.ndim == 1 else made[None], elem))


def mask_of(values, bits):
    return [bool(bits >> k & 1) for k in range(len(values))]


def test_set_and_its_ends():
    n, s = Tally(), Scalar()
    control.ctl_set(n, s, -7)
    assert (s.value, n) == (-7, {"ops": 1})
    s.set(MOST)
    s.set(-MOST - 1)
    for beyond in (MOST + 1, -MOST - 2):
        with pytest.raises(Trap, match="does not fit a scalar of 128 bits"):
            s.set(beyond)


@given(NARROW, st.integers(0, 511), st.integers(-(2**100), 2**100))
def test_sums_and_squares(values, bits, start):
    chosen = mask_of(values, bits)
    for power, effect in ((1, control.ctl_sum), (2, control.ctl_squares)):
        n, s = Tally(), Scalar(start)
        effect(n, s, row(values))
        assert s.value == start + sum(v**power for v in values)
        masked = Scalar(start)
        effect(n, masked, row(values), mask=row([3 * c for c in chosen], "u8"))
        assert masked.value == start + sum(v**power for v, c in zip(values, chosen) if c)
        assert n == {"ops": 2 * len(values)}


def test_squares_whose_sum_leaves_64_bits():
    s = Scalar()
    control.ctl_squares(Tally(), s, row([2**32 - 1] * 5, "u32"))
    assert s.value == 5 * (2**32 - 1) ** 2 > 2**64


@given(WIDE, WIDE)
def test_products_differences_and_quotients(a, b):
    for effect, exact, ops in (
        (control.ctl_mul, a * b, 16),
        (control.ctl_sub, a - b, 1),
        (control.ctl_div, a // b if b else 0, 128),
    ):
        n, s = Tally(), Scalar()
        if not -MOST - 1 <= exact <= MOST:
            with pytest.raises(Trap):
                effect(n, s, Scalar(a), Scalar(b))
            continue
        effect(n, s, Scalar(a), Scalar(b))
        assert (s.value, n["ops"]) == (exact, ops)


def test_an_operand_may_be_the_result():
    s = Scalar(3 * 2**40)
    control.ctl_mul(Tally(), s, s, s)
    assert s.value == 9 * 2**80
    control.ctl_sub(Tally(), s, s, s)
    assert s.value == 0


@given(NARROW, st.integers(0, 511), WIDE | st.integers(-5, 5))
def test_comparisons(values, bits, t):
    chosen = mask_of(values, bits)
    for effect, holds in ((control.ctl_lt, int.__lt__), (control.ctl_gt, int.__gt__)):
        n, y = Tally(), row([7] * len(values), "u8")
        effect(n, y, row(values), Scalar(t))
        assert y.values.tolist() == [[int(holds(v, t)) for v in values]]
        masked = row([True] * len(values), "bool")
        effect(n, masked, row(values), Scalar(t), mask=row(chosen, "bool"))
        assert masked.values.tolist() == [[holds(v, t) and c for v, c in zip(values, chosen)]]
        assert n == {"ops": 2 * len(values)}


@pytest.mark.parametrize("value", [255, 256, -1, 2**62, -(2**90)])
def test_a_store_takes_what_the_type_holds(value):
    n, v = Tally(), row([0], "u8")
    if value == 255:
        control.ctl_st(n, v, Scalar(value))
        assert (v.values.tolist(), n) == ([[255]], {"ops": 1})
        return
    with pytest.raises(Trap, match="is not a value of u8"):
        control.ctl_st(n, v, Scalar(value))


# -- in a program ------------------------------------------------------------------------


def update(*body):
    """A program whose `.update` works on a constant input, beside one for samples."""
    mems = [image("a", "i8", (1, 2)), result("y", "i8", (1, 2)), Mem("k", "i32", (1, 3), input="k"),
            Mem("t", "i64", (1, 2), output="t")]  # fmt: skip
    return program(mems, [i("pp.relu", vec("y"), vec("a"))], update=body)


def test_an_output_of_update_has_one_value_a_call():
    p = update(
        i("ctl.set", Reg("s"), value=5),
        loop("p", 3, i("ctl.sum", Reg("s"), vec("k", 0, Affine.of("p"), 1))),
        i("ctl.st", vec("t", 0, 1, 1), Reg("s")),
    )
    feeds = {"a": np.ones((4, 2), np.int8), "k": np.array([[1, 10, 100]], np.int32)}
    for lanes in (False, True):
        outcome = run(p, feeds, lanes=lanes)
        # `.update` goes on from what `.load` left: inputs are those of samples
        assert outcome.outputs["t"].tolist() == [[0, 5]]
        assert outcome.outputs["y"].shape == (4, 2)
        assert outcome.counts.static() == static_counts(p, 4).static()


def test_an_overflow_names_layer_and_instruction():
    p = update(
        i("ctl.set", Reg("s"), value=10**17),
        loop("p", 3, i("ctl.mul", Reg("s"), Reg("s"), Reg("s"))),
    )
    feeds = {"a": np.ones((1, 2), np.int8), "k": np.zeros((1, 3), np.int32)}
    with pytest.raises(CompileError, match=r"layer l, ctl.mul, p = 1: 1000.* does not fit"):
        run(p, feeds)
