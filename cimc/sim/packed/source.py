"""What the rows of a sum of products read: the elements of each tap or channel, as runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.isa.geometry import win_taps, window_index
from cimc.isa.program import Win
from cimc.sim.packed.flow import Refused
from cimc.sim.packed.layout import Access
from cimc.sim.packed.loads import Source

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass
class Taps:
    """The places that the rows at some positions read: first element of each tap [positions,
    taps] with `size` channels each, where `inside` says that the tap lies in the buffer. For a
    vector there is one tap; `order` is the column of each element then."""

    elements: Ints
    inside: Bools
    size: int
    order: Ints | None = None

    @property
    def columns(self) -> int:
        """K."""
        return int(self.elements.shape[1]) * self.size

    @property
    def valid(self) -> Bools:
        """Which columns lie in the buffer [positions, K]."""
        return np.repeat(self.inside, self.size, axis=1)

    def runs(self) -> tuple[Ints, Ints]:
        """Runs (element, column, number) of elements that lie together, and where those of each
        position start [positions + 1]."""
        before = np.zeros_like(self.inside)
        before[:, 1:] = self.inside[:, :-1] & (
            self.elements[:, 1:] == self.elements[:, :-1] + self.size
        )
        starts = self.inside & ~before
        tap = np.nonzero(starts)[1]
        number = np.cumsum(starts.reshape(-1)) - 1
        lengths = np.bincount(number[self.inside.reshape(-1)], minlength=len(tap))
        runs = np.stack([self.elements[starts], tap * self.size, lengths * self.size], axis=1)
        ends = np.r_[0, np.cumsum(starts.sum(axis=1))]
        return runs, ends


def kinds(rows: npt.NDArray[np.integer[Any]]) -> tuple[Ints, Ints]:
    """The first of each kind of equal rows, and the kind of each row."""
    if rows.shape[1] <= 60 and rows.min(initial=0) >= 0 and rows.max(initial=0) <= 1:
        keys = rows.astype(np.int64) @ (np.int64(1) << np.arange(rows.shape[1]))
        _, first, kind = np.unique(keys, return_index=True, return_inverse=True)
    else:
        _, first, kind = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return first, kind.reshape(-1)


def taps(access: Access, source: Source, positions: Ints, group: int) -> Taps:
    """What a source's rows read at some positions. Raises Refused."""
    if source.win is None:
        return _vector(access, source, positions)
    size = source.win.channels // source.win.groups
    places, inside = tap_positions(source.win, access, positions)
    first, stride = access.vectors(places.reshape(-1), group * size, size)
    if stride != 1 and size > 1:
        raise Refused("the channels of a tap lie apart")
    return Taps(first.reshape(places.shape), inside, size)


def tap_positions(win: Win, access: Access, positions: Ints) -> tuple[Ints, Bools]:
    """The position of each tap in the buffer [positions, taps], and whether it is inside."""
    shape = access.shape
    one = replace(win, channels=1, groups=1, pack=1, seg=0)
    index, inside = window_index(one, (shape[0], 1, *shape[2:]))
    return index[positions, 0], inside[positions].reshape(len(positions), win_taps(win))


def _vector(access: Access, source: Source, positions: Ints) -> Taps:
    inside = np.ones((len(positions), 1), np.bool_)
    if access.index is None:
        first = positions * access.channels + source.lo
        return Taps(first[:, None], inside, source.size)
    elements = access.elements(positions, source.lo, source.size)
    order = np.argsort(elements[0], kind="stable") if len(elements) else np.zeros(0, np.int64)
    together = elements[:, order]
    if source.size and (np.diff(together, axis=1) == 1).all():
        return Taps(together[:, :1], inside, source.size, order)
    return Taps(elements, np.ones(elements.shape, np.bool_), 1)
