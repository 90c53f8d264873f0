"""Kernels between buffers: pools, tables, sums, levels, copies; and counts of ones.

As in products.py, parameters are a table of numbers, and rows are positions, sample by sample.
Operands are those of elements.py. What has at most 256 codes goes through tables made with the
instruction's own definition; bytes that lie alike are done 16 at a time.
"""

from __future__ import annotations

from cimc.sim.packed.elements import (
    AT,
    BASE,
    FIELDS,
    FORMAT,
    SECOND,
    STEP,
    STRIDE,
    get_code,
    get_value,
    put_code,
    put_value,
)
from cimc.sim.packed.jit import Kernel, inlined
from cimc.sim.packed.memory import copy_bytes, get_f32, get_i32, get_i64, get_u8, put_i64, put_u32
from cimc.sim.packed.vectors import (
    add_tile,
    clamp_bytes,
    compare_bytes,
    fold_tile,
    requantise_rows,
    weighted_bits,
    weighted_ones,
)

OUT, X, Y = 0, FIELDS, 2 * FIELDS
"""Where the operands stand."""
POSITIONS, CHANNELS, WHOLE = 3 * FIELDS, 3 * FIELDS + 1, 3 * FIELDS + 2
"""WHOLE: elements of a sample where all operands lie in the same order without gaps, else 0."""
A, B, C, D, E = range(3 * FIELDS + 3, 3 * FIELDS + 8)
"""What else the kernel needs."""
SIZE = 3 * FIELDS + 8

_OUT, _X, _Y = 8 * OUT, 8 * X, 8 * Y
_POSITIONS, _CHANNELS, _WHOLE = 8 * POSITIONS, 8 * CHANNELS, 8 * WHOLE
_A, _B, _C, _D, _E = 8 * A, 8 * B, 8 * C, 8 * D, 8 * E


@inlined
def _base(operand: int, sample: int) -> int:
    return get_i64(operand + 8 * BASE) + sample * get_i64(operand + 8 * STEP)


@inlined
def _first(operand: int, position: int) -> int:
    return get_i32(get_i64(operand + 8 * AT) + 4 * position)


@inlined
def _code(operand: int, base: int, element: int) -> int:
    return get_code(get_i64(operand + 8 * FORMAT), base, element, get_i64(operand + 8 * SECOND))


@inlined
def _put(operand: int, base: int, element: int, code: int) -> None:
    second = get_i64(operand + 8 * SECOND)
    put_code(get_i64(operand + 8 * FORMAT), base, element, second, code)


# -- tables ----------------------------------------------------------------------------


@Kernel
def table_codes(p: int, scratch: int, first: int, last: int, low: int, high: int) -> int:
    """out = A[x]: uint8, B bytes further for each channel (0: one table for all)."""
    table, more = get_i64(p + _A), get_i64(p + _B)
    positions, channels = get_i64(p + _POSITIONS), get_i64(p + _CHANNELS)
    out_stride, x_stride = get_i64(p + _OUT + 8 * STRIDE), get_i64(p + _X + 8 * STRIDE)
    for row in range(first, last):
        sample = row // positions
        position = row - sample * positions
        out, x = _base(p + _OUT, sample), _base(p + _X, sample)
        to, source = _first(p + _OUT, position), _first(p + _X, position)
        for j in range(channels):
            code = get_u8(table + j * more + _code(p + _X, x, source + j * x_stride))
            _put(p + _OUT, out, to + j * out_stride, code)
    return 0


@Kernel
def table_values(p: int, scratch: int, first: int, last: int, low: int, high: int) -> int:
    """out = A[x]: int32 values, B entries further for each channel; wide results."""
    table, more = get_i64(p + _A), get_i64(p + _B)
    positions, channels = get_i64(p + _POSITIONS), get_i64(p + _CHANNELS)
    out_stride, x_stride = get_i64(p + _OUT + 8 * STRIDE), get_i64(p + _X + 8 * STRIDE)
    bad = 0
    for row in range(first, last):
        sample = row // positions
        position = row - sample * positions
        out, x = _base(p + _OUT, sample), _base(p + _X, sample)
        to, source = _first(p + _OUT, position), _first(p + _X, position)
        for j in range(channels):
            code = _code(p + _X, x, source + j * x_stride)
            value = get_i32(table + 4 * (j * more + code))
            bad += put_value(p + _OUT, out, to + j * out_stride, value)
    return bad


