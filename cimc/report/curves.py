"""Curves of accuracy against operations removed, from a JSON file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cimc.errors import CompileError, raise_all
from cimc.textfile import read_text

_FORM = 'a list such as [{"label": "budget", "points": [[0.0, 0.98], [0.3, 0.97]]}]'


@dataclass(frozen=True)
class Curve:
    """points: (share of the operations removed, accuracy), both from 0 to 1."""

    label: str
    points: tuple[tuple[float, float], ...]


def read_curves(path: str | Path) -> list[Curve]:
    """The curves of a file. Raises CompileError for what is no such file, all mistakes at once."""
    try:
        found = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise CompileError(f"no JSON: {error}", str(path), help=f"expected {_FORM}") from None
    if not isinstance(found, list) or not found:
        raise CompileError("expected a list of curves", str(path), help=f"such as {_FORM}")
    errors: list[CompileError] = []
    curves = [_curve(item, f"{path}: curve {i}", errors) for i, item in enumerate(found)]
    raise_all(errors)
    return curves


def _curve(item: Any, where: str, errors: list[CompileError]) -> Curve:
    label = item.get("label") if isinstance(item, dict) else None
    points = item.get("points") if isinstance(item, dict) else None
    if not isinstance(label, str) or not isinstance(points, list) or not points:
        errors.append(CompileError("has no label or no points", where, help=f"expected {_FORM}"))
        return Curve("", ())
    wrong = [p for p in points if not _shares(p)]
    if wrong:
        errors.append(
            CompileError(
                f"'{label}' has a point {json.dumps(wrong[0])}",
                where,
                help="a point is [share removed, accuracy], two numbers from 0 to 1",
            )
        )
        return Curve(label, ())
    return Curve(label, tuple((float(a), float(b)) for a, b in points))


def _shares(point: Any) -> bool:
    return (
        isinstance(point, list)
        and len(point) == 2
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in point)
        and all(0 <= v <= 1 for v in point)
    )
