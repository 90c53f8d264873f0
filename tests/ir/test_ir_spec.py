"""SPEC.md says what the code does: its examples run, its index is the table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cimc.ir
from cimc.ir.graph import same_graph
from cimc.ir.literals import float_text, quote
from cimc.ir.ops import REQUIRED, ROWS, AttrDef, OpDef, Operand
from cimc.ir.printer import print_graph
from cimc.ir.text import parse_graph
from cimc.ir.verify import verify

SPEC = (Path(cimc.ir.__file__).parent / "SPEC.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```cimir\n(.*?)```", SPEC, re.DOTALL)


def row(op: OpDef) -> str:
    """The line of SPEC.md for one operation."""
    operands = ", ".join(_operand(o) for o in op.operands)
    attrs = " ".join(f"`{_attr(a)}`" for a in op.attrs)
    return f"| `{op.name}({operands})` | {attrs} | {op.summary} | `{op.example}` |"


def _operand(operand: Operand) -> str:
    kind = {"int": "", "num": " num", "any": " any"}[operand.kind]
    const = " const" if operand.const else ""
    return f"{operand.name}{kind}{const}{' optional' if operand.optional else ''}"


def _attr(attr: AttrDef) -> str:
    if attr.choices:
        shown = [quote(c) if isinstance(c, str) else str(c) for c in attr.choices]
        kind = "/".join(shown)
    else:
        kind = attr.kind
    if attr.default is REQUIRED:
        return f"{attr.name}: {kind}"
    return f"{attr.name}: {kind} = {_default(attr.default)}"


def _default(value: object) -> str:
    if isinstance(value, tuple):
        return "[]"
    if isinstance(value, str):
        return quote(value)
    return float_text(value) if isinstance(value, float) else str(value)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda t: re.search(r"@(\w+)", t)[1])
def test_example_round_trips(text: str) -> None:
    graph = parse_graph(text, "SPEC.md")
    verify(graph)
    assert print_graph(graph) == text
    assert same_graph(parse_graph(print_graph(graph, comments=False)), graph)


@pytest.mark.parametrize("op", ROWS, ids=lambda op: op.name)
def test_index_has_the_row(op: OpDef) -> None:
    assert row(op) in SPEC.split("\n")


@pytest.mark.parametrize("op", ROWS, ids=lambda op: op.name)
def test_row_example_is_canonical(op: OpDef) -> None:
    result, _, call = op.example.partition(" = ")
    values = dict.fromkeys(re.findall(r"%\w+", call))
    inputs = ", ".join(f"{v}: any" for v in values)
    text = f"graph @g({inputs}) -> ({result}) {{\n  {op.example}\n}}\n"
    assert print_graph(parse_graph(text)) == text


def test_index_has_no_other_rows() -> None:
    named = re.findall(r"^\| `(cim\.\w+)\(", SPEC, re.MULTILINE)
    assert named == [op.name for op in ROWS]
