"""Tools for passes: make operations with inferred types, look through producers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cimc.ir.graph import Graph, Node, Value
from cimc.ir.ops import TABLE, present
from cimc.ir.types import Array, TensorType

FLOAT_LAYERS = ("onnx.Conv", "onnx.MatMul", "onnx.Gemm", "onnx.ConvTranspose")
"""The float operations that have weights."""
RANDOM = (
    "onnx.RandomNormal", "onnx.RandomNormalLike", "onnx.RandomUniform", "onnx.RandomUniformLike",
    "onnx.Multinomial", "onnx.Bernoulli",
)  # fmt: skip
"""Operations that are no functions of their operands."""


class Rewriter:
    """A graph under change: keeps producers, users and free names at hand.

    Operations are made before an anchor, so that the graph stays ordered. As long as it is
    in use, operands change only through it.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.made = graph.producers()
        self.changed = False
        self._users = graph.users()
        self._names = graph.names()

    def fresh(self, name: str) -> str:
        """`name` if free, else `name.2`, `name.3`, …"""
        return self._names.fresh(name)

    def const(self, name: str, array: Array, elem: str) -> Value:
        """A new constant."""
        value = Value(self.fresh(name), TensorType(elem, array.shape), const=array)
        self.graph.consts.append(value)
        return value

    def renewed(self, old: Value, array: Array, elem: str = "") -> Value:
        """A constant with other contents, of the same element type if none is given; it takes the
        name of the old one, which others may go on using."""
        new = self.const(old.name, array, elem or old.elem)
        old.name, new.name = new.name, old.name
        return new

    def set_const(self, node: Node, slot: int, array: Array, elem: str, name: str) -> None:
        """A constant as operand: under the name of the one before, or else as `name`."""
        old = node.operand(slot)
        node.inputs += [None] * (slot + 1 - len(node.inputs))
        made = self.const(name, array, elem) if old is None else self.renewed(old, array, elem)
        node.inputs[slot] = made

    def shared(self, name: str, array: Array, elem: str) -> Value:
        """A constant, the same one for layers that share their weights, which so share rows."""
        for value in self.graph.consts:
            if value.name == name and value.elem == elem and np.array_equal(value.const, array):  # type: ignore[arg-type]
                return value
        return self.const(name, array, elem)

    def op(
        self,
        op: str,
        inputs: Sequence[Value | None],
        name: str,
        before: Node,
        attrs: dict[str, Any] | None = None,
        type_: TensorType | None = None,
    ) -> Value:
        """A new operation with one result, placed before `before`, from whose source it comes.
        The type of a native operation follows from its row; `type_` is finer or needed.
        Raises rules.Misfit if the operands do not fit."""
        attrs = attrs or {}
        if op in TABLE:
            row = TABLE[op]
            types = [None if v is None else v.tensor for v in inputs]
            (found,) = row.types(present(types), row.full_attrs(attrs))
            assert isinstance(found, TensorType)
            type_ = found if type_ is None else TensorType(found.elem, type_.shape)
        assert type_ is not None
        result = Value(self.fresh(name), type_)
        self.insert(Node(op, list(inputs), [result], attrs, source=before.source), before)
        return result

    def insert(self, node: Node, before: Node) -> None:
        """Put in an operation on values of the graph; the names of its results are fresh ones."""
        self.graph.nodes.insert(self.graph.nodes.index(before), node)
        for value in dict.fromkeys(v for v in node.inputs if v is not None):
            self._users.setdefault(value, []).append(node)
        self.made.update((value, node) for value in node.outputs)
        self.changed = True

    def replace(self, old: Value, new: Value, keep_name: bool = True) -> None:
        """Use `new` for `old` everywhere; the name goes with it."""
        self._use(old, new)
        if keep_name:
            self.graph.hand_on_name(old, new)
        self.changed = True

    def _use(self, old: Value, new: Value) -> None:
        """Graph.replace without a look at operations that don't use `old`."""
        users = self._users.pop(old, [])
        for node in users:
            node.use(old, new)
        self._users[new] = [*dict.fromkeys([*self._users.get(new, ()), *users])]
        if old in self.graph.outputs:
            self.graph.outputs[:] = [new if v is old else v for v in self.graph.outputs]

    def encode(self, old: Value, q: Value, scale: float, before: Node, zero: int = 0) -> Value:
        """Use cim.dequant(q) with that scale and zero for `old` everywhere. The integer takes the
        name, if it was made for this; the float gets `.f` behind it. Returns the float."""
        attrs: dict[str, Any] = {"scale": scale} if scale != 1.0 else {}
        if zero:
            attrs["zero"] = zero
        out = self.op("cim.dequant", [q], f"{old.name}.f", before, attrs)
        self._use(old, out)
        node = self.made.get(q)
        if node is not None and q.name.startswith(f"{old.name}."):
            q.name, old.name = old.name, q.name
        return out

    def retype(self) -> None:
        """Infer the types of native operations again, after an operand's type changed."""
        for node in self.graph.nodes:
            if node.op not in TABLE:
                continue
            row = TABLE[node.op]
            types = [None if v is None else v.tensor for v in node.inputs]
            (found,) = row.types(present(types), row.full_attrs(dict(node.attrs)))
            assert isinstance(found, TensorType)
            node.output.type = TensorType(found.elem, node.output.tensor.shape)

    def producer(self, value: Value | None, *ops: str) -> Node | None:
        """The operation that makes `value`, if it is one of `ops` (any, if none is named)."""
        node = None if value is None else self.made.get(value)
        return node if node is not None and (not ops or node.op in ops) else None

    def users(self, value: Value) -> list[Node]:
        """The operations that use `value`, each once."""
        return [node for node in self._users.get(value, ()) if value in node.reads()]

    def dequant(self, value: Value | None) -> tuple[Value, float] | None:
        """(q, scale) where value = cim.dequant(q) scale=scale without a zero point, else None."""
        node = self.producer(value, "cim.dequant")
        if node is None or node.int_attr("zero", 0):
            return None
        return node.arg(0), node.float_attr("scale", 1.0)


def scalar(value: Value | None) -> float | None:
    """The number that a constant holds in each of its elements, else None."""
    if value is None or value.const is None or value.const.size == 0:
        return None
    if value.const.dtype == object:
        return None
    first = value.const.ravel()[0]
    return float(first) if bool(np.all(value.const == first)) else None


def power_of_two(number: float) -> bool:
    """Whether |number| is a power of two: products with it are exact."""
    return bool(number) and np.frexp(abs(number))[0] == 0.5
