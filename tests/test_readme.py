"""The README shows what the commands print, and its Python runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from cimc.cli.main import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"```console\n\$ cimc (.*?)\n(.*?)```", README, re.DOTALL)
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
GOLDEN = re.findall(r"```\n(# RUN: .*?)```", README, re.DOTALL)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder with the examples in it."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)


def _run(command: str) -> str:
    result = CliRunner().invoke(cli, shlex.split(command))
    assert result.exit_code == 0, f"cimc {command}: {result.output} {result.exception}"
    return result.output


def _lines(text: str) -> list[str]:
    """Without the float outputs of the host, whose last digits depend on the processor."""
    lines = [line.rstrip() for line in text.strip("\n").split("\n")]
    return [line for line in lines if "float32[" not in line]


def test_tour() -> None:
    assert [command.split()[0] for command, _ in SHOWN] == [
        "compile", "run", "check", "inspect", "compile", "compile", "compile",
    ]  # fmt: skip
    for command, shown in SHOWN:
        assert _lines(_run(command)) == _lines(shown), command
    for label, program in (("conv2", "out.cim"), ("fc2", "int8.cim")):
        loop = re.search(rf"```\n({label}:.*?)```", README, re.DOTALL)
        assert loop is not None
        assert loop[1] in Path(program).read_text()


def test_search() -> None:
    _run("compile examples/mnist/mnist_bnn.onnx -p similarity -o similar.cim")
    shown = re.search(r"```\n( layer +kernels .*?)```", README, re.DOTALL)
    assert shown is not None
    lines = _lines(shown[1])
    assert _lines(_run("inspect similar.cim"))[-len(lines) :] == lines


def test_python() -> None:
    (use,) = [block for block in PYTHON if "program.save" in block]
    exec(compile(use, "README.md", "exec"), {})
    assert Path("wide.cim").exists()


def test_pass() -> None:
    (source,) = [block for block in PYTHON if "class DropDoubleRelu" in block]
    Path("drop_double_relu.py").write_text(source)
    Path("double.cimir").write_text(
        "graph @double(%x: f32[4]) -> (%y) {\n"
        "  %a = onnx.Relu(%x): f32[4]\n"
        "  %b = onnx.Relu(%a): f32[4]\n"
        "  %y = onnx.Relu(%b): f32[4]\n"
        "}\n"
    )
    output = _run("opt double.cimir -p drop-double-relu --plugin drop_double_relu.py --check-each")
    assert output.count("onnx.Relu") == 1


def test_golden() -> None:
    (golden,) = GOLDEN
    Path("dead.cimir").write_text(golden)
    assert "onnx.Neg" not in _run("opt dead.cimir -p cleanup")
