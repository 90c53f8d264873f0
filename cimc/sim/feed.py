"""From the caller's arrays to samples, and from samples back to outputs.

A program is compiled for one sample; an input that declares a batch axis takes N samples
along it. Inputs may be larger than memory: names, types and shapes are checked first, all
mistakes together, and values when samples are taken. Knows nothing of instructions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol

import numpy as np

from cimc.errors import CompileError, raise_all
from cimc.ir.types import Array, TensorType, container, int_range, is_integer
from cimc.isa.program import Interface, Mem, Program
from cimc.isa.sections import interface
from cimc.isa.state import Buffer, HostBuffer, Trap, exact
from cimc.sim.machine import Machine


class Source(ABC):
    """An array that need not be in memory: `shape`, `dtype`, and its rows along axis 0."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @abstractmethod
    def read(self, start: int, stop: int) -> Array:
        """The rows [start, stop). Fast for rows in order, from any thread; raises CompileError
        where they can't be read."""


class Feed:
    """The checked inputs of a run: `samples`, and the values of any range of them."""

    def __init__(self, program: Program | Interface, inputs: Mapping[str, Array | Source]) -> None:
        """Raises CompileError for a missing or unknown name, a wrong numpy type or shape, and
        inputs that disagree on the number of samples."""
        self._mems = {str(mem.input): mem for mem in program.inputs}
        errors = self._names(inputs)
        self._inputs: dict[str, _Input] = {}
        for name, mem in self._mems.items():
            if name not in inputs:
                continue
            try:
                self._inputs[name] = _Input(mem, inputs[name])
            except Trap as trap:
                errors.append(_error(mem, trap))
        counts = {name: one.count for name, one in self._inputs.items() if one.count is not None}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"'{name}' has {n}" for name, n in counts.items())
            errors.append(CompileError(f"the inputs disagree on the number of samples: {listed}"))
        if errors:  # values are checked when they are taken; here, so that all is said at once
            errors += self._wrong_values()
        raise_all(errors)
        self.samples = next(iter(counts.values()), 1)

    def _names(self, inputs: Mapping[str, object]) -> list[CompileError]:
        if inputs.keys() == self._mems.keys():
            return []
        listed = "; ".join(f"'{name}': {_expected(mem)}" for name, mem in self._mems.items())
        help = f"the program takes {listed}" if listed else "the program takes no inputs"
        missing = [f"input '{name}' is missing" for name in self._mems if name not in inputs]
        unknown = [f"there is no input '{name}'" for name in inputs if name not in self._mems]
        return [CompileError(message, help=help) for message in (*missing, *unknown)]

    def _wrong_values(self) -> list[CompileError]:
        errors = []
        for name, one in self._inputs.items():
            try:
                one.check()
            except Trap as trap:
                errors.append(_error(self._mems[name], trap))
        return errors

    def sample(self, index: int) -> dict[str, Any]:
        """The inputs of one sample by ONNX name, in the shapes the program was compiled for;
        arrays of their own. Raises CompileError as `part`."""
        return {name: _one(value) for name, value in self._checked(index, index + 1).items()}

    def part(self, start: int, stop: int) -> dict[str, Any]:
        """The values of the samples [start, stop) by the name of their buffer: [n, *shape], or
        [1, *shape] for a value that all samples share. Any thread may ask, best in order.

        Raises CompileError for the first sample with a value that the program doesn't take."""
        values = self._checked(start, stop)
        return {self._mems[name].name: value for name, value in values.items()}

    def _checked(self, start: int, stop: int) -> dict[str, Any]:
        try:
            return {name: one.read(start, stop) for name, one in self._inputs.items()}
        except Trap:
            for index in range(start, stop):
                raise_all(self._refused(index))
            raise

    def _refused(self, index: int) -> list[CompileError]:
        """What is wrong with the values of one sample."""
        errors = []
        for name, one in self._inputs.items():
            try:
                one.read(index, index + 1)
            except Trap as trap:
                errors.append(_error(self._mems[name], trap))
        return errors

    def fill(self, machine: Machine, start: int) -> None:
        """Put the samples from `start` on into the machine's input buffers."""
        for name, value in self.part(start, start + machine.samples).items():
            buffer = machine.buffers[name]
            if isinstance(buffer, HostBuffer):  # without a batch axis: shared by all samples
                buffer.values[:] = [value[0]] * machine.samples
            else:
                buffer.flat[...] = value.reshape(len(value), -1)


