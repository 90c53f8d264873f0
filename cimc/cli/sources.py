"""Arrays that commands read piece by piece: members of .npz files, and views of them."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from cimc.errors import CompileError
from cimc.ir.types import Array
from cimc.sim.feed import Source

BROKEN = (OSError, ValueError, zipfile.BadZipFile, zlib.error, AttributeError, EOFError)
"""What numpy and zipfile raise for files that aren't what they should be."""
_WHOLE_BYTES = 1 << 20  # smaller arrays are simply loaded
_KEPT_BYTES = 64 << 20  # of rows that were passed over and may be asked for next


def not_npz(path: Path, error: Exception) -> CompileError:
    return CompileError(f"not an .npz file of plain arrays: {error}", str(path))


def open_npz(path: Path) -> dict[str, Array | Source]:
    """The arrays of an .npz file; large ones as sources. Raises CompileError for anything that
    is no .npz file of plain arrays."""
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise CompileError("holds one array without a name: an .npz is expected", str(path))
        with file:
            return {name: member(path, name) or file[name] for name in file.files}
    except FileNotFoundError:
        raise CompileError("no such file", str(path)) from None
    except BROKEN as error:
        raise not_npz(path, error) from None


def member(path: Path, name: str) -> NpzMember | None:
    """An array of an .npz file as a source; None where it is small, or has its rows in an order
    that can't be read as they come."""
    with zipfile.ZipFile(path) as archive:
        if f"{name}.npy" not in archive.namelist():
            return None
        whole = archive.getinfo(f"{name}.npy").file_size
        with archive.open(f"{name}.npy") as stream:
            header, begin = _header(stream), stream.tell()
    if header is None:
        return None
    shape, fortran, dtype = header
    size = prod(shape) * dtype.itemsize
    if size < _WHOLE_BYTES or dtype.hasobject or (fortran and len(shape) > 1):
        return None
    return NpzMember(path, name, shape, dtype) if begin + size <= whole else None


def _header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]] | None:
    """Shape, whether columns come first, and type; None for a header of another version."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    reader = readers.get(np.lib.format.read_magic(stream))
    return None if reader is None else reader(stream)


class NpzMember(Source):
    """An array of an .npz file. Rows that are asked for out of order, by threads that overtake
    each other, are kept for a while; going back further reads the file again from its start."""

    def __init__(self, path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape, self.dtype = shape, dtype
        self._path, self._name = path, name
        self._stream: Any = None
        self._row = 0  # the next one in the stream
        self._kept: list[tuple[int, Array]] = []
        self._lock = Lock()

    def read(self, start: int, stop: int) -> Array:
        with self._lock:
            kept = self._from_kept(start, stop)
            if kept is not None:
                return kept
            try:
                self._go_to(start)
                return self._next(stop - start)
            except BROKEN as error:
                raise not_npz(self._path, error) from None

    def _from_kept(self, start: int, stop: int) -> Array | None:
        for at, (first, rows) in enumerate(self._kept):
            if first <= start and stop <= first + len(rows):
                pieces = (first, rows[: start - first]), (stop, rows[stop - first :])
                self._kept[at : at + 1] = [piece for piece in pieces if len(piece[1])]
                return rows[start - first : stop - first]
        return None

    def _go_to(self, row: int) -> None:
        if self._stream is None or row < self._row:
            self.close()
            # open until its stream is closed
            archive = zipfile.ZipFile(self._path)
            self._stream = archive.open(f"{self._name}.npy")
            _header(self._stream)
            self._row, self._kept = 0, []
        while self._row < row:
            first = self._row
            rows = self._next(min(row - first, self._rows_of(_KEPT_BYTES)))
            self._kept.append((first, rows))
            while len(self._kept) > 1 and sum(r.nbytes for _, r in self._kept) > _KEPT_BYTES:
                del self._kept[0]

    def _rows_of(self, size: int) -> int:
        row = prod(self.shape[1:]) * self.dtype.itemsize
        return max(1, size // max(1, row))

    def _next(self, count: int) -> Array:
        rows = np.empty((count, *self.shape[1:]), self.dtype)
        flat: Any = rows.reshape(-1).view(np.uint8)
        view = memoryview(flat)
        done = 0
        while done < len(view):
            read = self._stream.readinto(view[done:])
            if not read:
                raise EOFError(f"array '{self._name}' ends before its last row")
            done += read
        self._row += count
        return rows

    def close(self) -> None:
        """Close the file; reading opens it again."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class Mapped(Source):
    """The first rows of an array, each chunk of them changed by a function.

    shape: of the result. change: from rows [n, *] to rows [n, *shape[1:]] of `dtype`."""

    def __init__(
        self,
        rows: Array | Source,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        change: Callable[[Array], Array],
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self._rows, self._change = rows, change

    def read(self, start: int, stop: int) -> Array:
        rows = self._rows
        part = rows.read(start, stop) if isinstance(rows, Source) else rows[start:stop]
        return self._change(part)
