"""Checks a graph against the language: names, order, types, constants, places.

Runs after every pass. Knows the operation table; nothing of passes and targets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from cimc.errors import CompileError, Span, raise_all
from cimc.ir import literals
from cimc.ir.form import form_problems, place_of, problem
from cimc.ir.graph import Graph, Node, Place, Value
from cimc.ir.kernels import kernel_shape
from cimc.ir.ops import HOST, LAYERS, TABLE, OpDef, present
from cimc.ir.rules import Misfit, compatible
from cimc.ir.types import (
    AnyType,
    OptType,
    SeqType,
    TensorType,
    Type,
    container,
    is_elem,
    is_float,
    is_integer,
)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


def verify(graph: Graph) -> None:
    """Raise all that is wrong with a graph, each with its place in the text it came from,
    or `%result = op` where there is none."""
    checker = _Checker()
    checker.graph(graph, {}, outermost=True)
    raise_all(checker.errors)


# -- whole graphs --


class _Checker:
    def __init__(self) -> None:
        self.errors: list[CompileError] = []

    def error(self, message: str, where: Span | str | None, help: str | None = None) -> None:
        self.errors.append(CompileError(message, where, help))

    def graph(self, graph: Graph, outer: dict[str, Value], outermost: bool = False) -> None:
        """Check one graph; outer: the values around it, by name."""
        if not _NAME.fullmatch(graph.name):
            self.error(f"`{graph.name}` is not a graph's name", graph.span or "graph")
        place = graph.span or f"graph @{graph.name}"
        if graph.opsets and not outermost:
            self.error("only the outermost graph has `opset`", place)
        if graph.places and not outermost:
            self.error("only the outermost graph has places", place)
        self._interface(graph, place)
        defined = dict(outer)
        for value in [*graph.inputs, *graph.consts]:
            self._define(value, defined)
        for value in graph.consts:
            self._const(value)
        for value in graph.inputs:
            if value.const is not None:
                self.error(f"%{value.name} is an input and can't have elements", value.span)
        for node in graph.nodes:
            self._node(node, defined)
        for value in graph.outputs:
            self._use(value, defined, place, "output")
        if self.errors:
            return  # a place is checked against a sound layer
        layers = _layers(graph) if graph.places else {}
        for statement in graph.places:
            self._place(statement, layers.get(statement.value))

    def _interface(self, graph: Graph, place: Span | str) -> None:
        for what, names, values in (
            ("input", graph.input_names, graph.inputs),
            ("output", graph.output_names, graph.outputs),
        ):
            if names and len(names) != len(values):
                self.error(f"{len(names)} {what} names for {len(values)} {what}s", place)
            elif len(set(names)) < len(names):
                self.error(f"two {what}s have one ONNX name", place)

    def _define(self, value: Value, defined: dict[str, Value]) -> None:
        where = value.span or f"%{value.name}"
        if not _NAME.fullmatch(value.name):
            self.error(f"`{value.name}` is not a value's name", where)
        if value.name in defined:
            self.error(f"%{value.name} is defined twice", where)
        wrong = _type_problem(value.type)
        if wrong:
            self.error(f"%{value.name}: {wrong}", where)
        defined[value.name] = value

    def _use(
        self, value: Value, defined: dict[str, Value], where: Span | str | None, what: str
    ) -> None:
        if defined.get(value.name) is not value:
            self.error(f"{what} %{value.name} is not defined before", where)

    # constants

    def _const(self, value: Value) -> None:
        where = value.span or f"const %{value.name}"
        if value.const is None:
            self.error(f"constant %{value.name} has no elements", where)
            return
        if not isinstance(value.type, TensorType) or value.type.static is None:
            self.error(f"a constant needs a known shape, not {value.type}", where)
            return
        if not is_elem(value.type.elem):
            return
        dtype = container(value.type.elem)
        if value.const.dtype != dtype or value.const.shape != value.type.static:
            have = f"{value.const.dtype}{list(value.const.shape)}"
            want = f"{dtype}{list(value.type.static)}"
            message = f"constant %{value.name}: {value.type} is held as {want}, not {have}"
            self.error(message, where)
            return
        wrong = literals.range_problem(value.const, value.type.elem)
        if wrong:
            self.error(f"constant %{value.name}: {wrong}", where)
        if value.seed is not None and not _is_draw(value):
            message = f"constant %{value.name} differs from its seed's elements"
            self.error(message, where, "clear `seed` when `const` changes")

    # operations

    def _node(self, node: Node, defined: dict[str, Value]) -> None:
        where = place_of(node)
        for value in node.inputs:
            if value is not None:
                self._use(value, defined, where, "operand")
        for graph in node.graphs():
            self.graph(graph, defined)
        if not node.outputs:
            self.error("an operation has at least one result", where)
        for value in node.outputs:
            self._define(value, defined)
            if value.const is not None:
                self.error(f"%{value.name} is a result and can't have elements", where)
        problems = form_problems(node)
        self.errors += problems
        if problems:
            return
        if node.op == HOST:
            self._host(node)
        elif node.op in TABLE:
            self._native(node, TABLE[node.op])

    def _native(self, node: Node, row: OpDef) -> None:
        """Operand kinds, the type rule, and the stated result types."""
        before = len(self.errors)
        types: list[TensorType | None] = []
        for operand, value in zip(row.operands, node.inputs, strict=False):
            if value is None:
                types.append(None)
                continue
            name = f"operand {operand.name} of {node.op}, %{value.name},"
            if not isinstance(value.type, TensorType) or not _fits(value.type.elem, operand.kind):
                kind = {"int": "an integer tensor", "num": "a tensor of numbers"}
                wanted = kind.get(operand.kind, "a tensor")
                self.errors.append(problem(node, f"{name} must be {wanted}, not {value.type}"))
                continue
            if operand.const and value.const is None:
                self.errors.append(problem(node, f"{name} must be a constant"))
            types.append(value.type)
        if len(self.errors) > before:
            return
        try:
            attrs = row.full_attrs(node.attrs)
            results = row.types(present(types), attrs)
            if row.constants is not None:
                row.constants(types, attrs, [v and v.const for v in node.inputs])
        except Misfit as misfit:
            self.errors.append(problem(node, f"{node.op}: {misfit}"))
            return
        self._compare(node, results, "the operands make")

    def _compare(self, node: Node, types: Sequence[Type], why: str) -> None:
        for value, type_ in zip(node.outputs, types, strict=True):
            if not compatible(value.type, type_):
                message = f"%{value.name} is stated as {value.type}, {why} {type_}"
                self.errors.append(problem(node, message))

    def _host(self, node: Node) -> None:
        body = node.attrs["body"]
        assert isinstance(body, Graph)
        for outer, inner in zip(node.inputs, body.inputs, strict=True):
            if outer is None:
                self.errors.append(problem(node, f"an operand of {HOST} can't be missing"))
            elif not compatible(outer.type, inner.type):
                message = f"operand %{outer.name} is {outer.type}, the body takes {inner.type}"
                self.errors.append(problem(node, message))
        captured = body.captured()
        if captured:
            message = f"the body of {HOST} uses %{captured[0].name}, which is not its own"
            self.errors.append(problem(node, message, "pass it as an operand"))
        self._compare(node, [v.type for v in body.outputs], "the body gives")

    # places

    def _place(self, place: Place, layer: Node | None) -> None:
        """layer: the first one whose kernel is placed."""
        where = place.span or f"place %{place.value.name}"
        if layer is None:
            message = f"%{place.value.name} is not the constant kernel of a layer"
            self.error(message, where, "only weights of cim.conv and cim.matmul are placed")
            return
        if place.width < 1 or place.per_tile < 1:
            self.error("width and per_tile must be at least 1", where)
            return
        kernel = kernel_shape(layer, place.width)
        first, end = place.channels
        if not 0 <= first < end <= kernel.channels:
            message = f"channels {first}:{end} are not within the kernel's 0:{kernel.channels}"
            self.error(message, where)
        blocks, last = kernel.blocks(place.width), place.first + place.count
        if not 0 <= place.first < last <= blocks:
            message = f"blocks {place.first}:{last} are not within the kernel's 0:{blocks}"
            self.error(message, where)
        if place.tile is None and place.row:
            self.error("a place with a row needs a tile", where)
        if place.row < 0 or (place.tile or 0) < 0:
            self.error("tile and row must be at least 0", where)


def _layers(graph: Graph) -> dict[Value, Node]:
    """The first layer of each constant kernel."""
    consts, found = set(graph.consts), dict[Value, Node]()
    for node in graph.nodes:
        kernel = node.inputs[1] if node.op in LAYERS else None
        if kernel in consts:
            found.setdefault(kernel, node)
    return found


def _fits(elem: str, kind: str) -> bool:
    return is_integer(elem) or (kind == "num" and is_float(elem))


def _is_draw(value: Value) -> bool:
    assert value.seed is not None
    assert value.const is not None
    try:
        drawn = literals.draw(value.tensor, value.seed)
    except ValueError:
        return False
    return drawn.tobytes() == np.ascontiguousarray(value.const).tobytes()


def _type_problem(type_: Type) -> str | None:
    if isinstance(type_, SeqType | OptType):
        return _type_problem(type_.elem)
    if isinstance(type_, AnyType):
        return None
    if not is_elem(type_.elem):
        return f"`{type_.elem}` is not an element type"
    for dim in type_.shape or ():
        if isinstance(dim, int) and dim < 0:
            return f"a size can't be negative: {type_}"
        if isinstance(dim, str) and dim != "?" and not _NAME.fullmatch(dim):
            return f"`{dim}` is not a dimension's name"
    return None
