"""Slips of a first day with the commands: swapped, misspelt or misplaced files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_calls import call, fails
from small_models import bnn, save

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Path:
    """A working folder with `net.onnx` and its program `net.cim`."""
    save(bnn(), tmp_path / "net.onnx")
    monkeypatch.chdir(tmp_path)
    assert call(capsys, "compile", "net.onnx", "-o", "net.cim").code == 0
    return tmp_path


def test_misspelt_command(capsys: Capture) -> None:
    result = call(capsys, "compil", "net.onnx")
    assert result.code == 2
    assert "No such command 'compil'. Did you mean 'compile'?" in result.err


@pytest.mark.parametrize(
    "words",
    [
        ["compile", "net.onnx", "-o", "./net.onnx"],
        ["run", "net.cim", "--json", "net.cim"],
        ["inspect", "net.cim", "--json", "net.cim"],
    ],
)
def test_an_output_never_overwrites_an_input(
    folder: Path, capsys: Capture, words: list[str]
) -> None:
    before = [Path("net.onnx").read_bytes(), Path("net.cim").read_bytes()]
    assert "the command reads this file" in fails(capsys, *words)
    assert before == [Path("net.onnx").read_bytes(), Path("net.cim").read_bytes()]


@pytest.mark.parametrize(
    "words",
    [
        ["run", "net.cim", "--json", "no/f.json"],
        ["run", "net.cim", "--output", "no/f.npz"],
        ["compile", "net.onnx", "-o", "no/f.cim"],
        ["inspect", "net.cim", "--floorplan", "no/f.png"],
    ],
)
def test_a_missing_folder_is_reported_before_the_work(
    folder: Path, capsys: Capture, words: list[str]
) -> None:
    result = call(capsys, *words)
    assert (result.code, result.out) == (1, "")
    assert f"{words[-1]}: error: can't write the file: there is no folder 'no'" in result.err


def test_suffixes_of_outputs(folder: Path, capsys: Capture) -> None:
    assert "expected a file .npz" in fails(capsys, "run", "net.cim", "--output", "o.npy")
    assert "expected a file .cim" in fails(capsys, "compile", "net.onnx", "-o", "o.txt")


def test_a_program_where_a_model_is_expected(folder: Path, capsys: Capture) -> None:
    for words in (["compile", "net.cim", "-o", "o.cim"], ["opt", "net.cim"]):
        assert "net.cim: error: is a .cim program, not a model" in fails(capsys, *words)
    message = fails(capsys, "check", "net.cim", "net.onnx")
    assert "help: first the model: cimc check MODEL [PROGRAM]" in message


@pytest.mark.parametrize(
    "words",
    [
        ["check", "net.onnx", "net.cim", "--set", "rows=64"],
        ["check", "net.onnx", "net.cim", "--target", "ideal"],
        ["eval", "net.cim", "--data", "x.npz", "--shape", "x=1,2"],
    ],
)
def test_options_of_the_compiler_do_not_change_a_program(
    folder: Path, capsys: Capture, words: list[str]
) -> None:
    result = call(capsys, *words)
    assert (result.code, result.out) == (2, "")
    assert "a .cim program is compiled already" in result.err


def test_data_of_another_form(folder: Path, capsys: Capture) -> None:
    np.save("one.npy", np.zeros(3))
    assert "an .npz is expected" in fails(capsys, "eval", "net.cim", "--data", "one.npy")
    np.savez("hot.npz", x_test=np.zeros((5, 2)), y_test=np.eye(5))
    message = fails(capsys, "eval", "net.cim", "--data", "hot.npz")
    assert "y_test has the shape [5, 5], not one label a sample" in message
    np.savez("dot.npz", x_test=np.zeros((5, 2)), y_test=np.array(3))
    assert "not one label a sample" in fails(capsys, "eval", "net.cim", "--data", "dot.npz")
