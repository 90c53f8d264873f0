"""The form of one operation: its name, operand count and attributes, before any types.

Shared by the parser and the verifier. Knows the operation table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from cimc.errors import CompileError, Span
from cimc.ir.graph import Graph, Node
from cimc.ir.literals import quote
from cimc.ir.ops import HOST, REQUIRED, TABLE, AttrDef, OpDef
from cimc.ir.types import AnyType, OptType, SeqType, TensorType

Places = Mapping[str, Span]
"""Where in the text each attribute of an operation stands."""

_OP = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)+")
_ATTR = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_KINDS = {
    "int": "an integer",
    "ints": "a list of integers",
    "float": "a float, such as 1.0",
    "str": "a string",
}


def form_problems(node: Node, places: Places | None = None) -> list[CompileError]:
    """What is wrong with an operation's name, operand count and attributes."""
    places = places or {}
    if node.op == HOST:
        return _host_form(node, places)
    if node.domain != "cim":
        return _foreign_form(node, places)
    row = TABLE.get(node.op)
    if row is None:
        known = ", ".join([*TABLE, HOST])
        return [problem(node, f"there is no operation {node.op}", f"the operations are {known}")]
    return _operand_form(node, row) + _attr_form(node, row, places)


def place_of(node: Node) -> Span | str:
    """Where an operation stands: in its text, or `%result = op`."""
    if node.span is not None:
        return node.span
    return f"{', '.join(f'%{v.name}' for v in node.outputs)} = {node.op}"


def problem(node: Node, message: str, help: str | None = None) -> CompileError:
    """An error at an operation."""
    return CompileError(message, place_of(node), help)


def _operand_form(node: Node, row: OpDef) -> list[CompileError]:
    least = sum(not o.optional for o in row.operands)
    most = len(row.operands)
    if not least <= len(node.inputs) <= most:
        count = str(most) if least == most else f"{least} to {most}"
        names = ", ".join(o.name for o in row.operands)
        plural = "" if count == "1" else "s"
        message = f"{node.op} takes {count} operand{plural} ({names}), not {len(node.inputs)}"
        return [problem(node, message)]
    errors = [
        problem(node, f"operand {operand.name} of {node.op} can't be missing")
        for operand, value in zip(row.operands, node.inputs, strict=False)
        if value is None and not operand.optional
    ]
    if len(node.outputs) != 1:
        errors.append(problem(node, f"{node.op} has 1 result, not {len(node.outputs)}"))
    return errors


def _attr_form(node: Node, row: OpDef, places: Places) -> list[CompileError]:
    errors = []
    defs = {a.name: a for a in row.attrs}
    for name, given in node.attrs.items():
        where = places.get(name) or place_of(node)
        if name not in defs:
            known = f"its attributes are {', '.join(defs)}" if defs else "it has none"
            errors.append(CompileError(f"{node.op} has no attribute `{name}`", where, known))
        elif not _is_kind(given, defs[name].kind):
            wanted = _KINDS[defs[name].kind]
            errors.append(CompileError(f"`{name}` of {node.op} must be {wanted}", where))
        elif defs[name].choices and given not in defs[name].choices:
            errors.append(CompileError(_choices(node, defs[name], given), where))
    for name, attr in defs.items():
        if attr.default is REQUIRED and name not in node.attrs:
            errors.append(problem(node, f"{node.op} needs the attribute `{name}`"))
    return errors


def _is_kind(given: Any, kind: str) -> bool:
    if kind == "ints":
        return isinstance(given, tuple) and all(type(i) is int for i in given)
    types = {"int": int, "float": float, "str": str}
    return type(given) is types[kind]


def _choices(node: Node, attr: AttrDef, given: Any) -> str:
    def spelled(x: Any) -> str:
        return quote(x) if isinstance(x, str) else str(x)

    choices = ", ".join(spelled(c) for c in attr.choices)
    return f"`{attr.name}` of {node.op} is one of {choices}, not {spelled(given)}"


def _host_form(node: Node, places: Places) -> list[CompileError]:
    errors = [
        CompileError(f"{HOST} has no attribute `{name}`", places.get(name) or place_of(node))
        for name in node.attrs
        if name != "body"
    ]
    body = node.attrs.get("body")
    if not isinstance(body, Graph):
        return [*errors, problem(node, f"{HOST} needs the attribute `body`, a graph")]
    if len(node.inputs) != len(body.inputs):
        have, want = len(node.inputs), len(body.inputs)
        errors.append(problem(node, f"{HOST} has {have} operands, its body {want} inputs"))
    if len(node.outputs) != len(body.outputs):
        have, want = len(node.outputs), len(body.outputs)
        errors.append(problem(node, f"{HOST} has {have} results, its body {want} outputs"))
    return errors


def _foreign_form(node: Node, places: Places) -> list[CompileError]:
    """An operation without a row: it must be one that the text can hold."""
    errors = []
    if not _OP.fullmatch(node.op):
        errors.append(problem(node, f"`{node.op}` is not an operation's name"))
    for name, given in node.attrs.items():
        where = places.get(name) or place_of(node)
        if not _ATTR.fullmatch(name):
            errors.append(CompileError(f"`{name}` is not an attribute's name", where))
        if not _is_attr(given):
            kind = type(given).__name__
            errors.append(CompileError(f"`{name}` of {node.op} can't be a {kind}", where))
    return errors


def _is_attr(given: Any) -> bool:
    if isinstance(given, tuple):
        kinds = {type(item) for item in given}
        return len(kinds) <= 1 and kinds <= {int, float, str, Graph}
    if isinstance(given, np.ndarray | Graph | TensorType | SeqType | OptType | AnyType):
        return True
    return type(given) in (int, float, str)
