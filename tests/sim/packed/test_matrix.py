"""Sums of reads as matrices, and matrices as what kernels take, against numpy."""

import numpy as np
import pytest

from cimc.sim.packed import matrix
from cimc.sim.packed.loads import LATCHES, OPS, TERM
from cimc.sim.packed.matrix import Cells

RNG = np.random.default_rng(5)
TILES, ROWS, COLS, CHANNELS, K = 3, 12, 100, 6, 70


def _cells():
    bits = RNG.integers(0, 2, (TILES, ROWS, COLS)).astype(bool)
    wide = np.zeros((TILES, ROWS, 128), bool)
    wide[..., :COLS] = bits
    words = np.packbits(wide, axis=2, bitorder="little").view(np.uint64).transpose(0, 2, 1)
    maps = RNG.permutation(ROWS)[None]
    held = Cells(np.ascontiguousarray(words), np.array([-1, 0, -1]), maps)
    logical = bits.copy()
    logical[1] = bits[1, maps[0]]
    return held, logical


EVERY = tuple(LATCHES.values())


def _terms(number, latches=EVERY, factors=0):
    terms = np.zeros(number, TERM)
    for term in terms:
        term["n"] = RNG.integers(1, CHANNELS + 1)
        term["acc"] = RNG.integers(0, CHANNELS - term["n"] + 1)
        term["coef"] = RNG.choice([1, -1, 2, -64, 5])
        term["op"] = RNG.choice(list(OPS.values()))
        term["latch"] = RNG.choice(latches)
        term["size"] = RNG.integers(1, K + 1)
        term["k"] = RNG.integers(0, K - term["size"] + 1)
        term["col"] = RNG.integers(0, COLS - term["size"] + 1)
        term["tile"] = RNG.integers(0, TILES)
        term["row"] = RNG.integers(0, ROWS - term["n"] + 1)
        term["factor"] = RNG.integers(-1, factors)
    return terms


def _ones(term, row, cells, bits, valid):
    """How many ones a term finds for one row, by the specification of reads."""
    span = slice(term["k"], term["k"] + term["size"])
    x, v = bits[span], valid[span]
    x = {LATCHES["bits"]: x, LATCHES["one"]: v, LATCHES["zero"]: v & False}[term["latch"]]
    w = cells[term["tile"], row, term["col"] : term["col"] + term["size"]]
    found = {"and": x & w, "nand": ~(x & w), "or": x | w, "xor": x ^ w, "ones": x, "valid": v}
    name = {number: name for name, number in OPS.items()}[term["op"]]
    return int((found[name] & v).sum())


@pytest.mark.parametrize("together", [False, True])
def test_matrices_give_the_sums_of_reads(together):
    held, cells = _cells()
    factors = [RNG.integers(-9, 10, CHANNELS) for _ in range(2)]
    for _ in range(20):
        # sums over all channels are those of reads, which have no factors
        terms = _terms(RNG.integers(1, 9), factors=0 if together else len(factors))
        v, u = matrix.matrices(terms, held, (CHANNELS, K), factors, together)
        valid = RNG.random(K) < 0.8
        bits = (RNG.random(K) < 0.5) & valid
        right = np.zeros(CHANNELS, np.int64)
        for term in terms:
            for r in range(term["n"]):
                m = term["acc"] + r
                times = 1 if term["factor"] < 0 else factors[term["factor"]][m]
                ones = _ones(term, term["row"] + r, cells, bits, valid)
                right[m] += term["coef"] * times * ones
        found = v.astype(np.int64) @ bits + u.astype(np.int64) @ valid
        if together:
            assert found[0] == right.sum()
            assert (found[1:] == 0).all()
        else:
            np.testing.assert_array_equal(found, right)


def test_terms_without_a_share():
    """A term that isn't said to use bits, or valid marks, has no share of them."""
    held, _ = _cells()
    for term in _terms(300):
        alone = np.array([term])
        v, u = matrix.matrices(alone, held, (CHANNELS, K), [])
        assert matrix.uses_bits(alone)[0] or not v.any()
        assert matrix.uses_valid(alone)[0] or not u.any()


def _planes(number, worth, seed=1):
    """Random terms, the same for each plane with coefficients times its worth."""
    rng = np.random.default_rng(seed)
    first = _terms(number, (LATCHES["bits"],))
    first["op"], first["plane"] = OPS["and"], 0
    parts = []
    for i, value in enumerate(worth):
        part = first.copy()
        part["plane"], part["coef"] = i, first["coef"] * value
        parts.append(rng.permutation(part))
    return np.concatenate(parts)


SIGNED = [1, 2, 4, -8]


