"""Accuracy on all MNIST test images, through `cimc eval`. The images lie beside the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import cimc
from cimc.cli.main import cli

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
MNIST = SHARED / "data" / "mnist.npz"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MNIST.exists(), reason="needs ../shared/data/mnist.npz"),
]


def _eval(model: Path, folder: Path, *options: str) -> str:
    program = folder / "out.cim"
    cimc.compile(model).save(program)
    result = CliRunner().invoke(cli, ["eval", str(program), "--data", str(MNIST), *options])
    assert result.exit_code == 0, result.output
    return result.output.strip()


def test_mnist_example(tmp_path: Path) -> None:
    model = ROOT / "examples" / "mnist" / "mnist_bnn.onnx"
    shown = _eval(model, tmp_path)
    assert float(shown.split()[1]) >= 98.0, shown


def test_fully_connected_network_of_the_qonnx_zoo(tmp_path: Path) -> None:
    model = SHARED / "models" / "qonnx_zoo_TFC_1W1A.onnx"
    if not model.exists():
        pytest.skip("needs ../shared/models")
    assert _eval(model, tmp_path, "--scale", "unit") == "top-1 92.96 % (9296/10000)"
