"""All presets; `python -m cimc.train --list` prints them. A new one is a line here, or one of the
presets in `PRESETS` of a file of the user's (`--plugin FILE.py`)."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from cimc.driver.registry import load_file
from cimc.errors import CompileError
from cimc.train import digits, fashion, mnist, random_network, spoken_digits
from cimc.train.preset import Preset

PRESETS: tuple[Preset, ...] = (
    *mnist.PRESETS,
    *digits.PRESETS,
    *fashion.PRESETS,
    *random_network.PRESETS,
    *spoken_digits.PRESETS,
)


def load(file: Path) -> tuple[Preset, ...]:
    """`PRESETS` of a Python file. Raises CompileError where it has none."""
    found = getattr(load_file(file), "PRESETS", None)
    fits = isinstance(found, list | tuple) and all(isinstance(p, Preset) for p in found)
    if not fits or not found:
        raise CompileError(
            "has no PRESETS", str(file), help="define PRESETS = [Preset(...)], of cimc.train"
        )
    return tuple(found)


def find(task: str, name: str, among: Sequence[Preset] = PRESETS) -> Preset:
    """The last one of this name. Raises CompileError where there is none."""
    named = {(p.task, p.name): p for p in among}
    if (task, name) in named:
        return named[task, name]
    known = [f"{p.task} --preset {p.name}" for p in among]
    close = difflib.get_close_matches(f"{task} --preset {name}", known, 1, 0.5)
    help = f"did you mean {close[0]}?" if close else f"there is {', '.join(known)}"
    raise CompileError(f"no preset '{name}' for the task '{task}'", help=help)