def test_planes_alike():
    terms = _planes(5, SIGNED)
    assert matrix.planes_alike(terms, SIGNED)
    assert matrix.planes_alike(RNG.permutation(terms), SIGNED)
    marks = _terms(3)
    marks["op"] = OPS["valid"]  # without a share of bits: no matter
    assert matrix.planes_alike(np.concatenate([terms, marks]), SIGNED)


@pytest.mark.parametrize(("field", "change"), [
    ("coef", 1), ("row", 1), ("tile", 1), ("k", 1), ("op", 1), ("acc", 1), ("n", -1), ("col", 1),
    ("size", -1), ("factor", 1), ("group", 1), ("plane", 1),
])  # fmt: skip
def test_one_difference_is_enough(field, change):
    terms = _planes(4, SIGNED)
    terms[-1][field] += change
    assert not matrix.planes_alike(terms, SIGNED)


def test_planes_that_are_missing():
    terms = _planes(4, SIGNED)
    assert not matrix.planes_alike(terms[terms["plane"] != 2], SIGNED)
    assert not matrix.planes_alike(terms[1:], SIGNED)
    assert not matrix.planes_alike(terms, SIGNED[:3])
    assert not matrix.planes_alike(terms, [1, 2, 4, 8])
    assert not matrix.planes_alike(terms[:0], SIGNED)


RANGES = [(0, 1), (-1, 1), (-128, 127), (-129, 127), (-3, 128), (0, 255), (-(1 << 15), 1 << 15),
          (-(1 << 31), (1 << 31) - 1)]  # fmt: skip


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_digits(low, high):
    held = RNG.integers(low, high + 1, (7, 9)).astype(np.int32)
    held[0, :2] = low, high
    found = matrix.digits(held)
    assert all(d.dtype == np.int8 for _, d in found)
    np.testing.assert_array_equal(sum(coef * d.astype(np.int64) for coef, d in found), held)
    assert (len(found) == 1) == (low >= -128 and high <= 127)


@pytest.mark.parametrize(("low", "high"), RANGES)
@pytest.mark.parametrize("step", [1, 6])
def test_bit_planes(low, high, step):
    least, most = -(-low // step), high // step
    held = (RNG.integers(least, most + 1, (7, 9)) * step).astype(np.int32)
    held[0, :2] = least * step, most * step
    found = matrix.bit_planes(held)
    assert all(plane.dtype == bool and plane.any() for _, plane in found)
    total = sum((coef * plane.astype(np.int64) for coef, plane in found), np.zeros((7, 9), int))
    np.testing.assert_array_equal(total, held)
    if (low, high, step) in ((0, 1, 1), (-1, 1, 1), (0, 255, 1)):
        assert len(found) == {(0, 1): 1, (-1, 1): 2, (0, 255): 8}[low, high]


def test_no_bit_planes():
    assert matrix.bit_planes(np.zeros((3, 4), np.int32)) == []
    assert matrix.bit_planes(np.zeros((0, 4), np.int32)) == []


@pytest.mark.parametrize(("values", "sign"), [
    ([[1, -1], [-1, 1]], 1), ([[-4, -4]], 4), ([[7, -7]], 7), ([[1, 0]], 0), ([[2, 1]], 0),
    ([[0, 0]], 0), ([[]], 0),
])  # fmt: skip
def test_signs(values, sign):
    assert matrix.signs(np.array(values, np.int32)) == sign


@pytest.mark.parametrize(("channels", "vecs"), [(1, 1), (16, 1), (17, 2), (40, 3), (64, 4)])
def test_lanes(channels, vecs):
    """Pairs of vectors lie together, word by word; a last odd one by itself."""
    words = 3
    bytes_ = RNG.integers(-128, 128, (channels, 4 * words - 1)).astype(np.int8)
    bits = RNG.integers(0, 2, (channels, 32 * words - 5)).astype(bool)
    found = {
        8: matrix.lanes_of_bytes(bytes_, vecs, words),
        1: matrix.lanes_of_bits(bits, vecs, words),
    }
    for channel, k in [(c, k) for c in range(16 * vecs) for k in range(words)]:
        pair, lane = divmod(channel, 32)
        lanes = 32 if pair < vecs // 2 else 16
        place = 32 * pair * words + k * lanes + lane
        octets, marks = np.zeros(4, np.int8), np.zeros(32, bool)
        if channel < channels:
            mine, own = bytes_[channel, 4 * k : 4 * k + 4], bits[channel, 32 * k : 32 * k + 32]
            octets[: len(mine)], marks[: len(own)] = mine, own
        assert found[8][place] == octets.view(np.uint32)[0]
        assert found[1][place] == np.packbits(marks, bitorder="little").view(np.uint32)[0]
    assert {name: len(held) for name, held in found.items()} == dict.fromkeys(
        (8, 1), 16 * vecs * words
    )
