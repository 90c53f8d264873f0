"""Each command's ordinary use, on a small network."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_calls import call
from small_models import bnn, save

Capture = pytest.CaptureFixture[str]
PLUGIN = '''
from dataclasses import dataclass
from cimc.driver import Pass

@dataclass(frozen=True)
class Nothing(Pass):
    """Changes nothing."""
    name = "nothing"
    summary = "change nothing"

    def run(self, graph, ctx):
        return False
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with `net.onnx`."""
    save(bnn(), tmp_path / "net.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def program(folder: Path, capsys: Capture) -> Path:
    """`net.cim` beside the model."""
    result = call(capsys, "compile", "net.onnx", "-o", "net.cim", "-p", "exact")
    assert result.code == 0, result
    return folder / "net.cim"


def images(count: int) -> Any:
    return np.random.default_rng(1).integers(0, 256, (count, 1, 6, 6), np.uint8)


def test_compile(folder: Path, capsys: Capture) -> None:
    result = call(capsys, "compile", "net.onnx", "-o", "net.cim", "-p", "exact", "--timings")
    assert result.code == 0
    assert result.err == ""
    assert result.out.startswith("net.cim: 2 layers on 1 tile")
    assert "pipeline exact" in result.out
    assert re.search(r"^ +[0-9.]+ ms  fold-threshold$", result.out, re.MULTILINE)
    assert (folder / "net.cim").read_text().startswith(".cim 1\n")


def test_compile_is_reproducible(program: Path, capsys: Capture) -> None:
    first = program.read_bytes()
    call(capsys, "compile", "net.onnx", "-o", "net.cim", "-p", "exact")
    assert program.read_bytes() == first


def test_compile_with_everything(folder: Path, capsys: Capture) -> None:
    (folder / "own.py").write_text(PLUGIN)
    result = call(
        capsys, "compile", "net.onnx", "-o", "net.cim", "-p", "nothing,exact", "--plugin", "own.py",
        "--target", "ideal", "--set", "rows=8", "--set", "cols=4", "--shape", "image=2,1,6,6",
        "--dump-dir", "dumps", "--check-each",
    )  # fmt: skip
    assert result.code == 0, result
    dumps = sorted(p.name for p in (folder / "dumps").iterdir())
    assert dumps[:3] == ["00-input.cimir", "01-nothing.cimir", "02-cleanup.cimir"]
    assert dumps[-1].endswith("-allocate-tiles.cimir")
    text = (folder / "net.cim").read_text()
    assert "rows=8 cols=4" in text
    assert "nothing,exact" in text
    assert call(capsys, "check", "net.onnx", "net.cim").code == 0


def test_compile_a_graph(folder: Path, capsys: Capture) -> None:
    assert call(capsys, "opt", "net.onnx", "-p", "exact", "-o", "net.cimir").code == 0
    assert call(capsys, "compile", "net.cimir", "-o", "net.cim").code == 0
    assert call(capsys, "check", "net.cimir", "net.cim").out.endswith("bit-exact: yes\n")
    assert call(capsys, "check", "net.onnx", "net.cim").out.endswith("bit-exact: yes\n")


def test_run_with_a_seeded_input(program: Path, capsys: Capture) -> None:
    result = call(capsys, "run", "net.cim", "--seed", "3")
    assert result.code == 0
    assert "no --input" in result.out
    assert "seed 3" in result.out
    assert "scores: float32[1, 3]" in result.out


def test_run_with_files(program: Path, capsys: Capture) -> None:
    x = images(5)
    np.savez("in.npz", image=x)
    np.save("in.npy", x)
    first = call(capsys, "run", "net.cim", "--input", "in.npz", "--output", "a.npz",
                 "--json", "counts.json")  # fmt: skip
    second = call(capsys, "run", "net.cim", "--input", "in.npy", "--output", "b.npz")
    assert (first.code, second.code) == (0, 0)
    with np.load("a.npz") as a, np.load("b.npz") as b:
        assert a.files == b.files == ["scores"]
        assert a["scores"].shape == (5, 3)
        assert np.array_equal(a["scores"], b["scores"])
    assert json.loads(Path("counts.json").read_text())


def test_run_with_an_image(program: Path, capsys: Capture) -> None:
    from PIL import Image

    x = images(1)
    Image.fromarray(x[0, 0]).save("in.png")
    np.save("in.npy", x)
    assert call(capsys, "run", "net.cim", "--input", "in.png", "--output", "a.npz").code == 0
    assert call(capsys, "run", "net.cim", "--input", "in.npy", "--output", "b.npz").code == 0
    with np.load("a.npz") as a, np.load("b.npz") as b:
        assert np.array_equal(a["scores"], b["scores"])


def test_check(program: Path, capsys: Capture) -> None:
    np.savez("in.npz", image=images(3))
    for args in ([], ["net.cim"], ["net.cim", "--input", "in.npz"], ["--target", "ideal"]):
        result = call(capsys, "check", "net.onnx", *args)
        assert result.code == 0, result
        assert result.out.splitlines()[-1] == "bit-exact: yes"


def test_check_sees_a_changed_threshold(program: Path, capsys: Capture) -> None:
    """A program that computes something else: exit code 1 and the verdict, no `error:`."""
    call(capsys, "opt", "net.onnx", "-p", "exact", "-o", "net.cimir")
    text = Path("net.cimir").read_text()
    changed = re.sub(r"(\.th: i32\[4(?:,2)?\] = )\[[^]]*", lambda m: _zeros(m[0]), text)
    assert changed != text
    Path("net.cimir").write_text(changed)
    assert call(capsys, "compile", "net.cimir", "-o", "other.cim").code == 0
    result = call(capsys, "check", "net.onnx", "other.cim")
    assert result.code == 1, result
    assert result.out.splitlines()[-1].startswith("bit-exact: no (max diff ")
    assert "error:" not in result.err


def _zeros(text: str) -> str:
    """`… = [1, 2` with zeros for the numbers."""
    head, _, numbers = text.rpartition("[")
    return f"{head}[{', '.join('0' for _ in numbers.split(','))}"


def test_eval(program: Path, capsys: Capture) -> None:
    from cimc import load

    x = images(20)
    best = load(program).run({"image": x}).outputs["scores"].argmax(1)
    np.savez("data.npz", x_test=x[:, 0], y_test=best, x_train=x, y_train=(best + 1) % 3)
    for file in ("net.cim", "net.onnx"):
        result = call(capsys, "eval", file, "--data", "data.npz")
        assert result == (0, "top-1 100.00 % (20/20)\n", "")
    result = call(capsys, "eval", "net.cim", "--data", "data.npz", "--split", "train",
                  "--limit", 7)  # fmt: skip
    assert result.out == "top-1 0.00 % (0/7)\n"


def test_opt_text_and_onnx(folder: Path, capsys: Capture) -> None:
    printed = call(capsys, "opt", "net.onnx")
    assert printed.out.startswith("graph @small(%image: u8[N,1,6,6]) -> (%scores)")
    call(capsys, "opt", "net.onnx", "-p", "exact", "-o", "exact.onnx")
    call(capsys, "opt", "exact.onnx", "-o", "exact.cimir")
    assert call(capsys, "opt", "exact.cimir").out == Path("exact.cimir").read_text()
    assert call(capsys, "compile", "exact.onnx", "-o", "exact.cim").code == 0
    assert call(capsys, "check", "net.onnx", "exact.cim").out.endswith("bit-exact: yes\n")


def test_fmt(program: Path, capsys: Capture) -> None:
    text = program.read_text()
    assert call(capsys, "fmt", "net.cim") == (0, text, "")
    assert call(capsys, "fmt", "--check", "net.cim") == (0, "", "")
    program.write_text(text.replace("\n  for ", "\n     for  ", 1))
    assert call(capsys, "fmt", "--check", "net.cim").code == 1
    assert call(capsys, "fmt", "-i", "net.cim") == (0, "", "")
    assert program.read_text() == text


def test_fmt_keeps_comments_of_graphs(folder: Path, capsys: Capture) -> None:
    text = "# why\ngraph @g(%x: i8[1]) -> (%x) {\n}\n"
    Path("g.cimir").write_text(text)
    assert call(capsys, "fmt", "g.cimir") == (0, text, "")


def test_inspect(program: Path, capsys: Capture) -> None:
    for file in ("net.cim", "net.onnx"):
        result = call(capsys, "inspect", file)
        assert result.code == 0, result
        assert "conv" in result.out
        assert "fc" in result.out


def test_passes_and_targets(folder: Path, capsys: Capture) -> None:
    (folder / "own.py").write_text(PLUGIN)
    result = call(capsys, "passes", "--plugin", "own.py")
    assert result.code == 0
    assert re.search(r"nothing +exact +change nothing", result.out)
    assert re.search(r"option +strategy=compact", result.out)
    assert "ideal" in call(capsys, "targets").out
    assert "geometry.rows" in call(capsys, "targets", "digital-rram-180nm").out


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["--version"], ["compile", "--help"]])
def test_help(args: list[str], capsys: Capture) -> None:
    result = call(capsys, *args)
    assert result.code == 0
    assert result.out


