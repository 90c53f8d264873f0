"""How kernels are compiled and where the compiled code is kept.

Compiled code is cached in the user's cache folder, in a folder named after this version of the
kernels' sources and of numba: a changed kernel never meets old code, and numba's own index
tells processors apart. Several processes may write at once (numba renames whole files).
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import llvmlite.binding as llvm
import numba as _numba

numba: Any = _numba
F = TypeVar("F", bound=Callable[..., Any])


@lru_cache(maxsize=1)
def features() -> frozenset[str]:
    """What this processor can do, by LLVM's names, such as `avx512vpopcntdq`."""
    found = llvm.get_host_cpu_features()
    wanted = numba.config.CPU_FEATURES
    if wanted:
        found.update({name[1:]: name[0] == "+" for name in wanted.split(",") if name})
    return frozenset(name for name, has in found.items() if has)


def cache_folder() -> Path:
    """Where compiled kernels are kept: below `$XDG_CACHE_HOME`, `~/.cache`, or what stands for
    it on other systems; `$CIMC_CACHE_DIR` overrides it."""
    base = os.environ.get("CIMC_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    if base is None:
        home = Path.home()
        fixed = {"darwin": home / "Library" / "Caches"}.get(sys.platform, home / ".cache")
        base = os.environ.get("LOCALAPPDATA", str(fixed)) if os.name == "nt" else str(fixed)
    return Path(base) / "cimc" / f"kernels-{_version()}"


@lru_cache(maxsize=1)
def _version() -> str:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(numba.__version__.encode())
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def kernel(function: F) -> F:
    """Compile without the interpreter lock; cached on disk where the folder can be written."""
    options: dict[str, Any] = {"nopython": True, "nogil": True, "boundscheck": False}
    before = numba.config.CACHE_DIR
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        numba.config.CACHE_DIR = str(folder)
        compiled: Any = numba.jit(cache=True, **options)(function)
    except (OSError, RuntimeError):  # no folder of the user's, or a read-only one
        compiled = numba.jit(**options)(function)
    finally:
        numba.config.CACHE_DIR = before
    found: F = compiled
    return found


def inlined(function: F) -> F:
    """A helper that only kernels call."""
    found: F = numba.jit(nopython=True, nogil=True, boundscheck=False, inline="never")(function)
    return found
