"""Prunes a network until a budget is used up: operations removed, or accuracy lost.

The search splits the calibration data: layers are fitted to one part while the error of the
network is measured on another. What it finds is fitted to all the data in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.ir.graph import Graph
from cimc.ir.types import Array
from cimc.prune.activations import batches, most_samples
from cimc.prune.compensate import Original, prune
from cimc.prune.opened import close, opened
from cimc.prune.schedule import Schedule, Step, outputs
from cimc.prune.spaces import Spaces

Samples = Sequence[Mapping[str, Array]]
Labels = npt.NDArray[np.int64]

_FITTED, _HELD = 400, 200  # samples at most in the search
_ROWS = 10_000  # positions of a layer that the search looks at
_STEP = 0.03  # share of the operations that a round removes, about
_LOOK = 0.8  # a search for a drop measures it each time the operations shrink by this factor


@dataclass(frozen=True)
class Budget:
    """remove_macs: share of the operations to remove; max_drop: share of the samples that may be
    classified wrongly in addition. One of them is given."""

    remove_macs: float | None = None
    max_drop: float | None = None


@dataclass(frozen=True)
class Report:
    """What a pruning to a budget did.

    removed: share of the operations (of convolutions; of all layers where there are none). steps:
    the rounds of the search. channels: how many went. used: samples looked at. before, after: top-1
    on labelled samples, None without labels; after: of networks fitted to the other half of the
    samples. left: why layers were not fitted, by name.
    """

    removed: float
    steps: list[Step]
    channels: int
    used: int
    before: float | None
    after: float | None
    left: dict[str, str]


class Search:
    """Removals in order, of a graph on calibration data; any part of them can be carried out.

    graph: is not changed. samples: inputs by name, one sample each. allowed: channels that may go,
    as numbers of `Spaces(graph)`; None for all. Raises CompileError where the graph does not run.
    """

    def __init__(
        self,
        graph: Graph,
        samples: Samples,
        allowed: Collection[int] | None = None,
        step: float = _STEP,
    ) -> None:
        self.samples = spread(samples, most_samples(graph))
        self.graph = opened(graph, self.samples)
        self.spaces = Spaces(self.graph)
        fitted, held = parts(self.samples)
        small = Original(self.graph, self.spaces, batches(self.graph, fitted), _ROWS)
        self.schedule = Schedule(small, batches(self.graph, held), step, allowed)
        self.steps: list[Step] = []
        self.left: dict[str, str] = {}
        self._fitted: dict[int, Original] = {}

    def run(
        self,
        until: float,
        stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Search until that share of the operations is gone, or nothing more can go."""
        for step in self.schedule.rounds(until, stop):
            self.steps.append(step)
            if progress is not None:
                progress(min(99, int(100 * step.removed / until)), 100)

    @property
    def channels(self) -> list[int]:
        """In the order of their removal."""
        return self.schedule.gone

    def pruned(self, count: int) -> Graph:
        """The network without the first `count` of them, fitted to all samples. Where the graph was
        bound to one sample, so is this one."""
        found = self._pruned(count, 0)
        close(found)
        return found

    def removed(self, count: int) -> float:
        """The share of operations that goes with them."""
        return self.schedule.costs.removed(self.channels[:count])

    def count_for(self, share: float) -> int:
        """How many of them remove that share, or all."""
        counts = range(len(self.channels) + 1)
        return next((n for n in counts if self.removed(n) >= share - 1e-9), len(self.channels))

    def right(self, count: int, labels: Labels) -> int:
        """Samples that are classified rightly without the first `count`: each half of the samples
        by the network that is fitted to the other half. labels: of `samples`."""
        total = 0
        for part, other in ((1, 2), (2, 1)) if len(self.samples) > 1 else ((0, 0),):
            chosen = _half(part)
            data = batches(self.graph, self.samples[chosen])
            twin = self._pruned(count, other) if count else self.graph
            total += guessed(outputs(twin, data)[0], labels[chosen])
        return total

    def _pruned(self, count: int, part: int) -> Graph:
        """Fitted to all samples (part 0), to those of even or of odd number (1, 2)."""
        if part not in self._fitted:
            data = batches(self.graph, self.samples[_half(part)])
            self._fitted[part] = Original(self.graph, self.spaces, data)
        found = prune(self._fitted[part], set(self.channels[:count]))
        self.left |= found.left
        return found.graph


