"""What the operands of an instruction are at run time: latches, rows, accumulators, buffers.

The effects (`effects.py`) read and write these values; the machine (`cimc/sim/machine.py`)
allocates them and resolves the operands of an instruction to them. Knows nothing of
programs, loops or text.

Every value of a sample has a leading sample axis S; a first axis of 1 means: the same for
all samples. Cells have none. Bits of columns are packed in W 64-bit words, least
significant bit first: column k is bit k % 64 of word k // 64. Values with rows keep the
rows on the last axis, so that numpy works along rows: [S, W, n].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from cimc.ir.types import container, int_range, is_integer
from cimc.isa.cells import Cells
from cimc.isa.geometry import window_index
from cimc.isa.program import Win

Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Values = npt.NDArray[Any]  # of a buffer: the numpy type is the element type's container
Index = slice | Ints


class Trap(Exception):
    """A value that the machine refuses at run time; the interpreter adds the place."""

    def __init__(self, message: str, help: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.help = help


# -- bits ------------------------------------------------------------------------------


def words_for(columns: int) -> int:
    """W, the 64-bit words that hold `columns` bits."""
    return -(-columns // 64)


def pack(bits: Bools, col: int, words: int) -> Words:
    """Bits [S, n] as words [S, W], the first bit on column `col`."""
    wide = np.zeros((bits.shape[0], words * 64), dtype=np.bool_)
    wide[:, col : col + bits.shape[1]] = bits
    packed: Words = np.packbits(wide, axis=1, bitorder="little").view(np.uint64)
    return packed


def unpack(words: Words, columns: int) -> Bools:
    """The inverse of `pack` at column 0: words [S, W] as bits [S, columns]."""
    octets = np.ascontiguousarray(words).view(np.uint8)
    bits: Bools = np.unpackbits(octets, axis=1, bitorder="little")[:, :columns].view(np.bool_)
    return bits


@cache
def column_mask(start: int, size: int, words: int) -> Words:
    """Words [W] with ones on the columns [start, start + size); shared, so not to be written."""
    mask: Words = pack(np.ones((1, size), dtype=np.bool_), start, words)[0]
    mask.flags.writeable = False
    return mask


def ones_in(words: Words) -> Ints:
    """Number of ones in each row: words [S, W] or [S, W, n] summed over W."""
    ones: Ints = np.bitwise_count(words).sum(axis=1, dtype=np.int64)
    return ones


# -- registers and cells ---------------------------------------------------------------


@dataclass
class Latch:
    """Input latches of a tile: `bits` and `valid` [S, W], and the column range loaded last.
    Bits that are not valid are 0."""

    words: int
    bits: Words
    valid: Words
    col: int = 0
    length: int = 0

    @staticmethod
    def empty(words: int) -> Latch:
        zero = np.zeros((1, words), dtype=np.uint64)
        return Latch(words, zero, zero)

    def load(self, bits: Bools, valid: Bools, col: int) -> None:
        """Bits [S, n] and their valid mask [S, n] from column `col` on; the rest is invalid."""
        self.valid = pack(valid, col, self.words)
        self.bits = pack(bits, col, self.words) & self.valid
        self.col, self.length = col, bits.shape[1]


@dataclass
class ResultBits:
    """Rows of a result register: `words` [S, W, n], `ones` [S, n] in each row, and `width`
    [n], the columns that the read of each row evaluated."""

    words: Words
    ones: Ints
    width: Ints


@dataclass
class Accumulators:
    """A range of an accumulator bank: `values` [S, n], each within [low, high]."""

    values: Ints
    low: int
    high: int

    def check(self) -> None:
        """Refuse values outside the accumulator's width."""
        if self.values.size == 0:
            return
        for value in (int(self.values.min()), int(self.values.max())):
            if not self.low <= value <= self.high:
                raise Trap(
                    f"accumulator holds {value}, outside [{self.low}, {self.high}]",
                    "a target with a larger acc_bits, or fewer columns summed in one accumulator",
                )


@dataclass
class Scalar:
    """An integer of the control unit, of `BITS` bits with its sign; the same for all samples."""

    BITS: ClassVar[int] = 128
    value: int = 0

    def set(self, value: int) -> None:
        """Take a value; refused where it doesn't fit."""
        self.check(value)
        self.value = value

    @classmethod
    def check(cls, value: int) -> None:
        """Refuse a value that a scalar doesn't hold."""
        if not -(1 << (cls.BITS - 1)) <= value < 1 << (cls.BITS - 1):
            raise Trap(f"{value} does not fit a scalar of {cls.BITS} bits")


