"""Kernels for sums of products: input rows by weights, then compare, requantise or store.

A kernel takes the address of its parameters (parameters.py), the address of scratch memory, and
which rows and which pairs of lane vectors to do; it returns how many values didn't fit their
buffer. Rows come from gather.py.
"""

from __future__ import annotations

from cimc.sim.packed.elements import (
    AT,
    BASE,
    BYTE,
    FACTOR,
    FORMAT,
    I32,
    LOW,
    MOST,
    SECOND,
    STEP,
    STRIDE,
    get_code,
    put_code,
    put_value,
)
from cimc.sim.packed.gather import fill_code, rows_of
from cimc.sim.packed.jit import Kernel, inlined
from cimc.sim.packed.memory import (
    copy_bytes,
    fill_bytes,
    get_f32,
    get_i32,
    get_i64,
    get_u8,
    put_i64,
    put_u8,
    put_u32,
)
from cimc.sim.packed.micro import sign_tile, sum_tile
from cimc.sim.packed.parameters import (
    AND,
    BLOCK_,
    CHANNELS_,
    CLAMP_HIGH_,
    CLAMP_LOW_,
    CLASS_,
    FINISH_,
    FIRST_,
    FLIPS_,
    GROUP_TABLE_,
    GROUPS_,
    LEVEL,
    LEVELS_,
    LIMITS_,
    OP_,
    OUT_,
    OUT_BITS_,
    PAIR,
    PLUS_,
    POSITIONS_,
    REQUANTISE,
    SCALAR_TABLE_,
    SCALARS_,
    SCALES_,
    SRC_,
    SRC_STEP_,
    START_,
    STORE,
    TABLE,
    TAP_AT_,
    TAPS_,
    VECS_,
    WEIGHTS_,
    WORDS_,
    XOR,
)
from cimc.sim.packed.vectors import depth_tile, requantise_rows, store_rows

# -- finishing rows --------------------------------------------------------------------


@inlined
def _places(p: int, first: int, last: int, froms: int, tables: int, outs: int) -> None:
    """For each row the address of a row of `tables` (by the class of its position), and of its
    first element if that is a whole number of bytes."""
    positions, width = get_i64(p + POSITIONS_), 64 * get_i64(p + VECS_)
    base, step = get_i64(p + OUT_ + 8 * BASE), get_i64(p + OUT_ + 8 * STEP)
    at, classes, bits = get_i64(p + OUT_ + 8 * AT), get_i64(p + CLASS_), get_i64(p + OUT_BITS_)
    sample = first // positions
    position = first - sample * positions
    start = base + sample * step
    for i in range(last - first):
        kind = 0 if classes == 0 else get_i32(classes + 4 * position)
        put_i64(froms + 8 * i, tables + kind * width)
        put_i64(outs + 8 * i, start + ((get_i32(at + 4 * position) * bits) >> 3))
        position += 1
        if position == positions:
            position = 0
            start += step


@inlined
def _copy_rows(number: int, froms: int, offset: int, vecs: int, sums: int) -> None:
    """Sums that start as they are: no products."""
    for i in range(number):
        copy_bytes(sums + PAIR * i, get_i64(froms + 8 * i) + offset, 64 * vecs)


@inlined
def _scale_rows(p: int, first: int, last: int, vec: int, vecs: int, sums: int) -> None:
    """Add scalars of buffers times their factors."""
    positions = get_i64(p + POSITIONS_)
    for i in range(get_i64(p + SCALARS_)):
        entry = get_i64(p + SCALAR_TABLE_) + 16 * i
        operand, factors = get_i64(entry), get_i64(entry + 8) + 64 * vec
        for row in range(first, last):
            sample = row // positions
            base = get_i64(operand + 8 * BASE) + sample * get_i64(operand + 8 * STEP)
            element = get_i32(get_i64(operand + 8 * AT) + 4 * (row - sample * positions))
            scalar = get_code(
                get_i64(operand + 8 * FORMAT), base, element, get_i64(operand + 8 * SECOND)
            )
            scalar = scalar * get_i64(operand + 8 * FACTOR) + get_i64(operand + 8 * LOW)
            place = sums + PAIR * (row - first)
            for lane in range(16 * vecs):
                total = get_i32(place + 4 * lane) + scalar * get_i32(factors + 4 * lane)
                put_u32(place + 4 * lane, total)


