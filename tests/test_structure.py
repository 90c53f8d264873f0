"""The shape of the code base: layers, sizes, and what the README promises about them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("cimc/**/*.py"), *ROOT.glob("passes/*.py")])

# Earlier layers know nothing of later ones. `isa` is data and its meaning: the backend builds
# programs of it, the interpreter runs them.
LAYERS = (
    "checkout", "errors", "textfile", "similarity", "ir", "frontend", "driver", "prune", "passes",
    "isa", "backend", "sim", "cost", "oracle", "api", "report", "train", "bench", "cli", "testing",
)  # fmt: skip


def _layer(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "passes" else parts[1]


def _imported(path: Path) -> set[str]:
    """Layers that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        for name in names:
            if re.match(r"cimc\.\w+", name) and name.split(".")[1] in LAYERS:
                found.add(name.split(".")[1])
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    layer = _layer(path)
    if layer in ("__init__", "testing"):  # the package's face; the plug-in drives the CLI
        return
    assert layer in LAYERS, f"{layer} is no known layer"
    later = {name for name in _imported(path) if LAYERS.index(name) > LAYERS.index(layer)}
    assert not later, f"{layer} must not import {later}"


def test_core_never_imports_the_passes() -> None:
    users = [p for p in SOURCES if _layer(p) != "passes" and "passes" in _imported(p)]
    assert users == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 440


def test_readme_names_every_folder() -> None:
    readme = (ROOT / "README.md").read_text()
    folders = {p.parent.relative_to(ROOT) for p in SOURCES} | {Path("targets"), Path("tests")}
    missing = [str(folder) for folder in sorted(folders) if f"{folder}/" not in readme]
    assert missing == []
