"""Measure and print how fast the commands are and how long the program text is.

    python examples/measure.py

Times are those of whole processes, the best of several on this machine; nothing is asserted.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CIMC = [sys.executable, "-c", "from cimc.cli.main import main; main()"]


def seconds(arguments: list[str], folder: Path, times: int = 5) -> float:
    """The best wall-clock time of a command, in seconds."""
    return min(_once(arguments, folder) for _ in range(times))


def _once(arguments: list[str], folder: Path) -> float:
    start = time.perf_counter()
    subprocess.run([*CIMC, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def lines_before_data(program: Path) -> int:
    lines = program.read_text(encoding="utf-8").splitlines()
    return next(i for i, line in enumerate(lines) if line.startswith(".data"))


def main() -> None:
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"cimc --help            {seconds(['--help'], folder):8.2f} s")
        for network in ("mnist", "digits"):
            model, program = HERE / network / f"{network}_bnn.onnx", folder / f"{network}.cim"
            compile_ = seconds(["compile", str(model), "-o", program.name], folder)
            print(f"cimc compile {network:<8}  {compile_:8.2f} s")
            print(f"  lines before .data   {lines_before_data(program):8d}")
            print(f"  bytes                {program.stat().st_size:8d}")
            print(f"cimc run {network:<12}  {seconds(['run', program.name], folder):8.2f} s")
        print(f"cimc demo              {seconds(['demo'], folder, 1):8.2f} s")


if __name__ == "__main__":
    main()
