"""What is installed, and that the commands of README and CI are the same everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RUN = "python3 -m venv .venv && .venv/bin/pip install '.[demo]' && .venv/bin/cimc demo"
TEST = "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest"


def test_every_package_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for path in ROOT.glob("cimc/**/__init__.py")}
    own = {".".join(folder.parts) for folder in folders}
    moved = set(settings["package-dir"]) - {"cimc"}
    assert sorted(settings["packages"]) == sorted(own | moved)
    for name in moved:
        assert (ROOT / settings["package-dir"][name] / "__init__.py").is_file()


@pytest.mark.parametrize(("section", "command"), [("Run", RUN), ("Test", TEST)])
def test_readme_has_the_command(section: str, command: str) -> None:
    text = (ROOT / "README.md").read_text()
    body = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    blocks = body.split("```")[1::2]
    assert blocks[0].split("\n", 1)[1] == f"{command}\n"


def test_ci_runs_the_commands_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "readme_command Test" in script
    assert "readme_command Run" in script
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize("network", ["digits", "mnist"])
def test_programs_do_not_depend_on_hash_order(network: str, tmp_path: Path) -> None:
    model = ROOT / "examples" / network / f"{network}_bnn.onnx"
    code = "from cimc.cli.main import main; main()"
    programs = []
    for seed in ("1", "4242"):
        output = tmp_path / f"{seed}.cim"
        subprocess.run(
            [sys.executable, "-c", code, "compile", str(model), "-o", str(output)],
            check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed},
        )  # fmt: skip
        programs.append(output.read_bytes())
    assert programs[0] == programs[1]