class _Input:
    """The values of one input. `count`: its samples, None for a value that all share."""

    def __init__(self, mem: Mem, value: Any) -> None:
        """Raises Trap where the type or shape isn't the input's."""
        self.count: int | None = None
        self._mem, self._source = mem, None
        if mem.shape is None:
            self._values: Any = [value]
            return
        array = value if isinstance(value, Source) else np.asarray(value)
        expected = container(mem.type)
        if array.dtype != expected and not (mem.type == "str" and array.dtype.kind == "U"):
            raise Trap(f"is {array.dtype}, not {expected}")
        self.count, split = _split(mem, mem.shape, array.shape)
        if isinstance(array, Source) and mem.batch in (None, 0) and self.count is not None:
            self._source, self._rows = array, 1 if mem.batch is None else mem.shape[0]
            return
        if isinstance(array, Source):
            array = array.read(0, array.shape[0])
        self._values = _first(array.reshape(split), mem.batch or 0)
        if self.count is None:
            self._values = self._exact(self._values)

    def check(self) -> None:
        """Check all values in memory. Raises Trap."""
        if self._source is None and self.count is not None:
            self._exact(self._values)

    def read(self, start: int, stop: int) -> Any:
        """The values of the samples [start, stop); Trap for one that isn't of the type."""
        if self.count is None:
            return self._values
        if self._source is None:
            return self._exact(self._values[start:stop])
        rows = self._source.read(start * self._rows, stop * self._rows)
        assert self._mem.shape is not None
        return self._exact(rows.reshape(stop - start, *self._mem.shape))

    def _exact(self, values: Array) -> Array:
        elem = self._mem.type
        if elem == "str":
            return values.astype(object)
        return exact(values, elem) if _is_part(elem) else values


def _first(values: Array, axis: int) -> Array:
    """The axis moved to the front."""
    return np.moveaxis(values, axis, 0) if axis else values


@cache
def _is_part(elem: str) -> bool:
    """Whether numpy's type for an element type holds more values."""
    if not is_integer(elem):
        return False
    info = np.iinfo(str(container(elem)))
    return int_range(elem) != (info.min, info.max)


def _one(values: Any) -> Any:
    """The only value; an array of its own, which begins where all arrays do in memory: some of
    onnxruntime's sums take another order elsewhere."""
    if isinstance(values, np.ndarray):
        return values.reshape(values.shape[1:]).copy()
    return values[0]


def _error(mem: Mem, trap: Trap) -> CompileError:
    return CompileError(trap.message, f"input '{mem.input}'", trap.help or _expected(mem))


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


def _split(
    mem: Mem, shape: tuple[int, ...], given: tuple[int, ...]
) -> tuple[int | None, tuple[int, ...]]:
    """The number of samples in an array of a given shape, None where they share it, and the
    shape with the samples on an axis of their own, axis `batch` or 0."""
    found = TensorType(mem.type, given)
    if mem.batch is None:
        if given == shape:
            return None, (1, *shape)
        if given[1:] == shape and len(given) == len(shape) + 1:
            return given[0], given
        raise Trap(f"is {found}, which is neither the shape of one value nor of N")
    axis, size = mem.batch, shape[mem.batch]
    if len(given) != len(shape) or _without(given, axis) != _without(shape, axis):
        raise Trap(f"is {found}, which has another shape than the program's {list(shape)}")
    if size == 0 or given[axis] % size:
        raise Trap(f"is {found}: axis {axis} is not a multiple of {size}, the size of a sample")
    count = given[axis] // size
    return count, _apart(shape, axis, count)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _apart(shape: tuple[int, ...], axis: int, samples: int) -> tuple[int, ...]:
    """The shape of samples that follow each other along an axis, with one more for them."""
    return (*shape[:axis], samples, *shape[axis:])


# -- outputs ---------------------------------------------------------------------------


