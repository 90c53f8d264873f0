"""Calibration data: arrays of a file, matched with a graph's inputs, sample by sample.

A pass that quantises by the range of activations gets it through its context.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cimc.errors import CompileError, raise_all
from cimc.frontend.evaluate import input_names
from cimc.ir.graph import Graph, Value
from cimc.ir.types import Array, container, is_float

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Calibration:
    """arrays: by name, samples along the first axis; name: the file's, for messages; digest: the
    first eight hexadecimal digits of the SHA-256 of all arrays."""

    name: str
    arrays: dict[str, Array]
    digest: str

    def samples(self, graph: Graph, most: int, least: int = 1) -> list[dict[str, Array]]:
        """The inputs of up to `most` samples by ONNX name, spread evenly over the data.

        Raises CompileError for all of: an input without an array, wrong types and shapes, NaN
        and infinity, fewer than `least` samples, different numbers of them."""
        errors: list[CompileError] = []
        found: dict[str, Array] = {}
        for value, name in zip(graph.inputs, input_names(graph)):
            array = self._array(name, len(graph.inputs))
            if array is None:
                errors.append(self._missing(graph, name))
                continue
            problem = _problem(value, array)
            if problem:
                errors.append(CompileError(*_split(problem, f"{self.name}: input '{name}'")))
                continue
            found[name] = _shaped(value, array)
        counts = {name: len(array) for name, array in found.items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"'{name}' has {n}" for name, n in counts.items())
            errors.append(CompileError(f"the numbers of samples differ: {listed}", self.name))
        count = min(counts.values(), default=least)
        if count < least:
            errors.append(CompileError(f"{count} samples; at least {least} are needed", self.name))
        raise_all(errors)
        chosen = np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))
        return [{name: array[i] for name, array in found.items()} for i in chosen]

    def _array(self, name: str, inputs: int) -> Array | None:
        if name in self.arrays:
            return self.arrays[name]
        alone = inputs == 1 and len(self.arrays) == 1
        return next(iter(self.arrays.values())) if alone else None

    def _missing(self, graph: Graph, name: str) -> CompileError:
        have = ", ".join(f"'{key}' {a.dtype}{list(a.shape)}" for key, a in self.arrays.items())
        want = ", ".join(f"'{n}' {v.type}" for v, n in zip(graph.inputs, input_names(graph)))
        return CompileError(
            f"no array for input '{name}'",
            self.name,
            help=f"the file has {have or 'no arrays'}; the model takes {want}: "
            "save each under its input's name",
        )


def _problem(value: Value, array: Array) -> str:
    """What is wrong with an array for an input; empty if nothing is."""
    dims, dtype = value.tensor.shape, container(value.elem)
    both_floats = is_float(value.elem) and array.dtype.kind == "f"
    if array.dtype != dtype and not both_floats:
        return f"is {array.dtype}, the model takes {dtype}|convert it as the model expects"
    if dims is None or array.ndim != len(dims):
        shape = list(array.shape)
        return f"has the shape {shape}, the model takes {value.type}, samples along axis 0|"
    wrong = [
        (i, d) for i, d in enumerate(dims[1:], 1) if isinstance(d, int) and d != array.shape[i]
    ]
    if wrong:
        axis, size = wrong[0]
        turned = sorted(array.shape[1:]) == sorted(d for d in dims[1:] if isinstance(d, int))
        hint = "are the channels where the model has them?" if turned else ""
        return (
            f"has {array.shape[axis]} along axis {axis}, the model takes {size} "
            f"({value.type})|{hint}"
        )
    if isinstance(dims[0], int) and dims[0] > 1 and array.shape[0] % dims[0]:
        return f"has {array.shape[0]} along axis 0, which is no multiple of {dims[0]}|"
    bad = int((~np.isfinite(array)).sum()) if array.dtype.kind == "f" else 0
    if bad:
        return f"has {bad} elements that are NaN or infinite|"
    return ""


def _split(problem: str, where: str) -> tuple[str, str, str | None]:
    message, _, help = problem.partition("|")
    return message, where, help or None


def _shaped(value: Value, array: Any) -> Array:
    """[samples, *shape of one]."""
    dims = value.tensor.shape or ()
    size = dims[0] if dims and isinstance(dims[0], int) else 1
    found: Array = array.astype(container(value.elem)).reshape(-1, size, *array.shape[1:])
    return found


def load_calibration(path: str | Path) -> Calibration:
    """Read a `.npz` archive or a `.npy` array. Raises CompileError for any other file."""
    path = Path(path)
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {"": loaded}
    except OSError as error:
        raise CompileError(f"can't read it: {error.strerror or error}", str(path)) from None
    except (ValueError, zipfile.BadZipFile, EOFError):
        raise CompileError(
            "is no NumPy archive of plain arrays", str(path),
            help="write it with numpy.savez(path, INPUT=array), samples along the first axis",
        ) from None  # fmt: skip
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return Calibration(str(path), arrays, digest.hexdigest()[:8])
