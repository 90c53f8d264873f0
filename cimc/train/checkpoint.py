"""Checkpoints: one file, written whole or not at all, with everything that a run needs to go on."""

from __future__ import annotations

import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch

from cimc.errors import CompileError

FORMAT = 1


def save(path: Path, state: dict[str, Any]) -> None:
    """state: tensors, numbers, text, lists and dicts of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        torch.save({"format": FORMAT, **state}, name)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def load(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """The state of a run with this description. No code of the file is run.

    about: what a run is, such as its preset, settings and layers; must be the file's. Raises
    CompileError where the file can't be read or belongs to another run.
    """
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except FileNotFoundError:
        raise CompileError(
            "there is no checkpoint to resume", str(path), help="start without --resume"
        ) from None
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise CompileError(f"can't read the checkpoint: {reason[0][:120]}", str(path)) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CompileError("is no checkpoint of this version", str(path))
    theirs = state.get("about", {})
    keys = [key for key in {**about, **theirs} if about.get(key) != theirs.get(key)]
    if keys:
        told = "; ".join(f"{k}: {_short(theirs.get(k))}, now {_short(about.get(k))}" for k in keys)
        raise CompileError(
            f"the checkpoint is of another run: {told}",
            str(path),
            help="give the same preset and options, or another --out",
        )
    return state


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
