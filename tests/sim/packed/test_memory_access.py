"""Reading and writing memory by address, and channels that move to the end, against numpy."""

import numba
import numpy as np
import pytest

from cimc.sim.packed import elements, memory
from cimc.sim.packed.turn import turn

RNG = np.random.default_rng(3)


def at(array):
    return array.ctypes.data


@pytest.mark.parametrize("kind", ["u8", "u16", "i16", "u32", "i32", "i64"])
def test_numbers_at_odd_addresses(kind):
    get = memory.getter(kind)
    read = numba.njit(lambda address: get(address))
    dtype = np.dtype({"u": f"uint{kind[1:]}", "i": f"int{kind[1:]}"}[kind[0]])
    held = RNG.integers(0, 256, 40).astype(np.uint8)
    for start in range(8):
        right = held[start : start + dtype.itemsize].copy().view(dtype)[0]
        assert read(at(held) + start) == right


@pytest.mark.parametrize(("kind", "size"), [("u8", 1), ("u16", 2), ("u32", 4), ("i64", 8)])
def test_low_bits_are_stored(kind, size):
    put = memory.putter(kind)
    write = numba.njit(lambda address, number: put(address, number))
    for number in (0, 1, -1, 0x123456789ABCDEF, -(1 << 63)):
        held = np.full(24, 9, np.uint8)
        write(at(held) + 3, number)
        right = (number % (1 << 8 * size)).to_bytes(size, "little")
        assert held[3 : 3 + size].tobytes() == right
        assert (np.delete(held, range(3, 3 + size)) == 9).all()


def test_copies_and_fills():
    copy_bytes, copy_over, copy_16 = memory.copy_bytes, memory.copy_over, memory.copy_16
    fill_bytes, get_f32 = memory.fill_bytes, memory.get_f32

    @numba.njit
    def run(to, over, sixteen, filled, source, number):
        copy_bytes(to, source, number)
        copy_over(over, source, number)
        copy_16(sixteen, source)
        fill_bytes(filled, 300, number)  # its low eight bits

    for number in (0, 1, 15, 16, 17, 47, 48, 63, 64, 65, 200):
        source = RNG.integers(0, 256, 300).astype(np.uint8)
        to, over, sixteen, filled = (np.full(300, 9, np.uint8) for _ in range(4))
        run(at(to), at(over), at(sixteen), at(filled), at(source), number)
        np.testing.assert_array_equal(to[:number], source[:number])
        assert (to[number:] == 9).all()
        np.testing.assert_array_equal(over[:number], source[:number])
        assert (over[number + 63 :] == 9).all()
        np.testing.assert_array_equal(sixteen[:16], source[:16])
        assert (sixteen[16:] == 9).all()
        assert (filled[:number] == 44).all()
        assert (filled[number:] == 9).all()
    numbers = np.array([1.5, -0.0, 3e38], np.float32)
    read = numba.njit(lambda address: get_f32(address))
    assert [read(at(numbers) + 4 * i) for i in range(3)] == [1.5, -0.0, numbers[2]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.uint32, np.int32])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 16, 16), (2, 17, 33), (3, 5, 40), (1, 64, 15),
                                   (2, 32, 48), (1, 3, 196)])  # fmt: skip
def test_turn(dtype, sizes):
    before, rows, columns = sizes
    limits = np.iinfo(dtype)
    source = RNG.integers(limits.min, limits.max, (2, before * rows * columns), dtype=dtype)
    for plus in (0, 128):
        to = np.zeros((2, before * rows * columns + 5), dtype)
        turn(source, to[:, :-5], sizes, plus)
        moved = source.reshape(2, before, rows, columns).swapaxes(2, 3).reshape(2, -1)
        np.testing.assert_array_equal(to[:, :-5], moved + np.array(plus).astype(dtype))
        assert (to[:, -5:] == 0).all()


def test_codes_of_every_format():
    """`put_code`, then `get_code`, leave the other elements alone."""
    get_code, put_code = elements.get_code, elements.put_code

    @numba.njit
    def run(kind, base, element, second, code):
        put_code(kind, base, element, second, code)
        return get_code(kind, base, element, second)

    types = ["bip", "u1", "tern", "u3", "u8", "i2", "i8", "i16", "u16", "i9", "i32", "u32", "u20"]
    for elem in types:
        form = elements.Format.of(elem)
        codes = range(form.codes) if form.is_small else (form.least, 0, form.most)
        for code in codes:
            held = RNG.integers(0, 256, 128).astype(np.uint8)
            before = held.copy()
            assert run(form.kind, at(held), 11, 64, code) == code, elem
            runs = (0, 64) if elem == "tern" else (0,)
            kept = np.unpackbits(before, bitorder="little") != np.unpackbits(
                held, bitorder="little"
            )
            own = [8 * start + 11 * form.bits + i for start in runs for i in range(form.bits)]
            assert not np.delete(kept, own).any(), elem


def test_types_that_are_not_packed():
    assert [elements.Format.of(elem) for elem in ("f32", "i64", "u48", "str")] == [None] * 4
