"""All presets; `python -m cimc.train --list` prints them. A new one is a line here."""

from __future__ import annotations

import difflib

from cimc.errors import CompileError
from cimc.train import fashion, mnist, random_network, spoken_digits
from cimc.train.preset import Preset

PRESETS: tuple[Preset, ...] = (
    *mnist.PRESETS,
    *fashion.PRESETS,
    *random_network.PRESETS,
    *spoken_digits.PRESETS,
)


def find(task: str, name: str) -> Preset:
    """Raises CompileError where there is none."""
    named = {(p.task, p.name): p for p in PRESETS}
    if (task, name) in named:
        return named[task, name]
    known = [f"{p.task} --preset {p.name}" for p in PRESETS]
    close = difflib.get_close_matches(f"{task} --preset {name}", known, 1, 0.5)
    help = f"did you mean {close[0]}?" if close else f"there is {', '.join(known)}"
    raise CompileError(f"no preset '{name}' for the task '{task}'", help=help)
