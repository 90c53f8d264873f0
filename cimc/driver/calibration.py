"""Calibration data: arrays of a file, matched with a graph's inputs, sample by sample.

A pass that quantises or binarises by it gets it through its context.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from cimc.errors import CompileError, raise_all
from cimc.frontend.evaluate import input_names
from cimc.ir.graph import Graph
from cimc.ir.types import Array, TensorType, container, is_float

Progress = Callable[[int, int], None]
Data: TypeAlias = "str | Path | Mapping[str, Array] | Array | Calibration"
"""What a user may give: a file, arrays by input name, the array of the only input."""

_UNREADABLE = (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)
_DATA_SETS = ("x_train", "x_test")  # names of the inputs in the archives of data sets
_LABELS = ("labels", "label", "y", "y_train", "y_test", "targets")


@dataclass(frozen=True)
class Calibration:
    """arrays: by name, samples along the first axis; name: the file's, for messages; digest: the
    first eight hexadecimal digits of the SHA-256 of all arrays."""

    name: str
    arrays: dict[str, Array]
    digest: str

    @property
    def record(self) -> str:
        """File name and digest, as a program states them."""
        plain = re.sub(r"[^\w.-]", "_", Path(self.name).name)
        return f"{plain}:{self.digest}"

    def check(self, record: str) -> None:
        """Raises CompileError unless `record` is that of the same data."""
        if record and record.rpartition(":")[2] != self.digest:
            raise CompileError(
                f"the program was compiled with other data: {record}, this is {self.record}",
                self.name,
                help="give the file that it was compiled with",
            )

    def samples(self, graph: Graph, most: int, least: int = 1) -> list[dict[str, Array]]:
        """The inputs of up to `most` samples by ONNX name, spread evenly over the data.

        Raises CompileError for all of: an input without an array, wrong types and shapes, NaN
        and infinity, fewer than `least` samples, different numbers of them."""
        return self._chosen(graph, most, least)[0]

    def labelled(
        self, graph: Graph, most: int, least: int = 1
    ) -> tuple[list[dict[str, Array]], Array | None]:
        """What `samples` gives, and their labels: int64 [samples], or [samples, batch] where the
        model's batch is fixed to more than one; None without labels. Raises CompileError as
        `samples` and `labels`."""
        samples, chosen, (count, rows) = self._chosen(graph, most, least)
        labels = self.labels(count * rows, input_names(graph))
        if labels is None:
            return samples, None
        return samples, labels.reshape((count, rows) if rows > 1 else count)[chosen]

    def labels(self, count: int, inputs: Sequence[str] = ()) -> Array | None:
        """The class of each of the data's `count` samples, int64 [count], from the array `labels`,
        `label`, `y`, `targets`, or the `y_train` or `y_test` that belongs to the images used;
        None if there is no such array. inputs: names that are the model's own.

        Raises CompileError for labels that aren't integers from 0, one a sample."""
        name = next((k for k in self._label_names() if k in self.arrays and k not in inputs), None)
        if name is None:
            return None
        found, place = self.arrays[name], f"{self.name}: labels '{name}'"
        help = "a label is the number of its class, one for each sample"
        if found.dtype.kind not in "iu":
            raise CompileError(f"are {found.dtype}, not integers", place, help=help)
        if found.ndim == 0 or found.size != len(found) or found.size != count:
            shape = list(found.shape)
            raise CompileError(f"have the shape {shape}: {count} samples", place, help=help)
        if count and int(found.min()) < 0:
            raise CompileError(f"hold {int(found.min())}", place, help=help)
        return found.reshape(-1).astype(np.int64)

    def _label_names(self) -> list[str]:
        """Names of labels, of the images' own split alone where the archive is a data set."""
        split = next((key for key in _DATA_SETS if key in self.arrays), None)
        other = {"x_train": "y_test", "x_test": "y_train"}.get(split or "")
        return [name for name in _LABELS if name != other]

    def _chosen(
        self, graph: Graph, most: int, least: int
    ) -> tuple[list[dict[str, Array]], Any, tuple[int, int]]:
        """The samples taken, their numbers, and of how many; how many rows make one."""
        errors: list[CompileError] = []
        found: dict[str, _Fitted] = {}
        for value, name in zip(graph.inputs, input_names(graph)):
            array = self._array(name, len(graph.inputs))
            if array is None:
                errors.append(self._missing(graph, name))
                continue
            try:
                found[name] = _fit(array, value.type)
            except CompileError as error:
                place = f"{self.name}: input '{name}'"
                errors.append(CompileError(error.message, place, error.help))
        counts = {name: fitted.count for name, fitted in found.items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"'{name}' has {n}" for name, n in counts.items())
            errors.append(CompileError(f"the numbers of samples differ: {listed}", self.name))
        count = min(counts.values(), default=least)
        if count < least:
            have = f"{count} sample{'' if count == 1 else 's'}"
            errors.append(CompileError(f"{have}: it takes at least {least}", self.name))
        raise_all(errors)
        chosen = np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))
        samples = [{name: fitted.sample(i) for name, fitted in found.items()} for i in chosen]
        rows = max((fitted.size or 1 for fitted in found.values()), default=1)
        return samples, chosen, (count, rows)

    def _array(self, name: str, inputs: int) -> Array | None:
        if name in self.arrays:
            return self.arrays[name]
        if inputs != 1:
            return None
        if len(self.arrays) == 1:
            return next(iter(self.arrays.values()))
        return next((self.arrays[key] for key in _DATA_SETS if key in self.arrays), None)

    def _missing(self, graph: Graph, name: str) -> CompileError:
        have = ", ".join(f"'{key}' {a.dtype}{list(a.shape)}" for key, a in self.arrays.items())
        want = ", ".join(f"'{n}' {v.type}" for v, n in zip(graph.inputs, input_names(graph)))
        return CompileError(
            f"no array for input '{name}'",
            self.name,
            help=f"the file has {have or 'no arrays'}; the model takes {want}: "
            "save each under its input's name",
        )


