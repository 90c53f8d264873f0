"""From the caller's arrays to samples, and from samples back to outputs.

A program is compiled for one sample; an input that declares a batch axis takes N samples
along it. All mistakes in the inputs are reported together. Knows nothing of instructions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cimc.errors import CompileError, raise_all
from cimc.ir.types import Array, TensorType, container
from cimc.isa.program import Mem, Program
from cimc.isa.state import Buffer, HostBuffer, Trap, exact
from cimc.sim.machine import Machine


class Feed:
    """The checked inputs of a run: `samples`, and the values of any range of them."""

    def __init__(self, program: Program, inputs: Mapping[str, Array]) -> None:
        """Raises CompileError for a missing or unknown name, a wrong numpy type, shape or
        value, and inputs that disagree on the number of samples."""
        self._mems = {str(mem.input): mem for mem in program.inputs}
        errors = self._names(inputs)
        self._values: dict[str, Any] = {}  # [N, *shape], or [1, *shape] shared by all samples
        counts: dict[str, int] = {}
        for name, mem in self._mems.items():
            if name not in inputs:
                continue
            try:
                value, count = _samples(mem, inputs[name])
            except Trap as trap:
                where = f"input '{name}'"
                errors.append(CompileError(trap.message, where, trap.help or _expected(mem)))
                continue
            self._values[name] = value
            if count is not None:
                counts[name] = count
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"'{name}' has {n}" for name, n in counts.items())
            errors.append(CompileError(f"the inputs disagree on the number of samples: {listed}"))
        raise_all(errors)
        self._batched = set(counts)
        self.samples = next(iter(counts.values()), 1)

    def sample(self, index: int) -> dict[str, Any]:
        """The inputs of one sample by ONNX name, in the shapes the program was compiled for."""
        return {
            name: _one(value, index if name in self._batched else 0)
            for name, value in self._values.items()
        }

    def _names(self, inputs: Mapping[str, Array]) -> list[CompileError]:
        listed = "; ".join(f"'{name}': {_expected(mem)}" for name, mem in self._mems.items())
        help = f"the program takes {listed}" if listed else "the program takes no inputs"
        missing = [f"input '{name}' is missing" for name in self._mems if name not in inputs]
        unknown = [f"there is no input '{name}'" for name in inputs if name not in self._mems]
        return [CompileError(message, help=help) for message in (*missing, *unknown)]

    def part(self, start: int, stop: int) -> dict[str, Any]:
        """The values of the samples [start, stop) by the name of their buffer: [n, *shape], or
        [1, *shape] for a value that all samples share."""
        return {
            self._mems[name].name: value[start:stop] if name in self._batched else value
            for name, value in self._values.items()
        }

    def fill(self, machine: Machine, start: int) -> None:
        """Put the samples from `start` on into the machine's input buffers."""
        for name, value in self._values.items():
            buffer = machine.buffers[self._mems[name].name]
            stop = start + machine.samples
            if isinstance(buffer, HostBuffer):  # without a batch axis: shared by all samples
                buffer.values[:] = [value[0]] * machine.samples
                continue
            part = value[start:stop] if name in self._batched else value
            buffer.flat[...] = part.reshape(len(part), -1)


def _one(values: Any, index: int) -> Any:
    """One value; numpy would hand a scalar over as no array."""
    if isinstance(values, np.ndarray):
        return values[index : index + 1].reshape(values.shape[1:])
    return values[index]


def _expected(mem: Mem) -> str:
    """What an input takes, in one line: `uint8 [N,28,28], N samples along axis 0`."""
    if mem.shape is None:
        return "any ONNX value"
    dtype = container(mem.type)
    sizes = [str(size) for size in mem.shape]
    if mem.batch is None:
        return f"{dtype} [{','.join(sizes)}], or N samples of it on a new first axis"
    size = mem.shape[mem.batch]
    sizes[mem.batch] = "N" if size == 1 else f"N*{size}"
    return f"{dtype} [{','.join(sizes)}], N samples along axis {mem.batch}"


