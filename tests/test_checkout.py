"""`import cimc` in the folder of a checkout, with a copy installed that is not editable."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from cimc.checkout import PACKAGES

ROOT = Path(__file__).parent.parent


def test_packages_are_those_of_pyproject() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["package-dir"] == {"cimc": "cimc"} | PACKAGES


def test_python_in_the_checkout(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'Editable' not in str(f)]\n"
        "import cimc, cimc.examples\n"
        "model = 'examples/digits/digits_bnn.onnx'\n"
        "print(cimc.__file__, cimc.examples.__file__)\n"
        "print(len(cimc.compile(model).program.inputs))\n"
    )
    env = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    files = f"{ROOT / 'cimc' / '__init__.py'} {ROOT / 'examples' / 'digits' / '__init__.py'}"
    assert done.stdout.splitlines() == [files, "1"]