@dataclass
class Addend:
    """What is added to accumulators: `values` [S, n], [S, 1] or [1, n]; none is larger than
    `bound` in magnitude. A row of a table at the positions of lanes has [S, n]."""

    values: Ints
    bound: int


@dataclass
class StoredRows:
    """Rows of one tile: `cells` [W, R] of the whole tile, which physical rows, and the number
    of columns of the tile."""

    cells: Words
    index: Index
    columns: int

    @property
    def words(self) -> Words:
        """The rows' cells [W, n]."""
        words: Words = self.cells[:, self.index]
        return words

    def store(self, words: Words) -> None:
        self.cells[:, self.index] = words


@dataclass
class Image:
    """Rows lo … hi-1 of a `cells` data item, cut at `seg` columns."""

    cells: Cells
    lo: int
    hi: int
    seg: int

    def words(self, start: int, length: int, col: int, words: int) -> Words:
        """Columns start … start+length-1 of each row, the first on bit `col`: [W, n]."""
        return self.cells.words(self.lo, self.hi, start, length, col, words).T


# -- buffers ---------------------------------------------------------------------------


@dataclass
class Buffer:
    """A buffer or a view of one: `flat` [S, elements] is the storage it shares with its views,
    `order` the place in the storage of each element of `shape`, row-major (None: in order)."""

    elem: str
    shape: tuple[int, ...]
    axis: int
    flat: Values
    order: Ints | None = None

    @property
    def samples(self) -> int:
        return len(self.flat)

    @cached_property
    def places(self) -> Ints:
        """The place in the storage of each element, row-major: [elements]."""
        return np.arange(self.flat.shape[1]) if self.order is None else self.order

    @cached_property
    def channels(self) -> Ints:
        """The places of the vector along the channel axis at each position:
        [positions, channels]."""
        return np.moveaxis(self.places.reshape(self.shape), self.axis, -1).reshape(
            -1, self.shape[self.axis]
        )

    @cached_property
    def step(self) -> int:
        """Distance in the storage of neighbouring channels; 0 where it isn't uniform."""
        steps = np.diff(self.channels, axis=1)
        uniform = steps.size > 0 and steps.min() == steps.max() and steps.flat[0] > 0
        return int(steps.flat[0]) if uniform else 0

    def select(self, position: int, lo: int, hi: int) -> Index:
        """The places of channels [lo, hi) at a position."""
        if self.step == 0:
            return self.channels[position, lo:hi]
        first = int(self.channels[position, 0])
        return slice(first + lo * self.step, first + hi * self.step, self.step)

    def view(
        self, elem: str, shape: tuple[int, ...], axis: int, perm: tuple[int, ...] | None
    ) -> Buffer:
        """The same elements in another shape: row-major, or transposed by `perm`."""
        order = self.order
        if perm is not None:
            order = self.places.reshape(self.shape).transpose(perm).reshape(-1)
        return Buffer(elem, shape, axis, self.flat, order)

    def get(self, sample: int) -> Values:
        """The value of one sample, in the buffer's shape."""
        row = self.flat[sample]
        value: Values = (row if self.order is None else row[self.order]).reshape(self.shape)
        return value

    def put(self, sample: int, value: Values) -> None:
        """Store the value of one sample; refused where shape or a value doesn't fit."""
        if value.shape != self.shape:
            raise Trap(f"value of shape {list(value.shape)} for a buffer of {list(self.shape)}")
        row = exact(value, self.elem).reshape(-1)
        self.flat[sample, slice(None) if self.order is None else self.order] = row


@dataclass
class HostBuffer:
    """A value that connects host fragments: any ONNX value, one a sample."""

    values: list[Any]

    @property
    def samples(self) -> int:
        return len(self.values)

    def get(self, sample: int) -> Any:
        return self.values[sample]

    def put(self, sample: int, value: Any) -> None:
        self.values[sample] = value


