"""`python -m cimc.train` in the test's own process, and what its results must hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from cimc.cli.main import cli
from cimc.train.__main__ import command


def train(*arguments: object) -> str:
    """What the command says; it must succeed. CompileErrors pass."""
    done = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def measured(out: Path, data: Path) -> dict[str, Any]:
    """The figures of a run; its program holds against its model and evaluates to them."""
    figures: dict[str, Any] = json.loads((out / "result.json").read_text())
    checked = CliRunner().invoke(cli, ["check", str(out / "model.onnx"), str(out / "model.cim")])
    assert "bit-exact: yes" in checked.output, checked.output
    evaluated = CliRunner().invoke(cli, ["eval", str(out / "model.cim"), "--data", str(data)])
    assert f"({figures['right']}/{figures['samples']})" in evaluated.output, evaluated.output
    assert figures["same_class_as_module"] == figures["samples"]
    return figures
