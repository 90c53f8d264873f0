"""The parameters of kernels for sums of products, and where each lies.

`P.NAME` is the number of a parameter, `NAME_` its place in bytes.
"""

from __future__ import annotations

from enum import IntEnum, auto

from cimc.sim.packed.elements import FIELDS


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
    BASES = auto()  # int32 [positions]: first byte of a row whose runs are those of PATTERN, or -1
    PATTERN = auto()  # int32 [runs, 3]: bytes behind BASES, where they go, number
    PATTERN_RUNS = auto()
    PATTERN_SHORT = auto()  # 1: none is longer than 16
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

XOR, AND, DOT = range(3)

# numba takes module-level integers as constants
(
    POSITIONS_, CHANNELS_, VECS_, BLOCK_, OP_, GATHER_, SRC_, SRC_STEP_, STARTS_, RUNS_AT_,
    RUNS_, SLIDES_, SLIDE_STEP_, MASKS_, WHOLE_, BASES_, PATTERN_, PATTERN_RUNS_,
    PATTERN_SHORT_, FILL_, FILL_AT_, WORDS_, PLANE_WORDS_, PLANES_, PLANE_LIST_, COLUMNS_,
    SRC_FORMAT_, SRC_LOW_, SRC_SECOND_, GROUPS_, GROUP_TABLE_, TAPS_, TAP_AT_, WEIGHTS_, START_,
    CLASS_, SCALARS_, SCALAR_TABLE_, FINISH_, SCALES_, LIMITS_, FLIPS_, LEVELS_, FIRST_,
    CLAMP_LOW_, CLAMP_HIGH_, PLUS_, OUT_BITS_, OUT_,
) = (8 * int(field) for field in P)  # fmt: skip
PAIR = 128  # bytes of sums of a row: two vectors
