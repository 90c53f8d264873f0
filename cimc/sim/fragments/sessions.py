"""Parts of a fragment that onnxruntime runs: all samples in one call, or one after the other.

Knows nothing of how a fragment is cut into parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from cimc.frontend.session import open_session
from cimc.sim.fragments.graph import Array, FragmentGraph
from cimc.sim.fragments.rooms import Rooms


class SessionPart:
    """Nodes as a model of their own.

    outputs: by root, see `FragmentGraph`. batched: all samples in one call. threads:
    onnxruntime's, 0 for its choice."""

    def __init__(
        self,
        nodes: Sequence[NodeProto],
        graph: FragmentGraph,
        outputs: Sequence[str],
        batched: bool,
        threads: int,
    ) -> None:
        self.outputs, self.batched = list(outputs), batched
        self.tensors, self._threads = graph.tensors, threads
        self.sources: dict[str, str] = {}  # by input name, the root
        self._model = self._export(nodes, graph)
        self._session: Any = None
        self._lock = Lock()

    def session(self) -> Any:
        """The session, opened on first use."""
        with self._lock:
            if self._session is None:
                self._session = open_session(self._model, "host fragment", self._threads)
            return self._session

    def bind(self, rooms: Rooms) -> _Together | _Alone:
        """The part on the arrays of its values."""
        return _Together(self, rooms) if self.batched else _Alone(self, rooms)

    # -- model -------------------------------------------------------------------------

    def _export(self, nodes: Sequence[NodeProto], graph: FragmentGraph) -> bytes:
        """Constants that nodes make stay so for samples one by one: onnxruntime lays out
        weights that it knows beforehand, and then adds in another order."""
        inside = {name for node in nodes for name in node.output}
        made = {} if self.batched else {o: node for node in graph.folded for o in node.output}
        constants: dict[str, Array] = {}
        exported: list[NodeProto] = []
        known = set(inside)

        def give(name: str) -> None:
            if not name or name in known:
                return
            known.add(name)
            array, root = graph.constant(name), graph.root(name)
            if name in made:
                for operand in made[name].input:
                    give(operand)
                exported.append(made[name])
                known.update(made[name].output)
            elif array is not None:
                constants[name] = array
            elif root in inside:
                constants[f"{name}.shape"] = np.array(self._sizes(name), np.int64)
                exported.append(helper.make_node("Reshape", [root, f"{name}.shape"], [name]))
            else:
                self.sources[name] = root

        for node in nodes:
            for name in node.input:
                give(name)
            exported.append(node)
        part = helper.make_graph(
            exported,
            "part",
            [self._info(name) for name in self.sources],
            [self._info(name) for name in self.outputs],
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
        )
        opset = helper.make_opsetid("", graph.opset)
        model = helper.make_model(part, opset_imports=[opset], ir_version=graph.ir_version)
        return bytes(model.SerializeToString())

    def _sizes(self, name: str) -> list[int]:
        shape = list(self.tensors[name].shape)
        return [-1, *shape[1:]] if self.batched else shape

    def _info(self, name: str) -> Any:
        sizes = [None if size < 0 else size for size in self._sizes(name)]
        return helper.make_tensor_value_info(name, self.tensors[name].elem, sizes)


class _Together:
    """A part on arrays, all samples in one call; axis 0 of each value is that of samples."""

    def __init__(self, part: SessionPart, rooms: Rooms) -> None:
        self._session = part.session()
        self._binding = self._session.io_binding()
        self._bound = -1, -1
        self._tensors = part.tensors
        self._sources = [(name, *rooms.at(root)) for name, root in part.sources.items()]
        self._targets = [(name, *rooms.at(name)) for name in part.outputs]

    def run(self, start: int, number: int, marks: Array) -> int:
        if (start, number) != self._bound:
            self._bind(start, number)
        self._session.run_with_iobinding(self._binding)
        return 0

    def _bind(self, start: int, number: int) -> None:
        self._bound = start, number
        ways = (self._binding.bind_input, self._sources), (self._binding.bind_output, self._targets)
        for bind, places in ways:
            for name, address, step in places:
                tensor = self._tensors[name]
                shape = number, *tensor.shape[1:]
                bind(name, "cpu", 0, tensor.dtype.type, shape, address + start * step)


class _Alone:
    """A part on arrays, one sample after the other. Each is copied to arrays that stay where
    they are, as if it were alone: the order of some sums hangs on their alignment."""

    def __init__(self, part: SessionPart, rooms: Rooms) -> None:
        self._session = part.session()
        self._binding = self._session.io_binding()
        self._sources, self._targets = [], []
        for name, root in part.sources.items():
            held = _array(part, name)
            self._binding.bind_cpu_input(name, held)
            self._sources.append((held, rooms.array(root), rooms.local(root)))
        for name in part.outputs:
            held = _array(part, name)
            address = held.ctypes.data
            self._binding.bind_output(name, "cpu", 0, held.dtype.type, held.shape, address)
            self._targets.append((held, rooms.array(name), rooms.local(name)))

    def run(self, start: int, number: int, marks: Array) -> int:
        for sample in range(number):
            for held, array, local in self._sources:
                held[...] = array[sample if local else start + sample].reshape(held.shape)
            self._session.run_with_iobinding(self._binding)
            for held, array, local in self._targets:
                array[sample if local else start + sample] = held
        return 0


def _array(part: SessionPart, name: str) -> Array:
    return np.empty(part.tensors[name].shape, part.tensors[name].dtype)
