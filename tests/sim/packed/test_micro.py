"""Each innermost loop of the packed engine against numpy, at odd sizes and at the extremes."""

import numba
import numpy as np
import pytest

from cimc.ir.meaning import quantised_sum, requantise
from cimc.ir.types import container, int_range
from cimc.sim.packed import micro, vectors
from cimc.sim.packed.matrix import lanes_of_bits, lanes_of_bytes

RNG = np.random.default_rng(7)
WORDS = 1, 3, 4, 5, 9  # of a row: less than, as many as, and more than are unrolled


def at(array):
    """The address of an array, which the caller keeps."""
    assert array.flags.c_contiguous
    return array.ctypes.data


def addresses(array):
    """The addresses of the rows of an array."""
    return np.array([at(row) for row in array], np.int64)


# -- sums of products ------------------------------------------------------------------


def _sums(op):
    """A function that sums up `rows` (1 or 8) rows by `vecs` vectors."""
    tile82, tile81, tile12, tile11 = (micro.sum_tile(op, r, v) for r in (8, 1) for v in (2, 1))

    @numba.njit
    def run(rows, vecs, table, weights, words, coef, froms, offset, sums, stride):
        if rows == 8:
            if vecs == 2:
                tile82(table, weights, words, coef, froms, offset, sums, stride)
            else:
                tile81(table, weights, words, coef, froms, offset, sums, stride)
        elif vecs == 2:
            tile12(table, weights, words, coef, froms, offset, sums, stride)
        else:
            tile11(table, weights, words, coef, froms, offset, sums, stride)

    return run


def _packed_rows(bits):
    return np.packbits(bits, axis=1, bitorder="little")


def _check_sums(run, rows, vecs, words, x, weights, products, coef):
    before = RNG.integers(-(1 << 31), 1 << 31, (rows, 4 + 16 * vecs)).astype(np.int32)
    sums = np.full((rows, 32), 99, np.int32)
    table, froms = addresses(x), addresses(before)
    run(rows, vecs, at(table), at(weights), words, coef, at(froms), 16, at(sums), 128)
    right = (before[:, 4:].astype(np.int64) + coef * products).astype(np.int32)  # wraps
    np.testing.assert_array_equal(sums[:, : 16 * vecs], right)
    assert (sums[:, 16 * vecs :] == 99).all()


@pytest.mark.parametrize("op", ["xor", "and"])
def test_popcounts(op):
    run, meaning = _sums(op), {"xor": np.logical_xor, "and": np.logical_and}[op]
    for rows, vecs, words in [(r, v, w) for r in (8, 1) for v in (2, 1) for w in WORDS]:
        x = RNG.integers(0, 2, (rows, 32 * words)).astype(bool)
        w = RNG.integers(0, 2, (16 * vecs, 32 * words)).astype(bool)
        products = meaning(x[:, None], w).sum(axis=2)
        weights, held = lanes_of_bits(w, vecs, words), _packed_rows(x)
        for coef in (1, -2, 1 << 27):
            _check_sums(run, rows, vecs, words, held, weights, products, coef)


@pytest.mark.parametrize("way", ["of the processor", "plain"])
def test_products_of_bytes(way, monkeypatch):
    if way == "plain":
        monkeypatch.setitem(micro.STEPS, "dot", micro._dot_plain)
    run = _sums("dot")
    for rows, vecs, words in [(r, v, w) for r in (8, 1) for v in (2, 1) for w in WORDS]:
        x = RNG.integers(0, 256, (rows, 4 * words)).astype(np.uint8)
        w = RNG.integers(-128, 128, (16 * vecs, 4 * words)).astype(np.int8)
        x[0], w[0], w[1] = 255, -128, 127  # sums that would not fit 16 bits
        products = x.astype(np.int64) @ w.T.astype(np.int64)
        _check_sums(run, rows, vecs, words, x, lanes_of_bytes(w, vecs, words), products, 3)
    code = "".join(run.inspect_asm().values())
    assert ("vpdpbusd" in code) == (way != "plain" and micro.has_dot())


