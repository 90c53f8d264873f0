"""What commands do with the outputs of a run as they come: memory holds no more than a chunk."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from cimc.errors import CompileError
from cimc.ir.types import Array, container
from cimc.isa.program import Mem, Program
from cimc.isa.sections import interface
from cimc.sim.feed import Collected, joined_shape
from cimc.textfile import replacing

_SHOWN = 10  # values
_COPIED = 1 << 20  # bytes at a time


@contextmanager
def output_file(program: Program, path: Path | None) -> Iterator[OutputFile]:
    """A sink for all outputs of a program; `path`: the .npz file that `save` is to write."""
    ports = interface(program)
    outputs = [_Output(mem, path) for mem in ports.outputs]
    last = [_Output(mem, path) for mem in ports.call]
    try:
        yield OutputFile(outputs, last, path)
    finally:
        for output in [*outputs, *last]:
            output.close()


class OutputFile:
    """Takes outputs (see `Sink`), tells of them in a line each, and writes them to a file."""

    def __init__(self, outputs: list[_Output], last: list[_Output], path: Path | None) -> None:
        self._outputs, self._last, self._path = outputs, last, path

    def take(self, start: int, values: Mapping[str, Any]) -> None:
        for output in self._outputs:
            output.take(values[output.name])

    def finish(self, values: Mapping[str, Any]) -> None:
        for output in self._last:
            output.take(np.asarray(values[output.name])[None])

    def lines(self, samples: int) -> list[str]:
        """Type, shape and the first values of each output."""
        return [f"{output.name}: {output.brief(count)}" for output, count in self._all(samples)]

    def _all(self, samples: int) -> list[tuple[_Output, int]]:
        """Each output and how many values it has."""
        return [*((o, samples) for o in self._outputs), *((o, 1) for o in self._last)]

    def save(self, samples: int) -> None:
        """Write the outputs of all samples, whole or not at all. Raises CompileError."""
        assert self._path is not None
        with (
            replacing(self._path) as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
        ):
            for output, count in self._all(samples):
                with archive.open(f"{output.name}.npy", "w", force_zip64=True) as member:
                    output.write(member, count)


class _Output:
    """One output: its samples in a file of their own until the end if they follow each other
    there, else in memory."""

    def __init__(self, mem: Mem, path: Path | None) -> None:
        self.name = str(mem.output)
        self._mem, self._path = mem, path
        plain = mem.shape is not None and mem.type != "str"
        self._in_order = plain and mem.batch in (None, 0)
        self._first: list[Array] = []
        self._parts: list[Any] = []
        self._file: IO[bytes] | None = None
        if path is not None and self._in_order:
            with _writing(path):
                self._file = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115

    def take(self, values: Any) -> None:
        if not self._in_order:
            self._parts.append(values.copy() if isinstance(values, np.ndarray) else values)
            return
        if sum(part.size for part in self._first) < _SHOWN:
            self._first.append(values.reshape(-1)[:_SHOWN].copy())
        if self._file is not None:
            assert self._path is not None
            flat: Any = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
            with _writing(self._path):
                self._file.write(flat.data)

    def brief(self, samples: int) -> str:
        joined = None if self._in_order else self._joined(samples)
        if joined is not None and not isinstance(joined, np.ndarray):
            return str(joined)[:200]
        if joined is not None:
            return _brief(joined.dtype, joined.shape, joined.ravel()[:_SHOWN])
        values = np.concatenate(self._first)[:_SHOWN] if self._first else np.zeros(0)
        return _brief(container(self._mem.type), self._shape(samples), values)

    def write(self, member: IO[bytes], samples: int) -> None:
        """Add the array of all samples to an archive."""
        if self._file is None:
            array = np.asanyarray(self._joined(samples))
            if array.dtype == object:
                array = array.astype(str)
            np.lib.format.write_array(member, array, allow_pickle=False)
            return
        header = {
            "descr": np.lib.format.dtype_to_descr(container(self._mem.type)),
            "fortran_order": False,
            "shape": self._shape(samples),
        }
        np.lib.format.write_array_header_1_0(member, header)
        self._file.seek(0)
        shutil.copyfileobj(self._file, member, _COPIED)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _shape(self, samples: int) -> tuple[int, ...]:
        assert self._mem.shape is not None
        if self._mem.batch is not None:
            return joined_shape(self._mem.shape, 0, samples)
        return self._mem.shape if samples == 1 else (samples, *self._mem.shape)

    def _joined(self, samples: int) -> Any:
        collected = Collected(self._mem, samples)
        for part in self._parts:
            collected.add(part)
        return collected.join()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CompileError(f"can't write the file: {error.strerror}", str(path)) from None


def _brief(dtype: Any, shape: tuple[int, ...], values: Any) -> str:
    form = "{:.6g}" if dtype.kind == "f" else "{}"
    shown = ", ".join(form.format(value) for value in values)
    more = ", …" if np.prod(shape) > len(values) else ""
    return f"{dtype}{list(shape)} [{shown}{more}]"


class Guesses:
    """Counts the samples whose first output points at their label: the class with the highest
    score, or the class itself. `labels`: one for each sample."""

    def __init__(self, labels: Array) -> None:
        self.right = 0
        self._labels = labels

    def take(self, start: int, values: Mapping[str, Any]) -> None:
        scores = next(iter(values.values()))
        guesses: Any = np.asarray(scores).reshape(len(scores), -1)
        if guesses.shape[1] > 1:
            guesses = guesses.argmax(axis=1)
        labels = self._labels[start : start + len(scores)]
        self.right += int((guesses.reshape(-1) == labels).sum())

    def finish(self, values: Mapping[str, Any]) -> None:
        """Values of the whole call are no guesses."""