@Kernel
def clamp(p: int, scratch: int, first: int, last: int, low: int, high: int) -> int:
    """out = min(max(x, A), B) of bytes, whole samples."""
    for sample in range(first, last):
        clamp_bytes(_base(p + _X, sample), get_i64(p + _A), get_i64(p + _B),
                    (get_i64(p + _WHOLE) + 15) >> 4, _base(p + _OUT, sample))  # fmt: skip
    return 0


@Kernel
def compare(p: int, scratch: int, first: int, last: int, low: int, high: int) -> int:
    """out bit = x >= A of bytes, whole samples."""
    for sample in range(first, last):
        compare_bytes(_base(p + _X, sample), get_i64(p + _A), (get_i64(p + _WHOLE) + 15) >> 4,
                      _base(p + _OUT, sample))  # fmt: skip
    return 0


@Kernel
def table_pairs(p: int, scratch: int, first: int, last: int, low: int, high: int) -> int:
    """out = A[256 * x + y], uint8."""
    table = get_i64(p + _A)
    positions, channels = get_i64(p + _POSITIONS), get_i64(p + _CHANNELS)
    out_stride, x_stride = get_i64(p + _OUT + 8 * STRIDE), get_i64(p + _X + 8 * STRIDE)
    y_stride = get_i64(p + _Y + 8 * STRIDE)
    for row in range(first, last):
        sample = row // positions
        position = row - sample * positions
        out, x, y = _base(p + _OUT, sample), _base(p + _X, sample), _base(p + _Y, sample)
        to, source = _first(p + _OUT, position), _first(p + _X, position)
        other = _first(p + _Y, position)
        for j in range(channels):
            code = _code(p + _X, x, source + j * x_stride) * 256
            code += _code(p + _Y, y, other + j * y_stride)
            _put(p + _OUT, out, to + j * out_stride, get_u8(table + code))
    return 0


_sum_fused, _sum_plain = add_tile(True), add_tile(False)


@Kernel
def quantised_sum(p: int, scratch: int, first: int, last: int, low: int, high: int) -> int:
    """Quantised sums of bytes, whole samples: A the numbers of `add_tile`, B 1 if fused."""
    vecs = (get_i64(p + _WHOLE) + 15) >> 4
    for sample in range(first, last):
        out, x, y = _base(p + _OUT, sample), _base(p + _X, sample), _base(p + _Y, sample)
        if get_i64(p + _B):
            _sum_fused(x, y, get_i64(p + _A), vecs, out)
        else:
            _sum_plain(x, y, get_i64(p + _A), vecs, out)
    return 0


# -- wide values -----------------------------------------------------------------------


@Kernel
def add(p: int, scratch: int, first: int, last: int, low: int, high: int) -> int:
    """out = x + y, values."""
    positions, channels = get_i64(p + _POSITIONS), get_i64(p + _CHANNELS)
    out_stride, x_stride = get_i64(p + _OUT + 8 * STRIDE), get_i64(p + _X + 8 * STRIDE)
    y_stride, bad = get_i64(p + _Y + 8 * STRIDE), 0
    for row in range(first, last):
        sample = row // positions
        position = row - sample * positions
        out, x, y = _base(p + _OUT, sample), _base(p + _X, sample), _base(p + _Y, sample)
        to, source = _first(p + _OUT, position), _first(p + _X, position)
        other = _first(p + _Y, position)
        for j in range(channels):
            value = get_value(p + _X, x, source + j * x_stride)
            value += get_value(p + _Y, y, other + j * y_stride)
            bad += put_value(p + _OUT, out, to + j * out_stride, value)
    return bad