@inlined
def _level(p: int, channel: int, total: int) -> int:
    """How many thresholds a sum reaches, by halving."""
    levels = get_i64(p + LEVELS_)
    limits = get_i64(p + LIMITS_) + 4 * channel * levels
    low, high = 0, levels
    while low < high:
        middle = (low + high) >> 1
        if total >= get_i32(limits + 4 * middle):
            low = middle + 1
        else:
            high = middle
    flipped = get_u8(get_i64(p + FLIPS_) + channel)
    return levels - low if flipped else low


@inlined
def _finish_row(p: int, out: int, element: int, channel: int, number: int, sums: int,
                held: int) -> int:  # fmt: skip
    """Turn the sums of channels [channel, channel + number) into elements, one by one."""
    operand, finish = p + OUT_, get_i64(p + FINISH_)
    kind, stride = get_i64(operand + 8 * FORMAT), get_i64(operand + 8 * STRIDE)
    second, bad = get_i64(operand + 8 * SECOND), 0
    element += channel * stride
    if finish == REQUANTISE:
        put_i64(held + 64, held)
        requantise_rows(sums, 1, (number + 15) >> 4, get_i64(p + SCALES_) + 4 * channel,
                        get_f32(p + CLAMP_LOW_), get_f32(p + CLAMP_HIGH_), get_i64(p + PLUS_),
                        held + 64, 0)  # fmt: skip
        for i in range(number):
            put_u8(out + element + i * stride, get_u8(held + i))
    elif finish == TABLE:
        first, levels = get_i64(p + FIRST_), get_i64(p + LEVELS_)
        table = get_i64(p + LIMITS_) + channel * levels - first
        if kind == BYTE and stride == 1:
            for i in range(number):
                put_u8(out + element + i, get_u8(table + i * levels + get_i32(sums + 4 * i)))
            return 0
        for i in range(number):
            code = get_u8(table + i * levels + get_i32(sums + 4 * i))
            put_code(kind, out, element + i * stride, second, code)
    elif finish == LEVEL:
        for i in range(number):
            code = _level(p, channel + i, get_i32(sums + 4 * i))
            put_code(kind, out, element + i * stride, second, code)
    else:
        for i in range(number):
            bad += put_value(operand, out, element + i * stride, get_i32(sums + 4 * i))
    return bad


@inlined
def _finish_rows(p: int, first: int, last: int, vec: int, vecs: int, sums: int, outs: int,
                 held: int) -> int:  # fmt: skip
    """`held`: 128 bytes of scratch memory."""
    channel = 16 * vec
    number = min(16 * vecs, get_i64(p + CHANNELS_) - channel)
    stride, finish = get_i64(p + OUT_ + 8 * STRIDE), get_i64(p + FINISH_)
    if stride == 1 and number == 16 * vecs:
        if finish == REQUANTISE:
            requantise_rows(sums, last - first, vecs, get_i64(p + SCALES_) + 4 * channel,
                            get_f32(p + CLAMP_LOW_), get_f32(p + CLAMP_HIGH_),
                            get_i64(p + PLUS_), outs, channel)  # fmt: skip
            return 0
        # i32 takes every sum; i17 to i31 don't
        every = get_i64(p + OUT_ + 8 * MOST) == (1 << 31) - 1
        if finish == STORE and every and get_i64(p + OUT_ + 8 * FORMAT) == I32:
            store_rows(sums, last - first, vecs, outs, 4 * channel)
            return 0
    positions, bad = get_i64(p + POSITIONS_), 0
    base, step = get_i64(p + OUT_ + 8 * BASE), get_i64(p + OUT_ + 8 * STEP)
    at = get_i64(p + OUT_ + 8 * AT)
    sample = first // positions
    position = first - sample * positions
    for _ in range(first, last):
        element = get_i32(at + 4 * position)
        bad += _finish_row(p, base + sample * step, element, channel, number, sums, held)
        sums += PAIR
        position += 1
        if position == positions:
            position = 0
            sample += 1
    return bad


# -- kernels ---------------------------------------------------------------------------