WRONG_USAGE = [
    ["nothing"],
    ["compile"],
    ["compile", "net.onnx"],
    ["compile", "net.onnx", "-o", "out.cim", "--unknown"],
    ["compile", "net.onnx", "-o", "out.cim", "--shape", "image"],
    ["compile", "net.onnx", "-o", "out.cim", "--shape", "image=a,b"],
    ["compile", "net.onnx", "-o", "out.cim", "--set", "rows"],
    ["run", "net.cim", "--scale", "none"],
    ["eval", "net.cim"],
    ["eval", "net.cim", "--data", "d.npz", "--limit", "0"],
    ["check", "net.onnx", "--seed", "x"],
    ["check", "net.onnx", "--samples", "0"],
]


@pytest.mark.parametrize("args", WRONG_USAGE, ids=" ".join)
def test_wrong_usage(args: list[str], folder: Path, capsys: Capture) -> None:
    result = call(capsys, *args)
    assert result.code == 2, result
    assert "Error: " in result.err
    assert not (folder / "out.cim").exists()


@pytest.mark.parametrize("args", [["--help"], ["compile", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    heavy = ["numpy", "onnx", "onnxruntime", "networkx", "lark", "rich", "PIL", "numba"]
    assert _loaded(args, heavy) == "LOADED []"


@pytest.mark.parametrize("args", [["run"], ["eval", "--data", "few.npz"]])
def test_a_program_without_host_fragments_runs_without_the_compiler(
    args: list[str], folder: Path, capsys: Capture
) -> None:
    model = Path(__file__).parents[2] / "examples" / "mnist" / "mnist_int8.onnx"
    assert call(capsys, "compile", model, "-o", "int8.cim").code == 0
    assert "host" not in (folder / "int8.cim").read_text()
    np.savez("few.npz", x_test=np.zeros((2, 28, 28), np.uint8), y_test=np.zeros(2, int))
    heavy = ["onnx", "onnxruntime", "networkx", "PIL", "cimc.driver", "cimc.frontend"]
    assert _loaded([*args, "int8.cim"], heavy) == "LOADED []"


def _loaded(args: list[str], modules: list[str]) -> str:
    """Which of the modules a command imports."""
    script = (
        "import sys\nfrom cimc.cli.main import main\n"
        f"sys.argv = ['cimc', *{args!r}]\n"
        "code = 0\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    code = stop.code\n"
        "assert not code, code\n"
        f"print('LOADED', [m for m in {modules!r} if m in sys.modules])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return result.stdout.splitlines()[-1]


def test_console_script_exit_codes(folder: Path) -> None:
    """Once as a process of its own: what the shell sees."""
    script = "from cimc.cli.main import main\nmain()"

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script, *args], capture_output=True, text=True, check=False
        )

    assert run("fmt", "absent.cim").returncode == 1
    assert run("fmt").returncode == 2
    assert run("targets").returncode == 0