class Sink(Protocol):
    """Takes the outputs of a run as they come; a program with outputs that have one value a call
    needs `finish`."""

    def take(self, start: int, values: Mapping[str, Any]) -> None:
        """Outputs by ONNX name of the samples from `start` on, in order: [n, *shape], or a list
        of one value a sample for a host value. Only valid during the call."""
        ...

    def finish(self, values: Mapping[str, Any]) -> None:
        """Outputs by ONNX name that have one value a call, after all samples."""
        ...


class Collected:
    """The values of an output of N samples, joined."""

    def __init__(self, mem: Mem, samples: int) -> None:
        self._mem, self._samples, self._done = mem, samples, 0
        self._listed: list[Any] = []
        if mem.shape is None:
            return
        batch = mem.batch or 0
        split = _apart(mem.shape, batch, samples)
        shape = split if mem.batch is None else joined_shape(mem.shape, batch, samples)
        self._joined = np.zeros(shape, container(mem.type))
        self._values = _first(self._joined.reshape(split), batch)

    def add(self, values: Any) -> None:
        """The next samples: [n, *shape], or a list for a host value."""
        if self._mem.shape is None:
            self._listed.extend(values)
            return
        stop = self._done + len(values)
        self._values[self._done : stop] = values
        self._done = stop

    def join(self) -> Any:
        """The samples along the batch axis; without one the value itself for one sample, else
        on a new first axis. Host values without a common shape come as a list with one value
        a sample."""
        if self._mem.shape is None:
            return join_samples(self._listed, self._mem.batch)
        return self._joined[0] if self._mem.batch is None and self._samples == 1 else self._joined


class Outputs:
    """Collects the outputs of all samples, or hands them on to a sink."""

    def __init__(
        self, program: Program | Interface, samples: int, sink: Sink | None = None
    ) -> None:
        if isinstance(program, Program):
            program = interface(program)
        self._mems = {str(mem.output): mem for mem in program.outputs}
        self._call = program.call
        self._last: dict[str, Any] = {}
        self._sink, self._done = sink, 0
        self._collected = (
            {} if sink else {name: Collected(mem, samples) for name, mem in self._mems.items()}
        )

    def take(self, machine: Machine) -> None:
        """Take the values of the machine's samples."""
        found: dict[str, Any] = {}
        for mem in self._mems.values():
            buffer = machine.buffers[mem.name]
            if isinstance(buffer, Buffer):
                found[mem.name] = buffer.flat.reshape(buffer.samples, *buffer.shape)
            else:
                found[mem.name] = list(buffer.values)
        self.add(found)

    def finish(self, machine: Machine) -> None:
        """Take what `.update` left in the outputs that have one value a call."""
        buffers = {str(mem.output): machine.buffers[mem.name] for mem in self._call}
        self._last = {name: buffer.get(0) for name, buffer in buffers.items()}
        if self._sink is not None and self._last:
            self._sink.finish(self._last)

    def add(self, found: Mapping[str, Any]) -> None:
        """Take the next samples' values by the name of their buffer; they are copied."""
        values = {name: found[mem.name] for name, mem in self._mems.items()}
        if self._sink is not None:
            self._sink.take(self._done, values)
        for name, collected in self._collected.items():
            collected.add(values[name])
        self._done += len(next(iter(values.values()), ()))

    def join(self) -> dict[str, Any]:
        """By ONNX output name, see `Collected.join`; nothing where a sink took them."""
        if self._sink is not None:
            return {}
        return {name: collected.join() for name, collected in self._collected.items()} | self._last


def joined_shape(shape: tuple[int, ...], axis: int, samples: int) -> tuple[int, ...]:
    """The shape of N samples along an axis."""
    return (*shape[:axis], samples * shape[axis], *shape[axis + 1 :])


def join_samples(values: list[Any], batch: int | None) -> Any:
    """Values of N samples along the batch axis; see `Collected.join`."""
    if len(values) == 1:
        return values[0]
    arrays = all(isinstance(value, np.ndarray) for value in values)
    if not arrays or len({value.shape for value in values}) != 1:
        return values
    if batch is None or batch >= values[0].ndim:
        return np.stack(values)
    return np.concatenate(values, axis=batch)
