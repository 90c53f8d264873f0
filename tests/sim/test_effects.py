"""Each instruction against plain Python, element by element."""

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import buffer_of, random_values, seeds, whole

from cimc.ir.types import container, planes
from cimc.isa import effects
from cimc.isa.cells import Cells
from cimc.isa.effects import Tally
from cimc.isa.program import Win
from cimc.isa.state import (
    Accumulators,
    Addend,
    Image,
    Latch,
    ResultBits,
    StoredRows,
    Trap,
    Vec,
    Window,
    exact,
    pack,
    unpack,
    words_for,
)
from cimc.isa.table import ROWS

FUNCTIONS = {
    "and": lambda cell, bit: cell & bit,
    "nand": lambda cell, bit: 1 - (cell & bit),
    "or": lambda cell, bit: cell | bit,
    "xor": lambda cell, bit: cell ^ bit,
}
INTEGERS = ["bip", "tern", "u1", "u3", "u8", "i5", "i8", "u16", "i32", "i64", "u64"]


def random_bits(rng, *shape):
    return rng.integers(0, 2, shape).astype(bool)


def test_options_of_effects_have_the_defaults_of_the_table():
    for row in ROWS:
        parameters = inspect.signature(row.effect).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        assert defaults == {opt.name: opt.default for opt in row.opts}, row.name