def _half(part: int) -> slice:
    """All samples (part 0), those of even or of odd number (1, 2)."""
    return slice(part - 1, None, 2) if part else slice(None)


def prune_to_budget(
    graph: Graph,
    samples: Samples,
    budget: Budget,
    labels: Labels | None = None,
    allowed: Collection[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Prune a graph in place. samples: inputs by name, one sample each; labels: their classes,
    needed for `max_drop`; allowed: channels that may go, numbers of `Spaces(graph)`, None for all.

    Raises CompileError where the graph does not run on the samples.
    """
    search = Search(graph, samples, allowed)
    if labels is not None:
        labels = spread(labels, len(search.samples))
    before = None if labels is None else search.right(0, labels)
    after = before
    if budget.max_drop is None:
        search.run(budget.remove_macs or 0.0, progress=progress)
        count = len(search.channels)
        after = None if labels is None else search.right(count, labels)
    else:
        assert labels is not None, "max_drop is measured on labels"
        assert before is not None
        lost = int(budget.max_drop * labels.size + 1e-9)
        search.run(1.0, _too_far(search, labels, before - lost), progress)
        count, after = _most(search, labels, before, before - lost)
    if count:
        graph.become(search.pruned(count))
    size = None if labels is None else labels.size
    return Report(
        search.removed(count), search.steps, count, len(search.samples),
        None if before is None or size is None else before / size,
        None if after is None or size is None else after / size,
        search.left,
    )  # fmt: skip


def _too_far(search: Search, labels: Labels, least: int) -> Callable[[], bool]:
    """Whether a search has gone beyond what is right on `least` samples, by more than chance may
    take back: looked at now and then."""
    looked = 1.0

    def far() -> bool:
        nonlocal looked
        kept = 1.0 - search.removed(len(search.channels))
        if kept > looked * _LOOK:
            return False
        looked = kept
        return search.right(len(search.channels), labels) < least - max(2, labels.size // 100)

    return far


def _most(search: Search, labels: Labels, before: int, least: int) -> tuple[int, int]:
    """The most removals with `least` samples right, by bisection, and how many are."""
    low, high, right = 0, len(search.channels) + 1, before
    while high - low > 1:
        middle = (low + high) // 2
        found = search.right(middle, labels)
        if found >= least:
            low, right = middle, found
        else:
            high = middle
    return low, right


def spread(items: Any, most: int) -> Any:
    """At most so many of a sequence, evenly."""
    if len(items) <= most:
        return items
    chosen = np.linspace(0, len(items) - 1, most).astype(int)
    return items[chosen] if isinstance(items, np.ndarray) else [items[i] for i in chosen]


def parts(samples: Samples) -> tuple[Samples, Samples]:
    """What the search fits to, and what it measures on, every third sample; one alone is both."""
    if len(samples) < 2:
        return samples, samples
    held = list(samples[1::3])
    fitted = [s for i, s in enumerate(samples) if i % 3 != 1]
    return spread(fitted, _FITTED), spread(held, _HELD)


def guessed(scores: Any, labels: Labels) -> int:
    """How many of the samples have their label as the class of the highest score, or as the value
    of a single result."""
    rows = np.asarray(scores).reshape(labels.size, -1)
    guesses = rows.argmax(1) if rows.shape[1] > 1 else rows[:, 0]
    return int((guesses == labels.reshape(-1)).sum())
