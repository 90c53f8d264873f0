"""The rows of the table that are whole processes: accuracy over a data set, and peak memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import perf_counter

import numpy as np

from cimc.bench.figures import Figure, Goal
from cimc.bench.mnist import mnist_binary, mnist_float
from cimc.bench.networks import binary_layer
from cimc.bench.resnet import resnet50
from cimc.bench.rows import Setup
from cimc.bench.runners import compile_network
from cimc.bench.timing import Series
from cimc.errors import CompileError

_CIMC = [sys.executable, "-c", "from cimc.cli.main import main; main()"]

# What somebody writes who has a float model and onnxruntime, and nothing else.
_SCRIPT = """
import sys
import numpy as np
import onnxruntime as ort

model, data, threads = sys.argv[1:]
options = ort.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = int(threads), 1
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
archive = np.load(data)
images, labels = archive["x_test"][:, None], archive["y_test"]
right = 0
for start in range(0, len(images), 64):
    (scores,) = session.run(None, {"image": images[start : start + 64]})
    right += int((scores.argmax(1) == labels[start : start + 64]).sum())
print(f"top-1 {100 * right / len(images):.2f} % ({right}/{len(images)})")
"""


def evaluation(setup: Setup) -> list[Figure]:
    """10,000 random images through `cimc eval`, and through a script with the float model."""
    count = 200 if setup.quick else 10_000
    folder, threads = setup.folder, str(setup.threads)
    compile_network(mnist_binary(), folder).compiled.save(folder / "mnist.cim")
    (folder / "mnist_float.onnx").write_bytes(mnist_float().SerializeToString())
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, count, dtype=np.uint8)
    np.savez_compressed(folder / "mnist.npz", x_test=images, y_test=labels)
    (folder / "script.py").write_text(_SCRIPT, encoding="utf-8")
    eval_ = ["eval", "mnist.cim", "--data", "mnist.npz", "--threads", threads]
    commands = {
        "cimc eval": [*_CIMC, *eval_],
        "script": [sys.executable, "script.py", "mnist_float.onnx", "mnist.npz", threads],
    }
    said = {name: _output(command, folder) for name, command in commands.items()}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    order = list(commands)
    for _ in range(setup.effort.processes):
        for name in order:
            start = perf_counter()
            _output(commands[name], folder)
            seconds[name].append(perf_counter() - start)
        order.reverse()
    series = Series(seconds, dict.fromkeys(commands, 1))
    return [
        Figure(
            f"eval-{count}",
            f"{count:,} images, cimc eval against a float onnxruntime script",
            series.ratios("script", "cimc eval"),
            "times",
            Goal(1, 3),
            setup.feature,
            details={
                "threads": setup.threads,
                "images": count,
                "batch_of_script": 64,
                "printed": said,
                "timings": series.to_json(),
            },
        )
    ]


def memory(setup: Setup) -> list[Figure]:
    """Peak memory of a process that loads and runs the ResNet-50-shaped program, above that of one
    that does the same with one layer, in units of the program's weights, a byte each."""
    size = 32 if setup.quick else 224
    model = resnet50(size=size)
    weights = sum(len(t.raw_data) for t in model.graph.initializer if t.data_type == t.INT8)
    small = compile_network(binary_layer(32, 64, 3, 14), setup.folder)
    large = compile_network(model, setup.folder)
    programs = {"one layer": setup.folder / "small.cim", "resnet50": setup.folder / "large.cim"}
    small.compiled.save(programs["one layer"])
    large.compiled.save(programs["resnet50"])
    loaded: dict[str, list[int]] = {name: [] for name in programs}
    ran: dict[str, list[int]] = {name: [] for name in programs}
    for _ in range(setup.effort.processes):
        for name, program in programs.items():
            command = [sys.executable, "-m", "cimc.bench.peak", program.name, str(setup.threads)]
            after_loading, after_running = map(int, _output(command, setup.folder).split())
            loaded[name].append(after_loading)
            ran[name].append(after_running)
    above = [(a - b) / weights for a, b in zip(ran["resnet50"], ran["one layer"])]
    return [
        Figure(
            f"memory-resnet50-{size}",
            f"ResNet-50 int8, {size}x{size}, peak memory over bytes of weights",
            above,
            "weight bytes",
            Goal(4, 2.5, at_most=True),
            details={
                "threads": setup.threads,
                "batch": 1,
                "weight_bytes": weights,
                "peak_bytes_after_loading": loaded,
                "peak_bytes_after_running": ran,
            },
        )
    ]


def _output(command: list[str], folder: Path) -> str:
    """Standard output of a process. Raises CompileError if it fails, with its last words."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        shown = " ".join(part for part in command[1:] if "\n" not in part)
        raise CompileError(f"a process that was to be measured failed: {words}", shown)
    return done.stdout.strip()
