"""What was measured on: the processor, what it can do that matters here, and versions."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from llvmlite import binding

import cimc

POPCOUNT = "AVX-512 VPOPCNTDQ"
# LLVM's names of what the kernels here and in onnxruntime are made of
_FEATURES = {
    "x86_64": {
        "avx2": "AVX2",
        "avx512f": "AVX-512",
        "avx512vpopcntdq": POPCOUNT,
        "avx512vnni": "AVX-512 VNNI",
        "avxvnni": "AVX VNNI",
        "amx-int8": "AMX-INT8",
    },
    "arm64": {"neon": "NEON", "dotprod": "dotprod", "i8mm": "I8MM", "sve": "SVE"},
}
_NAMES = {"amd64": "x86_64", "aarch64": "arm64"}
_PACKAGES = ("numpy", "numba", "llvmlite", "onnxruntime", "onnx")


def features() -> dict[str, bool]:
    """What the processor can do, as LLVM reports it, by the name that people know."""
    machine = platform.machine().lower()
    known = _FEATURES.get(_NAMES.get(machine, machine), {})
    found = binding.get_host_cpu_features()
    return {name: bool(found.get(flag)) for flag, name in known.items()}


def processor() -> str:
    """The processor's model name."""
    for line in _lines(Path("/proc/cpuinfo")):
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str]:
    """By package; Python and cimc first."""
    found = {"python": platform.python_version(), "cimc": cimc.__version__}
    return found | {name: version(name) for name in _PACKAGES}


def describe() -> dict[str, object]:
    """Everything above, as plain values; `numba` holds settings that change generated code."""
    settings = {key: value for key, value in os.environ.items() if key.startswith("NUMBA_CPU")}
    return {
        "processor": processor(),
        "llvm_processor": binding.get_host_cpu_name(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "features": features(),
        "numba": settings,
        "versions": versions(),
    }


def peak_memory() -> int:
    """The most bytes that this process has held in memory so far."""
    for line in _lines(Path("/proc/self/status")):  # getrusage would count what forked us
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