_xor82, _xor81, _xor12, _xor11 = (sum_tile("xor", r, v) for r in (8, 1) for v in (2, 1))
_and82, _and81, _and12, _and11 = (sum_tile("and", r, v) for r in (8, 1) for v in (2, 1))
_dot82, _dot81, _dot12, _dot11 = (sum_tile("dot", r, v) for r in (8, 1) for v in (2, 1))
_xor_signs82, _xor_signs81, _xor_signs12, _xor_signs11 = (
    sign_tile("xor", r, v) for r in (8, 1) for v in (2, 1)
)
_and_signs82, _and_signs81, _and_signs12, _and_signs11 = (
    sign_tile("and", r, v) for r in (8, 1) for v in (2, 1)
)


@inlined
def _sums(op: int, two: int, eight: int, rows: int, weights: int, words: int, coef: int,
          froms: int, offset: int, sums: int) -> None:  # fmt: skip
    """Eight rows, or one, by one or two vectors."""
    if op == XOR:
        if eight:
            if two == 2:
                _xor82(rows, weights, words, coef, froms, offset, sums, PAIR)
            else:
                _xor81(rows, weights, words, coef, froms, offset, sums, PAIR)
        elif two == 2:
            _xor12(rows, weights, words, coef, froms, offset, sums, PAIR)
        else:
            _xor11(rows, weights, words, coef, froms, offset, sums, PAIR)
    elif op == AND:
        if eight:
            if two == 2:
                _and82(rows, weights, words, coef, froms, offset, sums, PAIR)
            else:
                _and81(rows, weights, words, coef, froms, offset, sums, PAIR)
        elif two == 2:
            _and12(rows, weights, words, coef, froms, offset, sums, PAIR)
        else:
            _and11(rows, weights, words, coef, froms, offset, sums, PAIR)
    elif eight:
        if two == 2:
            _dot82(rows, weights, words, coef, froms, offset, sums, PAIR)
        else:
            _dot81(rows, weights, words, coef, froms, offset, sums, PAIR)
    elif two == 2:
        _dot12(rows, weights, words, coef, froms, offset, sums, PAIR)
    else:
        _dot11(rows, weights, words, coef, froms, offset, sums, PAIR)


@Kernel
def product(p: int, scratch: int, first: int, last: int, low: int, high: int) -> int:
    """Rows times weights; see the module."""
    block, vecs, op, bad = get_i64(p + BLOCK_), get_i64(p + VECS_), get_i64(p + OP_), 0
    table, froms, outs = scratch, scratch + 8 * block, scratch + 16 * block
    sums = scratch + 24 * block
    held, gathered = sums + PAIR * block, sums + PAIR * block + 128
    groups, group_table = get_i64(p + GROUPS_), get_i64(p + GROUP_TABLE_)
    for row in range(first, last, block):
        end = min(row + block, last)
        rows_of(p, row, end, table, gathered)
        moved = 0  # words by which the addresses in the table point beyond a row's start
        for vec in range(2 * low, min(2 * high, vecs), 2):
            two, offset = min(2, vecs - vec), 64 * vec
            if vec == 2 * low or groups != 1:
                _places(p, row, end, froms, get_i64(p + START_), outs)
            if groups == 0:
                _copy_rows(end - row, froms, offset, two, sums)
            for g in range(groups):
                entry = group_table + 32 * g
                start, words, coef = get_i64(entry), get_i64(entry + 8), get_i64(entry + 16)
                weights = get_i64(entry + 24) + vec * words * 64
                if start != moved:
                    for i in range(end - row):
                        put_i64(table + 8 * i, get_i64(table + 8 * i) + 4 * (start - moved))
                    moved = start
                if g == 1:  # on top of what is there
                    offset = 0
                    for i in range(end - row):
                        put_i64(froms + 8 * i, sums + PAIR * i)
                i = 0
                while i < end - row:
                    eight, j = 1 if i + 8 <= end - row else 0, 8 * i
                    _sums(op, two, eight, table + j, weights, words, coef, froms + j, offset,
                          sums + PAIR * i)  # fmt: skip
                    i += 8 if eight else 1
            _scale_rows(p, row, end, vec, two, sums)
            bad += _finish_rows(p, row, end, vec, two, sums, outs, held)
    return bad


