"""`cimc fmt` and `cimc opt` without passes give back every graph and program of the suite."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from cimc import api
from cimc.cli.main import cli
from cimc.isa.printer import print_program
from cimc.isa.text import parse

TESTS = Path(__file__).parent
GRAPHS = [p for p in sorted(TESTS.glob("**/*.cimir")) if "# error:" not in p.read_text()]
EXPECTED = sorted(TESTS.glob("**/*.expect"))
MODELS = sorted(TESTS.parent.glob("examples/**/*.onnx"))


def _name(path: Path) -> str:
    return str(path.relative_to(TESTS.parent))


def _output(*args: str) -> str:
    result = CliRunner().invoke(cli, args, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("path", [*GRAPHS, *EXPECTED], ids=_name)
def test_graph(path: Path, tmp_path: Path) -> None:
    text = path.read_text()
    copy = tmp_path / "graph.cimir"
    copy.write_text(text)
    assert _output("fmt", str(copy)) == text
    assert _output("opt", str(copy)) == text


@pytest.mark.parametrize("path", MODELS, ids=_name)
def test_compiled_program(path: Path, tmp_path: Path) -> None:
    compiled = api.compile(path)
    compiled.save(tmp_path / "out.cim")
    text = (tmp_path / "out.cim").read_text()
    assert _output("fmt", str(tmp_path / "out.cim")) == text
    assert parse(text) == compiled.program
    assert print_program(compiled.program) == text


@pytest.mark.parametrize("path", MODELS, ids=_name)
def test_graph_of_a_model(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "graph.cimir"
    for pipeline in ("cleanup", "exact", "exact,place"):
        shape = f"image={_shape(path)}"
        copy.write_text(_output("opt", str(path), "-p", pipeline, "--shape", shape))
        assert _output("opt", str(copy)) == copy.read_text()


def _shape(path: Path) -> str:
    (value,) = api.read_graph(path).inputs
    return ",".join(str(d) if isinstance(d, int) else "1" for d in value.tensor.shape or ())
