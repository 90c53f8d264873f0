"""Which channels go first: rounds of removals, each tried on the network as a whole."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np

from cimc.ir.graph import Graph
from cimc.ir.types import Array
from cimc.prune.activations import Batches, Walk
from cimc.prune.compensate import Original, prune
from cimc.prune.costs import Costs
from cimc.prune.effect import Effects
from cimc.prune.spaces import Spaces

Family = tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """A round. channels: those that went in it, in order; removed: share of operations gone so
    far; error: of the network's outputs on samples that nothing was fitted to, relative."""

    channels: tuple[int, ...]
    removed: float
    error: float


@dataclass
class _Try:
    """gain: operations saved for each unit of error more; fresh: whether measured on the network as
    it is now."""

    channels: list[int]
    error: float
    rate: float
    fresh: bool


def families(spaces: Spaces, allowed: Collection[int] | None = None) -> list[Family]:
    """Channels that may go, those made by the same layers and used by the same together."""
    makers, users = spaces.makers(), spaces.users()
    found: dict[tuple[frozenset[int], frozenset[int]], list[int]] = {}
    for channel in range(spaces.count):
        barred = allowed is not None and channel not in allowed
        if barred or channel in spaces.locked or not makers[channel]:
            continue
        key = (frozenset(at for at, _ in makers[channel]), frozenset(u[0] for u in users[channel]))
        found.setdefault(key, []).append(channel)
    return [tuple(channels) for channels in found.values()]


class Schedule:
    """Removals in rounds of about `step` of the operations.

    Each round asks every family which of its channels has the least effect on the layers behind,
    one after the other; takes these out of the network on trial, with the layers behind fitted; and
    keeps the trial that saves most operations for the error it adds. Trials of earlier rounds stand
    as estimates: only the best is made again, until it stays the best.

    fitted: what layers are fitted to; held: other samples, on which the error is measured;
    allowed: channels that may go, None for all.
    """

    def __init__(
        self,
        fitted: Original,
        held: Batches,
        step: float,
        allowed: Collection[int] | None = None,
    ) -> None:
        self.original, self.held = fitted, held
        self.spaces, self.step = fitted.spaces, step
        self.costs = Costs(fitted.spaces)
        self.gone: list[int] = []
        self.error = 0.0
        self._target = outputs(fitted.graph, held)
        self._families = [f for f in families(fitted.spaces, allowed) if self.costs.removed(f) > 0]
        self._tries: dict[Family, _Try | None] = {}

    def rounds(self, until: float, stop: Callable[[], bool] = lambda: False) -> Iterator[Step]:
        """Rounds until the share `until` of the operations is gone, the last one no further than
        its last channel takes it; or until nothing more can go."""
        while self.costs.removed(self.gone) < until and not stop():
            chosen = self._best(until)
            if chosen is None:
                return
            self.gone += chosen.channels
            self.error = chosen.error
            for found in self._tries.values():
                if found is not None:
                    found.fresh = False
            yield Step(tuple(chosen.channels), self.costs.removed(self.gone), self.error)

    def _best(self, until: float) -> _Try | None:
        for family in self._families:
            if family not in self._tries:
                self._tries[family] = self._try(family, until)
        while True:
            open_ = {f: t for f, t in self._tries.items() if t is not None}
            if not open_:
                return None
            family = max(open_, key=lambda f: open_[f].rate)
            if open_[family].fresh:
                return open_[family]
            self._tries[family] = self._try(family, until)

    def _try(self, family: Family, until: float) -> _Try | None:
        """The next channels of a family on trial; None if none can go."""
        left = until - self.costs.removed(self.gone)
        channels = self._next(family, min(self.step, left))
        if not channels:
            return None
        twin = prune(self.original, {*self.gone, *channels}).graph
        error = relative_error(outputs(twin, self.held), self._target)
        saved = self.costs.of(self.gone) - self.costs.of([*self.gone, *channels])
        more = max(error - self.error, 0.0) + 1e-3 * self.error + 1e-9
        return _Try(channels, error, saved / self.costs.total / more, True)

    def _next(self, family: Family, share: float) -> list[int]:
        """Channels of least effect on the layers behind, until they save that share."""
        gone = list(self.gone)
        before = self.costs.removed(gone)
        behind = [
            Effects(inputs, gone)
            for inputs in self.original.inputs
            if inputs is not None and np.isin(family, inputs.numbers).any()
        ]
        chosen: list[int] = []
        free = [c for c in family if c not in set(gone)]
        while free and self.costs.removed(gone) < before + share:
            best = min(free, key=lambda c: (sum(e.of(c) for e in behind), c))
            free.remove(best)
            if self.spaces.spared([*gone, best]):
                continue
            chosen.append(best)
            gone.append(best)
            for effect in behind:
                if best in effect:
                    effect.remove(best)
        return chosen


def outputs(graph: Graph, data: Batches) -> list[Array]:
    """The graph's results, samples along the first axis."""
    return Walk(graph, data).finish()


def relative_error(found: list[Array], wanted: list[Array]) -> float:
    """Mean square of the difference over the variance of what is wanted, mean over the results."""
    shares = []
    for a, b in zip(found, wanted, strict=True):
        difference = a.astype(np.float64) - b.astype(np.float64)
        shares.append(float((difference**2).mean() / max(float(b.astype(np.float64).var()), 1e-12)))
    return float(np.mean(shares)) if shares else 0.0
