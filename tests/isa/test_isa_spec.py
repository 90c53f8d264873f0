"""SPEC.md says what the code does: its examples are valid, its rows are the table's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cimc.isa
from cimc.isa.check import check
from cimc.isa.check.cells import MAX_RECTANGLES
from cimc.isa.check.declarations import MAX_CELLS, MAX_ELEMENTS, MAX_SIDE
from cimc.isa.check.operands import MAX_BANK
from cimc.isa.check.rules import MAX_SHIFT
from cimc.isa.check.stores import MAX_BITS
from cimc.isa.printer import print_program
from cimc.isa.settings import SETTINGS
from cimc.isa.table import ROWS, Row
from cimc.isa.text import parse

SPEC = (Path(cimc.isa.__file__).parent / "SPEC.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```cim\n(.*?)```", SPEC, re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_are_canonical_and_valid(text: str) -> None:
    program = parse(text, "SPEC.md")
    check(program, "SPEC.md")
    assert print_program(program) == text


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 6


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_each_row_of_the_table_is_a_row_of_the_spec(row: Row) -> None:
    operands = ", ".join(f"{p.name}: {p.kind}" for p in row.params)
    options = ", ".join(f"{o.name}={'…' if o.default is None else o.default}" for o in row.opts)
    counters = ", ".join(c.name if c.static else f"{c.name}*" for c in row.counters)
    cells = (f"`{row.name}`", operands, options or "–", row.summary, counters,
             ", ".join(row.sections))  # fmt: skip
    assert f"| {' | '.join(cells)} |\n" in SPEC


def test_the_spec_has_no_other_instructions() -> None:
    names = re.findall(r"^\| `([a-z_.]+)` \|", SPEC, re.MULTILINE)
    assert names == [row.name for row in ROWS]


@pytest.mark.parametrize("directive", SETTINGS)
def test_each_setting_is_in_the_spec(directive: str) -> None:
    line = next(line for line in SPEC.splitlines() if line.startswith(f"| `.{directive} ")
                and "host" not in line.split("|")[1])  # fmt: skip
    for setting in SETTINGS[directive]:
        default = "" if not setting.default else str(setting.default)
        assert f" {setting.name}={default}" in line.split("|")[1]


def test_limits_are_those_of_the_checks() -> None:
    assert f"`rows` and `cols` 1 … {MAX_SIDE}" in SPEC
    assert f"`shl` 0 … {MAX_SHIFT}" in SPEC
    assert SPEC.count(f"at most {MAX_BITS}") == 2
    powers = (MAX_CELLS, MAX_ELEMENTS, MAX_BANK, MAX_RECTANGLES)
    limits = next(line for line in SPEC.splitlines() if line.startswith("- *Limits.*"))
    assert [2 ** int(power) for power in re.findall(r"2\*\*(\d+)", limits)] == list(powers)
