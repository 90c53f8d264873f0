"""Rows of input for sums of products: read in place, or gathered into scratch memory.

A row is a position of a sample; rows are numbered sample by sample. What is gathered are bytes,
bits, or bit planes of integers, in runs of elements that lie together.
"""

from __future__ import annotations

from cimc.sim.packed.elements import AT, BASE, FORMAT, SECOND, STEP, get_code
from cimc.sim.packed.jit import inlined
from cimc.sim.packed.memory import (
    copy_16,
    copy_over,
    fill_bytes,
    get_i32,
    get_i64,
    get_u8,
    get_u32,
    put_i64,
    put_u8,
    put_u32,
)
from cimc.sim.packed.parameters import (
    BASES_,
    BITS,
    BYTES,
    COLUMNS_,
    FILL_,
    FILL_AT_,
    GATHER_,
    IN_PLACE,
    MASKS_,
    PATTERN_,
    PATTERN_RUNS_,
    PATTERN_SHORT_,
    PLANE_LIST_,
    PLANE_WORDS_,
    PLANES_,
    POSITIONS_,
    RUNS_,
    RUNS_AT_,
    SLIDE_STEP_,
    SLIDES,
    SLIDES_,
    SRC_,
    SRC_FORMAT_,
    SRC_LOW_,
    SRC_SECOND_,
    SRC_STEP_,
    STARTS_,
    WHOLE_,
    WORD,
    WORDS_,
)
from cimc.sim.packed.vectors import slide_bits


@inlined
def fill_code(p: int, sample: int) -> int:
    """The code of columns outside."""
    operand = get_i64(p + FILL_AT_)
    if operand == 0:
        return get_i64(p + FILL_)
    base = get_i64(operand + 8 * BASE) + sample * get_i64(operand + 8 * STEP)
    element = get_i32(get_i64(operand + 8 * AT))
    return get_code(get_i64(operand + 8 * FORMAT), base, element, get_i64(operand + 8 * SECOND))


@inlined
def _bytes(p: int, first: int, last: int, table: int, gathered: int) -> None:
    """Bytes, or bits in runs of whole words. Rows that lie in the buffer wholly have their runs
    in one pattern; what a copy writes too much there, the next overwrites."""
    positions, step, size = get_i64(p + POSITIONS_), get_i64(p + SRC_STEP_), 4 * get_i64(p + WORDS_)
    bases, pattern, number = get_i64(p + BASES_), get_i64(p + PATTERN_), get_i64(p + PATTERN_RUNS_)
    short = get_i64(p + PATTERN_SHORT_)
    sample = first // positions
    position = first - sample * positions
    src = get_i64(p + SRC_) + sample * step
    for i in range(last - first):
        base = get_i32(bases + 4 * position)
        if base < 0:
            _some_bytes(p, src, position, fill_code(p, sample), gathered)
        elif short:
            for j in range(number):
                run = pattern + 12 * j
                copy_16(gathered + get_i32(run + 4), src + base + get_i32(run))
        else:
            for j in range(number):
                run = pattern + 12 * j
                start = src + base + get_i32(run)
                copy_over(gathered + get_i32(run + 4), start, get_i32(run + 8))
        put_i64(table + 8 * i, gathered)
        gathered += size
        position += 1
        if position == positions:
            position = 0
            sample += 1
            src += step


@inlined
def _some_bytes(p: int, src: int, position: int, fill: int, to: int) -> None:
    """A row of which a part may lie outside."""
    runs, at = get_i64(p + RUNS_), get_i64(p + RUNS_AT_) + 4 * position
    fill_bytes(to, fill, 4 * get_i64(p + WORDS_))
    for i in range(get_i32(at), get_i32(at + 4)):
        run = runs + 12 * i
        start, put, number, j = src + get_i32(run), to + get_i32(run + 4), get_i32(run + 8), 0
        while j + 8 <= number:
            put_i64(put + j, get_i64(start + j))
            j += 8
        while j < number:
            put_u8(put + j, get_u8(start + j))
            j += 1


@inlined
def _gather_bits(p: int, src: int, position: int, to: int) -> None:
    """Each plane of bits as a run of words; columns outside are 0."""
    words = get_i64(p + PLANE_WORDS_)
    runs, at = get_i64(p + RUNS_), get_i64(p + RUNS_AT_) + 4 * position
    low, high = get_i32(at), get_i32(at + 4)
    for _ in range(get_i64(p + PLANES_)):
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
        src += get_i64(p + SRC_SECOND_)
        to += 4 * words


@inlined
def _gather_word(p: int, src: int, position: int, to: int) -> None:
    """One plane of at most 32 columns."""
    runs, at = get_i64(p + RUNS_), get_i64(p + RUNS_AT_) + 4 * position
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
    words, planes = get_i64(p + PLANE_WORDS_), get_i64(p + PLANES_)
    kind, low = get_i64(p + SRC_FORMAT_), get_i64(p + SRC_LOW_)
    fill_bytes(to, 0, 4 * words * planes)
    runs, at = get_i64(p + RUNS_), get_i64(p + RUNS_AT_) + 4 * position
    listed = get_i64(p + PLANE_LIST_)
    if get_i64(p + WHOLE_) == 0 and fill + low != 0:
        for k in range(get_i64(p + COLUMNS_)):
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
    positions, slides = get_i64(p + POSITIONS_), get_i64(p + SLIDES_)
    step, masks = get_i64(p + SLIDE_STEP_), get_i64(p + MASKS_)
    src, width = get_i64(p + SRC_), get_i64(p + SRC_STEP_)
    samples = (last - first) // positions
    fill_bytes(gathered, 0, 4 * (last - first))
    for sample in range(samples):
        start = src + (first // positions + sample) * width
        place = gathered + 4 * sample * positions
        for i in range(slides):
            slide = get_i64(p + RUNS_) + 20 * i
            at, mask = get_i32(slide + 4), masks + 4 * get_i32(slide + 16)
            slide_bits(start, get_i32(slide), step, mask, get_i32(slide + 8),
                       get_i32(slide + 12), place + 4 * at)  # fmt: skip
    for i in range(last - first):
        put_i64(table + 8 * i, gathered + 4 * i)


@inlined
def rows_of(p: int, first: int, last: int, table: int, gathered: int) -> None:
    """Put the address of each row's input into `table`, gathering it where it must be."""
    positions, how = get_i64(p + POSITIONS_), get_i64(p + GATHER_)
    if how == SLIDES:
        _slide(p, first, last, table, gathered)
        return
    if how == BYTES:
        _bytes(p, first, last, table, gathered)
        return
    src, step, size = get_i64(p + SRC_), get_i64(p + SRC_STEP_), 4 * get_i64(p + WORDS_)
    sample = first // positions
    position = first - sample * positions
    for _ in range(first, last):
        start = src + sample * step
        if how == IN_PLACE:
            put_i64(table, start + get_i32(get_i64(p + STARTS_) + 4 * position))
        else:
            if how == WORD:
                _gather_word(p, start, position, gathered)
            elif how == BITS:
                _gather_bits(p, start, position, gathered)
            else:
                _gather_planes(p, start, position, fill_code(p, sample), gathered)
            put_i64(table, gathered)
            gathered += size
        table += 8
        position += 1
        if position == positions:
            position = 0
            sample += 1
