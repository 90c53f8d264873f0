"""`cimc run --target --set`: other costs for a program that is compiled already."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import cimc
from cimc.cli.main import cli
from cimc.errors import CompileError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The digits network for a target of the user's own."""
    text = (ROOT / "targets" / "digital-rram-180nm.toml").read_text()
    text = text.replace('name = "digital-rram-180nm"', 'name = "mine"')
    (tmp_path / "mine.toml").write_text(text.replace("value = 0.13", "value = 0.26"))
    model = ROOT / "examples" / "digits" / "digits_bnn.onnx"
    path = tmp_path / "digits.cim"
    cimc.compile(model, target=str(tmp_path / "mine.toml")).save(path)
    return path


def _run(program: Path, *options: str) -> Result:
    numbers = program.with_suffix(".json")
    return CliRunner().invoke(cli, ["run", str(program), "--json", str(numbers), *options])


def _energy(program: Path, *options: str) -> float:
    result = _run(program, *options)
    assert result.exit_code == 0, result.output
    found: float = json.loads(program.with_suffix(".json").read_text())["energy_pj"]["infer"]
    return found


def test_unknown_target_is_said(program: Path) -> None:
    assert "target 'mine' is not known here" in _run(program).output
    own = str(program.with_name("mine.toml"))
    assert "note:" not in _run(program, "--target", own).output


def test_costs_of_another_target(program: Path) -> None:
    default = _energy(program)
    own = _energy(program, "--target", str(program.with_name("mine.toml")))
    assert own > default
    halved = _energy(program, "--set", "energy.sense=0", "--set", "energy.latch=0")
    assert halved < default


def test_geometry_stays(program: Path) -> None:
    result = _run(program, "--set", "rows=3")
    assert isinstance(result.exception, CompileError)
    assert "only costs can change" in str(result.exception)
