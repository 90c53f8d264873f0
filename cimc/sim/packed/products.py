"""Kernels for sums of products: input rows by weights, then compare, requantise or store.

A row is a position of a sample; rows are numbered sample by sample. A kernel takes the address of
a table of parameters (the fields below), the address of scratch memory, and which rows and which
pairs of lane vectors to do; it returns how many values didn't fit their buffer.

The input of a row is either read in place, or gathered into scratch memory: bytes, bits, or bit
planes of integers.
"""

from __future__ import annotations

from enum import IntEnum, auto

from cimc.sim.packed.elements import (
    AT,
    BASE,
    BYTE,
    FACTOR,
    FIELDS,
    FORMAT,
    I32,
    LOW,
    SECOND,
    STEP,
    STRIDE,
    get_code,
    put_code,
    put_value,
)
from cimc.sim.packed.jit import Kernel, inlined
from cimc.sim.packed.micro import (
    copy_bytes,
    copy_over,
    depth_tile,
    fill_bytes,
    get_f32,
    get_i32,
    get_i64,
    get_u8,
    get_u32,
    put_i64,
    put_u8,
    put_u32,
    requantise_rows,
    sign_tile,
    slide_bits,
    store_rows,
    sum_tile,
)


class P(IntEnum):
    """The fields of the parameters. OUT is an operand (elements.py)."""

    POSITIONS = 0  # rows in a sample
    CHANNELS = auto()
    VECS = auto()  # vectors of 16 channels
    BLOCK = auto()  # rows at a time
    OP = auto()  # XOR, AND or DOT
    # input
    GATHER = auto()  # IN_PLACE, BYTES, BITS, WORD, SLIDES or PLANES
    SRC = auto()
    SRC_STEP = auto()
    STARTS = auto()  # int32 [positions]: first byte (in place)
    RUNS_AT = auto()  # int32 [positions + 1]
    RUNS = auto()  # int32 [runs, 3]: first element, where it goes, number
    SLIDES = (
        auto()
    )  # their number; RUNS: int32 [slides, 5] first bit, position, shift, number, mask
    SLIDE_STEP = auto()  # bits from position to position
    MASKS = auto()  # int32
    WHOLE = auto()  # 1: runs cover every column of every row
    COMPLETE = auto()  # uint8 [positions]: the same for each row
    SRC_SHIFT = auto()  # elements to bytes: 3 for bits
    FILL = auto()  # code of columns that no run covers
    FILL_AT = auto()  # address of an operand whose value it is instead, or 0
    WORDS = auto()  # words of a row
    PLANE_WORDS = auto()
    PLANES = auto()  # number of bit planes
    PLANE_LIST = auto()  # int32 [planes], for PLANES
    COLUMNS = auto()  # K
    SRC_FORMAT = auto()
    SRC_LOW = auto()
    SRC_SECOND = auto()
    # weights
    GROUPS = auto()
    GROUP_TABLE = auto()  # int64 [groups, 4]: first word of a row, words, coefficient, weights
    TAPS = auto()  # of a depthwise kernel
    TAP_AT = auto()  # int32 [positions, taps]: first element, or -1
    WEIGHTS = auto()  # int32 [taps, 16 * vecs]
    # sums
    START = auto()  # int32 [classes, 16 * vecs]
    CLASS = auto()  # int32 [positions], or 0
    SCALARS = auto()
    SCALAR_TABLE = auto()  # int64 [scalars, 2]: address of an operand, int32 [16 * vecs]
    # output
    FINISH = auto()  # STORE, REQUANTISE, LEVEL, TABLE or SIGN
    SCALES = auto()  # float32 [16 * vecs]
    LIMITS = auto()  # SIGN: int32 [classes, 16 * vecs]; LEVEL: int32 [channels, levels]
    FLIPS = auto()  # SIGN: bits; LEVEL: bytes, 1 where levels count down
    LEVELS = auto()
    FIRST = auto()  # TABLE: the smallest sum; uint8 [channels, LEVELS] at LIMITS
    CLAMP_LOW = auto()  # float32
    CLAMP_HIGH = auto()
    PLUS = auto()
    OUT_BITS = auto()  # bits of an element
    OUT = auto()


