"""The README's Python for training runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs PyTorch: the extra `train`")

README = Path(__file__).parents[2] / "README.md"


def test_training_a_module_of_your_own() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (source,) = [block for block in blocks if "SimilarityPruner" in block]
    names: dict[str, object] = {}
    exec(compile(source, "README.md", "exec"), names)
    pruner = names["pruner"]
    assert 0.6 <= pruner.macs().removed < 0.75  # type: ignore[attr-defined]
    assert names["onnx_model"].graph.node  # type: ignore[attr-defined]
