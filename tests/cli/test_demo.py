"""`cimc demo`: what it prints, what it leaves, and that the commands it names work."""

from __future__ import annotations

import re
import shlex
import tempfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cimc.cli.main import cli
from cimc.errors import CompileError

DATA = Path(__file__).parents[2] / "examples" / "digits" / "digits_test.npz"


def _demo(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(cli, ["demo"])
    assert result.exit_code == 0, result.output
    return result.output


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = _demo(tmp_path, monkeypatch)
    assert "bit-exact: yes" in output
    assert "top-1 97.78 % (440/450)" in output
    left = re.findall(r"^  (digits\S*)  ", output, re.MULTILINE)
    assert sorted(left) == sorted(path.name for path in tmp_path.iterdir())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert _demo(tmp_path, monkeypatch) == output
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name in ("digits.cim", "digits.onnx", "digits-floorplan.png", "digits-counts.json"):
        assert after[name] == before[name]


def test_the_commands_it_names_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = _demo(tmp_path, monkeypatch)
    commands = re.findall(r"^  cimc (.*?)  ", output, re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        result = CliRunner().invoke(cli, shlex.split(command))
        assert result.exit_code == 0, f"{command}: {result.output}"


def test_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    result = CliRunner().invoke(cli, ["demo"])
    assert isinstance(result.exception, CompileError)
    assert "Permission denied" in str(result.exception)
    assert "run it in one of your own" in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_its_images_are_those_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    selection = pytest.importorskip("sklearn.model_selection")
    digits = datasets.load_digits()
    _, images, _, labels = selection.train_test_split(
        digits.images, digits.target, test_size=0.25, random_state=0, stratify=digits.target
    )
    with np.load(DATA) as data:
        assert np.array_equal(data["x_test"][:, 0], images)
        assert np.array_equal(data["y_test"], labels)
