"""Every pass: its file's name, its summary, its place in the registry, its golden tests."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest

from cimc.driver.base import Pass, PassContext
from cimc.driver.pipeline import parse_pipeline
from cimc.driver.registry import load_registry
from cimc.driver.runner import run_passes
from cimc.ir.text import parse_graph
from cimc.testing.golden import read_test, run_opt

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(p.stem for p in (ROOT / "passes").glob("*.py") if p.stem != "__init__")
PASSES = load_registry().passes
_NUMBERS = re.compile(r"rules? ((?:\d+,? ?(?:and )?)+)")


def test_every_file_is_a_pass_and_every_pass_a_file() -> None:
    assert sorted(n.replace("-", "_") for n in PASSES) == FILES


def test_the_registry_is_in_the_order_of_the_data_flow() -> None:
    """As the pipelines run them, first uses compared."""
    registry = load_registry()
    run = [*parse_pipeline("exact", registry), *parse_pipeline("place", registry)]
    used = list(dict.fromkeys(p.name for p in run))
    assert used == [n for n in registry.passes if n in used]


@pytest.mark.parametrize("name", PASSES)
def test_declaration(name: str) -> None:
    cls = PASSES[name]
    assert cls.__module__ == f"cimc.passes.{name.replace('-', '_')}"
    assert cls.__name__ == name.title().replace("-", "")
    assert issubclass(cls, Pass)
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert cls.kind in ("exact", "approximate", "reading")
    assert re.fullmatch(r"[a-z][^\n]*[^.\n]", cls.summary), "lower case, one line, no full stop"
    assert "Rules" in (cls.__doc__ or ""), "the docstring numbers the rewrite rules"


@pytest.mark.parametrize("name", PASSES)
def test_goldens(name: str) -> None:
    """A folder of golden tests that run the pass and name every one of its rules."""
    folder = Path(__file__).parent / name.replace("-", "_")
    texts = [p.read_text(encoding="utf-8") for p in sorted(folder.glob("*.cimir"))]
    assert texts
    assert all(name in t.split("\n")[0] for t in texts), "each RUN line runs the pass"
    rules = set(re.findall(r"^    (\d+)\. ", PASSES[name].__doc__ or "", re.MULTILINE))
    comments = [line for t in texts for line in t.split("\n")[1:4] if line.startswith("# ")]
    named = {n for line in comments for text in _NUMBERS.findall(line) for n in text.split()}
    missing = rules - {n.strip(",") for n in named}
    assert not missing, f"rules without a golden: {sorted(missing)}"


# random, or in error, on their own
_NOT_RUN = {"random_stays", "dropout_training_stays", "failing_constants_stay"}


@pytest.mark.parametrize("name", [n for n, c in PASSES.items() if c.kind == "exact"])
def test_goldens_keep_every_bit(name: str) -> None:
    """The goldens of an exact pass, run before and after it."""
    for path in sorted((Path(__file__).parent / name.replace("-", "_")).glob("*.cimir")):
        test = read_test(path)
        if not test.annotations and path.stem not in _NOT_RUN:
            code, _, err = run_opt([*test.args, "--check-each"], path)
            assert code == 0, f"{path.name}: {err}"


def test_sums_beyond_float32_stay() -> None:
    """recognise-layers: the positive products of 167,772 u8 and ±1 may sum to 2**24 and more."""
    count = 2**24 // 100
    text = (
        f"graph @g(%x: u8[1,{count}]) -> (%y) {{\n  const %r: bip[{count},1] = random seed=1\n"
        f"  %f = cim.dequant(%x): f32[1,{count}]\n  %w = onnx.Cast(%r) to=1: f32[{count},1]\n"
        "  %y = onnx.MatMul(%f, %w): f32[1,1]\n}\n"
    )
    graph = parse_graph(text)
    passes = parse_pipeline("cleanup,recognise-layers", load_registry())
    run_passes(graph, passes, PassContext())
    layer = graph.nodes[-1]
    assert layer.op == "onnx.MatMul"
    assert "beyond float32's exact integers" in str(layer.why)


@pytest.mark.parametrize("file", FILES)
def test_passes_use_the_public_interface(file: str) -> None:
    """`cimc.driver`, `cimc.ir`, `cimc.frontend`, `cimc.prune`, …; no private names."""
    tree = ast.parse((ROOT / "passes" / f"{file}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cimc"):
            layer = (node.module or "").split(".")[1]
            assert layer in (
                "driver",
                "errors",
                "frontend",
                "ir",
                "prune",
                "similarity",
            ), node.module
            assert not any(a.name.startswith("_") for a in node.names), node.module
