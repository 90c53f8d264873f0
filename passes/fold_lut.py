"""Turns the float work between two integers of at most 8 bits into a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cimc.driver import Pass, PassContext, Rewriter
from cimc.driver.elementwise import QLINEAR, RISING
from cimc.driver.layout import LAYOUT, joined, native
from cimc.driver.tables import all_values, even_table_of
from cimc.driver.widths import any_width
from cimc.frontend.quantisers import QUANTIZE, Scale, scale_of
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.types import Dim, TensorType, int_range, is_small, narrowest, planes

_ENDS = (*QUANTIZE, "cim.quantize")
_CUT = ("onnx.Relu", "onnx.Clip")
# Element-wise operations, of one or several operands of one shape.
_MAPS = {op for op in RISING if op.startswith("onnx.") and op != "onnx.BatchNormalization"} | {
    "onnx.Gelu", "onnx.Mish", "onnx.Selu", "onnx.Celu", "onnx.ThresholdedRelu", "onnx.Log",
    "onnx.Where", "onnx.Greater", "onnx.Less", "onnx.GreaterOrEqual", "onnx.LessOrEqual",
    "onnx.Equal", "onnx.Not", "onnx.And", "onnx.Or", "onnx.Cast", "onnx.Shrink",
    "onnx.DequantizeLinear", "ms.Gelu", "ms.QuickGelu", "ms.QuantizeLinear",
    "ms.DequantizeLinear", "cim.dequant", "cim.lut",
}  # fmt: skip

Made = Callable[[], Value]
"""Emits what was planned, and gives it."""


def _small(value: Value) -> bool:
    """Whether a value is an integer that can index a table."""
    return is_small(value.elem) and value.elem not in ("bip", "tern")


@dataclass(frozen=True)
class _Region:
    """Element-wise operations, first to last, that make a value from one small integer."""

    source: Value
    nodes: tuple[Node, ...]


def _region(
    rw: Rewriter, values: Sequence[Value | None], shape: tuple[Dim, ...] | None, tables: bool
) -> _Region | None:
    """The region behind values of one shape, back to the integer that all of it begins with;
    `tables` says whether it goes through the tables that there are."""
    found: dict[Node, None] = {}
    sources: dict[Value, None] = {}

    def visit(v: Value) -> bool:
        if v.const is not None:
            return v.const.size == 1 and v.const.ndim <= len(shape or ())
        if not isinstance(v.type, TensorType) or v.tensor.shape != shape:
            return False
        node = rw.producer(v)
        if _small(v) and not (tables and node is not None and node.op == "cim.lut"):
            sources[v] = None
            return True
        if node is None or node.op not in _MAPS or len(node.outputs) != 1:
            return False
        if node in found:
            return True
        operands = node.inputs[:1] if node.op == "cim.lut" else node.inputs
        if not all(v is None or visit(v) for v in operands):
            return False
        found[node] = None
        return True

    if shape is None or not all(v is None or visit(v) for v in values) or len(sources) != 1:
        return None
    return _Region(next(iter(sources)), tuple(found))


class _Fold:
    """Plans and emits the integers that one quantiser makes, of the float values above it."""

    def __init__(self, rw: Rewriter, end: Node) -> None:
        self.rw = rw
        self.end = end
        self.name = end.output.name
        self.elem = end.output.elem

    def plan(self, value: Value) -> Made | None:
        """How the quantised `value` is made of integers; None if it is not known how."""
        near = self._table(value, tables=False)
        if near is not None:
            if self.keeps(*near):
                return lambda: near[0]
            x, table = self._table(value, tables=True) or near
            return lambda: self.lut(x, table)
        far = self._table(value, tables=True)
        if far is not None:
            return lambda: self.lut(*far)
        node = self.rw.producer(value)
        if node is None or self.end.op not in QUANTIZE or len(node.outputs) != 1:
            return None
        if node.op in _RULES:
            return _RULES[node.op](self, node)
        return None

    def pair(self) -> Made | None:
        """8. QLinearAdd, QLinearMul of tables of one integer ⇒ cim.lut"""
        end, y = self.end, self.end.output
        region = _region(self.rw, end.inputs, y.tensor.shape, tables=True)
        if region is None or not _small(y):
            return None
        table = self.table((*region.nodes, end), region.source, y)
        return None if table is None else lambda: self.lut(region.source, table)

    def op(self, op: str, inputs: Sequence[Value | None], attrs: dict[str, Any],
           type_: TensorType | None = None) -> Value:  # fmt: skip
        return self.rw.op(op, inputs, f"{self.name}.q", self.end, attrs, type_)

    def quantised(self, x: Value) -> Node:
        """The quantiser on another value."""
        out = Value("out", x.tensor.with_elem(self.elem))
        return Node(self.end.op, [x, *self.end.inputs[1:]], [out], dict(self.end.attrs))

    def table(self, nodes: tuple[Node, ...], source: Value, result: Value) -> Any:
        """The table of a map from one small integer to the quantiser's type, or None."""
        return even_table_of(self.rw.graph, nodes, source, result)

    def keeps(self, x: Value, table: Any) -> bool:
        """Whether a table changes nothing."""
        return x.elem == self.elem and np.array_equal(table, all_values(x.elem))

    def lut(self, x: Value, table: Any) -> Value:
        """Rule 1, and rule 2 where the table changes nothing."""
        if self.keeps(x, table):
            return x
        elem = self.elem
        if any_width(self.rw, self.end.output):
            elem = min(elem, narrowest(int(table.min()), int(table.max())), key=planes)
        moved = self._moved(x, table, elem)
        if moved is not None:
            return moved
        held = self.rw.const(f"{self.name}.table", table, elem)
        return self.op("cim.lut", [x, held], {})

    def _moved(self, x: Value, table: Any, elem: str) -> Value | None:
        """Rule 7: x, made by cim.requant for this alone, to the range of elem at once."""
        made = self.rw.producer(x, "cim.requant")
        if made is None or x in self.rw.graph.outputs or len(self.rw.users(x)) != 1:
            return None
        (low, high), (first, last) = int_range(x.elem), int_range(elem)
        inside = np.flatnonzero((table > first) & (table < last))
        if not inside.size:
            return None
        at = int(inside[0])
        shift = int(table[at]) - (low + at)
        moved = np.clip(all_values(x.elem).astype(np.int64) + shift, first, last)
        if low + shift > first or high + shift < last or not np.array_equal(moved, table):
            return None
        zero = made.int_attr("zero", 0) + shift
        if not first <= zero <= last:
            return None
        attrs = {"zero": zero, **{k: v for k, v in made.attrs.items() if k == "axis"}}
        attrs |= {"to": elem}
        return self.op("cim.requant", list(made.inputs), attrs)

    def _table(self, value: Value, tables: bool) -> tuple[Value, Any] | None:
        """The integer that the quantised value is a map of, and that map."""
        region = _region(self.rw, [value], value.tensor.shape, tables)
        if region is None:
            return None
        last = self.quantised(value)
        table = self.table((*region.nodes, last), region.source, last.output)
        return None if table is None else (region.source, table)

    def numbers(self) -> tuple[float, int]:
        """Scale and zero point of the quantiser."""
        found = scale_of(self.end)
        assert isinstance(found, Scale), "a plain quantiser"
        return found.one


