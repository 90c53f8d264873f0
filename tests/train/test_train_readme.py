"""The README's Python for training runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="needs PyTorch: the extra `train`")
from train_nets import write_npz

from cimc.train.__main__ import command

README = Path(__file__).parents[2] / "README.md"


def _block(word: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (source,) = [block for block in blocks if word in block]
    return str(source)


def test_a_preset_of_your_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(_block("PRESETS ="))
    images = write_npz(tmp_path / "images.npz", 400, 10, 28)
    options = ["digits", "--preset", "small", "--plugin", tmp_path / "mine.py", "--data", images]
    options += ["--out", tmp_path / "out", "--epochs", 2]
    result = CliRunner().invoke(command, [str(one) for one in options])
    assert result.exit_code == 0, f"{result.output}{result.exception}"
    figures = json.loads((tmp_path / "out" / "result.json").read_text())
    assert figures["same_class_as_module"] == figures["samples"] == 60
    assert 0.5 <= figures["convolutions"]["removed"] < 0.7
    assert set(figures["kernels"]) == {"layers.0", "layers.3"}


def test_training_a_module_of_your_own() -> None:
    source = _block("pruner.attach")
    names: dict[str, object] = {}
    exec(compile(source, "README.md", "exec"), names)
    pruner = names["pruner"]
    assert 0.6 <= pruner.macs().removed < 0.75  # type: ignore[attr-defined]
    assert names["onnx_model"].graph.node  # type: ignore[attr-defined]
