"""`cimc inspect --macs` and `--diff`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_calls import call, fails
from small_models import bnn, cut, save, zeroed

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def dense(tmp_path: Path) -> str:
    return save(bnn(), tmp_path / "dense.onnx")


@pytest.fixture
def pruned(tmp_path: Path) -> str:
    return save(cut(bnn(), [0, 2, 3]), tmp_path / "pruned.onnx")


def _program(capsys: Capsys, model: str) -> str:
    path = str(Path(model).with_suffix(".cim"))
    assert call(capsys, "compile", model, "-o", path).code == 0
    return path


def test_operations_of_a_model(capsys: Capsys, dense: str) -> None:
    """4 kernels of 9 taps at 16 positions, and 3 of 64."""
    out = call(capsys, "inspect", dense, "--macs").out
    assert "convolutions: 576 MACs, 576 of them effective: 0.0 % removed" in out
    assert "all layers: 768 MACs" in out


def test_zeros_without_an_original(capsys: Capsys, tmp_path: Path) -> None:
    model = save(zeroed(bnn(), [1]), tmp_path / "zeroed.onnx")
    out = call(capsys, "inspect", model, "--macs").out
    assert "576 MACs, 432 of them effective: 25.0 % removed; 25.0 % of the weights zero" in out
    assert "in both sums): 25.0 % removed" in out


@pytest.mark.parametrize("compiled", [False, True])
def test_against_the_original(
    capsys: Capsys, tmp_path: Path, dense: str, pruned: str, compiled: bool
) -> None:
    """The convolution loses a quarter of its kernels, the layer behind it as many inputs; a
    program has the same counts."""
    file = _program(capsys, pruned) if compiled else pruned
    numbers = tmp_path / "macs.json"
    result = call(capsys, "inspect", file, "--macs", "--against", dense, "--json", numbers)
    assert "432 of 576 MACs, 432 of them effective: 25.0 % removed" in result.out
    assert "576 of 768 MACs" in result.out
    assert "3 of 4" in result.out
    assert "48 of 64" in result.out
    found = json.loads(numbers.read_text())
    assert found["published_definition"]["removed"] == 0.25
    assert found["all"]["removed"] == 0.25
    assert found["convolutions"]["zero_share"] == 0.25
    assert [layer["name"] for layer in found["layers"]] == ["conv", "fc"]


def test_passes_are_held_against_the_model(capsys: Capsys, dense: str) -> None:
    result = call(capsys, "inspect", dense, "--macs", "-p", "auto")
    assert f"{dense} against {dense}" in result.out
    assert "all layers: 768 of 768 MACs" in result.out


def test_difference(capsys: Capsys, tmp_path: Path, dense: str, pruned: str) -> None:
    before, after = _program(capsys, dense), _program(capsys, pruned)
    numbers = tmp_path / "diff.json"
    result = call(capsys, "inspect", "--diff", before, after, "--json", numbers)
    assert result.code == 0, result.err
    assert "36→27" in result.out, "cells of the convolution"
    assert "Micro-operations by family" in result.out
    found = json.loads(numbers.read_text())
    rows = [found[side]["layers"]["conv"]["rows"] for side in ("before", "after")]
    assert rows == [4, 3]
    assert found["ratio"]["micro-ops"] < 1
    assert found["ratio"]["energy"] < 1


def test_difference_compiles_models(capsys: Capsys, dense: str, pruned: str) -> None:
    result = call(capsys, "inspect", "--diff", dense, pruned, "--set", "cols=32")
    assert "36→27" in result.out


def test_mistakes(capsys: Capsys, tmp_path: Path, dense: str, pruned: str) -> None:
    assert "no such file" in fails(capsys, "inspect", "--macs", tmp_path / "none.onnx")
    gone = tmp_path / "gone.onnx"
    assert "gone.onnx: error: no such file" in fails(
        capsys, "inspect", "--macs", pruned, "--against", gone
    )
    assert "gone.cim: error: can't read the program" in fails(
        capsys, "inspect", "--diff", tmp_path / "gone.cim", _program(capsys, dense)
    )
    swapped = fails(capsys, "inspect", "--macs", dense, "--against", pruned)
    assert "layer 'conv': error: has 4 kernels, more than the 3 of the dense model" in swapped
    assert "layer 'fc': error: has 64 inputs" in swapped


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--against", "x.onnx"), "--against is what --macs compares with"),
        (("--macs", "--engine"), "shown one at a time"),
        (("--macs", "--diff", "x.cim"), "shown one at a time"),
        (("--diff", "x.cim", "--floorplan", "x.png"), "shown one at a time"),
    ],
)
def test_wrong_usage(capsys: Capsys, dense: str, arguments: tuple[str, ...], message: str) -> None:
    result = call(capsys, "inspect", dense, *arguments)
    assert result.code == 2
    assert message in result.err


def test_programs_take_no_options_of_compilation(capsys: Capsys, dense: str, pruned: str) -> None:
    program = _program(capsys, dense)
    for arguments in (("--macs",), ("--diff", pruned)):
        result = call(capsys, "inspect", program, *arguments, "--set", "rows=32")
        assert result.code == 2
        assert "compiled already" in result.err
