"""Holds one run of a program against another: outputs in every bit, cells, counts, errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cimc.errors import CompileError
from cimc.sim import reference


@dataclass
class Outcome:
    """What a run gave, or the error that it ended in."""

    result: reference.Result | None = None
    error: str = ""


def outcome(run, *args, **options):
    """The outcome of a call of `run`; a CompileError is one, anything else is a bug."""
    try:
        return Outcome(run(*args, **options))
    except CompileError as error:
        return Outcome(error=str(error))


def expected(case):
    """The outcome of the reference interpreter, which is right by definition."""
    return outcome(reference.run, case.program, case.feeds, tiles=case.tiles)


def difference(right, found):
    """Where two outcomes differ, in words; empty where they agree."""
    if right.error or found.error:
        same = right.error == found.error
        return "" if same else f"error:\n{found.error or '(none)'}\nnot:\n{right.error or '(none)'}"
    a, b = right.result, found.result
    if a.samples != b.samples:
        return f"{b.samples} samples, not {a.samples}"
    if list(a.outputs) != list(b.outputs):
        return f"outputs {list(b.outputs)}, not {list(a.outputs)}"
    for name, value in a.outputs.items():
        words = _values(value, b.outputs[name])
        if words:
            return f"output {name}: {words}"
    if not np.array_equal(a.tiles, b.tiles) or a.tiles.dtype != b.tiles.dtype:
        return f"cells {np.argwhere(a.tiles != b.tiles)[:5].tolist()} (tile, row, column)"
    return _counts(a.counts.sections, b.counts.sections)


def _counts(right, found):
    for section, table in right.items():
        other = found[section]
        for key in [*table, *other]:
            if table.get(key) != other.get(key):
                return f"count .{section} {'.'.join(key)}: {other.get(key)}, not {table.get(key)}"
    return ""


def _values(right, found):
    """Where two outputs differ; lists hold one value a sample."""
    if isinstance(right, list):
        if not isinstance(found, list) or len(right) != len(found):
            return f"{type(found).__name__}, not a list of {len(right)}"
        return next((w for a, b in zip(right, found) if (w := _values(a, b))), "")
    if right is None or found is None:  # a host value that nothing has stored
        return "" if right is found else f"{found}, not {right}"
    if (right.dtype, right.shape) != (found.dtype, found.shape):
        return f"{found.dtype}{list(found.shape)}, not {right.dtype}{list(right.shape)}"
    wrong = np.argwhere(~_same_bits(right, found))
    if not len(wrong):
        return ""
    at = tuple(wrong[0])
    return (
        f"{len(wrong)} of {right.size} wrong; at {list(map(int, at))} {found[at]}, not {right[at]}"
    )


def _same_bits(a, b):
    """Equal in value and sign of zero; any NaN equals any other."""
    if a.dtype.kind not in "fV":
        return a == b
    a, b = (x.astype(np.float64) for x in (a, b))
    return ((a == b) & (np.signbit(a) == np.signbit(b))) | (np.isnan(a) & np.isnan(b))
