"""`cimc inspect` on programs and models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

import cimc
from cimc.cli.main import cli
from cimc.errors import CompileError

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "digits_bnn.onnx"


def _inspect(*args: object) -> Result:
    return CliRunner().invoke(cli, ["inspect", *map(str, args)])


def _output(*args: object) -> str:
    result = _inspect(*args)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "digits.cim"
    cimc.compile(DIGITS).save(path)
    return path


def test_program_and_model_show_the_same(program: Path) -> None:
    from_program, from_model = _output(program).splitlines(), _output(DIGITS).splitlines()
    assert from_program[1:] == from_model[1:]


def test_shows_layers_tiles_and_host(program: Path) -> None:
    output = _output(program)
    assert "conv 3x3 32->32, bip" in output
    assert "1 tile of 256 rows x 128 columns" in output
    assert "MACs: 613,376 of 613,376 (100.0 %) on tiles, 0 on the host" in output
    assert "host host1.onnx: Cast, Mul, Add" in output


def test_size_is_that_of_the_file(program: Path) -> None:
    lines = program.read_text().splitlines()
    before = next(i for i, line in enumerate(lines) if line.startswith(".data"))
    assert f"{before} lines before .data, {len(lines)} in all" in _output(program)
    assert f"{program.stat().st_size:,} bytes" in _output(program)


def test_options_of_compilation(program: Path) -> None:
    assert "of 32 rows x 64 columns" in _output(DIGITS, "--set", "rows=32", "--set", "cols=64")
    result = _inspect(program, "--set", "rows=32")
    assert result.exit_code == 2
    assert "compiled already" in result.output


def test_files(program: Path, tmp_path: Path) -> None:
    picture, numbers = tmp_path / "plan.png", tmp_path / "plan.json"
    _output(program, "--floorplan", picture, "--json", numbers)
    with Image.open(picture) as image:
        assert image.format == "PNG"
    found = json.loads(numbers.read_text())
    assert found["size"]["bytes"] == program.stat().st_size
    assert [layer["name"] for layer in found["layers"]][-1] == "host1"


def test_ways_of_the_engine(program: Path, tmp_path: Path) -> None:
    numbers = tmp_path / "plan.json"
    output = _output(program, "--engine", "--json", numbers)
    assert "How the packed engine runs .infer" in output
    assert "popcount xor" in output
    assert "a host fragment" in output
    assert "How the packed engine" not in _output(program)
    found = json.loads(numbers.read_text())["engine"]
    assert found["contract"] is True
    assert [item["how"] for item in found["items"]] == ["packed"] * (len(found["items"]) - 1) + [
        "host"
    ]
    assert found["conversions"][0]["to"] == "packed"


def test_ways_without_contraction() -> None:
    mnist = DIGITS.parents[1] / "mnist" / "mnist_int8.onnx"
    assert "product of bytes" in _output(mnist, "--engine")
    output = _output(mnist, "--engine", "--no-contract")
    assert "64 x popcount and" in output
    assert "product of bytes" not in output
    result = _inspect(mnist, "--no-contract")
    assert result.exit_code == 2
    assert "--no-contract changes what --engine shows: give both" in result.output


def test_reasons_of_the_host() -> None:
    mnist = DIGITS.parents[1] / "mnist" / "mnist_bnn.onnx"
    output = _output(mnist, "-p", "exact")
    assert "3 Gemm" in output
    assert "its input is float" in output


def test_missing_file(tmp_path: Path) -> None:
    result = _inspect(tmp_path / "none.cim")
    assert isinstance(result.exception, CompileError)