def _samples(mem: Mem, value: Any) -> tuple[Any, int | None]:
    """The value as [N, *shape] and N; N is None for a value that all samples share."""
    if mem.shape is None:
        return [value], None
    array = np.asarray(value)
    expected = container(mem.type)
    if array.dtype != expected and not (mem.type == "str" and array.dtype.kind == "U"):
        raise Trap(f"is {array.dtype}, not {expected}")
    parts, count = _split(mem, mem.shape, array)
    return exact(parts, mem.type) if mem.type != "str" else parts.astype(object), count


def _split(mem: Mem, shape: tuple[int, ...], array: Array) -> tuple[Array, int | None]:
    found = TensorType(mem.type, array.shape)
    if mem.batch is None:
        if array.shape == shape:
            return array[None], None
        if array.shape[1:] == shape and array.ndim == len(shape) + 1:
            return array, array.shape[0]
        raise Trap(f"is {found}, which is neither the shape of one value nor of N")
    axis, size = mem.batch, shape[mem.batch]
    if array.ndim != len(shape) or _without(array.shape, axis) != _without(shape, axis):
        raise Trap(f"is {found}, which has another shape than the program's {list(shape)}")
    if size == 0 or array.shape[axis] % size:
        raise Trap(f"is {found}: axis {axis} is not a multiple of {size}, the size of a sample")
    count = array.shape[axis] // size
    split = (*shape[:axis], count, size, *shape[axis + 1 :])
    return np.moveaxis(array.reshape(split), axis, 0), count


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


# -- outputs ---------------------------------------------------------------------------


class Outputs:
    """Collects the outputs of the samples and joins them."""

    def __init__(self, program: Program) -> None:
        self._mems = {str(mem.output): mem for mem in program.outputs}
        self._values: dict[str, list[Any]] = {name: [] for name in self._mems}

    def take(self, machine: Machine) -> None:
        """Copy the values of the machine's samples."""
        for name, mem in self._mems.items():
            buffer = machine.buffers[mem.name]
            if isinstance(buffer, Buffer):
                self._values[name].append(buffer.flat.reshape(buffer.samples, *buffer.shape).copy())
            else:
                self._values[name].extend(buffer.values)

    def add(self, found: Mapping[str, Any]) -> None:
        """Take values by the name of their buffer: [n, *shape], or a list for a host value."""
        for name, mem in self._mems.items():
            value = found[mem.name]
            if isinstance(value, np.ndarray):
                self._values[name].append(value)
            else:
                self._values[name].extend(value)

    def join(self, samples: int) -> dict[str, Any]:
        """By ONNX output name: the samples along the batch axis; without one the value itself
        for one sample, else on a new first axis. Host values without a common shape come as
        a list with one value a sample."""
        return {
            name: self._join(mem, self._values[name], samples) for name, mem in self._mems.items()
        }

    def _join(self, mem: Mem, values: list[Any], samples: int) -> Any:
        if mem.shape is None:
            return join_samples(values, mem.batch)
        empty = np.zeros((0, *mem.shape), dtype=container(mem.type))
        stacked = np.concatenate([empty, *values])
        if mem.batch is None:
            return stacked[0] if samples == 1 else stacked
        shape = list(mem.shape)
        shape[mem.batch] *= samples
        return np.moveaxis(stacked, 0, mem.batch).reshape(shape)


def join_samples(values: list[Any], batch: int | None) -> Any:
    """Values of N samples along the batch axis; see `Outputs.join`."""
    if len(values) == 1:
        return values[0]
    arrays = all(isinstance(value, np.ndarray) for value in values)
    if not arrays or len({value.shape for value in values}) != 1:
        return values
    if batch is None or batch >= values[0].ndim:
        return np.stack(values)
    return np.concatenate(values, axis=batch)