@Kernel
def move(p: int, scratch: int, first: int, last: int, low: int, high: int) -> int:
    """out = max(x, A), values; A: a number below all for a copy."""
    positions, channels, least = get_i64(p + _POSITIONS), get_i64(p + _CHANNELS), get_i64(p + _A)
    out_stride, x_stride = get_i64(p + _OUT + 8 * STRIDE), get_i64(p + _X + 8 * STRIDE)
    bad = 0
    for row in range(first, last):
        sample = row // positions
        position = row - sample * positions
        out, x = _base(p + _OUT, sample), _base(p + _X, sample)
        to, source = _first(p + _OUT, position), _first(p + _X, position)
        for j in range(channels):
            value = max(least, get_value(p + _X, x, source + j * x_stride))
            bad += put_value(p + _OUT, out, to + j * out_stride, value)
    return bad


@Kernel
def levels(p: int, scratch: int, first: int, last: int, low: int, high: int) -> int:
    """The level of a value: A thresholds int32 [channels, B], ascending; C: uint8 [channels], 1
    where levels count down."""
    positions, channels = get_i64(p + _POSITIONS), get_i64(p + _CHANNELS)
    out_stride, x_stride = get_i64(p + _OUT + 8 * STRIDE), get_i64(p + _X + 8 * STRIDE)
    number, flips = get_i64(p + _B), get_i64(p + _C)
    for row in range(first, last):
        sample = row // positions
        position = row - sample * positions
        out, x = _base(p + _OUT, sample), _base(p + _X, sample)
        to, source = _first(p + _OUT, position), _first(p + _X, position)
        for j in range(channels):
            value = get_value(p + _X, x, source + j * x_stride)
            limits, below, above = get_i64(p + _A) + 4 * j * number, 0, number
            while below < above:
                middle = (below + above) >> 1
                if value >= get_i32(limits + 4 * middle):
                    below = middle + 1
                else:
                    above = middle
            code = number - below if get_u8(flips + j) else below
            _put(p + _OUT, out, to + j * out_stride, code)
    return 0


@Kernel
def requantise(p: int, scratch: int, first: int, last: int, low: int, high: int) -> int:
    """out = code of round(clamp(x * scale)): A float32 [channels], B and C (float32) the range
    of the clamp, D what is added. 16 channels at a time through scratch memory."""
    positions, channels = get_i64(p + _POSITIONS), get_i64(p + _CHANNELS)
    out_stride, x_stride = get_i64(p + _OUT + 8 * STRIDE), get_i64(p + _X + 8 * STRIDE)
    put_i64(scratch + 128, scratch + 64)
    for row in range(first, last):
        sample = row // positions
        position = row - sample * positions
        out, x = _base(p + _OUT, sample), _base(p + _X, sample)
        to, source = _first(p + _OUT, position), _first(p + _X, position)
        for start in range(0, channels, 16):
            number = min(16, channels - start)
            for j in range(number):
                value = get_value(p + _X, x, source + (start + j) * x_stride)
                _put_i32(scratch + 4 * j, value)
            requantise_rows(scratch, 1, 1, get_i64(p + _A) + 4 * start, get_f32(p + _B),
                            get_f32(p + _C), get_i64(p + _D), scratch + 128, 0)  # fmt: skip
            for j in range(number):
                code = get_u8(scratch + 64 + j)
                _put(p + _OUT, out, to + (start + j) * out_stride, code)
    return 0


@inlined
def _put_i32(place: int, value: int) -> None:
    put_code(5, place, 0, 0, value)  # I32


# -- pools -----------------------------------------------------------------------------


_fold_or, _fold_max = fold_tile("or"), fold_tile("max")


@inlined
def _fold(bits: int, taps: int, number: int, vecs: int, out: int) -> None:
    if bits:
        _fold_or(taps, number, vecs, out)
    else:
        _fold_max(taps, number, vecs, out)


