"""A host fragment in parts that run many samples at once.

Compiled kernels run what they have; onnxruntime runs the rest, all samples in one call where
that gives the bits of one at a time, else one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import local
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import NodeProto

from cimc.ir.types import elem_of
from cimc.sim.fragments import kernels
from cimc.sim.fragments.batchable import batchable
from cimc.sim.fragments.graph import Array, FragmentGraph, read_fragment, schedule
from cimc.sim.fragments.kernels import run_steps
from cimc.sim.fragments.lower import can_lower, lower
from cimc.sim.fragments.rooms import Rooms
from cimc.sim.fragments.sessions import SessionPart

_CHUNK_BYTES = 1 << 20  # values between parts: what stays in a second-level cache
_ALIGNED = 64  # bytes: a tensor in scratch memory begins with a cache line

Alone = Callable[[list[Array]], Sequence[Any]]
"""From the inputs of one sample to its outputs, by onnxruntime."""


class Call(Protocol):
    """A part on the arrays of its values."""

    def run(self, start: int, number: int, marks: Array) -> int:
        """Run `number` samples from `start` on, a chunk; sets marks [number] of samples that
        onnxruntime has to run alone, and returns how many those are."""
        ...


class Part(Protocol):
    """Some of a fragment's nodes. `outputs`: the values it gives, by root."""

    outputs: list[str]

    def bind(self, rooms: Rooms) -> Call: ...


# -- parts that compiled kernels run ---------------------------------------------------