SIZE = int(P.OUT) + FIELDS
IN_PLACE, BYTES, BITS, WORD, SLIDES, PLANES = range(6)
STORE, REQUANTISE, LEVEL, TABLE, SIGN = range(5)

# numba takes module-level integers as constants
(
    _POSITIONS, _CHANNELS, _VECS, _BLOCK, _OP, _GATHER, _SRC, _SRC_STEP, _STARTS, _RUNS_AT,
    _RUNS, _SLIDES, _SLIDE_STEP, _MASKS, _WHOLE, _COMPLETE, _SRC_SHIFT, _FILL, _FILL_AT, _WORDS,
    _PLANE_WORDS, _PLANES, _PLANE_LIST, _COLUMNS, _SRC_FORMAT, _SRC_LOW, _SRC_SECOND, _GROUPS,
    _GROUP_TABLE, _TAPS, _TAP_AT, _WEIGHTS, _START, _CLASS, _SCALARS, _SCALAR_TABLE, _FINISH,
    _SCALES, _LIMITS, _FLIPS, _LEVELS, _FIRST, _CLAMP_LOW, _CLAMP_HIGH, _PLUS, _OUT_BITS, _OUT,
) = (8 * int(field) for field in P)  # fmt: skip
_PAIR = 128  # bytes of sums of a row: two vectors


# -- gathering rows --------------------------------------------------------------------


@inlined
def _fill_code(p: int, sample: int) -> int:
    """The code of columns outside."""
    operand = get_i64(p + _FILL_AT)
    if operand == 0:
        return get_i64(p + _FILL)
    base = get_i64(operand + 8 * BASE) + sample * get_i64(operand + 8 * STEP)
    element = get_i32(get_i64(operand + 8 * AT))
    return get_code(get_i64(operand + 8 * FORMAT), base, element, get_i64(operand + 8 * SECOND))


@inlined
def _gather_bytes(p: int, src: int, position: int, fill: int, to: int) -> None:
    """Bytes, or bits in runs of whole words: SRC_SHIFT makes bytes of elements."""
    shift, size = get_i64(p + _SRC_SHIFT), 4 * get_i64(p + _WORDS)
    runs, at = get_i64(p + _RUNS), get_i64(p + _RUNS_AT) + 4 * position
    if get_u8(get_i64(p + _COMPLETE) + position):
        # every byte comes from a run: what a copy writes too much, the next overwrites
        for i in range(get_i32(at), get_i32(at + 4)):
            run = runs + 12 * i
            start, put = get_i32(run) >> shift, get_i32(run + 4) >> shift
            copy_over(to + put, src + start, get_i32(run + 8) >> shift)
        return
    fill_bytes(to, fill, size)
    for i in range(get_i32(at), get_i32(at + 4)):
        run = runs + 12 * i
        start, put = src + (get_i32(run) >> shift), to + (get_i32(run + 4) >> shift)
        number, j = get_i32(run + 8) >> shift, 0
        while j + 8 <= number:
            put_i64(put + j, get_i64(start + j))
            j += 8
        while j < number:
            put_u8(put + j, get_u8(start + j))
            j += 1


@inlined
def _gather_bits(p: int, src: int, position: int, to: int) -> None:
    """Each plane of bits as a run of words; columns outside are 0."""
    words = get_i64(p + _PLANE_WORDS)
    runs, at = get_i64(p + _RUNS), get_i64(p + _RUNS_AT) + 4 * position
    low, high = get_i32(at), get_i32(at + 4)
    for _ in range(get_i64(p + _PLANES)):
        fill_bytes(to, 0, 4 * words)
        for i in range(low, high):
            run = runs + 12 * i
            start, put, number = get_i32(run), get_i32(run + 4), get_i32(run + 8)
            while number > 0:
                # as many bits as the word that they go to has left
                into = put & 31
                taken = min(32 - into, number)
                bits = get_i64(src + (start >> 3)) >> (start & 7)
                bits &= (1 << taken) - 1
                place = to + 4 * (put >> 5)
                put_u32(place, get_u32(place) | (bits << into))
                start, put, number = start + taken, put + taken, number - taken
        src += get_i64(p + _SRC_SECOND)
        to += 4 * words


