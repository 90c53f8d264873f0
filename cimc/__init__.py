"""cimc: a compiler from ONNX to digital compute-in-memory programs, and their interpreter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cimc import checkout

if TYPE_CHECKING:
    from cimc.api import Compiled as Compiled
    from cimc.api import compile as compile
    from cimc.api import load as load

checkout.find_packages_beside()  # before the first import of one of them

__version__ = "0.1.0"
__all__ = ["Compiled", "compile", "load"]


def __getattr__(name: str) -> Any:
    # Lazy: `import cimc` and `cimc --help` must not load onnx and onnxruntime.
    if name not in __all__:
        raise AttributeError(f"module 'cimc' has no attribute '{name}'")
    from cimc import api

    return getattr(api, name)