class KernelPart:
    """Nodes that the compiled kernels run."""

    def __init__(
        self, nodes: Sequence[NodeProto], graph: FragmentGraph, outputs: Sequence[str]
    ) -> None:
        self.outputs = list(outputs)
        self.steps = lower(nodes, graph, set(outputs))
        self.scratch = 0  # bytes
        self.places: list[tuple[int, str, int]] = []  # tensor, root or "", offset in scratch
        inside = {name for node in nodes for name in node.output} - set(outputs)
        table = []
        for number, (name, array, elem) in enumerate(self.steps.memory.tensors):
            if array is not None:
                table.append((array.ctypes.data, 0, elem))
                continue
            tensor = graph.tensors[name]
            size = tensor.size * tensor.dtype.itemsize
            table.append((0, 0 if name in inside else size, elem))
            self.places.append((number, "" if name in inside else name, self.scratch))
            if name in inside:
                self.scratch += -(-size // _ALIGNED) * _ALIGNED
        self.table = np.array(table, np.int64).reshape(-1, 3)

    def bind(self, rooms: Rooms) -> _KernelCall:
        return _KernelCall(self, rooms)


class _KernelCall:
    def __init__(self, part: KernelPart, rooms: Rooms) -> None:
        self._steps, self._bytes = part.steps, part.scratch
        self._table = part.table.copy()
        self._advance = np.zeros_like(part.table)
        for number, root, _ in part.places:
            if root:
                self._table[number, 0], self._advance[number, 0] = rooms.at(root)
        inner = [(number, offset) for number, root, offset in part.places if not root]
        self._inner = [number for number, _ in inner], [offset for _, offset in inner]
        self._scratch: Array | None = None

    def run(self, start: int, number: int, marks: Array) -> int:
        steps = self._steps
        scratch, vectors, wides, singles = _own(
            self._bytes, steps.vectors, steps.wides, steps.singles
        )
        if scratch is not self._scratch:  # of another thread, or larger than before
            self._scratch = scratch
            self._table[self._inner[0], 0] = scratch.ctypes.data + np.array(self._inner[1], int)
        table = self._table + start * self._advance if start else self._table
        found: int = _run_steps(
            number, steps.steps, steps.code, steps.numbers, table, vectors, wides, singles, marks
        )
        return found


_run_steps: Any = run_steps
_thread = local()


def _own(*sizes: int) -> list[Array]:
    """Scratch memory and registers of the calling thread, as many as asked for or more."""
    held: list[Array] = getattr(_thread, "arrays", [])
    if held and all(map(_enough, held, sizes)):
        return held
    lengths = [len(array) for array in held] or [0] * len(sizes)
    scratch, vectors, wides, singles = map(max, sizes, lengths)
    held = _thread.arrays = [
        np.empty(scratch, np.uint8),
        np.empty((vectors, kernels.STRIDE), np.float32),
        np.empty((wides, kernels.STRIDE), np.float64),
        np.empty(singles, np.float32),
    ]
    return held


def _enough(array: Array, size: int) -> bool:
    return len(array) >= size


# -- fragments -------------------------------------------------------------------------


class BatchedFragment:
    """A fragment for many samples. `inputs`, `outputs`: element type and shape of each."""

    def __init__(self, graph: FragmentGraph, threads: int) -> None:
        self.graph = graph
        self.inputs = [_type(graph, name) for name in graph.inputs]
        self.outputs = [_type(graph, name) for name in graph.outputs]
        self.parts = _parts(graph, threads)


def _type(graph: FragmentGraph, name: str) -> tuple[str, tuple[int, ...]]:
    return elem_of(graph.tensors[name].dtype), graph.tensors[name].shape


class Bound:
    """A fragment on arrays that stay: what it costs to find them is paid once.

    For one thread at a time."""

    def __init__(
        self,
        fragment: BatchedFragment,
        inputs: Sequence[Array],
        outputs: Sequence[Array],
        alone: Alone,
    ) -> None:
        graph = fragment.graph
        self._inputs, self._outputs, self._alone = list(inputs), list(outputs), alone
        samples = len(outputs[0])
        outer = dict(zip(graph.inputs, inputs, strict=True))
        self._copies: list[tuple[Array, Array]] = []
        made = {name for part in fragment.parts for name in part.outputs}
        for name, array in zip(graph.outputs, outputs, strict=True):
            root, constant = graph.root(name), graph.constant(name)
            if root in made and root not in outer:
                outer[root] = array
            else:
                source = outer[root] if constant is None else np.broadcast_to(constant, array.shape)
                self._copies.append((array, source.reshape(array.shape)))
        sizes = {name: graph.tensors[name] for name in made - set(outer)}
        size = sum(tensor.size * tensor.dtype.itemsize for tensor in sizes.values())
        self._chunk = min(samples, max(1, _CHUNK_BYTES // size)) if size else samples
        inner = {n: np.empty((self._chunk, *t.shape), t.dtype) for n, t in sizes.items()}
        self._rooms = Rooms(outer, inner)  # calls know addresses only
        self._calls = [part.bind(self._rooms) for part in fragment.parts]
        self._marks = np.zeros(samples, np.uint8)

    def run(self, samples: int) -> None:
        """Compute the outputs of the first `samples` samples. Raises what `Alone` does."""
        try:
            marked = sum(self._run_chunk(at, samples) for at in range(0, samples, self._chunk))
        except Exception:  # onnxruntime has no common class; a sample alone raises what is right
            marked = samples
            self._marks[:samples] = 1
        for array, source in self._copies:
            array[:samples] = source[:samples]
        if marked:
            self._repair()

    def _run_chunk(self, start: int, samples: int) -> int:
        number = min(self._chunk, samples - start)
        marks = self._marks[start:] if start else self._marks
        return sum(call.run(start, number, marks) for call in self._calls)

    def _repair(self) -> None:
        """Run the marked samples alone."""
        for sample in map(int, np.flatnonzero(self._marks)):
            rows = [array[sample : sample + 1].reshape(array.shape[1:]) for array in self._inputs]
            for array, value in zip(self._outputs, self._alone(rows), strict=True):
                array[sample] = value
        self._marks[...] = 0


def batch(model: bytes, threads: int) -> BatchedFragment | None:
    """A fragment for many samples; None where it runs one sample at a time as a whole.

    threads: those of onnxruntime, 0 for its choice."""
    graph = read_fragment(onnx.load_model_from_string(model))
    if graph is None or not graph.inputs:
        return None
    return BatchedFragment(graph, threads)


# -- cutting ---------------------------------------------------------------------------

_KERNELS, _TOGETHER, _ALONE = range(3)


def _parts(graph: FragmentGraph, threads: int) -> list[Part]:
    kinds = {id(node): _kind(node, graph) for node in graph.nodes}
    _join_alone(graph, kinds)
    runs = schedule(graph.nodes, graph, lambda node: kinds[id(node)])
    parts: list[Part] = []
    for at, (kind, nodes) in enumerate(runs):
        later = [node for _, rest in runs[at + 1 :] for node in rest]
        wanted = {graph.root(name) for node in later for name in node.input if name}
        wanted |= {graph.root(name) for name in graph.outputs}
        outputs = [name for node in nodes for name in node.output if name in wanted]
        if kind == _KERNELS:
            parts.append(KernelPart(nodes, graph, outputs))
        else:
            parts.append(SessionPart(nodes, graph, outputs, kind == _TOGETHER, threads))
    return parts


def _kind(node: NodeProto, graph: FragmentGraph) -> int:
    if can_lower(node, graph):
        return _KERNELS
    return _TOGETHER if batchable(node, graph) else _ALONE


def _join_alone(graph: FragmentGraph, kinds: dict[int, int]) -> None:
    """What stands between nodes that run one sample at a time joins them: one call for each
    sample, not several."""
    below: set[str] = set()
    for node in graph.nodes:
        if kinds[id(node)] == _ALONE or below & {graph.root(name) for name in node.input}:
            below.update(node.output)
    above: set[str] = set()
    for node in reversed(graph.nodes):
        if kinds[id(node)] == _ALONE or above.intersection(node.output):
            above.update(graph.root(name) for name in node.input)
    for node in graph.nodes:
        before = below & {graph.root(name) for name in node.input}
        if before and above.intersection(node.output):
            kinds[id(node)] = _ALONE