@pytest.mark.parametrize("op", ["xor", "and"])
def test_compared_popcounts(op):
    tile82, tile81, tile12, tile11 = (micro.sign_tile(op, r, v) for r in (8, 1) for v in (2, 1))
    meaning = {"xor": np.logical_xor, "and": np.logical_and}[op]

    @numba.njit
    def run(rows, vecs, table, weights, words, limits, offset, flips, outs, place):
        if rows == 8:
            if vecs == 2:
                tile82(table, weights, words, limits, offset, flips, outs, place)
            else:
                tile81(table, weights, words, limits, offset, flips, outs, place)
        elif vecs == 2:
            tile12(table, weights, words, limits, offset, flips, outs, place)
        else:
            tile11(table, weights, words, limits, offset, flips, outs, place)

    for rows, vecs, words in [(r, v, w) for r in (8, 1) for v in (2, 1) for w in WORDS]:
        x = RNG.integers(0, 2, (rows, 32 * words)).astype(bool)
        w = RNG.integers(0, 2, (16 * vecs, 32 * words)).astype(bool)
        sums = meaning(x[:, None], w).sum(axis=2)
        limits = np.zeros((rows, 4 + 16 * vecs), np.int32)
        limits[:, 4:] = sums + RNG.integers(-1, 2, sums.shape)  # just below, equal, just above
        flips = RNG.integers(0, 2, 16 * vecs).astype(bool)
        out = np.full((rows, 8), 0xAA, np.uint8)
        held = [addresses(array) for array in (_packed_rows(x), limits, out)]
        packed, weights = _packed_rows(x), lanes_of_bits(w, vecs, words)
        held[0] = addresses(packed)
        marks = np.packbits(flips, bitorder="little")
        run(rows, vecs, at(held[0]), at(weights), words, at(held[1]), 16, at(marks), at(held[2]), 3)
        right = (sums <= limits[:, 4:]) != flips
        np.testing.assert_array_equal(out[:, 3 : 3 + 2 * vecs], _packed_rows(right))
        assert (out[:, :3] == 0xAA).all()
        assert (out[:, 3 + 2 * vecs :] == 0xAA).all()


def test_depthwise_sums():
    tile = vectors.depth_tile
    run = numba.njit(lambda taps, off, w, stride, n, start, sums: tile(
        taps, off, w, stride, n, start, sums))  # fmt: skip
    for taps in (0, 1, 2, 9):
        x = RNG.integers(0, 256, (max(1, taps), 40)).astype(np.uint8)
        w = RNG.integers(-255, 256, (max(1, taps), 48)).astype(np.int32)
        start = RNG.integers(-1000, 1000, 16).astype(np.int32)
        sums, table = np.zeros(16, np.int32), addresses(x)
        run(at(table), 16, at(w) + 64, 4 * 48, taps, at(start), at(sums))
        right = start + (x[:taps, 16:32].astype(np.int64) * w[:taps, 16:32]).sum(axis=0)
        np.testing.assert_array_equal(sums, right)


# -- after the sums --------------------------------------------------------------------

_SOME = [0, 1, -1, 2, 3, 5, -3, 7, 127, 128, -129, 255, 256, 65535, 123456, -654321]
_LARGE = [(1 << 24) + 1, -(1 << 24) - 3, (1 << 31) - 1, -(1 << 31)]
SUMS = np.array([*_SOME, *_LARGE, *range(1000, 1012)])
SCALES = [0.5, 0.25, 1.5, 1 / 3, 1e-3, 1e-38, 1e30, 3e38, 0.0039, 1.0, 2.0, 0.1, 7.7e-6, 1e-9,
          0.75, 0.125]  # fmt: skip


@pytest.fixture(scope="module")
def requantise_rows():
    rows = vectors.requantise_rows

    @numba.njit
    def run(sums, number, vecs, scales, least, most, plus, outs, place):
        rows(sums, number, vecs, scales, np.float32(least), np.float32(most), plus, outs, place)

    return run


RANGES = [
    ("u8", 0),
    ("u8", 131),
    ("u8", 255),
    ("i8", 0),
    ("i8", -128),
    ("i5", 3),
    ("u4", 9),
    ("u2", 1),
]


