"""How kernels are compiled and where the compiled code is kept.

Compiled code is cached in the user's cache folder, in a folder named after this version of the
kernels' sources and of numba: a changed kernel never meets old code, and numba's own index
tells processors apart. Several processes may write at once (numba renames whole files).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from functools import cached_property, lru_cache, wraps
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryFile
from threading import Lock
from typing import Any, TypeVar

import llvmlite.binding as llvm
import numba as _numba

numba: Any = _numba
F = TypeVar("F", bound=Callable[..., Any])

_SIGNATURE = "int64(int64, int64, int64, int64, int64, int64)"
_OPTIONS: dict[str, Any] = {"nopython": True, "nogil": True, "error_model": "numpy"}
_LOCK = Lock()
_SOURCES = (
    "calls", "elements", "emit", "gather", "jit", "matrix", "memory", "micro", "parameters",
    "pointwise", "products", "turn", "vectors",
)  # fmt: skip
"""The files whose code goes into kernels."""
_KEPT_SECONDS = 30 * 24 * 3600
_DAMAGED = (UnpicklingError, EOFError, KeyError, ValueError, AttributeError, ImportError)


@lru_cache(maxsize=1)
def features() -> frozenset[str]:
    """What this processor can do, by LLVM's names, such as `avx512vpopcntdq`."""
    named, wanted = numba.config.CPU_NAME, numba.config.CPU_FEATURES
    # numba takes the host's features only where no others are listed for a named processor
    found = llvm.get_host_cpu_features() if named is None or wanted is None else {}
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
    sources = [Path(__file__).parent / f"{name}.py" for name in _SOURCES]
    digest = hashlib.sha256(numba.__version__.encode())
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


class Kernel:
    """A function of six numbers (parameters, scratch memory, rows from and to, lanes from and to)
    to a number, compiled when its address is first asked for."""

    def __init__(self, function: Callable[[int, int, int, int, int, int], int]) -> None:
        self._function = function
        self.__doc__, self.__name__ = function.__doc__, function.__name__

    @cached_property
    def address(self) -> int:
        """Where the machine code is."""
        with _LOCK:
            self._held = _cached(numba.cfunc(_SIGNATURE, cache=True, **_OPTIONS), self._function)
        return int(self._held.address)

    def __call__(self, p: int, scratch: int, first: int, last: int, low: int, high: int) -> int:
        found: int = _calls()[0](self.address, p, scratch, first, last, low, high)
        return found


def compiled(function: F) -> F:
    """A function of arrays and numbers, compiled for the types it meets; called from Python."""
    held: list[Any] = [_cached(numba.jit(cache=True, **_OPTIONS), function)]

    @wraps(function)
    def run(*args: Any) -> Any:
        try:
            return held[0](*args)
        except _DAMAGED:  # a file of the cache: compile again, and leave it alone
            held[0] = numba.jit(**_OPTIONS)(function)
            return held[0](*args)

    found: Any = run
    return found  # type: ignore[no-any-return]


def inlined(function: F) -> F:
    """A helper that only kernels call."""
    # nobody calls it from outside of compiled code
    alone = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False}
    found: F = numba.jit(**_OPTIONS, **alone)(function)
    return found


def _cached(compile_: Callable[[Any], Any], function: Any) -> Any:
    """Compile with numba's cache in our folder, or without one where it can't be used."""
    plain = numba.jit(**_OPTIONS)
    if compile_.__qualname__.startswith("cfunc"):
        plain = numba.cfunc(_SIGNATURE, **_OPTIONS)
    folder = _writable()
    if folder is None:
        return plain(function)
    before = numba.config.CACHE_DIR
    try:
        numba.config.CACHE_DIR = str(folder)
        return compile_(function)
    except (OSError, RuntimeError, *_DAMAGED):
        return plain(function)
    finally:
        numba.config.CACHE_DIR = before


@lru_cache(maxsize=1)
def _writable() -> Path | None:
    """The cache folder, if files can be made in it: numba would quietly take another one, whose
    files don't know of our other sources."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):  # this also says when the folder was last used
            _forget(folder)
            return folder
    except OSError:
        return None


def _forget(folder: Path) -> None:
    """Remove the kernels of other versions that nobody has used for a month."""
    for other in folder.parent.glob("kernels-*"):
        if other != folder and time.time() - other.stat().st_mtime > _KEPT_SECONDS:
            shutil.rmtree(other, ignore_errors=True)


@lru_cache(maxsize=1)
def _calls() -> tuple[Any, Any]:
    """`call_kernel` and `run_table`, compiled."""
    from cimc.sim.packed import calls

    return calls.call_kernel, calls.run_table


def run_table(table: int, number: int, samples: int, scratch: int) -> int:
    """Run the kernels of a table for some samples; see `calls.py`."""
    found: int = _calls()[1](table, number, samples, scratch)
    return found
