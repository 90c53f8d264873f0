"""Packed bits of `cells` items against plain arrays of 0 and 1."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cimc.isa.cells import Cells, are_bits
from cimc.isa.program import Data
from cimc.isa.state import pack

seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@given(seeds, st.integers(0, 9), st.one_of(st.integers(0, 150), st.sampled_from([64, 128, 256])))
def test_rows_are_those_of_the_array(rng, rows, columns):
    bits = rng.integers(0, 2, (rows, columns)).astype(np.uint8)
    cells = Cells.of(bits)
    lo, hi = sorted(rng.integers(0, rows + 1, 2).tolist())
    assert cells.shape == bits.shape
    assert len(cells) == rows
    assert cells.nbytes == -(-rows * columns // 8)
    assert cells.rows(lo, hi).dtype == np.uint8
    np.testing.assert_array_equal(cells.rows(lo, hi), bits[lo:hi])


@given(seeds, st.sampled_from([1, 8]), st.data())
def test_words_are_packed_columns(rng, step, data):
    """At byte boundaries (step 8), where bytes are copied, and at others."""

    def draw(low: int, high: int) -> int:
        return data.draw(st.integers(low, high)) * step

    columns = draw(1, 40)
    start = draw(0, columns // step - 1)
    length = draw(1, (columns - start) // step)
    col = draw(0, 12)
    count = -(-(col + length) // 64) + data.draw(st.integers(0, 1))
    bits = rng.integers(0, 2, (5, columns)).astype(np.uint8)
    wanted = pack(bits[1:4, start : start + length].astype(np.bool_), col, count)
    words = Cells.of(bits).words(1, 4, start, length, col, count)
    assert words.dtype == np.uint64
    np.testing.assert_array_equal(words, wanted)


def test_equality_is_that_of_the_bits():
    bits = np.eye(3, dtype=np.uint8)
    assert Cells.of(bits) == Cells.of(bits.astype(np.bool_))
    assert Cells.of(bits) != Cells.of(1 - bits)
    assert Cells.of(bits) != Cells.of(bits.reshape(1, 9))
    assert Cells.of(bits) != bits.tolist()


@pytest.mark.parametrize(
    ("array", "are"),
    [
        (np.zeros((2, 3), np.int64), True),
        (np.full((1, 1), 2, np.uint8), False),
        (np.full((1, 1), -1, np.int8), False),
        (np.zeros(4, np.uint8), False),
    ],
)
def test_only_a_matrix_of_zeros_and_ones_is_taken(array, are):
    assert are_bits(array) == are
    assert isinstance(Data("d", "cells", array).content, Cells) == are


class _Store:
    """A source that counts how often it is read."""

    def __init__(self, packed: bytes) -> None:
        self.packed, self.reads = packed, 0

    def read(self) -> bytes:
        self.reads += 1
        return self.packed


def test_released_bits_are_read_again():
    bits = np.eye(5, 7, dtype=np.uint8)
    store = _Store(Cells.of(bits).packed.tobytes())
    cells = Cells(store.packed, (5, 7), store)
    np.testing.assert_array_equal(cells.rows(0, 5), bits)
    assert (cells.nbytes, store.reads) == (5, 0)
    cells.release()
    assert cells.nbytes == 0
    np.testing.assert_array_equal(cells.rows(0, 5), bits)
    np.testing.assert_array_equal(cells.rows(2, 4), bits[2:4])
    assert (cells.nbytes, store.reads) == (5, 1)


def test_large_items_are_copied_and_equal():
    """Beyond the size from which they have pages of their own."""
    packed = np.random.default_rng(0).bytes(1 << 20)
    cells = Cells(packed, (1 << 13, 1 << 10), _Store(packed))
    assert cells.packed.tobytes() == packed
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
    np.testing.assert_array_equal(cells.rows(5000, 5003).reshape(-1), bits[5000 << 10 :][: 3 << 10])
    view = cells.packed
    cells.release()
    assert view.tobytes() == packed
    assert cells.packed.tobytes() == packed


def test_bits_without_a_source_stay():
    cells = Cells.of(np.eye(3))
    cells.release()
    np.testing.assert_array_equal(cells.rows(0, 3), np.eye(3))
