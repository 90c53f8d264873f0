"""Timing in turns."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from cimc.bench import timing
from cimc.bench.roofline import WORDS, available, counted, roofline_work
from cimc.bench.timing import Effort, Series, in_turns, spread

EFFORT = Effort(repeats=4, least=1.0, most=1000.0, processes=1)


class Clock:
    """A clock that only work moves on."""

    def __init__(self, monkeypatch):
        self.now, self.log = 0.0, []
        monkeypatch.setattr(timing, "perf_counter", lambda: self.now)

    def work(self, name, seconds):
        def run():
            self.log.append(name)
            self.now += seconds

        return run


def test_each_round_times_all_functions_in_changing_order(monkeypatch):
    clock = Clock(monkeypatch)
    series = in_turns({"a": clock.work("a", 1.5), "b": clock.work("b", 3.0)}, EFFORT)
    assert series.seconds == {"a": [1.5] * 4, "b": [3.0] * 4}
    assert clock.log[-8:] == list("abbaabba")
    assert series.median("b") == 3.0
    assert series.ratios("b", "a") == [2.0] * 4


def test_short_functions_are_repeated_for_one_timing(monkeypatch):
    clock = Clock(monkeypatch)
    series = in_turns({"a": clock.work("a", 0.125)}, EFFORT)
    assert series.inner == {"a": 8}
    assert series.seconds["a"] == [0.125] * 4


def test_rounds_end_when_time_is_up_but_three_are_run(monkeypatch):
    clock = Clock(monkeypatch)
    short = Effort(repeats=9, least=1.0, most=1.0, processes=1)
    assert len(in_turns({"a": clock.work("a", 5.0)}, short).seconds["a"]) == 3


def test_a_slow_function_is_called_once_to_warm_up(monkeypatch):
    clock = Clock(monkeypatch)
    in_turns({"a": clock.work("a", 50.0)}, EFFORT)
    assert clock.log == ["a"] * 5


def test_the_collector_waits_and_comes_back():
    seen = []
    effort = Effort(repeats=1, least=0.0, most=1.0, processes=1)
    in_turns({"a": lambda: seen.append(gc.isenabled())}, effort)
    assert not any(seen)
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        in_turns({"a": lambda: 1 / 0}, effort)
    assert gc.isenabled()


def test_spread_is_half_the_quartile_distance():
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(1 / 3)
    assert spread([7.0]) == 0.0


def test_json_has_medians_and_every_timing():
    found = Series({"a": [1.0, 3.0, 2.0]}, {"a": 5}).to_json()["a"]
    assert found["median_s"] == 2.0
    assert found["seconds"] == [1.0, 3.0, 2.0]
    assert found["calls_in_one_timing"] == 5


def test_probes_take_their_own_time(monkeypatch):
    clock = Clock(monkeypatch)
    series = in_turns({"a": clock.work("a", 1.0)}, EFFORT, {"b": lambda: 0.25})
    assert series.seconds == {"a": [1.0] * 4, "b": [0.25] * 4}
    assert series.ratios("b", "a") == [0.25] * 4


def _bits(moving, vectors):
    return int(np.bitwise_count(moving ^ vectors).sum())


def _bytes(moving, vectors):
    unsigned, signed = moving.view(np.uint8).astype(int), vectors.view(np.int8).astype(int)
    return int((unsigned * signed).sum())


@pytest.mark.parametrize(("kind", "sums"), [("bit", _bits), ("byte", _bytes)])
@pytest.mark.parametrize("rounds", [1, 2, 77])
def test_the_roofline_computes_what_it_says(kind, sums, rounds):
    if not available(kind):
        pytest.skip(f"this processor has no dot products of {kind}s")
    words = np.random.default_rng(0).integers(0, 2**32, WORDS, dtype=np.uint32)
    kept, turns = np.split(words.reshape(-1, 16), [8])
    total = sum(sums(turns[i % len(turns)], kept) for i in range(rounds))
    assert counted(words, rounds, kind) == total % 2**32


def test_threads_of_the_roofline_add_up():
    (one, macs), (two, twice) = roofline_work(1, 1000), roofline_work(2, 1000)
    assert (macs, twice) == (1000 * 8 * 512, 2000 * 8 * 512)
    one()
    two()