def _add(fold: _Fold, node: Node) -> Made | None:
    """3. Q(d(a) + d(b)) ⇒ cim.qadd(a, b)"""
    a, b = (fold.rw.producer(v, "cim.dequant") for v in node.inputs)
    if a is None or b is None or not (_small(a.arg(0)) and _small(b.arg(0))):
        return None
    x, y = a.arg(0), b.arg(0)
    if x.const is not None or y.const is not None:
        return None
    if not x.tensor.shape == y.tensor.shape == node.output.tensor.shape:
        return None
    scale, zero = fold.numbers()
    attrs: dict[str, Any] = {
        "x_scale": a.float_attr("scale", 1.0), "y_scale": b.float_attr("scale", 1.0),
        "scale": scale, "x_zero": a.int_attr("zero", 0), "y_zero": b.int_attr("zero", 0),
        "zero": zero,
    }  # fmt: skip
    attrs = {k: v for k, v in attrs.items() if v or k.endswith("scale")}
    if fold.elem != "u8":
        attrs["to"] = fold.elem
    return lambda: fold.op("cim.qadd", [x, y], attrs)


def _cut(fold: _Fold, node: Node) -> Made | None:
    """4. Q(Relu(x)) ⇒ cim.lut(Q(x)): cutting commutes with what never decreases"""
    if any(v is not None and v.const is None for v in node.inputs[1:]):
        return None
    inner = fold.plan(node.arg(0))
    if inner is None:
        return None
    shape = node.output.tensor
    q, x, y = (Value(n, shape.with_elem(e)) for n, e in
               (("q", fold.elem), ("x", "f32"), ("y", "f32")))  # fmt: skip
    scale, zero = fold.numbers()
    back = Node("cim.dequant", [q], [x], {"scale": scale, "zero": zero})
    again = Node(node.op, [x, *node.inputs[1:]], [y], dict(node.attrs))
    last = fold.quantised(y)
    table = fold.table((back, again, last), q, last.output)
    return None if table is None else lambda: fold.lut(inner(), table)


