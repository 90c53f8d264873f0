"""The bits of a `cells` item, packed as they stand in the program text.

Below the program's dataclasses, which hold them; the effects of `set` and `reset` take rows of
them as words. Knows nothing of text, files' lines or tiles.
"""

from __future__ import annotations

import mmap
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint8]
Octets = npt.NDArray[np.uint8]

_LARGE = 1 << 18  # bytes


class Source(Protocol):
    """A place where the packed bytes of an item can be read again."""

    def read(self) -> bytes:
        """The bytes; CompileError where they are no longer there."""
        ...


class Cells:
    """Bits of shape [rows, K] as one stream, row after row without padding between, the least
    significant bit of a byte first, zeros to a whole byte at the end."""

    def __init__(
        self, packed: bytes | Octets, shape: tuple[int, int], source: Source | None = None
    ) -> None:
        """`packed` is kept, not copied. With a `source`, `release` may forget it."""
        self.shape = shape
        self._packed: Octets | None = _apart(packed)
        self._source = source
        assert self._packed.size == -(-shape[0] * shape[1] // 8)

    @staticmethod
    def of(bits: npt.NDArray[Any]) -> Cells:
        """From an array [rows, K] of 0 and 1."""
        rows, columns = bits.shape
        return Cells(np.packbits(bits.astype(np.bool_), bitorder="little"), (rows, columns))

    @property
    def packed(self) -> Octets:
        """The stream; read again where it was released."""
        packed = self._packed
        if packed is None:
            assert self._source is not None
            packed = self._packed = _apart(self._source.read())
        return packed

    @property
    def nbytes(self) -> int:
        """Bytes that are held now."""
        return 0 if self._packed is None else self._packed.nbytes

    def release(self) -> None:
        """Forget the stream if it can be read again."""
        if self._source is not None:
            self._packed = None

    def rows(self, lo: int, hi: int) -> Bits:
        """Rows lo … hi-1 as uint8 0 and 1 [hi - lo, K]."""
        columns = self.shape[1]
        first, end = lo * columns, hi * columns
        octets = self.packed[first // 8 : -(-end // 8)]
        bits = np.unpackbits(octets, bitorder="little")
        return bits[first % 8 :][: end - first].reshape(hi - lo, columns)

    def words(
        self, lo: int, hi: int, start: int, length: int, col: int, count: int
    ) -> npt.NDArray[np.uint64]:
        """Columns start … start+length-1 of rows lo … hi-1 as `count` words a row, the first of
        them on bit `col`: [hi - lo, count]."""
        columns = self.shape[1]
        if not columns or (columns | start | length | col) % 8:
            wide = np.zeros((hi - lo, count * 64), np.bool_)
            wide[:, col : col + length] = self.rows(lo, hi)[:, start : start + length]
            octets = np.packbits(wide, axis=1, bitorder="little")
        else:
            stream = self.packed.reshape(-1, columns // 8)
            octets = np.zeros((hi - lo, count * 8), np.uint8)
            octets[:, col // 8 : (col + length) // 8] = stream[
                lo:hi, start // 8 : (start + length) // 8
            ]
        words: npt.NDArray[np.uint64] = octets.view(np.uint64)
        return words

    def __len__(self) -> int:
        return self.shape[0]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Cells):
            return NotImplemented
        return self.shape == other.shape and np.array_equal(self.packed, other.packed)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type[Cells], tuple[bytes, tuple[int, int]]]:
        """A copy holds the bits and has no source: an open file can't be copied."""
        return Cells, (self.packed.tobytes(), self.shape)

    def __repr__(self) -> str:
        return f"Cells({self.shape[0]}, {self.shape[1]})"


def _apart(packed: bytes | Octets) -> Octets:
    """Large items get pages of their own, which the system has back when they are released."""
    octets = np.frombuffer(packed, np.uint8)
    if octets.size < _LARGE:
        return octets
    pages = np.frombuffer(mmap.mmap(-1, octets.size), np.uint8)
    pages[:] = octets
    return pages


def are_bits(array: npt.NDArray[Any]) -> bool:
    """Whether an array has rank 2 and holds only 0 and 1, so that `Cells.of` takes it."""
    return array.ndim == 2 and bool(((array == 0) | (array == 1)).all())
