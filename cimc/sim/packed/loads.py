"""What latches load, and the terms that reads make of it.

A *term* says: to accumulators [acc, acc + n) add coef times the ones that `op` finds in rows
[row, row + n) of a tile, against bit plane `plane` of the columns [k, k + size) of what was
loaded, which lie from tile column `col` on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from cimc.isa.program import Affine, Ref, Win
from cimc.sim.packed.flow import Refused

Ints = npt.NDArray[np.int64]
Terms = npt.NDArray[np.void]

FIELDS = (
    "out", "acc", "n", "coef", "op", "latch", "plane", "group", "k", "size", "tile", "row", "col",
    "factor",
)  # fmt: skip
TERM = np.dtype([(name, np.int64) for name in FIELDS])
"""`out`: the iteration of the loops around the store. `factor`: which table of factors multiplies
it, one factor for each accumulator, or -1."""

OPS = {"and": 0, "nand": 1, "or": 2, "xor": 3, "ones": 4, "valid": 5}
LATCHES = {"bits": 0, "one": 1, "zero": 2}


@dataclass(frozen=True)
class Source:
    """What the latches of a loop load from: a window of a buffer, or channels [lo, lo + size) of
    its vectors; what taps outside hold (None: they are not valid)."""

    buffer: str
    win: Win | None = field(hash=False)
    lo: int
    size: int  # K: columns of a group, or channels of the vector
    pad: int | Ref | None = None


@dataclass
class Load:
    """A load with its values in every iteration."""

    source: Source
    position: Affine
    latch: str
    seg: Ints
    plane: Ints
    group: Ints
    col: Ints
    width: int = 0  # of a segment of a vector
    piece: tuple[Ints, Ints, Ints, Ints] | None = None  # one group of a pack

    def repeat(self, times: int) -> Load:
        """The load with each iteration `times` times."""
        parts = [np.repeat(a, times) for a in (self.seg, self.plane, self.group, self.col)]
        return replace(self, seg=parts[0], plane=parts[1], group=parts[2], col=parts[3])


def new_terms(count: int, op: int) -> Terms:
    made = np.zeros(count, TERM)
    made["op"], made["factor"] = op, -1
    return made


def fill_columns(made: Terms, load: Load, cols: tuple[Ints, Ints] | None, columns: int) -> None:
    """Fill in which columns each term counts: those that are loaded and in `cols`."""
    pieces = list(_loaded(load, columns))
    low, high = cols if cols is not None else (np.zeros(len(made), np.int64), None)
    covered = np.zeros(len(made), np.int64)
    made["latch"], made["plane"] = LATCHES[load.latch], load.plane
    for group, k, col, size in pieces:
        first = np.maximum(col, low)
        last = col + size if high is None else np.minimum(col + size, high)
        some = last > first
        covered += some
        for name, value in (("group", group), ("k", k + first - col), ("col", first),
                            ("size", last - first)):  # fmt: skip
            made[name] = np.where(some, value, made[name])
    if (covered > 1).any():
        raise Refused("a count over several groups of a window")


def by_group(made: Terms, load: Load, cols: tuple[Ints, Ints] | None, columns: int) -> Terms:
    """A term for each group that a read finds loaded."""
    found = []
    for piece in _loaded(load, columns):
        part = made.copy()
        fill_columns(part, replace(load, piece=piece), cols, columns)
        found.append(part[part["size"] > 0])
    return np.concatenate(found) if found else made[:0]


def _loaded(load: Load, columns: int) -> Sequence[tuple[Ints, Ints, Ints, Ints]]:
    """(group, first column of it, tile column, number) of each run that is loaded."""
    if load.piece is not None:
        return [load.piece]
    source = load.source
    seg = load.width if source.win is None else source.win.seg
    start = load.seg * seg
    size = np.minimum(seg or source.size, source.size - start)
    if source.win is None or source.win.pack == 1:
        return [(load.group, start, load.col, size)]
    first = load.group * source.win.pack
    pieces = []
    for i in range(source.win.pack):
        there = first + i < source.win.groups
        pieces.append((first + i, start, load.col + i * size, np.where(there, size, 0)))
    return pieces
