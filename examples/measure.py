"""Measure and print how fast the commands are and how long the program text is.

    python examples/measure.py [MODEL.onnx ...]

Times are those of whole processes, the best of several on this machine; nothing is asserted.
The int8 network of ResNet-50's shape is made in a temporary folder; models that are named are
compiled too.
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


def peak_memory(arguments: list[str], folder: Path) -> float:
    """Peak memory of a command, in MB."""
    code = (
        "import resource, sys; from cimc.cli.main import cli; "
        "cli(sys.argv[1:], standalone_mode=False); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, check=True, capture_output=True
    )
    return int(done.stderr.split()[-1]) / (2**20 if sys.platform == "darwin" else 2**10)


def large_network(folder: Path) -> None:
    """The int8 network of ResNet-50's shape: compile, load, inspect."""
    sys.path.insert(0, str(HERE))
    from resnet50.make import resnet50

    model = resnet50()
    weights = sum(len(t.raw_data) for t in model.graph.initializer if t.data_type == 3)  # INT8
    (folder / "resnet50.onnx").write_bytes(model.SerializeToString())
    compile_ = ["compile", "resnet50.onnx", "-o", "resnet50.cim"]
    print(f"cimc compile resnet50  {seconds(compile_, folder, 2):8.2f} s")
    program = folder / "resnet50.cim"
    size = program.stat().st_size
    print(f"  peak memory          {peak_memory(compile_, folder):8.0f} MB")
    print(f"  lines before .data   {lines_before_data(program):8d}")
    print(f"  bytes                {size:8d}, {size / weights:.3f} x those of the weights")
    load = "import time; t = time.perf_counter(); import cimc; cimc.load('resnet50.cim'); "
    load += "print(f'{time.perf_counter() - t:8.2f} s')"
    done = subprocess.run([sys.executable, "-c", load], cwd=folder, check=True, capture_output=True)
    print(f"  loading it           {done.stdout.decode().strip():>10}")
    print(f"cimc inspect resnet50  {seconds(['inspect', program.name], folder, 3):8.2f} s")


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
        large_network(folder)
        for path in map(Path, sys.argv[1:]):
            took = seconds(["compile", str(path.resolve()), "-o", "model.cim"], folder, 2)
            print(f"cimc compile {path.name}  {took:.2f} s")


if __name__ == "__main__":
    main()