def _layout(fold: _Fold, node: Node) -> Made | None:
    """5. Q(Reshape(x)), Q(MaxPool(x)), … ⇒ cim.reshape(Q(x)), …"""
    form = native(node)
    inner = None if form is None else fold.plan(node.arg(0))
    if form is None or inner is None:
        return None
    return lambda: form.on(fold.rw, inner(), f"{fold.name}.q", fold.end)


def _concat(fold: _Fold, node: Node) -> Made | None:
    """6. Q(Concat(x, y)) ⇒ cim.concat(Q(x), Q(y))"""
    parts = [fold.plan(v) for v in node.inputs if v is not None and v.const is None]
    rank = len(node.output.tensor.shape or ())
    if None in parts or len(parts) < len(node.inputs) or not rank:
        return None
    axis = node.int_attr("axis", 1) % rank

    def made() -> Value:
        codes = [part() for part in parts if part is not None]
        return joined(fold.rw, codes, axis, f"{fold.name}.q", fold.end)

    return made


_RULES: dict[str, Callable[[_Fold, Node], Made | None]] = {
    "onnx.Add": _add,
    **dict.fromkeys(_CUT, _cut),
    **dict.fromkeys(LAYOUT, _layout),
    "onnx.Concat": _concat,
}


def _plain(end: Node) -> bool:
    """Whether a quantiser has one scale and makes integers of at most 8 bits from float32."""
    if not isinstance(end.output.type, TensorType) or not _small(end.output):
        return False
    x = end.arg(0)
    if not isinstance(x.type, TensorType) or x.const is not None or x.elem != "f32":
        return False
    if end.op == "cim.quantize":
        return True
    numbers = [v for v in end.inputs[1:] if v is not None]
    one = all(v.const is not None and v.const.size == 1 for v in numbers)
    return one and numbers[0].elem == "f32" and not end.attrs.get("block_size", 0)


def _planned(fold: _Fold) -> Made | None:
    if fold.end.op in QLINEAR:
        return fold.pair()
    return fold.plan(fold.end.arg(0)) if _plain(fold.end) else None


@dataclass(frozen=True)
class FoldLut(Pass):
    """Rules (a, b, q integers of at most 8 bits, d = cim.dequant, Q = QuantizeLinear of one scale
    or, in rules 1 and 2, cim.quantize):
    1. `Q(f(d(q)))`, f any element-wise float operations with constants of one element ⇒
       `cim.lut(q)`, the table found by running f itself on all values of q; a table of a table
       is one table
    2. the same with a table that changes nothing ⇒ q
    3. `Q(d(a) + d(b))` ⇒ `cim.qadd(a, b)`
    4. `Q(Relu(x))`, `Q(Clip(x))` ⇒ `cim.lut(Q(x))`, where rules 3 to 6 take Q(x)
    5. `Q(Reshape(x))` and other layout, `Q(MaxPool(x))` ⇒ the same of Q(x), if a rule takes that
    6. `Q(Concat(x, y))` ⇒ `cim.concat(Q(x), Q(y))`, if rules take both
    7. a table behind a `cim.requant` of its own that only moves and cuts its range ⇒ `cim.requant`
       to that range at once
    8. `QLinearAdd`, `QLinearMul` of q, tables of q and constants of one element ⇒ `cim.lut(q)`

    Tables whose values need fewer bits than the quantiser has are of those, where only layers
    without a zero point read them, through pools and layout.
    """

    name = "fold-lut"
    summary = "turn the float map between two integers of few bits into a table"
    kind = "exact"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        rw = Rewriter(graph)
        for end in [n for n in graph.nodes if n.op in (*_ENDS, *QLINEAR)]:
            made = _planned(_Fold(rw, end))
            if made is None:
                continue
            known = set(rw.made)
            q = made()
            shown = end.output in graph.outputs
            if shown and (q in graph.inputs or q in graph.outputs):
                held = rw.const(f"{end.output.name}.table", all_values(q.elem), q.elem)
                q = rw.op("cim.lut", [q, held], f"{end.output.name}.q", end)  # one of its own
            rw.replace(end.output, q, keep_name=shown or q not in known)
        if rw.changed:
            graph.remove_dead()
            rw.retype()
        return rw.changed