@inlined
def _gather_word(p: int, src: int, position: int, to: int) -> None:
    """One plane of at most 32 columns."""
    runs, at = get_i64(p + _RUNS), get_i64(p + _RUNS_AT) + 4 * position
    found = 0
    for i in range(get_i32(at), get_i32(at + 4)):
        run = runs + 12 * i
        start = get_i32(run)
        bits = get_i64(src + (start >> 3)) >> (start & 7)
        found |= (bits & ((1 << get_i32(run + 8)) - 1)) << get_i32(run + 4)
    put_u32(to, found)


@inlined
def _gather_planes(p: int, src: int, position: int, fill: int, to: int) -> None:
    """Some bit planes of integers, each as a run of words."""
    words, planes = get_i64(p + _PLANE_WORDS), get_i64(p + _PLANES)
    kind, low = get_i64(p + _SRC_FORMAT), get_i64(p + _SRC_LOW)
    fill_bytes(to, 0, 4 * words * planes)
    runs, at = get_i64(p + _RUNS), get_i64(p + _RUNS_AT) + 4 * position
    listed = get_i64(p + _PLANE_LIST)
    if get_i64(p + _WHOLE) == 0 and fill + low != 0:
        for k in range(get_i64(p + _COLUMNS)):
            _spread(fill + low, k, words, planes, listed, to)
        for i in range(get_i32(at), get_i32(at + 4)):
            run = runs + 12 * i
            for j in range(get_i32(run + 8)):
                _clear(get_i32(run + 4) + j, words, planes, to)
    for i in range(get_i32(at), get_i32(at + 4)):
        run = runs + 12 * i
        start, put = get_i32(run), get_i32(run + 4)
        for j in range(get_i32(run + 8)):
            _spread(get_code(kind, src, start + j, 0) + low, put + j, words, planes, listed, to)


@inlined
def _spread(value: int, k: int, words: int, planes: int, listed: int, to: int) -> None:
    for i in range(planes):
        place = to + 4 * (i * words + (k >> 5))
        bit = (value >> get_i32(listed + 4 * i)) & 1
        put_u32(place, get_u32(place) | (bit << (k & 31)))


@inlined
def _clear(k: int, words: int, planes: int, to: int) -> None:
    for i in range(planes):
        place = to + 4 * (i * words + (k >> 5))
        put_u32(place, get_u32(place) & ~(1 << (k & 31)))


