"""The instructions of integer layers against plain Python, element by element."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import buffer_of, random_values, seeds, whole

from cimc.ir.types import container, int_range, planes
from cimc.isa import effects
from cimc.isa.effects import Tally
from cimc.isa.geometry import win_out
from cimc.isa.program import Win
from cimc.isa.state import (
    Accumulators,
    Latch,
    ResultBits,
    Trap,
    Vec,
    Window,
    ones_in,
    pack,
    unpack,
    words_for,
)

F32 = np.float32


def empty(elem, channels, samples=2):
    """A buffer of one vector."""
    return buffer_of(np.zeros((samples, 1, channels), container(elem)), elem)


# -- windows ---------------------------------------------------------------------------


@st.composite
def spread_windows(draw):
    """A window of six channels with gaps and packs, and the buffer shape it fits."""
    axes = draw(st.integers(1, 2))
    sizes, kernel, up = ([draw(st.integers(1, 3)) for _ in range(axes)] for _ in range(3))
    strides = [draw(st.integers(1, 2)) for _ in range(axes)]
    pads = [draw(st.integers(0, 2)) for _ in range(2 * axes)]
    groups = draw(st.sampled_from([1, 2, 3, 6]))
    win = Win("w", 6, *map(tuple, (kernel, (), strides, pads, [1] * axes)), groups)
    win.up = tuple(up)
    win.out = tuple(max(1, n) for n in win_out(win, tuple(sizes)))
    win.pack = draw(st.integers(1, groups))
    if win.pack == 1:
        win.seg = draw(st.integers(0, 5))
    return win, (draw(st.integers(1, 2)), 6, *sizes)


def naive_window(win, shape, position, group):
    """Index of each column's element, or None where the tap is outside or in a gap."""
    axes = range(len(win.kernel))
    batch, *out = np.unravel_index(position, (shape[0], *win.out))
    per_group = 6 // win.groups
    columns = []
    for tap in np.ndindex(*win.kernel):
        at = [out[a] * win.strides[a] - win.pads[a] + tap[a] for a in axes]
        inside = all(
            at[a] % win.up[a] == 0 and 0 <= at[a] // win.up[a] < shape[2 + a] for a in axes
        )
        for c in range(per_group):
            place = (batch, group * per_group + c, *(at[a] // win.up[a] for a in axes))
            columns.append(tuple(map(int, place)) if inside else None)
    return columns


@given(
    rng=seeds, elem=st.sampled_from(["u1", "u3", "u8", "i5", "i8"]), case=spread_windows(),
    padding=st.sampled_from(["none", "one", "each"]), data=st.data(),
)  # fmt: skip
def test_ld_window(rng, elem, case, padding, data):
    win, shape = case
    values = random_values(rng, elem, (2, *shape))
    position = data.draw(st.integers(0, shape[0] * int(np.prod(win.out)) - 1))
    load = data.draw(st.integers(0, -(-win.groups // win.pack) - 1))
    plane = data.draw(st.integers(0, planes(elem) - 1))
    columns = []
    for group in range(load * win.pack, min((load + 1) * win.pack, win.groups)):
        columns += naive_window(win, shape, position, group)
    seg = data.draw(st.integers(0, -(-len(columns) // win.seg) - 1)) if win.seg else 0
    columns = columns[seg * win.seg :][: win.seg or None]
    pad = random_values(rng, elem, ({"one": 1, "each": 2, "none": 0}[padding], 1))
    opts = {} if padding == "none" else {"pad": pad}

    latch, tally = Latch.empty(1), Tally()
    v = whole(buffer_of(values, elem), position)
    effects.ld_window(tally, latch, v, Window(win), seg, plane, load, 3, **opts)
    bits = np.broadcast_to(unpack(latch.bits, 64), (2, 64))
    valid = np.broadcast_to(unpack(latch.valid, 64), (2, 64))
    for s in range(2):
        expected = [(at is not None or len(pad) > 0) for at in columns]
        assert valid[s].tolist() == [False] * 3 + expected + [False] * (61 - len(columns))
        for k, at in enumerate(columns):
            if expected[k]:
                value = values[(s, *at)] if at else pad[s % len(pad), 0]
                assert bits[s, 3 + k] == (int(value) >> plane & 1)
    assert (latch.col, latch.length, dict(tally)) == (3, len(columns), {"bits": len(columns)})


def test_a_pad_that_the_type_does_not_hold_is_refused():
    win = Win("w", 1, (3,), (1,), (1,), (1, 1), (1,))
    v = whole(buffer_of(np.zeros((2, 1, 1, 1), np.uint8), "u4"))
    with pytest.raises(Trap, match="16 is not a value of u4"):
        effects.ld_window(Tally(), Latch.empty(1), v, Window(win), pad=np.array([[3], [16]]))


@given(rng=seeds, elem=st.sampled_from(["u3", "u8", "i8", "bip", "i32"]), case=spread_windows(),
       data=st.data())  # fmt: skip
def test_pp_sum(rng, elem, case, data):
    win, shape = case
    values = random_values(rng, elem, (2, *shape))
    position = data.draw(st.integers(0, shape[0] * int(np.prod(win.out)) - 1))
    zero = data.draw(st.integers(*int_range(elem)))
    lo = data.draw(st.integers(0, 5))
    y = empty("i64", 6)
    tally = Tally()
    x = Vec(buffer_of(values, elem), position, lo, 6)
    effects.pp_sum(tally, Vec(y, 0, lo, 6), x, Window(win), zero)
    taken = [naive_window(win, shape, position, group) for group in range(win.groups)]
    for s in range(2):
        for c in range(lo, 6):
            inside = [at for group in taken for at in group if at and at[1] == c]
            assert y.get(s)[0, c] == sum(int(values[(s, *at)]) - zero for at in inside)
    assert dict(tally) == {"ops": (6 - lo) * int(np.prod(win.kernel))}


def test_a_sum_that_the_type_does_not_hold_is_refused():
    win = Win("w", 1, (2,), (1,), (1,), (0, 0), (1,))
    v = whole(buffer_of(np.full((1, 1, 1, 2), 200, np.uint8), "u8"))
    with pytest.raises(Trap, match="400 is not a value of u8"):
        effects.pp_sum(Tally(), whole(empty("u8", 1, 1)), v, Window(win))


def test_pp_max_knows_no_value_of_the_padding():
    """All values inside are below any that could stand for what is outside."""
    win = Win("w", 1, (2,), (2,), (1,), (1, 0), (1,))
    for elem, low in (("i8", -128), ("f32", -np.inf), ("bf16", -3.0), ("bool", False)):
        values = np.full((1, 1, 1, 2), low).astype(container(elem))
        y = buffer_of(np.ones((1, 1, 1), container(elem)), elem)
        effects.pp_max(Tally(), whole(y), whole(buffer_of(values, elem)), Window(win))
        assert y.get(0)[0, 0] == low


# -- counts and sums -------------------------------------------------------------------


@given(rng=seeds, width=st.integers(1, 70), parts=st.integers(1, 9), data=st.data())
def test_popc_by_column_ranges(rng, width, parts, data):
    columns = width * parts + data.draw(st.integers(0, 5))
    samples, rows = 2, 3
    bits = rng.integers(0, 2, (samples, rows, columns)).astype(bool)
    words = words_for(columns)
    packed = pack(bits.reshape(-1, columns), 0, words).reshape(samples, rows, words)
    packed = np.ascontiguousarray(packed.swapaxes(1, 2))
    d = ResultBits(packed, ones_in(packed), np.array([5, 6, 7]))
    counts, tally = np.zeros((samples, parts * rows), dtype=np.int64), Tally()
    effects.popc(tally, counts, d, width)
    for s in range(samples):
        for i in range(parts):
            for r in range(rows):
                expected = bits[s, r, i * width : (i + 1) * width].sum()
                assert counts[s, i * rows + r] == expected
    assert dict(tally) == {"bits": 18}  # all columns of the rows that were read


@given(rng=seeds, elem=st.sampled_from(["u8", "i8", "bip", "u32", "i64", "u64"]))
def test_acc_mac(rng, elem):
    start = rng.integers(-1000, 1000, (3, 4))
    t = rng.integers(-128, 128, 4).astype(np.int16)
    s = random_values(rng, elem, (3, 1)) // (1 if container(elem).itemsize < 8 else 1 << 30)
    for scalar in (s, s[:1]):
        a = Accumulators(start.copy(), -(2**61), 2**61 - 1)
        effects.acc_mac(tally := Tally(), a, scalar, t)
        for i in range(3):
            for c in range(4):
                factor = int(scalar[i % len(scalar), 0])
                assert a.values[i, c] == int(start[i, c]) + factor * int(t[c])
        assert dict(tally) == {"ops": 4}


@pytest.mark.parametrize(("s", "t"), [(2, 64), (2**40, 2**40), (-(2**62), 1)])
def test_a_product_that_overflows_is_refused(s, t):
    a = Accumulators(np.zeros((1, 1), np.int64), -128, 127)
    with pytest.raises(Trap, match=r"outside \[-128, 127\]"):
        effects.acc_mac(Tally(), a, np.array([[s]]), np.array([t]))


# -- requantising ----------------------------------------------------------------------

QUANTISED = ["u1", "u3", "u8", "i2", "i8", "u16", "i16"]


def requantised(value, scale, zero, elem):
    """One value in Python: a product of two float32 is exact in float64, so rounding it once
    more gives the float32 product."""
    low, high = int_range(elem)
    product = F32(max(-3.4e38, min(3.4e38, float(F32(value)) * float(scale))))
    return round(float(min(max(product, F32(low - zero)), F32(high - zero)))) + zero


@given(rng=seeds, elem=st.sampled_from(QUANTISED), data=st.data())
def test_st_rq_and_pp_rq(rng, elem, data):
    zero = data.draw(st.integers(*int_range(elem)))
    magnitude = data.draw(st.sampled_from([5, 300, 2**24 + 5, 2**31 - 1]))
    sums = rng.integers(-magnitude - 1, magnitude, (2, 5), endpoint=True).astype(np.int32)
    scales = (2.0 ** rng.integers(-20, 3, 5) * rng.uniform(0.5, 1, 5)).astype(F32)
    scales[:2] = 0.5, 3e38  # halves; products beyond float32
    v, tally = Vec(empty(elem, 6), 0, 1, 6), Tally()
    a = Accumulators(sums.astype(np.int64), -(2**31), 2**31 - 1)
    effects.st_rq(tally, v, a, scales, zero)
    for s in range(2):
        for c in range(5):
            expected = requantised(int(sums[s, c]), scales[c], zero, elem)
            assert v.buffer.get(s)[0, 1 + c] == expected
    assert dict(tally) == {"elements": 5}
    again, tally = whole(empty(elem, 5)), Tally()
    effects.pp_rq(tally, again, whole(buffer_of(sums[:, None], "i32")), scales, zero)
    assert np.array_equal(again.values, v.values)
    assert dict(tally) == {"elements": 5}


@given(seeds, st.sampled_from(["u1", "u4", "u8", "i4", "i8"]), st.sampled_from(["u8", "f32"]))
def test_pp_lut(rng, elem, to):
    low, high = int_range(elem)
    table = rng.integers(0, 256, high - low + 1).astype(container(to))
    values = np.arange(low, high + 1).astype(container(elem))
    y, tally = empty(to, len(values), 1), Tally()
    effects.pp_lut(tally, whole(y), whole(buffer_of(values[None, None], elem)), table)
    assert np.array_equal(y.get(0)[0], table)
    assert dict(tally) == {"ops": len(values)}


def nearest(exact):
    """The float32 nearest to a fraction, ties to even: of the neighbours of a close one."""
    close = F32(float(exact))
    around = [np.nextafter(close, F32(-np.inf)), close, np.nextafter(close, F32(np.inf))]
    mantissa_is_odd = [int(f.view(np.uint32)) & 1 for f in around]
    distance = [abs(Fraction(float(f)) - exact) for f in around]
    return around[min(range(3), key=lambda i: (distance[i], mantissa_is_odd[i]))]


def fma(a, b, c):
    return nearest(Fraction(int(a)) * Fraction(float(b)) + Fraction(float(c)))


def added(x, y, numbers, fused, elem):
    """The sum of two quantised values in the steps of the specification."""
    sx, zx, sy, zy, s, zero = numbers
    low, high = int_range(elem)
    if fused:
        a, b = F32(sx / s), F32(sy / s)
        c = F32(zero - F32(F32(a * zx) + F32(b * zy)))
        return min(max(round(float(fma(x, a, fma(y, b, c)))), low), high)
    left = F32(F32(F32(x) - zx) * sx)
    right = F32(F32(F32(y) - zy) * sy)
    return min(max(round(float(F32(F32(left + right) / s))) + int(zero), low), high)


@given(rng=seeds, elems=st.lists(st.sampled_from(QUANTISED[:5]), min_size=3, max_size=3),
       fused=st.sampled_from([0, 1]))  # fmt: skip
def test_pp_qadd(rng, elems, fused):
    x, y = (random_values(rng, elem, (2, 1, 6)) for elem in elems[:2])
    numbers = np.zeros(6, F32)
    numbers[::2] = rng.choice([0.5, 1.0, *rng.uniform(0.001, 0.3, 4)], 3)
    numbers[1::2] = [random_values(rng, elem, ()) for elem in elems]
    z, tally = empty(elems[2], 6), Tally()
    operands = [whole(buffer_of(values, elem)) for values, elem in zip((x, y), elems)]
    effects.pp_qadd(tally, whole(z), *operands, numbers, fused)
    for s in range(2):
        for c in range(6):
            expected = added(x[s, 0, c], y[s, 0, c], numbers, fused, elems[2])
            assert z.get(s)[0, c] == expected
    assert dict(tally) == {"elements": 6}
