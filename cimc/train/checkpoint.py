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
    """state: tensors, numbers, text, lists and dicts of them. Raises CompileError where the file
    can't be written; the one that was there stays."""
    name = _temporary(path)
    try:
        name.chmod(0o644)
        torch.save({"format": FORMAT, **state}, name)
        name.replace(path)
    except (OSError, RuntimeError) as error:  # torch's own writer, of a full disk: RuntimeError
        raise _unwritable(path, error) from None
    finally:
        name.unlink(missing_ok=True)


def make_room(path: Path) -> None:
    """The folder for a checkpoint, made where it is missing; before hours of training, raises
    CompileError where nothing can be written there."""
    _temporary(path).unlink()


def _temporary(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent
        )
    except OSError as error:
        raise _unwritable(path, error) from None
    os.close(handle)
    return Path(name)


def _unwritable(path: Path, error: Exception) -> CompileError:
    reason = (isinstance(error, OSError) and error.strerror) or str(error).strip().splitlines()[0]
    return CompileError(
        f"can't write there: {reason}", str(path), help="give another folder, or make room in it"
    )


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
    told = _differences(theirs, about)
    if told:
        raise CompileError(
            f"the checkpoint is of another run: {'; '.join(told)}",
            str(path),
            help="resume with the same preset, options and data, or give another folder",
        )
    return state


def _differences(theirs: dict[str, Any], ours: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in {**ours, **theirs}:
        a, b = theirs.get(key), ours.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: {_short(a)}, now {_short(b)}")
    return found


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