@inlined
def _signs(op: int, two: int, eight: int, rows: int, weights: int, words: int, limits: int,
           offset: int, flips: int, outs: int, place: int) -> None:  # fmt: skip
    """Eight rows, or one, by one or two vectors."""
    if op == XOR:
        if eight:
            if two == 2:
                _xor_signs82(rows, weights, words, limits, offset, flips, outs, place)
            else:
                _xor_signs81(rows, weights, words, limits, offset, flips, outs, place)
        elif two == 2:
            _xor_signs12(rows, weights, words, limits, offset, flips, outs, place)
        else:
            _xor_signs11(rows, weights, words, limits, offset, flips, outs, place)
    elif eight:
        if two == 2:
            _and_signs82(rows, weights, words, limits, offset, flips, outs, place)
        else:
            _and_signs81(rows, weights, words, limits, offset, flips, outs, place)
    elif two == 2:
        _and_signs12(rows, weights, words, limits, offset, flips, outs, place)
    else:
        _and_signs11(rows, weights, words, limits, offset, flips, outs, place)


@Kernel
def signs(p: int, scratch: int, first: int, last: int, low: int, high: int) -> int:
    """One group, each sum compared with a limit, bits out, 16 channels to 2 bytes."""
    block, vecs = get_i64(p + BLOCK_), get_i64(p + VECS_)
    table, limits, outs = scratch, scratch + 8 * block, scratch + 16 * block
    gathered, op = scratch + 24 * block, get_i64(p + OP_)
    words, kernels = get_i64(p + WORDS_), get_i64(get_i64(p + GROUP_TABLE_) + 24)
    for row in range(first, last, block):
        end = min(row + block, last)
        rows_of(p, row, end, table, gathered)
        _places(p, row, end, limits, get_i64(p + LIMITS_), outs)
        for vec in range(2 * low, min(2 * high, vecs), 2):
            two = min(2, vecs - vec)
            weights, flips = kernels + vec * words * 64, get_i64(p + FLIPS_) + 2 * vec
            i = 0
            while i < end - row:
                eight, j = 1 if i + 8 <= end - row else 0, 8 * i
                _signs(op, two, eight, table + j, weights, words, limits + j, 64 * vec, flips,
                       outs + j, 2 * vec)  # fmt: skip
                i += 8 if eight else 1
    return 0


DEPTH_ROWS = 16
"""Rows that `depthwise` does at a time."""


@Kernel
def depthwise(p: int, scratch: int, first: int, last: int, low: int, high: int) -> int:
    """Each channel by itself: sums over taps of bytes times weights."""
    positions, vecs, taps = get_i64(p + POSITIONS_), get_i64(p + VECS_), get_i64(p + TAPS_)
    src, step, bad = get_i64(p + SRC_), get_i64(p + SRC_STEP_), 0
    weights, tap_at = get_i64(p + WEIGHTS_), get_i64(p + TAP_AT_)
    froms, outs, sums = scratch, scratch + 8 * DEPTH_ROWS, scratch + 16 * DEPTH_ROWS
    held = sums + PAIR * DEPTH_ROWS
    outside = held + 128
    table = outside + 16 * vecs + 64
    row = first
    while row < last:
        sample = row // positions
        position = row - sample * positions
        end = min(row + DEPTH_ROWS, last, row - position + positions)  # of one sample
        if row == first or position == 0:
            fill_bytes(outside, fill_code(p, sample), 16 * vecs)
        place, start = table, src + sample * step
        for i in range(position, position + end - row):
            at = tap_at + 4 * taps * i
            for t in range(taps):
                element = get_i32(at + 4 * t)
                put_i64(place + 8 * t, outside if element < 0 else start + element)
            place += 8 * taps
        _places(p, row, end, froms, get_i64(p + START_), outs)
        for vec in range(2 * low, min(2 * high, vecs), 2):
            two = min(2, vecs - vec)
            for i in range(end - row):
                start = get_i64(froms + 8 * i) + 64 * vec
                for v in range(two):
                    depth_tile(table + 8 * taps * i, 16 * (vec + v), weights + 64 * (vec + v),
                               64 * vecs, taps, start + 64 * v,
                               sums + PAIR * i + 64 * v)  # fmt: skip
            _scale_rows(p, row, end, vec, two, sums)
            bad += _finish_rows(p, row, end, vec, two, sums, outs, held)
        row = end
    return bad


def depthwise_scratch(taps: int, vecs: int) -> int:
    """Bytes of scratch memory that `depthwise` needs."""
    return DEPTH_ROWS * (16 + 128 + 8 * taps) + 128 + 16 * vecs + 128