@pytest.mark.parametrize(("elem", "zero"), RANGES)
def test_requantising(elem, zero, requantise_rows):
    low, high = int_range(elem)
    sums = np.array([np.roll(SUMS, i) for i in range(32)], np.int32)  # each sum meets each scale
    scales = np.array([*SCALES, *SCALES[::-1]], np.float32)
    out = np.full((32, 40), 7, np.uint8)
    outs = addresses(out)
    requantise_rows(
        at(sums), 32, 2, at(scales), low - zero, high - zero, zero - low, at(outs), 4
    )  # fmt: skip
    right = requantise(sums, scales, zero, elem).astype(np.int64) - low
    np.testing.assert_array_equal(out[:, 4:36], right)
    assert (out[:, :4] == 7).all()
    assert (out[:, 36:] == 7).all()


def test_halves_go_to_even(requantise_rows):
    sums, scales = np.zeros((1, 32), np.int32), np.full(32, 0.5, np.float32)
    sums[0, :16] = [1, 3, 5, 7, -1, -3, -5, -7, 9, 11, 13, 15, 2, 4, -2, 0]
    out = np.zeros((1, 32), np.uint8)
    outs = addresses(out)
    requantise_rows(at(sums), 1, 1, at(scales), -128, 127, 128, at(outs), 0)
    found = out[0, :16].astype(int) - 128
    assert found.tolist() == [0, 2, 2, 4, 0, -2, -2, -4, 4, 6, 6, 8, 1, 2, -1, 0]


def test_sums_as_they_are():
    rows = vectors.store_rows
    run = numba.njit(lambda sums, number, vecs, outs, place: rows(sums, number, vecs, outs, place))
    for vecs in (1, 2):
        sums = RNG.integers(-(1 << 31), 1 << 31, (5, 32)).astype(np.int32)
        out = np.full((5, 40), 7, np.int32)
        outs = addresses(out)
        run(at(sums), 5, vecs, at(outs), 8)
        np.testing.assert_array_equal(out[:, 2 : 2 + 16 * vecs], sums[:, : 16 * vecs])
        assert (out[:, 2 + 16 * vecs :] == 7).all()


# -- bytes and bits --------------------------------------------------------------------

NUMBERS = [  # x_scale, x_zero, y_scale, y_zero, scale, zero
    (0.02, 3, 0.03, 7, 0.05, 11), (1.0, 0, 1.0, 0, 2.0, 0), (0.5, 127, 0.5, 120, 1.0, 100),
    (1e-3, 0, 10.0, 5, 0.1, 60), (0.0123, 64, 0.0077, 1, 0.0031, 127),
]  # fmt: skip


@pytest.fixture(scope="module")
def sums_of_pairs():
    fused, plain = vectors.add_tile(True), vectors.add_tile(False)

    @numba.njit
    def run(is_fused, x, y, numbers, vecs, out):
        if is_fused:
            fused(x, y, numbers, vecs, out)
        else:
            plain(x, y, numbers, vecs, out)

    return run


