"""Code for one block of elements: registers without end, operands from where they are.

`operators.py` writes operators with it; `lower.py` gives the registers their places.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from onnx import TensorProto

from cimc.sim.fragments import kernels as c
from cimc.sim.fragments.graph import Array, FragmentGraph

ELEMS: dict[int, int] = {
    TensorProto.BOOL: c.BOOL,
    TensorProto.INT8: c.I8,
    TensorProto.UINT8: c.U8,
    TensorProto.FLOAT: c.F32,
    TensorProto.INT32: c.I32,
    TensorProto.DOUBLE: c.F64,
}
WIDE = (c.I32, c.F64)
"""Element types whose values are held in float64."""
_SHORT_RUN = 64  # elements: a constant of shorter runs is written out instead

Place = tuple[int, int]
"""Which element stands for a whole block: ONE and 1, or RUN and the period."""


class Refused(Exception):
    """The kernels don't have it."""


@dataclass(frozen=True, eq=False)
class Register:
    """A register: `vector`, `wide` or `single`. `forever`: its value is that of all blocks."""

    kind: str
    forever: bool = False


@dataclass(frozen=True)
class Instr:
    """A row of code; registers without numbers yet."""

    op: int
    to: Register | int
    args: tuple[Register | int, ...]


@dataclass
class Memory:
    """The tensors that steps read and write: values by name, constants as arrays."""

    graph: FragmentGraph
    tensors: list[tuple[str, Array | None, int]] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def value(self, name: str) -> int:
        """The number of a value's tensor, or of a named constant's."""
        root = self.graph.root(name)
        if root not in self._numbers:
            elem = ELEMS.get(self.graph.tensors[root].elem)
            if elem is None:
                raise Refused
            array = self.graph.constants.get(root)
            self._numbers[root] = self._new(root, array, elem)
        return self._numbers[root]

    def constant(self, array: Array) -> int:
        """The number of a new constant, float32 or float64."""
        return self._new("", array, c.F64 if array.dtype == np.float64 else c.F32)

    def _new(self, name: str, array: Array | None, elem: int) -> int:
        held = None if array is None else np.ascontiguousarray(array)
        self.tensors.append((name, held, elem))
        return len(self.tensors) - 1


