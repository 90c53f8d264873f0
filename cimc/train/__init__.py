"""Training of networks whose topology and weights are learned together; needs PyTorch, which the
extra `train` installs.

    from cimc.train import SimilarityPruner, convert, export_onnx

Layers and quantisers with straight-through gradients, pruning of similar kernels while training,
and ONNX files that `cimc compile -p exact` understands without hints. `train` is the loop for a
module and `Data`; `python -m cimc.train TASK --preset NAME` trains what is in `presets.py`, and
presets of a file of yours.

Nothing of the compiler imports this package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cimc.errors import CompileError

if TYPE_CHECKING:
    from cimc.train.choose import Nearest as Nearest
    from cimc.train.choose import Published as Published
    from cimc.train.conversion import convert as convert
    from cimc.train.data import Data as Data
    from cimc.train.data import read_images as read_images
    from cimc.train.export import export_onnx as export_onnx
    from cimc.train.export import save_onnx as save_onnx
    from cimc.train.layers import after_step as after_step
    from cimc.train.loop import set_up as set_up
    from cimc.train.loop import train as train
    from cimc.train.preset import Preset as Preset
    from cimc.train.pruner import Schedule as Schedule
    from cimc.train.pruner import SimilarityPruner as SimilarityPruner
    from cimc.train.settings import Settings as Settings

_PLACES = {
    "Data": "data",
    "Nearest": "choose",
    "Preset": "preset",
    "Published": "choose",
    "after_step": "layers",
    "convert": "conversion",
    "export_onnx": "export",
    "read_images": "data",
    "save_onnx": "export",
    "Schedule": "pruner",
    "set_up": "loop",
    "Settings": "settings",
    "SimilarityPruner": "pruner",
    "train": "loop",
}
__all__ = [
    "Data",
    "Nearest",
    "Preset",
    "Published",
    "Schedule",
    "Settings",
    "SimilarityPruner",
    "after_step",
    "convert",
    "export_onnx",
    "read_images",
    "save_onnx",
    "set_up",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'cimc.train' has no attribute '{name}'")
    need_torch()
    return getattr(importlib.import_module(f"cimc.train.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})


def need_torch() -> None:
    """Raises CompileError where PyTorch is not installed."""
    try:
        importlib.import_module("torch")
    except ImportError:
        raise CompileError(
            "cimc.train needs PyTorch, which is not installed", help="pip install 'cimc[train]'"
        ) from None