@given(seeds, st.integers(1, 200))
def test_pack_is_least_significant_bit_first(rng, columns):
    bits = random_bits(rng, 3, columns)
    words = pack(bits, 0, words_for(columns))
    for column in range(columns):
        expected = bits[:, column].tolist()
        assert [bool(int(w[column // 64]) >> column % 64 & 1) for w in words] == expected
    assert np.array_equal(unpack(words, columns), bits)


# -- reads -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
@given(rng=seeds, columns=st.integers(1, 150), data=st.data())
def test_read_and_popcount(name, rng, columns, data):
    samples, tile_rows = 3, 5
    words = words_for(columns)
    cells = random_bits(rng, tile_rows, columns)
    width = data.draw(st.integers(1, columns))
    col = data.draw(st.integers(0, columns - width))
    cols = data.draw(st.none() | st.tuples(st.integers(0, columns), st.integers(0, columns)))
    cols = tuple(sorted(cols)) if cols else None
    bits, valid = random_bits(rng, samples, width), random_bits(rng, samples, width)
    latch = Latch.empty(words)
    latch.load(bits, valid, col)
    rows = StoredRows(pack(cells, 0, words).T.copy(), slice(1, 4), columns)
    d = ResultBits(np.zeros((samples, words, 3), "u8"), np.zeros((samples, 3), "i8"), np.zeros(3))
    tally = Tally()
    row = next(row for row in ROWS if row.name == f"read.{name}")
    row.effect(tally, d, rows, latch, **({"cols": cols} if cols else {}))

    lo, hi = cols or (0, columns)
    expected = np.zeros((samples, 3, columns), dtype=int)
    for s in range(samples):
        for r in range(3):
            for k in range(col, col + width):
                if valid[s, k - col] and lo <= k < hi:
                    cell, bit = int(cells[1 + r, k]), int(bits[s, k - col])
                    expected[s, r, k] = FUNCTIONS[name](cell, bit)
    assert np.array_equal(unpack(d.words.transpose(0, 2, 1).reshape(-1, words), columns),
                          expected.reshape(-1, columns))  # fmt: skip
    counts = np.zeros((samples, 3), dtype=np.int64)
    effects.popc(tally, counts, d)
    assert np.array_equal(counts, expected.sum(axis=2))
    read = hi - lo if cols else width
    assert dict(tally) == {"rows": 3, "bits": 2 * 3 * read, "ones": expected.sum()}


# -- latches ---------------------------------------------------------------------------


def naive_bit(value, elem, plane):
    return int(value > 0) if elem in ("bip", "tern") else int(value) >> plane & 1


@given(rng=seeds, elem=st.sampled_from(INTEGERS), data=st.data())
def test_ld_vector(rng, elem, data):
    channels, columns = 11, 70
    values = random_values(rng, elem, (2, 3, channels))
    width = data.draw(st.none() | st.integers(1, channels))
    seg = data.draw(st.integers(0, -(-channels // width) - 1)) if width else 0
    plane = data.draw(st.integers(0, planes(elem) - 1))
    col = data.draw(st.integers(0, columns - channels))
    latch, tally = Latch.empty(2), Tally()
    v = whole(buffer_of(values, elem), 1)
    effects.ld_vector(tally, latch, v, seg=seg, plane=plane, width=width, col=col)
    start = seg * width if width else 0
    taken = range(start, min(start + (width or channels), channels))
    for s in range(2):
        bits, valid = unpack(latch.bits, columns), unpack(latch.valid, columns)
        for k in range(columns):
            channel = k - col + start
            inside = k >= col and channel in taken
            value = values[s, 1, channel] if inside else 0
            ok = inside and not (elem == "tern" and value == 0)
            assert valid[s % len(valid), k] == ok
            assert bits[s, k] == (ok and naive_bit(value, elem, plane))
    assert (latch.col, latch.length, dict(tally)) == (col, len(taken), {"bits": len(taken)})


@st.composite
def windows(draw):
    """A window and the buffer shape it fits."""
    axes = draw(st.integers(1, 2))
    sizes = [draw(st.integers(1, 5)) for _ in range(axes)]
    kernel = [draw(st.integers(1, 3)) for _ in range(axes)]
    strides = [draw(st.integers(1, 2)) for _ in range(axes)]
    dilations = [draw(st.integers(1, 2)) for _ in range(axes)]
    begins = [draw(st.integers(0, 2)) for _ in range(axes)]
    # enough padding at the end for one position at least
    ends = [
        max(0, (k - 1) * d + 1 - size - begin) + draw(st.integers(0, 2))
        for k, d, size, begin in zip(kernel, dilations, sizes, begins)
    ]
    out = [
        (size + b + e - (k - 1) * d - 1) // s + 1
        for size, b, e, k, d, s in zip(sizes, begins, ends, kernel, dilations, strides)
    ]
    groups = draw(st.sampled_from([1, 2, 4]))
    win = Win("w", 4, *map(tuple, (kernel, out, strides, begins + ends, dilations)), groups)
    win.seg = draw(st.integers(0, 8))
    return win, (draw(st.integers(1, 2)), 4, *sizes)


def naive_window(win, shape, position, group):
    """Index of each column's element, or None where the tap is outside."""
    axes = len(win.kernel)
    batch, *out = np.unravel_index(position, (shape[0], *win.out))
    columns = []
    for tap in np.ndindex(*win.kernel):
        at = [
            out[a] * win.strides[a] - win.pads[a] + tap[a] * win.dilations[a] for a in range(axes)
        ]
        inside = all(0 <= at[a] < shape[2 + a] for a in range(axes))
        for c in range(4 // win.groups):
            index = (batch, group * (4 // win.groups) + c, *at)
            columns.append(tuple(map(int, index)) if inside else None)
    return columns


@given(rng=seeds, elem=st.sampled_from(INTEGERS), case=windows(), data=st.data())
def test_ld_window(rng, elem, case, data):
    win, shape = case
    values = random_values(rng, elem, (2, *shape))
    position = data.draw(st.integers(0, shape[0] * int(np.prod(win.out)) - 1))
    group = data.draw(st.integers(0, win.groups - 1))
    plane = data.draw(st.integers(0, planes(elem) - 1))
    columns = naive_window(win, shape, position, group)
    seg = data.draw(st.integers(0, -(-len(columns) // win.seg) - 1)) if win.seg else 0
    columns = columns[seg * win.seg :][: win.seg or None]
    latch, tally = Latch.empty(1), Tally()
    v = whole(buffer_of(values, elem), position)
    effects.ld_window(tally, latch, v, Window(win), seg=seg, plane=plane, group=group, col=5)
    bits, valid = unpack(latch.bits, 64), unpack(latch.valid, 64)
    expected_bits, expected_valid = np.zeros((2, 2, 64), dtype=bool)
    for s in range(2):
        for k, at in enumerate(columns):
            value = values[(s, *at)] if at else 0
            ok = at is not None and not (elem == "tern" and value == 0)
            expected_valid[s, 5 + k] = ok
            expected_bits[s, 5 + k] = ok and naive_bit(value, elem, plane)
    assert np.array_equal(bits, expected_bits)
    assert np.array_equal(np.broadcast_to(valid, (2, 64)), expected_valid)
    assert (latch.col, latch.length, dict(tally)) == (5, len(columns), {"bits": len(columns)})


def test_ld_fill_and_ld_row():
    x, y, tally = Latch.empty(1), Latch.empty(1), Tally()
    x.load(np.array([[1, 0, 1]], bool), np.array([[1, 1, 0]], bool), 2)
    for value in (0, 1):
        effects.ld_fill(tally, y, x, value)
        assert unpack(y.valid, 6).astype(int).tolist() == [[0, 0, 1, 1, 0, 0]]
        assert unpack(y.bits, 6).astype(int).tolist() == [[0, 0, value, value, 0, 0]]
    assert (y.col, y.length, tally["bits"]) == (2, 3, 6)

    row = StoredRows(pack(np.array([[1, 0, 1, 1, 0]], bool), 0, 1).T, slice(0, 1), 5)
    effects.ld_row(tally, x, row)
    assert unpack(x.bits, 6).astype(int).tolist() == [[1, 0, 1, 1, 0, 0]]
    assert (int(np.bitwise_count(x.valid).sum()), x.length) == (5, 5)
    effects.ld_row(tally, x, row, cols=(1, 4))
    assert unpack(x.bits, 6).astype(int).tolist() == [[0, 0, 1, 1, 0, 0]]
    assert (x.col, x.length, tally["bits"]) == (1, 3, 6 + 5 + 3)


def test_a_missing_plane_is_refused():
    latch = Latch.empty(1)
    with pytest.raises(Trap, match="u3 has no bit plane 3"):
        effects.ld_vector(Tally(), latch, whole(buffer_of(np.ones((1, 1, 2), "u1"), "u3")), plane=3)


# -- cells -----------------------------------------------------------------------------


@given(rng=seeds, seg=st.sampled_from([0, 4, 7]), data=st.data())
def test_set_and_reset(rng, seg, data):
    k, columns, tile_rows = 10, 70, 6
    before = random_bits(rng, tile_rows, columns)
    image = rng.integers(0, 2, (3, k)).astype(np.uint8)
    s = data.draw(st.integers(0, -(-k // seg) - 1)) if seg else 0
    col = data.draw(st.integers(0, columns - k))
    index = data.draw(st.sampled_from([slice(2, 5), np.array([5, 0, 2])]))
    cells = pack(before, 0, 2).T.copy()
    rows = StoredRows(cells, index, columns)
    part = image[:, s * seg :][:, : seg or None].astype(bool)
    expected = before.copy()
    places = np.arange(tile_rows)[index]
    for op, wanted in ((effects.set_, True), (effects.reset, False)):
        tally, pulses = Tally(), 0
        op(tally, rows, Image(Cells.of(image), 0, 3, seg), seg=s, col=col)
        for r, place in enumerate(places):
            for j in range(part.shape[1]):
                if part[r, j] == wanted and expected[place, col + j] != wanted:
                    expected[place, col + j] = wanted
                    pulses += 1
        assert np.array_equal(unpack(cells.T, columns), expected)
        assert tally["pulses"] == pulses
        assert (tally["rows"], tally["verify"]) == (3, part.size)
    assert np.array_equal(expected[places, col : col + part.shape[1]], part)


# -- accumulators and stores -----------------------------------------------------------


@given(seeds, st.integers(0, 20))
def test_accumulate(rng, shl):
    values = rng.integers(-1000, 1000, (3, 4))
    for addend in (rng.integers(0, 100, (3, 4)), rng.integers(0, 9, (3, 1)), values[:1]):
        a = Accumulators(values.copy(), -(2**31), 2**31 - 1)
        effects.acc_add(Tally(), a, Addend(addend, 1000), shl)
        assert np.array_equal(a.values, values + (addend << shl))
        effects.acc_sub(Tally(), a, Addend(addend, 1000), shl)
        assert np.array_equal(a.values, values)
    effects.acc_clr(tally := Tally(), a)
    assert not a.values.any()
    assert tally["ops"] == 4


@pytest.mark.parametrize(
    ("start", "addend", "shl"),
    [(127, 1, 0), (0, 1, 7), (0, 1, 62), (0, 2**40, 40), (0, -(2**63), 0)],
)
def test_an_accumulator_that_overflows_is_refused(start, addend, shl):
    a = Accumulators(np.array([[start]]), -128, 127)
    with pytest.raises(Trap, match=r"outside \[-128, 127\]"):
        effects.acc_add(Tally(), a, Addend(np.array([[addend]]), abs(addend)), shl)


@given(seeds, st.sampled_from(["bip", "tern", "u2"]), st.booleans())
def test_levels(rng, elem, flips):
    channels, count = 5, {"bip": 1, "tern": 2, "u2": 3}[elem]
    values = rng.integers(-4, 5, (3, channels))
    th = rng.integers(-4, 5, (channels, count)).astype(np.int32)
    flip = rng.choice([-1, 1], channels) if flips else None
    buffer = buffer_of(np.zeros((3, 1, channels, 2), container(elem)), elem)
    v = Vec(buffer, 1, 0, channels)
    th_given = th[:, 0] if count == 1 and rng.integers(2) else th
    effects.st_ge(Tally(), v, Accumulators(values, -9, 9), th_given, flip)
    for s in range(3):
        for c in range(channels):
            n = sum(int(values[s, c]) >= int(t) for t in th[c])
            level = {"bip": 2 * n - 1, "tern": n - 1, "u2": n}[elem]
            if flips and flip[c] < 0:
                level = count - n if elem == "u2" else -level
            assert buffer.get(s)[0, c, 1] == level
            assert buffer.get(s)[0, c, 0] == 0
    stored = buffer_of(values.astype(np.int32)[:, None, :], "i32")
    again = buffer_of(np.zeros((3, 1, channels), container(elem)), elem)
    effects.pp_ge(Tally(), whole(again), whole(stored), th, flip)
    assert np.array_equal(again.flat, v.values)


def test_levels_need_their_number_of_thresholds():
    v = whole(buffer_of(np.zeros((1, 1, 2), np.int8), "bip"))
    with pytest.raises(Trap, match="bip levels need 1 thresholds a channel, not 2"):
        effects.st_ge(Tally(), v, Accumulators(np.zeros((1, 2), int), -9, 9), np.zeros((2, 2)))


def test_st_acc_stores_exactly_or_refuses():
    buffer = buffer_of(np.zeros((1, 1, 3), np.int8), "i8")
    effects.st_acc(
        tally := Tally(), Vec(buffer, 0, 1, 3), Accumulators(np.array([[-128, 127]]), 0, 0)
    )
    assert buffer.get(0).tolist() == [[0, -128, 127]]
    assert tally["elements"] == 2
    with pytest.raises(Trap, match="128 is not a value of i8"):
        effects.st_acc(Tally(), Vec(buffer, 0, 0, 1), Accumulators(np.array([[128]]), 0, 0))


# -- between buffers -------------------------------------------------------------------


@given(rng=seeds, elem=st.sampled_from([*INTEGERS, "f32"]), case=windows(), data=st.data())
def test_pp_max(rng, elem, case, data):
    win, shape = case
    values = (
        rng.normal(size=(2, *shape)).astype(np.float32)
        if elem == "f32"
        else random_values(rng, elem, (2, *shape))
    )
    position = data.draw(st.integers(0, shape[0] * int(np.prod(win.out)) - 1))
    lo = data.draw(st.integers(0, 3))
    x, y = buffer_of(values, elem), buffer_of(np.zeros((2, 1, 4), container(elem)), elem)
    source, into = Vec(x, position, lo, 4), Vec(y, 0, lo, 4)
    inside = [
        [at for at in naive_window(win, shape, position, group) if at]
        for group in range(win.groups)
    ]
    if not inside[0]:
        with pytest.raises(Trap, match="no tap inside"):
            effects.pp_max(Tally(), into, source, Window(win))
        return
    effects.pp_max(tally := Tally(), into, source, Window(win))
    for s in range(2):
        for c in range(lo, 4):
            taken = [at for group in inside for at in group if at[1] == c]
            assert y.get(s)[0, c] == max(values[(s, *at)] for at in taken)
    assert tally["ops"] == (4 - lo) * int(np.prod(win.kernel))


def test_pp_add_relu_mov():
    x = buffer_of(np.array([[[-3, 5]]], np.int8), "i8")
    y = buffer_of(np.array([[[100, 127]]], np.uint8), "u8")
    z = buffer_of(np.zeros((1, 1, 2), np.uint8), "u8")
    effects.pp_add(Tally(), whole(z), whole(x), whole(y))
    assert z.get(0).tolist() == [[97, 132]]
    effects.pp_relu(Tally(), whole(z), whole(x))
    assert z.get(0).tolist() == [[0, 5]]
    f = buffer_of(np.zeros((1, 1, 2), np.float32), "f32")
    effects.pp_mov(Tally(), whole(f), whole(x))
    assert f.get(0).tolist() == [[-3.0, 5.0]]
    effects.pp_add(tally := Tally(), whole(f), whole(f), whole(f))
    assert f.get(0).tolist() == [[-6.0, 10.0]]
    assert tally["ops"] == 2
    with pytest.raises(Trap, match="-3 is not a value of u8"):
        effects.pp_mov(Tally(), whole(z), whole(x))
    with pytest.raises(Trap, match="can't add f32 and i8 to f32"):
        effects.pp_add(Tally(), whole(f), whole(f), whole(x))


def test_pp_add_of_large_64_bit_values_is_refused():
    x = buffer_of(np.array([[[2**63 - 1]]]), "i64")
    with pytest.raises(Trap, match="too large to add exactly"):
        effects.pp_add(Tally(), whole(x), whole(x), whole(x))


@pytest.mark.parametrize(
    ("values", "elem"),
    [
        (np.array([0], np.int32), "bip"),
        (np.array([2], np.int32), "tern"),
        (np.array([8], np.int32), "u3"),
        (np.array([-1], np.int32), "u64"),
        (np.array([2**24 + 1], np.int32), "f32"),
        (np.array([2**32 - 1], np.uint32), "f32"),
        (np.array([2**63 - 1], np.int64), "f64"),
        (np.array([0.5], np.float32), "i8"),
        (np.array([np.nan], np.float32), "i8"),
        (np.array([np.inf], np.float32), "i64"),
        (np.array([0.1], np.float64), "f32"),
        (np.array([2], np.int8), "bool"),
        (np.array([1j]), "i8"),
        (np.array(["a"], object), "f32"),
    ],
)
def test_exact_refuses(values, elem):
    with pytest.raises(Trap, match="is not a value of"):
        exact(values, elem)


@pytest.mark.parametrize(
    ("values", "elem"),
    [
        (np.array([-1, 1], np.int64), "bip"),
        (np.array([True, False]), "u1"),
        (np.array([-0.0, 3.0], np.float32), "i8"),
        (np.array([2**24, -5], np.int32), "f32"),
        (np.array([0.5, np.inf], np.float64), "f16"),
        (np.array([1.5], container("bf16")), "f32"),
        (np.array([1.5], np.float32), "bf16"),
        (np.array([1, 0], np.int8), "bool"),
        (np.array([np.nan], np.float32), "f64"),
        (np.zeros(0, np.int32), "bip"),
    ],
)
def test_exact_keeps_the_values(values, elem):
    converted = exact(values, elem)
    assert converted.dtype == container(elem)
    assert np.array_equal(converted.astype(np.float64), values.astype(np.float64), equal_nan=True)


def test_a_float_reaches_integer_and_float_thresholds():
    y = buffer_of(np.zeros((1, 1, 2), np.int8), "bip")
    for elem in ("f32", "bf16"):
        x = buffer_of(np.array([[[2.5, 1.5]]]).astype(container(elem)), elem)
        for th in (np.array([2, 2], np.int32), np.array([2.5, 1.75], np.float32)):
            effects.pp_ge(Tally(), whole(y), whole(x), th)
            assert y.get(0).tolist() == [[1, -1]]
    with pytest.raises(Trap, match="is not a value of f64"):
        effects.pp_ge(Tally(), whole(y), whole(x), np.array([2**53 + 1, 0]))