@dataclass
class Block:
    """Code for results of `size` elements. `once`: what runs before the first block; `run`:
    elements for which operands that aren't read element by element stay the same."""

    graph: FragmentGraph
    size: int
    memory: Memory
    numbers: list[tuple[float, float]]
    uses: Counter[str]
    run: int = 0
    once: list[Instr] = field(default_factory=list)
    code: list[Instr] = field(default_factory=list)
    _values: dict[str, Register] = field(default_factory=dict)
    _loaded: dict[tuple[Any, ...], Register] = field(default_factory=dict)

    def elem(self, name: str) -> int:
        elem = ELEMS.get(self.graph.tensors[name].elem)
        if elem is None:
            raise Refused
        return elem

    def emit(self, op: int, kind: str, *args: Register | int) -> Register:
        to = Register(kind)
        self.code.append(Instr(op, to, args))
        return to

    def number(self, low: float, high: float) -> int:
        self.numbers.append((low, high))
        return len(self.numbers) - 1

    def held(self, name: str) -> Register | None:
        """The register of a value that this block has made."""
        return self._values.get(self.graph.root(name))

    def define(self, name: str, register: Register) -> None:
        self._values[name] = register

    def store(self, name: str) -> None:
        """Write a value that this block has made to its tensor."""
        register = self._values[name]
        op = c.WSTORE if register.kind == "wide" else c.STORE
        self.code.append(Instr(op, self.memory.value(name), (register,)))

    def vector(self, name: str, shape: tuple[int, ...]) -> Register:
        """An operand as float32, broadcast to the shape of the result."""
        return self._operand(name, shape, "vector")

    def wide(self, name: str, shape: tuple[int, ...]) -> Register:
        """An operand as float64."""
        return self._operand(name, shape, "wide")

    def single(self, name: str, shape: tuple[int, ...], negated: bool = False) -> Register | None:
        """A float32 operand as a single number for each block, if it is one; `negated`: of a
        constant, less it."""
        tensor = self.graph.tensors[name]
        if tensor.size == self.size or self.elem(name) != c.F32:
            return None
        array = self.graph.constant(name)
        if array is not None:
            return self.constant_single(-array if negated else array, shape)
        place = None if negated else self._place(tensor.shape, shape)
        return (
            None if place is None else self._all(c.SINGLE, "single", self.memory.value(name), place)
        )

    def constant_single(self, array: Array, shape: tuple[int, ...]) -> Register | None:
        """The same for a float32 constant by its array."""
        if array.size == 1:
            return self.literal(float(array.reshape(())), "single")
        place = None if array.size == self.size else self._place(array.shape, shape)
        if place is None:
            return None
        return self._all(c.SINGLE, "single", self.memory.constant(array), place)

    def constant_vector(self, array: Array, shape: tuple[int, ...]) -> Register:
        """A float32 constant by its array, broadcast to the shape of the result."""
        if array.size == 1:
            return self.literal(float(array.reshape(())), "vector")
        return self._constant(array, shape, "vector")

    def literal(self, value: float, kind: str) -> Register:
        """A constant of this module, in every element."""
        key = kind, value
        if key not in self._loaded:
            dtype = np.float64 if kind == "wide" else np.float32
            op = c.SINGLE if kind == "single" else _SPLATS[kind]
            number = self.memory.constant(np.array(value, dtype))
            self._loaded[key] = self._all(op, kind, number, (c.ONE, 1))
        return self._loaded[key]

    def _operand(self, name: str, shape: tuple[int, ...], kind: str) -> Register:
        found = self.held(name)
        if found is not None:
            if found.kind != kind:
                raise Refused
            return found
        wide = kind == "wide"
        elem = self.elem(name)
        if wide != (elem in WIDE) and elem != c.I32:
            raise Refused
        key = kind, self.graph.root(name), shape
        if key not in self._loaded:
            self._loaded[key] = self._load(name, shape, kind)
        return self._loaded[key]

    def _load(self, name: str, shape: tuple[int, ...], kind: str) -> Register:
        tensor = self.graph.tensors[name]
        if tensor.size == self.size:
            return self.emit(_LOADS[kind], kind, self.memory.value(name))
        if tensor.size == 1:
            return self._all(_SPLATS[kind], kind, self.memory.value(name), (c.ONE, 1))
        array = self.graph.constant(name)
        if array is None:
            raise Refused
        return self._constant(array, shape, kind)

    def _constant(self, array: Array, shape: tuple[int, ...], kind: str) -> Register:
        dtype = np.float64 if kind == "wide" else np.float32
        place = None if array.size == self.size else self._place(array.shape, shape)
        if place is not None:
            return self._all(_SPLATS[kind], kind, self.memory.constant(array.astype(dtype)), place)
        written = np.broadcast_to(array, shape).astype(dtype)
        return self.emit(_LOADS[kind], kind, self.memory.constant(written))

    def _all(self, op: int, kind: str, tensor: int, place: Place) -> Register:
        """One element for all of a block; loaded once where it is that of all blocks."""
        to = Register(kind, forever=place[0] == c.ONE)
        (self.once if to.forever else self.code).append(Instr(op, to, (tensor, *place)))
        return to

    def _place(self, sizes: tuple[int, ...], shape: tuple[int, ...]) -> Place | None:
        """Which element of an operand stands for a whole block; None if each has its own."""
        sizes = (1,) * (len(shape) - len(sizes)) + sizes
        own = [axis for axis, size in enumerate(sizes) if size != 1]
        if not own:
            return c.ONE, 1
        if sizes[own[0] : own[-1] + 1] != shape[own[0] : own[-1] + 1]:
            return None
        run = prod(shape[own[-1] + 1 :])
        if run < _SHORT_RUN or self.run not in (0, run):
            return None
        self.run = run
        return c.RUN, prod(sizes)


_LOADS = {"vector": c.LOAD, "wide": c.WLOAD}
_SPLATS = {"vector": c.SPLAT, "wide": c.WSPLAT}
