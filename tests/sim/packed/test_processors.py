"""Processors without what the kernels like best: the same values, and the plain instructions."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest

from cimc.sim.packed import jit, micro

ROOT = Path(__file__).parents[3]
# binary and int8 layers, pools, requantisation, tables; both ways through bit planes
CODE = """
import numpy as np
import cimc
from cimc.sim.packed.micro import has_dot
rng = np.random.default_rng(0)
for name, shape in (("mnist/mnist_int8", (5, 1, 28, 28)), ("digits/digits_bnn", (5, 1, 8, 8))):
    program = cimc.compile(f"examples/{name}.onnx")
    (port,) = [mem.input for mem in program.program.inputs]
    elem = program.program.inputs[0].type
    feeds = {port: rng.integers(0, 17, shape).astype({"u8": np.uint8, "f32": np.float32}[elem])}
    right = program.run(feeds, engine="lanes")
    for contract in (True, False):
        found = program.run(feeds, engine="packed", threads=1, contract=contract)
        for key, value in right.outputs.items():
            assert value.tobytes() == found.outputs[key].tobytes(), (name, contract)
        assert found.counts.sections == right.counts.sections
print(has_dot())
"""


def _run(tmp_path, code=CODE, **processor):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CIMC_CACHE_DIR": str(tmp_path), **processor}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=ROOT, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("processor", ["x86-64", "haswell", "generic", "skylake-avx512"])
def test_processors_with_less(processor, tmp_path):
    without = "-avx512vnni,-avx512vpopcntdq"
    features = {"skylake-avx512": without, "haswell": f"{without},-avx512f"}.get(processor, "")
    found = _run(tmp_path, NUMBA_CPU_NAME=processor, NUMBA_CPU_FEATURES=features)
    assert found == "False"


@pytest.mark.parametrize(("name", "wanted", "has"), [
    (None, None, True), (None, "", True), (None, "-avx512vnni", False), ("haswell", "", False),
    ("generic", "", False), ("haswell", "+avx2", False), ("haswell", "+avx2,+avx512vnni", True),
    ("haswell", None, True),
])  # fmt: skip
def test_features_are_those_that_numba_compiles_for(name, wanted, has, monkeypatch):
    """A named processor with a list of features has these; else this one's features hold."""
    host = {"avx2": True, "avx512vnni": True, "avx512f": False}
    monkeypatch.setattr(jit.llvm, "get_host_cpu_features", lambda: dict(host))
    monkeypatch.setattr(numba.config, "CPU_NAME", name)
    monkeypatch.setattr(numba.config, "CPU_FEATURES", wanted)
    jit.features.cache_clear()
    try:
        assert micro.has_dot() == has
        assert "avx512f" not in jit.features()
    finally:
        jit.features.cache_clear()
