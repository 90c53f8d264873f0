"""`cimc prune-report`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from cli_calls import call, fails
from small_models import bnn, cut, save

pytest.importorskip("matplotlib", reason="pictures need the extra `plot`")

Capsys = pytest.CaptureFixture[str]
MNIST = Path(__file__).parents[2] / "examples" / "mnist" / "mnist_bnn.onnx"


@pytest.fixture
def dense(tmp_path: Path) -> str:
    return save(bnn(), tmp_path / "dense.onnx")


@pytest.fixture
def pruned(tmp_path: Path) -> str:
    return save(cut(bnn(), [0, 2, 3]), tmp_path / "pruned.onnx")


@pytest.fixture
def curve(tmp_path: Path) -> str:
    path = tmp_path / "curve.json"
    path.write_text(json.dumps([{"label": "a", "points": [[0, 0.98], [0.4, 0.9]]}]))
    return str(path)


@pytest.mark.parametrize("format", ["png", "svg"])
def test_two_models(
    capsys: Capsys, tmp_path: Path, dense: str, pruned: str, curve: str, format: str
) -> None:
    out = tmp_path / "made" / "report"
    result = call(
        capsys, "prune-report", dense, pruned, "-o", out, "--curve", curve, "--format", format
    )
    assert result.code == 0, result.err
    assert "conv: 1 of 4 kernels removed" in result.out
    assert "operations removed: 25.0 % of convolutions, 25.0 % of all layers" in result.out
    assert sorted(path.name for path in out.iterdir()) == [
        f"accuracy.{format}", "index.html", f"kernels.conv.{format}", f"operations.{format}",
        f"similarity.conv.{format}", f"similarity.fc.{format}",
    ]  # fmt: skip
    page = (out / "index.html").read_text()
    assert page.count("<img") == 5
    assert "conv: 1 of 4 kernels removed" in page


def test_a_model_and_passes(capsys: Capsys, tmp_path: Path) -> None:
    """The report has the kernels that the pass says it removed."""
    spec = "prune-similar{layers=conv2,b=0.02,c=0.42}"
    result = call(capsys, "prune-report", MNIST, "-p", spec, "-o", tmp_path / "out")
    assert result.code == 0, result.err
    assert (tmp_path / "out" / "similarity.conv2.png").exists()
    shown = next(line for line in result.out.splitlines() if line.startswith("conv2: "))
    gone = int(shown.split()[1])
    assert 0 < gone < 64
    assert f"conv2 {gone} of 64" in result.out


def test_curves_alone(capsys: Capsys, tmp_path: Path, curve: str) -> None:
    assert call(capsys, "prune-report", "--curve", curve, "-o", tmp_path / "out").code == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["accuracy.png", "index.html"]


def test_mistakes(capsys: Capsys, tmp_path: Path, dense: str, pruned: str) -> None:
    out = tmp_path / "out"
    gone = tmp_path / "gone.onnx"
    assert "no such file" in fails(capsys, "prune-report", dense, gone, "-o", out)
    assert "no layer of the dense model is in it" in fails(
        capsys, "prune-report", MNIST, pruned, "-o", out
    )
    assert "layer 'conv': error: has 4 kernels, more than the 3" in fails(
        capsys, "prune-report", pruned, dense, "-o", out
    )
    missing = tmp_path / "gone.json"
    assert "gone.json: error:" in fails(capsys, "prune-report", "--curve", missing, "-o", out)
    assert "is a file" in fails(capsys, "prune-report", dense, pruned, "-o", f"{dense}/out")
    assert not out.exists(), "nothing is written"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give a model, or at least --curve"),
        (("a.onnx",), "give the pruned model too, or the passes"),
        (("a.onnx", "b.onnx", "-p", "cleanup"), "not both"),
        (("a.onnx", "b.onnx", "--format", "gif"), "'gif' is not one of 'png', 'svg'"),
    ],
)
def test_wrong_usage(
    capsys: Capsys, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = call(capsys, "prune-report", *arguments, "-o", tmp_path / "out")
    assert result.code == 2
    assert message in result.err


def test_without_matplotlib(
    capsys: Capsys, tmp_path: Path, dense: str, pruned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    message = fails(capsys, "prune-report", dense, pruned, "-o", tmp_path / "out")
    assert "help: pip install 'cimc[plot]'" in message
