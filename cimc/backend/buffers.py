"""Buffers of a program: one for each value that crosses instructions, views for layout."""

from __future__ import annotations

from collections.abc import Mapping

from cimc.frontend.evaluate import input_names, output_names
from cimc.ir.graph import Graph, Value
from cimc.ir.names import Names
from cimc.ir.types import TensorType
from cimc.isa.program import Mem, View

_VIEWS = ("cim.reshape", "cim.transpose")
_ALIKE = (  # channels stay along the axis where they are
    "cim.threshold", "cim.relu", "cim.requant", "cim.lut", "cim.take",
)  # fmt: skip


class Buffers:
    """Declares buffers and views as instructions come to need them.

    batch: axis of each input along which samples are fed, by ONNX name.
    """

    def __init__(self, graph: Graph, batch: Mapping[str, int]) -> None:
        self._by_name: dict[str, Mem | View] = {}
        self._graph = graph
        self._made = graph.producers()
        self._names: dict[Value, str] = {}
        self._by_axis: dict[tuple[str, int], str] = {}
        self.fresh = Names().fresh  # over the names of all declarations and data
        sizes = set()
        for value, name in zip(graph.inputs, input_names(graph)):
            mem = self._mem(value)
            mem.input, mem.batch = name, batch.get(name)
            if mem.batch is not None:
                sizes.add(value.tensor.static[mem.batch] if value.tensor.static else 1)
        self._batch_sizes = sizes

    @property
    def decls(self) -> list[Mem | View]:
        """All declarations, in the order in which they came to be needed."""
        return list(self._by_name.values())

    def name(self, value: Value) -> str:
        """The buffer or view that holds a value; declared on first use."""
        if value in self._names:
            return self._names[value]
        node = self._made.get(value)
        if node is not None and node.op in _VIEWS:
            return self._view(value, node.op, node.arg(0), node.attrs.get("perm"))
        return self._mem(value).name

    def along(self, value: Value, axis: int) -> str:
        """The same with `axis` as the channel axis: the buffer itself, or a view of it."""
        name = self.name(value)
        declared = self._by_name[name]
        if declared.axis == axis or declared.shape is None:
            return name
        if (name, axis) not in self._by_axis:
            view = View(self.fresh(f"{name}.axis{axis}"), declared.type, declared.shape, name, axis)
            self._by_name[view.name] = view
            self._by_axis[name, axis] = view.name
        return self._by_axis[name, axis]

    def scratch(self, label: str, suffix: str, elem: str, shape: tuple[int, ...]) -> str:
        """A buffer of a layer's code that holds no value of the graph; returns its name."""
        mem = Mem(self.fresh(f"{label}.{suffix}"), elem, shape)
        self._by_name[mem.name] = mem
        return mem.name

    def mark_outputs(self) -> None:
        """Give the buffers of the graph's outputs their ONNX names."""
        for value, name in zip(self._graph.outputs, output_names(self._graph)):
            mem = self._by_name[self._names[value]]
            assert isinstance(mem, Mem), "legalise copies an output that is a view"
            mem.output = name
            made = self._made.get(value)
            if made is not None and made.op == "cim.similar":
                continue  # one value a call
            if mem.shape and mem.shape[0] in self._batch_sizes:
                mem.batch = 0

    def _mem(self, value: Value) -> Mem:
        name = self.fresh(value.name)
        self._names[value] = name
        shape = value.type.static if isinstance(value.type, TensorType) else None
        if shape is None:
            mem = Mem(name, "host", None)
        else:
            mem = Mem(name, value.elem, shape, axis=self._axis(value))
        self._by_name[name] = mem
        return mem

    def _axis(self, value: Value) -> int:
        """Channels: the last axis of a product, else axis 1 where there is one."""
        rank = len(value.tensor.shape or ())
        node = self._made.get(value)
        while node is not None and node.op in _ALIKE:
            value = node.arg(0)
            node = self._made.get(value)
        if node is not None and node.op == "cim.matmul":
            return rank - 1
        return min(1, max(0, rank - 1))

    def _view(self, value: Value, op: str, source: Value, perm: object) -> str:
        base = self.name(source)
        name = self.fresh(value.name)
        self._names[value] = name
        shape = value.tensor.static
        assert shape is not None
        rank = len(shape)
        view = View(name, value.elem, shape, base, axis=min(1, max(0, rank - 1)))
        if op == "cim.transpose":
            view.perm = tuple(perm)  # type: ignore[arg-type]
        self._by_name[view.name] = view
        return name