@Kernel
def pool(p: int, scratch: int, first: int, last: int, low: int, high: int) -> int:
    """The largest of each byte of a position, or all bits together (C is 1), where they lie
    together: A int32 [positions, B], the first byte of each tap or -1; CHANNELS counts bytes."""
    positions, size, taps = get_i64(p + _POSITIONS), get_i64(p + _CHANNELS), get_i64(p + _B)
    vecs, bits, places = (size + 15) >> 4, get_i64(p + _C), get_i64(p + _A)
    held, to_at = scratch + 8 * taps, get_i64(p + _OUT + 8 * AT)
    sample = first // positions
    position = first - sample * positions
    out, x = _base(p + _OUT, sample), _base(p + _X, sample)
    out_step, x_step = get_i64(p + _OUT + 8 * STEP), get_i64(p + _X + 8 * STEP)
    for _ in range(first, last):
        at, to = places + 4 * taps * position, out + get_i32(to_at + 4 * position)
        if bits and (size == 4 or size == 8):
            found = 0
            for t in range(taps):
                place = get_i32(at + 4 * t)
                if place >= 0:
                    found |= get_i64(x + place)
            if size == 4:
                put_u32(to, found)
            else:
                put_i64(to, found)
        else:
            number = 0
            for t in range(taps):
                place = get_i32(at + 4 * t)
                if place >= 0:
                    put_i64(scratch + 8 * number, x + place)
                    number += 1
            if size & 15 == 0:
                _fold(bits, scratch, number, vecs, to)
            else:
                _fold(bits, scratch, number, vecs, held)
                copy_bytes(to, held, size)
        position += 1
        if position == positions:
            position = 0
            out += out_step
            x += x_step
    return 0


@Kernel
def pool_any(p: int, scratch: int, first: int, last: int, low: int, high: int) -> int:
    """The same for any format, an element at a time; A holds elements."""
    positions, channels, taps = get_i64(p + _POSITIONS), get_i64(p + _CHANNELS), get_i64(p + _B)
    out_stride, x_stride = get_i64(p + _OUT + 8 * STRIDE), get_i64(p + _X + 8 * STRIDE)
    bad = 0
    for row in range(first, last):
        sample = row // positions
        position = row - sample * positions
        out, x = _base(p + _OUT, sample), _base(p + _X, sample)
        to, at = _first(p + _OUT, position), get_i64(p + _A) + 4 * taps * position
        for j in range(channels):
            best = -(1 << 40)
            for t in range(taps):
                place = get_i32(at + 4 * t)
                if place >= 0:
                    best = max(best, get_value(p + _X, x, place + j * x_stride))
            bad += put_value(p + _OUT, out, to + j * out_stride, best)
    return bad


# -- counts of ones --------------------------------------------------------------------


@Kernel
def ones_in_bits(p: int, scratch: int, first: int, last: int, low: int, high: int) -> int:
    """The sum of weights of the bits that are 1, whole samples: A int32 [WHOLE, to 16]."""
    total = 0
    vecs = (get_i64(p + _WHOLE) + 15) >> 4
    for sample in range(first, last):
        total += weighted_bits(_base(p + _X, sample), get_i64(p + _A), vecs)
    return total


@Kernel
def ones_in_bytes(p: int, scratch: int, first: int, last: int, low: int, high: int) -> int:
    """The sum of weight times ones of the bytes, whole samples; positions of B bytes each:
    A int32 [classes, B to 16], C int32 [positions] their class, D: what turns a code into the
    byte of its two's complement."""
    total, size, positions = 0, get_i64(p + _B), get_i64(p + _POSITIONS)
    vecs = (size + 15) >> 4
    for sample in range(first, last):
        x = _base(p + _X, sample)
        for position in range(positions):
            weights = get_i64(p + _A) + 64 * vecs * get_i32(get_i64(p + _C) + 4 * position)
            total += weighted_ones(x + position * size, weights, get_i64(p + _D), vecs)
    return total


@Kernel
def ones_in_planes(p: int, scratch: int, first: int, last: int, low: int, high: int) -> int:
    """The sum of weights of bit planes of any format, whole samples: A int32 [WHOLE, B], C
    int32 [B] the planes."""
    total, planes, elements = 0, get_i64(p + _B), get_i64(p + _WHOLE)
    for sample in range(first, last):
        x, weights = _base(p + _X, sample), get_i64(p + _A)
        for element in range(elements):
            value = get_value(p + _X, x, element)
            for i in range(planes):
                bit = (value >> get_i32(get_i64(p + _C) + 4 * i)) & 1
                total += bit * get_i32(weights)
                weights += 4
    return total
