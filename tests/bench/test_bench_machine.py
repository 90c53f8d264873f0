"""What was measured on, and processes that are measured whole."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from cimc.bench import machine, processes
from cimc.errors import CompileError


def test_the_description_is_plain_and_names_what_counts(monkeypatch):
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    found = json.loads(json.dumps(machine.describe()))
    assert found["processor"]
    assert found["cores"] >= 1
    assert found["numba"] == {"NUMBA_CPU_NAME": "generic"}
    assert set(found["versions"]) == {
        "python", "cimc", "numpy", "numba", "llvmlite", "onnxruntime", "onnx",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("AMD64", "AVX-512 VPOPCNTDQ"),
        ("x86_64", "AMX-INT8"),
        ("arm64", "dotprod"),
        ("aarch64", "NEON"),
    ],
)
def test_features_by_architecture(monkeypatch, name, expected):
    monkeypatch.setattr(machine.platform, "machine", lambda: name)
    monkeypatch.setattr(
        machine.binding,
        "get_host_cpu_features",
        lambda: {"avx512vpopcntdq": True, "neon": True, "dotprod": True, "amx-int8": True},
    )
    assert machine.features()[expected]
    assert not all(machine.features().values())


def test_an_unknown_architecture_has_no_features(monkeypatch):
    monkeypatch.setattr(machine.platform, "machine", lambda: "riscv64")
    assert machine.features() == {}


def test_peak_memory_follows_what_is_allocated():
    before = machine.peak_memory()
    held = np.ones(64 << 20, np.uint8)
    assert machine.peak_memory() >= before
    assert machine.peak_memory() > held.nbytes
    assert machine.peak_memory() < 64 << 30


def test_what_a_failed_process_said_is_told(tmp_path):
    words = "import sys; print('first', file=sys.stderr); sys.exit('at last')"
    with pytest.raises(CompileError, match="failed: at last"):
        processes._output([sys.executable, "-c", words], tmp_path)
    assert processes._output([sys.executable, "-c", "print(' x ')"], tmp_path) == "x"