@dataclass
class Vec:
    """Channels [lo, hi) of a buffer at a position: `buf[p, lo:hi]`.

    With `lanes`, a sample axis of this many lanes for each sample of the buffer: `position` is
    then an array, one for each lane, or one position for all."""

    buffer: Buffer
    position: int | Ints
    lo: int
    hi: int
    lanes: int = 1

    @property
    def size(self) -> int:
        return self.hi - self.lo

    @property
    def values(self) -> Values:
        """[S, size]; may be a view of the storage."""
        return self._all_lanes(self.buffer.flat[:, self._index()])

    def store(self, values: Values) -> None:
        """Write [S, size] values; one that the element type can't hold is refused."""
        held, index = exact(values, self.buffer.elem), self._index()
        if isinstance(self.position, np.ndarray):
            held = held.reshape(-1, self.lanes, self.size)
        self.buffer.flat[:, index] = held

    def window(self, win: Window, groups: slice, columns: slice) -> tuple[Values, Bools]:
        """The values [S, n] of some columns of some groups of the window at the position, group
        after group, and which taps lie inside [1 or S, n]."""
        index, inside = win.table(self.buffer)
        places = index[self.position, groups, columns]
        taps = np.repeat(inside[self.position, None, columns], places.shape[-2], axis=-2)
        lead = places.shape[:-2]
        values = self._all_lanes(self.buffer.flat.take(places.reshape(*lead, -1), axis=1))
        taps = taps.reshape(-1, values.shape[1])
        if len(taps) > 1 and len(values) > len(taps):
            taps = np.tile(taps, (len(values) // len(taps), 1))
        return values, taps

    def _index(self) -> Index:
        if isinstance(self.position, np.ndarray):
            return self.buffer.channels[self.position, self.lo : self.hi]
        return self.buffer.select(self.position, self.lo, self.hi)

    def _all_lanes(self, values: Values) -> Values:
        """[S, n] or [S, lanes, n] as one row for each lane of each sample."""
        if values.ndim == 3:
            return values.reshape(-1, values.shape[2])
        return values if self.lanes == 1 else np.repeat(values, self.lanes, axis=0)


@dataclass
class Window:
    """A `.win` with the index tables of the buffers it was used with."""

    win: Win
    tables: dict[int, tuple[Ints, Bools]] = field(default_factory=dict)

    def table(self, buffer: Buffer) -> tuple[Ints, Bools]:
        """Place in the storage of each column [positions, groups, K], and whether the tap is
        inside [positions, K]."""
        if id(buffer) not in self.tables:
            index, inside = window_index(self.win, buffer.shape)
            places = index if buffer.order is None else buffer.order[index]
            self.tables[id(buffer)] = places, inside
        return self.tables[id(buffer)]


class Fragment(Protocol):
    """An ONNX fragment that the host runs."""

    macs: int

    def run(self, values: Sequence[Any]) -> Sequence[Any]:
        """The outputs for one sample's inputs, both in the order of the ONNX graph."""
        ...


# -- exact conversion ------------------------------------------------------------------


def exact(values: Values, elem: str) -> Values:
    """The same values in the container of element type `elem`; Trap where one differs."""
    held = container(elem)
    if values.dtype == held and not is_integer(elem):
        return values
    if values.dtype.kind == "V":  # the small floats of ml_dtypes; float32 holds them all
        values = values.astype(np.float32)
    if values.dtype.kind not in "iubf":
        raise Trap(f"a value of numpy type {values.dtype} is not a value of {elem}")
    if values.size == 0:
        return values.astype(held)
    return _exact_integer(values, elem, held) if is_integer(elem) else _exact_float(values, elem)


def _exact_integer(values: Values, elem: str, held: np.dtype[Any]) -> Values:
    if values.dtype.kind == "f":
        whole = (np.floor(values) == values) & (np.abs(values) < 2.0**62)
        _refuse(values, whole, elem)
        values = values.astype(np.int64)
    low, high = int_range(elem)
    for value in (int(values.min()), int(values.max())):
        if not low <= value <= high:
            raise Trap(f"{value} is not a value of {elem}, which holds [{low}, {high}]")
    if elem == "bip" and not values.all():
        raise Trap("0 is not a value of bip, which holds -1 and +1")
    return values.astype(held, copy=False)


def _exact_float(values: Values, elem: str) -> Values:
    """Also to `bool` and the complex types: whatever comes back unchanged."""
    integers = values.dtype.kind in "iu"
    with np.errstate(all="ignore"):
        converted = values.astype(container(elem))
        back = converted.astype(np.int64 if integers else values.dtype)
    # a float that reaches 2^62 may have been rounded up to one that wraps on the way back
    same = (back == values) & (values < 1 << 62) if integers else (back == values)
    _refuse(values, same | (values != values), elem)
    return converted


def _refuse(values: Values, fits: Bools, elem: str) -> None:
    if not fits.all():
        raise Trap(f"{values[~fits].flat[0]} is not a value of {elem}")