@inlined
def _slide(p: int, first: int, last: int, table: int, gathered: int) -> None:
    """One word for each position of whole samples, 16 positions at a time."""
    positions, slides = get_i64(p + _POSITIONS), get_i64(p + _SLIDES)
    step, masks = get_i64(p + _SLIDE_STEP), get_i64(p + _MASKS)
    src, width = get_i64(p + _SRC), get_i64(p + _SRC_STEP)
    samples = (last - first) // positions
    fill_bytes(gathered, 0, 4 * (last - first))
    for sample in range(samples):
        start = src + (first // positions + sample) * width
        place = gathered + 4 * sample * positions
        for i in range(slides):
            slide = get_i64(p + _RUNS) + 20 * i
            at, mask = get_i32(slide + 4), masks + 4 * get_i32(slide + 16)
            slide_bits(start, get_i32(slide), step, mask, get_i32(slide + 8),
                       get_i32(slide + 12), place + 4 * at)  # fmt: skip
    for i in range(last - first):
        put_i64(table + 8 * i, gathered + 4 * i)


@inlined
def _rows(p: int, first: int, last: int, table: int, gathered: int) -> None:
    """Put the address of each row's input into `table`, gathering it where it must be."""
    positions, how = get_i64(p + _POSITIONS), get_i64(p + _GATHER)
    if how == SLIDES:
        _slide(p, first, last, table, gathered)
        return
    src, step, size = get_i64(p + _SRC), get_i64(p + _SRC_STEP), 4 * get_i64(p + _WORDS)
    sample = first // positions
    position = first - sample * positions
    for _ in range(first, last):
        start = src + sample * step
        if how == IN_PLACE:
            put_i64(table, start + get_i32(get_i64(p + _STARTS) + 4 * position))
        else:
            if how == BYTES:
                _gather_bytes(p, start, position, _fill_code(p, sample), gathered)
            elif how == WORD:
                _gather_word(p, start, position, gathered)
            elif how == BITS:
                _gather_bits(p, start, position, gathered)
            else:
                _gather_planes(p, start, position, _fill_code(p, sample), gathered)
            put_i64(table, gathered)
            gathered += size
        table += 8
        position += 1
        if position == positions:
            position = 0
            sample += 1


# -- finishing rows --------------------------------------------------------------------


@inlined
def _places(p: int, first: int, last: int, froms: int, tables: int, outs: int) -> None:
    """For each row the address of a row of `tables` (by the class of its position), and of its
    first element if that is a whole number of bytes."""
    positions, width = get_i64(p + _POSITIONS), 64 * get_i64(p + _VECS)
    base, step = get_i64(p + _OUT + 8 * BASE), get_i64(p + _OUT + 8 * STEP)
    at, classes, bits = get_i64(p + _OUT + 8 * AT), get_i64(p + _CLASS), get_i64(p + _OUT_BITS)
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
        copy_bytes(sums + _PAIR * i, get_i64(froms + 8 * i) + offset, 64 * vecs)


@inlined
def _scale_rows(p: int, first: int, last: int, vec: int, vecs: int, sums: int) -> None:
    """Add scalars of buffers times their factors."""
    positions = get_i64(p + _POSITIONS)
    for i in range(get_i64(p + _SCALARS)):
        entry = get_i64(p + _SCALAR_TABLE) + 16 * i
        operand, factors = get_i64(entry), get_i64(entry + 8) + 64 * vec
        for row in range(first, last):
            sample = row // positions
            base = get_i64(operand + 8 * BASE) + sample * get_i64(operand + 8 * STEP)
            element = get_i32(get_i64(operand + 8 * AT) + 4 * (row - sample * positions))
            scalar = get_code(
                get_i64(operand + 8 * FORMAT), base, element, get_i64(operand + 8 * SECOND)
            )
            scalar = scalar * get_i64(operand + 8 * FACTOR) + get_i64(operand + 8 * LOW)
            place = sums + _PAIR * (row - first)
            for lane in range(16 * vecs):
                total = get_i32(place + 4 * lane) + scalar * get_i32(factors + 4 * lane)
                put_u32(place + 4 * lane, total)


@inlined
def _level(p: int, channel: int, total: int) -> int:
    """How many thresholds a sum reaches, by halving."""
    levels = get_i64(p + _LEVELS)
    limits = get_i64(p + _LIMITS) + 4 * channel * levels
    low, high = 0, levels
    while low < high:
        middle = (low + high) >> 1
        if total >= get_i32(limits + 4 * middle):
            low = middle + 1
        else:
            high = middle
    flipped = get_u8(get_i64(p + _FLIPS) + channel)
    return levels - low if flipped else low


@inlined
def _finish_row(p: int, out: int, element: int, channel: int, number: int, sums: int,
                held: int) -> int:  # fmt: skip
    """Turn the sums of channels [channel, channel + number) into elements, one by one."""
    operand, finish = p + _OUT, get_i64(p + _FINISH)
    kind, stride = get_i64(operand + 8 * FORMAT), get_i64(operand + 8 * STRIDE)
    second, bad = get_i64(operand + 8 * SECOND), 0
    element += channel * stride
    if finish == REQUANTISE:
        put_i64(held + 64, held)
        requantise_rows(sums, 1, (number + 15) >> 4, get_i64(p + _SCALES) + 4 * channel,
                        get_f32(p + _CLAMP_LOW), get_f32(p + _CLAMP_HIGH), get_i64(p + _PLUS),
                        held + 64, 0)  # fmt: skip
        for i in range(number):
            put_u8(out + element + i * stride, get_u8(held + i))
    elif finish == TABLE:
        first, levels = get_i64(p + _FIRST), get_i64(p + _LEVELS)
        table = get_i64(p + _LIMITS) + channel * levels - first
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
    number = min(16 * vecs, get_i64(p + _CHANNELS) - channel)
    stride, finish = get_i64(p + _OUT + 8 * STRIDE), get_i64(p + _FINISH)
    if stride == 1 and number == 16 * vecs:
        if finish == REQUANTISE:
            requantise_rows(sums, last - first, vecs, get_i64(p + _SCALES) + 4 * channel,
                            get_f32(p + _CLAMP_LOW), get_f32(p + _CLAMP_HIGH),
                            get_i64(p + _PLUS), outs, channel)  # fmt: skip
            return 0
        if finish == STORE and get_i64(p + _OUT + 8 * FORMAT) == I32:
            store_rows(sums, last - first, vecs, outs, 4 * channel)
            return 0
    positions, bad = get_i64(p + _POSITIONS), 0
    base, step = get_i64(p + _OUT + 8 * BASE), get_i64(p + _OUT + 8 * STEP)
    at = get_i64(p + _OUT + 8 * AT)
    sample = first // positions
    position = first - sample * positions
    for _ in range(first, last):
        element = get_i32(at + 4 * position)
        bad += _finish_row(p, base + sample * step, element, channel, number, sums, held)
        sums += _PAIR
        position += 1
        if position == positions:
            position = 0
            sample += 1
    return bad


# -- kernels ---------------------------------------------------------------------------

XOR, AND, DOT = range(3)
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
def _eight(op: int, two: int, rows: int, weights: int, words: int, coef: int, froms: int,
           offset: int, sums: int) -> None:  # fmt: skip
    """Eight rows by one or two vectors."""
    if op == XOR:
        if two == 2:
            _xor82(rows, weights, words, coef, froms, offset, sums, _PAIR)
        else:
            _xor81(rows, weights, words, coef, froms, offset, sums, _PAIR)
    elif op == AND:
        if two == 2:
            _and82(rows, weights, words, coef, froms, offset, sums, _PAIR)
        else:
            _and81(rows, weights, words, coef, froms, offset, sums, _PAIR)
    elif two == 2:
        _dot82(rows, weights, words, coef, froms, offset, sums, _PAIR)
    else:
        _dot81(rows, weights, words, coef, froms, offset, sums, _PAIR)


@inlined
def _one(op: int, two: int, rows: int, weights: int, words: int, coef: int, froms: int,
         offset: int, sums: int) -> None:  # fmt: skip
    """One row by one or two vectors."""
    if op == XOR:
        if two == 2:
            _xor12(rows, weights, words, coef, froms, offset, sums, _PAIR)
        else:
            _xor11(rows, weights, words, coef, froms, offset, sums, _PAIR)
    elif op == AND:
        if two == 2:
            _and12(rows, weights, words, coef, froms, offset, sums, _PAIR)
        else:
            _and11(rows, weights, words, coef, froms, offset, sums, _PAIR)
    elif two == 2:
        _dot12(rows, weights, words, coef, froms, offset, sums, _PAIR)
    else:
        _dot11(rows, weights, words, coef, froms, offset, sums, _PAIR)


@Kernel
def product(p: int, scratch: int, first: int, last: int, low: int, high: int) -> int:
    """Rows times weights; see the module."""
    block, vecs, op, bad = get_i64(p + _BLOCK), get_i64(p + _VECS), get_i64(p + _OP), 0
    table, froms, outs = scratch, scratch + 8 * block, scratch + 16 * block
    sums = scratch + 24 * block
    held, gathered = sums + _PAIR * block, sums + _PAIR * block + 128
    groups, group_table = get_i64(p + _GROUPS), get_i64(p + _GROUP_TABLE)
    for row in range(first, last, block):
        end = min(row + block, last)
        _rows(p, row, end, table, gathered)
        moved = 0  # words by which the addresses in the table point beyond a row's start
        for vec in range(2 * low, min(2 * high, vecs), 2):
            two, offset = min(2, vecs - vec), 64 * vec
            if vec == 2 * low or groups != 1:
                _places(p, row, end, froms, get_i64(p + _START), outs)
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
                        put_i64(froms + 8 * i, sums + _PAIR * i)
                i = 0
                while i + 8 <= end - row:
                    j = 8 * i
                    _eight(op, two, table + j, weights, words, coef, froms + j, offset,
                           sums + _PAIR * i)  # fmt: skip
                    i += 8
                while i < end - row:
                    j = 8 * i
                    _one(op, two, table + j, weights, words, coef, froms + j, offset,
                         sums + _PAIR * i)  # fmt: skip
                    i += 1
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
    block, vecs = get_i64(p + _BLOCK), get_i64(p + _VECS)
    table, limits, outs = scratch, scratch + 8 * block, scratch + 16 * block
    gathered, op = scratch + 24 * block, get_i64(p + _OP)
    words, kernels = get_i64(p + _WORDS), get_i64(get_i64(p + _GROUP_TABLE) + 24)
    for row in range(first, last, block):
        end = min(row + block, last)
        _rows(p, row, end, table, gathered)
        _places(p, row, end, limits, get_i64(p + _LIMITS), outs)
        for vec in range(2 * low, min(2 * high, vecs), 2):
            two = min(2, vecs - vec)
            weights, flips = kernels + vec * words * 64, get_i64(p + _FLIPS) + 2 * vec
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
    positions, vecs, taps = get_i64(p + _POSITIONS), get_i64(p + _VECS), get_i64(p + _TAPS)
    src, step, bad = get_i64(p + _SRC), get_i64(p + _SRC_STEP), 0
    weights, tap_at = get_i64(p + _WEIGHTS), get_i64(p + _TAP_AT)
    froms, outs, sums = scratch, scratch + 8 * DEPTH_ROWS, scratch + 16 * DEPTH_ROWS
    held = sums + _PAIR * DEPTH_ROWS
    outside = held + 128
    table = outside + 16 * vecs + 64
    row = first
    while row < last:
        sample = row // positions
        position = row - sample * positions
        end = min(row + DEPTH_ROWS, last, row - position + positions)  # of one sample
        if row == first or position == 0:
            fill_bytes(outside, _fill_code(p, sample), 16 * vecs)
        place, start = table, src + sample * step
        for i in range(position, position + end - row):
            at = tap_at + 4 * taps * i
            for t in range(taps):
                element = get_i32(at + 4 * t)
                put_i64(place + 8 * t, outside if element < 0 else start + element)
            place += 8 * taps
        _places(p, row, end, froms, get_i64(p + _START), outs)
        for vec in range(2 * low, min(2 * high, vecs), 2):
            two = min(2, vecs - vec)
            for i in range(end - row):
                start = get_i64(froms + 8 * i) + 64 * vec
                for v in range(two):
                    depth_tile(table + 8 * taps * i, 16 * (vec + v), weights + 64 * (vec + v),
                               64 * vecs, taps, start + 64 * v,
                               sums + _PAIR * i + 64 * v)  # fmt: skip
            _scale_rows(p, row, end, vec, two, sums)
            bad += _finish_rows(p, row, end, vec, two, sums, outs, held)
        row = end
    return bad


def depthwise_scratch(taps: int, vecs: int) -> int:
    """Bytes of scratch memory that `depthwise` needs."""
    return DEPTH_ROWS * (16 + 128 + 8 * taps) + 128 + 16 * vecs + 128