@dataclass(frozen=True)
class _Fitted:
    """An array as samples of an input: `size` of its rows make one; None: each row is one."""

    array: Any
    dtype: Any
    size: int | None

    @property
    def count(self) -> int:
        return len(self.array) // (self.size or 1)

    def sample(self, index: int) -> Array:
        rows = self.array[index]
        if self.size is not None:
            rows = self.array[index * self.size : (index + 1) * self.size]
        found: Array = np.ascontiguousarray(rows, self.dtype).reshape(rows.shape)
        return found


def _fit(array: Any, type_: Any) -> _Fitted:
    """Raises CompileError, without a place, for an array that does not fit the input's type."""
    if not isinstance(type_, TensorType) or type_.shape is None:
        raise CompileError(f"is {type_}: calibration takes tensors of known rank")
    if array.ndim == 0:
        raise CompileError("is a single number, not samples along the first axis")
    dtype = container(type_.elem)
    _check_type(array, dtype, is_float(type_.elem))
    found = _laid_out(array, type_.shape, dtype)
    if found is None:
        raise _wrong_shape(array, type_)
    if found.size is not None and len(array) % found.size:
        raise CompileError(f"has {len(array)} along axis 0: no multiple of {found.size}")
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # numbers beyond float32 are as bad as infinity
            bad = int((~np.isfinite(array.astype(dtype, copy=False))).sum())
        if bad:
            raise CompileError(f"{bad} of its {array.size} elements are NaN or infinite")
    return found


def _check_type(array: Any, dtype: Any, floats: bool) -> None:
    if array.dtype == dtype or (floats and array.dtype.kind == "f"):
        return
    if dtype.kind in "iu" and array.dtype.kind in "iu":
        if np.array_equal(array, array.astype(dtype)):
            return
        raise CompileError(f"has values that {dtype} does not hold")
    raise CompileError(
        f"is {array.dtype}, the model takes {dtype}",
        help="convert it, and scale it as in training" if floats else "convert it",
    )


def _laid_out(array: Any, dims: Sequence[int | str], dtype: Any) -> _Fitted | None:
    """The array with samples as the input takes them; a missing axis of one channel is added."""
    size = dims[0] if dims and isinstance(dims[0], int) else 1
    if dims and _agrees(array.shape[1:], dims[1:]):
        return _Fitted(array, dtype, size)
    if _agrees(array.shape[1:], dims):
        return _Fitted(array, dtype, None)
    if len(dims) > 2 and dims[1] == 1 and _agrees(array.shape[1:], dims[2:]):
        return _Fitted(array[:, None], dtype, size)
    if len(dims) > 2 and dims[-1] == 1 and _agrees(array.shape[1:], dims[1:-1]):
        return _Fitted(array[..., None], dtype, size)
    return None


def _agrees(sizes: Sequence[int], dims: Sequence[int | str]) -> bool:
    return len(sizes) == len(dims) and all(
        isinstance(d, str) or s == d for s, d in zip(sizes, dims)
    )


def _wrong_shape(array: Any, type_: TensorType) -> CompileError:
    sizes, dims = list(array.shape[1:]), list(type_.shape or ())[1:]
    moved = [*sizes[-1:], *sizes[:-1]], [*sizes[1:], *sizes[:1]]
    help = "the first axis counts the samples"
    if len(sizes) > 2 and _agrees(moved[0], dims):
        axes = (0, len(sizes), *range(1, len(sizes)))
        help = f"its channels come last: numpy.transpose(array, {axes})"
    elif len(sizes) > 2 and _agrees(moved[1], dims):
        axes = (0, *range(2, len(sizes) + 1), 1)
        help = f"its channels come first: numpy.transpose(array, {axes})"
    return CompileError(f"has the shape {list(array.shape)}, the model takes {type_}", help=help)


def calibration_for(passes: Sequence[Any], given: Data | None, where: str) -> Calibration | None:
    """What the user gave, read. Raises CompileError for data that no pass takes, and as
    `load_calibration`."""
    if given is None:
        return None
    if not any(f.name == "data" for step in passes for f in dataclasses.fields(step)):
        raise CompileError(
            "no pass takes the calibration data",
            where,
            help="-p int8 quantises by it, -p binary binarises",
        )
    if isinstance(given, Calibration):
        return given
    if isinstance(given, (str, Path)):
        return load_calibration(given)
    arrays = given if isinstance(given, Mapping) else {"": given}
    return _calibration("arrays", {name: np.asarray(array) for name, array in arrays.items()})


def load_calibration(path: str | Path) -> Calibration:
    """Read a `.npz` archive or a `.npy` array. Raises CompileError for any other file."""
    path = Path(path)
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {"": loaded}
    except FileNotFoundError:
        raise CompileError("no such file", str(path)) from None
    except _UNREADABLE as error:
        text = error.strerror if isinstance(error, OSError) else None
        raise CompileError(
            f"can't read it: {text}" if text else "is no NumPy archive of plain arrays", str(path),
            help="write it with numpy.savez(path, INPUT=array), samples along the first axis",
        ) from None  # fmt: skip
    return _calibration(str(path), arrays)


def _calibration(name: str, arrays: dict[str, Any]) -> Calibration:
    digest = hashlib.sha256()
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        digest.update(f"{key} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return Calibration(name, arrays, digest.hexdigest()[:8])
