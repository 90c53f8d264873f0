"""Times functions in turns, so that what slows this machine for a while slows all of them.

Knows neither programs nor networks.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from statistics import median, quantiles
from time import perf_counter

Work = Callable[[], object]
Probe = Callable[[], float]


@dataclass(frozen=True)
class Effort:
    """How long to measure: rounds of turns, the least seconds of one timing, after how many
    seconds no round begins any more (but three are always run), rounds of whole processes."""

    repeats: int
    least: float
    most: float
    processes: int


FULL = Effort(repeats=11, least=0.06, most=30.0, processes=5)
QUICK = Effort(repeats=3, least=0.004, most=1.0, processes=1)
_FEWEST = 3
_SLOW = 2.0  # seconds of a call, also of the first one, that need no more than one


@dataclass(frozen=True)
class Series:
    """Timings of several functions, one of each in every round.

    seconds: of one call, by name, one number a round. inner: calls in one timing."""

    seconds: dict[str, list[float]]
    inner: dict[str, int]

    def median(self, name: str) -> float:
        """Seconds of one call."""
        return median(self.seconds[name])

    def ratios(self, slow: str, fast: str) -> list[float]:
        """How many times faster `fast` was, for each round."""
        return [a / b for a, b in zip(self.seconds[slow], self.seconds[fast])]

    def to_json(self) -> dict[str, object]:
        return {
            name: {
                "median_s": median(found),
                "spread": spread(found),
                "seconds": found,
                "calls_in_one_timing": self.inner[name],
            }
            for name, found in self.seconds.items()
        }


def spread(values: list[float]) -> float:
    """Half the distance between the quartiles, relative to the median."""
    if len(values) < 2:
        return 0.0
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return (high - low) / 2 / middle if middle else 0.0


def in_turns(
    functions: Mapping[str, Work], effort: Effort, probes: Mapping[str, Probe] | None = None
) -> Series:
    """Time each function in every round, in a changing order, after calls to warm up.

    A timing repeats its function until it takes `effort.least` seconds. probes: take a time by
    themselves and give it, in seconds."""
    probes = probes or {}
    with _no_collection():
        inner = {name: _calls(work, effort.least) for name, work in functions.items()}
        for warm in probes.values():
            warm()
        order = [*functions, *probes]
        seconds: dict[str, list[float]] = {name: [] for name in order}
        start = perf_counter()
        for done in range(effort.repeats):
            if done >= _FEWEST and perf_counter() - start > effort.most:
                break
            for name in order:
                probe = probes.get(name)
                took = _timed(functions[name], inner[name]) if probe is None else probe()
                seconds[name].append(took)
            order.reverse()  # A B, B A: a drift hits both alike
    return Series(seconds, inner | dict.fromkeys(probes, 1))


def median_of(work: Work, repeats: int) -> Probe:
    """A probe that calls a function so often and takes the median: for work that is as short as
    what it is compared with, so that what interrupts one can interrupt the other."""
    return lambda: median(_timed(work, 1) for _ in range(repeats))


def _calls(work: Work, least: float) -> int:
    """How many calls take so long; the first of them warms caches and compiles."""
    if _timed(work, 1) >= _SLOW:
        return 1
    once = min(_timed(work, 1) for _ in range(2))
    if once >= least:
        return 1
    # short calls by themselves are slower than in a row: ask again over some of them
    once = _timed(work, max(1, int(least / 2 / once)))
    return max(1, ceil(least / once))


def _timed(work: Work, calls: int) -> float:
    start = perf_counter()
    for _ in range(calls):
        work()
    return (perf_counter() - start) / calls


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's garbage collector waits: a pause would be counted to whom it hits."""
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