@pytest.mark.parametrize("elem", ["u8", "i8"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("given", NUMBERS)
def test_quantised_sums_of_all_pairs(given, fused, elem, sums_of_pairs):
    low, high = int_range(elem)
    numbers = np.array(given, np.float32)
    if elem == "i8":
        numbers[[1, 3, 5]] -= 64
    sx, zx, sy, zy, s, zero = numbers
    codes = np.arange(256)
    x, y = np.repeat(codes, 256).astype(np.uint8), np.tile(codes, 256).astype(np.uint8)
    if fused:
        a, b = sx / s, sy / s
        rest = [a, b, zero - (a * zx + b * zy), low, high, -low]
    else:
        rest = [sx, zx, sy, zy, s, low - zero, high - zero, zero - low]
    table = np.zeros(16, np.float32)
    table[: 2 + len(rest)] = [low, low, *rest]
    out = np.zeros(65536, np.uint8)
    sums_of_pairs(fused, at(x), at(y), at(table), 65536 // 16, at(out))
    values = [(array.astype(np.int64) + low).astype(container(elem)) for array in (x, y)]
    right = quantised_sum(*values, numbers, int(fused), elem).astype(np.int64) - low
    np.testing.assert_array_equal(out, right)
    assert len(np.unique(right)) >= 10


@pytest.mark.parametrize("how", ["or", "max"])
def test_folds(how):
    tile = vectors.fold_tile(how)
    run = numba.njit(lambda taps, number, vecs, out: tile(taps, number, vecs, out))
    meaning = {"or": np.bitwise_or, "max": np.maximum}[how]
    for taps, vecs in ((0, 1), (1, 1), (4, 3), (9, 2)):
        x = RNG.integers(0, 256, (max(1, taps), 16 * vecs)).astype(np.uint8)
        out, table = np.zeros(16 * vecs + 8, np.uint8), addresses(x)
        out[-8:] = 5
        run(at(table), taps, vecs, at(out))
        right = meaning.reduce(x[:taps], axis=0, initial=0)
        np.testing.assert_array_equal(out[:-8], right)
        assert (out[-8:] == 5).all()


def test_clamped_bytes():
    tile = vectors.clamp_bytes
    run = numba.njit(lambda x, low, high, vecs, out: tile(x, low, high, vecs, out))
    x, out = np.arange(256).astype(np.uint8), np.zeros(256, np.uint8)
    for low, high in ((0, 255), (128, 255), (3, 3), (100, 200), (0, 127)):
        run(at(x), low, high, 16, at(out))
        np.testing.assert_array_equal(out, x.clip(low, high))


def test_compared_bytes():
    tile = vectors.compare_bytes
    run = numba.njit(lambda x, limit, vecs, out: tile(x, limit, vecs, out))
    x, out = np.arange(256).astype(np.uint8), np.zeros(32, np.uint8)
    for limit in (0, 1, 127, 128, 200, 255):
        run(at(x), limit, 16, at(out))
        np.testing.assert_array_equal(np.unpackbits(out, bitorder="little"), x >= limit)


@pytest.mark.parametrize("largest", [3, (1 << 31) - 1])
def test_weighted_ones(largest):
    bits, bytes_ = vectors.weighted_bits, vectors.weighted_ones
    of_bits = numba.njit(lambda x, weights, vecs: bits(x, weights, vecs))
    of_bytes = numba.njit(lambda x, weights, flip, vecs: bytes_(x, weights, flip, vecs))
    x = RNG.integers(0, 256, 48).astype(np.uint8)
    for vecs in (1, 3):
        # lanes of bits are summed up in 32 bits: one vector is the most for the largest weight
        number, limit = 16 * vecs, largest if vecs == 1 else largest // 3
        weights = RNG.integers(-limit, limit + 1, number).astype(np.int32)
        there = np.unpackbits(x, bitorder="little")[:number]
        assert of_bits(at(x), at(weights), vecs) == (there * weights.astype(np.int64)).sum()
        weights //= 8
        for flip in (0, 128, 255):
            ones = np.bitwise_count(x[:number] ^ np.uint8(flip)).astype(np.int64)
            assert of_bytes(at(x), at(weights), flip, vecs) == (ones * weights).sum()


@pytest.mark.parametrize(("first", "step", "width", "shift"), [
    (0, 1, 3, 0), (5, 1, 9, 4), (-3, 1, 5, 7), (64, 2, 10, 20), (-17, 2, 24, 0), (7, 3, 8, 24),
])  # fmt: skip
def test_sliding_bits(first, step, width, shift):
    tile = vectors.slide_bits
    run = numba.njit(lambda *a: tile(a[0], a[1], a[2], a[3], a[4], a[5], a[6]))
    lead, number = 8, 35
    held = RNG.integers(0, 256, 80).astype(np.uint8)
    bits = np.unpackbits(held, bitorder="little").astype(object)
    masks = np.zeros(48, np.uint32)
    masks[:number] = RNG.integers(0, 1 << width, number)
    out = np.zeros(48, np.uint32)
    out[:number] = RNG.integers(0, 4, number)
    before = out.copy()
    run(at(held) + lead, first, step, at(masks), shift, number, at(out))
    for i in range(number):
        start = 8 * lead + first + i * step
        word = sum(bits[start + j] << j for j in range(width)) & int(masks[i])
        assert out[i] == before[i] | (word << shift), i
    assert (out[number:] == 0).all()
