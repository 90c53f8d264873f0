"""The packed engine: runs a program on any number of samples, as the reference interpreter does.

Order of a run: `.load` once, by the reference; `.infer` for chunks of samples by the plan, several
chunks at once on several threads; `.update` once, by the reference. Values, cells, counts and
errors are those of `cimc/sim/reference.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import numpy as np

from cimc.errors import CompileError
from cimc.ir.types import Array, container
from cimc.isa.program import Program
from cimc.isa.sections import interface, without_update
from cimc.sim.counters import Counts, expected_counts, static_counts
from cimc.sim.feed import Feed, Outputs, Sink, Source
from cimc.sim.machine import Machine, Tiles, TileState, pack_tiles
from cimc.sim.packed.matrix import Cells
from cimc.sim.packed.plan import Convert, Item, Plan, make_plan
from cimc.sim.packed.rooms import room_bytes
from cimc.sim.packed.state import Failed, Ones, State
from cimc.sim.reference import Progress, Result, host_fragments, refuse, run_section

_CHUNK_BYTES = 768 << 10  # buffers of a chunk: what stays in a second-level cache
_MOST_SAMPLES = 256


@dataclass
class _Ready:
    """What `.load` left, and the plan for it."""

    once: Machine
    load: Counts
    plan: Plan
    sample_bytes: int


@dataclass(frozen=True)
class StepTime:
    """How long a step took. how: `packed`, `lanes`, `reference`, `host`, or `convert`; what: its
    instruction, or what else it does; seconds: of one run of all samples, the median of several.
    work: multiply-accumulates of one sample, of bits or of bytes as `unit` says, or elements."""

    layer: str
    what: str
    how: str
    seconds: float
    work: int
    unit: str


class Engine:
    """A program ready to run.

    contract: bit planes may become products of bytes, where that gives the same bits.
    threads: at most so many at once (None: one for each processor).
    memory: bytes for the buffers of all chunks (None: as many as run fast)."""

    def __init__(
        self,
        program: Program,
        *,
        contract: bool = True,
        threads: int | None = None,
        memory: int | None = None,
    ) -> None:
        self.program, self.contract, self.memory = program, contract, memory
        self.threads = threads or os.cpu_count() or 1
        self.fragments = host_fragments(program)
        self._interface = interface(program)
        self._sampled = without_update(program)
        self._ready: _Ready | None = None
        self._static: _Static | None = None
        self._states: list[State] = []
        self._pool: ThreadPoolExecutor | None = None
        self._lock = Lock()

    # -- before samples ----------------------------------------------------------------

    def ready(self, tiles: Tiles | TileState | None = None) -> _Ready:
        """Run `.load` and make the plan; kept for the state of all cells 0."""
        if tiles is None and self._ready is not None:
            return self._ready
        cells = pack_tiles(tiles, self.program.target)
        once = Machine(self.program, 1, cells, self.fragments)
        load = Counts(1)
        run_section(once, self.program, "load", load)
        held = Cells(cells, *_maps(self.program, once))
        plan = make_plan(self._sampled, once.buffers, held, self.contract)
        made = _Ready(once, load, plan, max(1, _sample_bytes(self._sampled, plan)))
        if tiles is None:
            self._ready = made
        return made

    def _chunk(self, ready: _Ready, samples: int) -> int:
        """Samples at a time."""
        size = ready.sample_bytes
        room = _CHUNK_BYTES
        if self.memory is not None:
            if size > self.memory:
                raise CompileError(
                    f"one sample takes {size:,} bytes of buffers, the budget is {self.memory:,}",
                    help=f"give at least --memory {-(-size // 1000)}kB",
                )
            room = min(room, self.memory // self.threads)
        most = max(1, min(_MOST_SAMPLES, room // size))
        even = -(-samples // self.threads)  # a share for each thread
        return max(1, min(most, even if even >= 8 or self.threads == 1 else samples))

    # -- running -----------------------------------------------------------------------

    def run(
        self,
        inputs: Mapping[str, Array | Source],
        *,
        tiles: Tiles | TileState | None = None,
        count_only: bool = False,
        progress: Progress | None = None,
        sink: Sink | None = None,
    ) -> Result:
        """Run on N samples; see `cimc.sim.reference.run`. Raises CompileError as that does."""
        feed = Feed(self._interface, inputs)
        if count_only:
            counts = expected_counts(self.program, feed.samples, tiles)
            cells = pack_tiles(tiles, self.program.target)
            return Result({}, counts, TileState(cells, self.program.target.cols), feed.samples)
        ready = self.ready(tiles)
        ones, outputs = Ones(), Outputs(self._interface, feed.samples, sink)
        self._infer(ready, feed, ones, outputs, progress)
        counts = self._counts(ready, ones, feed.samples)
        cells = ready.once.cells
        if self.program.section("update") is not None:
            if tiles is None:
                cells = cells.copy()
            machine = Machine(self.program, 1, cells, self.fragments)
            machine.start_from(ready.once)
            run_section(machine, self.program, "update", counts)
            outputs.finish(machine)
        state = TileState(cells, self.program.target.cols)
        return Result(outputs.join(), counts, state, feed.samples)

    def profile(self, inputs: Mapping[str, Array], *, repeats: int = 5) -> list[StepTime]:
        """The time of each step, for all samples of `inputs` in one chunk, on one thread. Raises
        CompileError as `run` does."""
        feed = Feed(self.program, inputs)
        ready, number = self.ready(), feed.samples
        state = self._state(ready, number)
        times: list[list[StepTime]] = []
        try:
            for _ in range(max(1, repeats) + 1):
                state.start(feed.part(0, number), number)
                times.append([StepTime(*found) for found in state.timed(number)])
        except Failed:
            refuse(ready.once, self.program, feed, 0, number)
            raise
        self._states.append(state)
        by_step = zip(*times[1:], strict=True)  # the first run may compile
        return [
            replace(found[0], seconds=float(np.median([f.seconds for f in found])))
            for found in by_step
        ]

    def _infer(
        self,
        ready: _Ready,
        feed: Feed,
        ones: Ones,
        outputs: Outputs,
        progress: Progress | None,
    ) -> None:
        size = self._chunk(ready, feed.samples)
        starts = range(0, feed.samples, size)
        if len(starts) <= 1 or self.threads == 1:
            pool = self._threads() if self.threads > 1 else None
            for start in starts:
                stop = min(start + size, feed.samples)
                self._run_chunk(ready, feed, start, stop, pool, ones, outputs)
                if progress is not None:
                    progress(stop, feed.samples)
            return
        waiting: list[Any] = []
        pool = self._threads()
        for start in [*starts, *[-1] * self.threads]:
            if start >= 0:
                part = start, min(start + size, feed.samples)
                waiting.append((part[1], pool.submit(self._run_apart, ready, feed, *part)))
            if waiting and (start < 0 or len(waiting) > self.threads):
                stop, future = waiting.pop(0)
                found, counted = future.result()
                outputs.add(found)
                ones.update(counted)
                if progress is not None:
                    progress(stop, feed.samples)

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="cimc")
        return self._pool

    def _run_apart(
        self, ready: _Ready, feed: Feed, start: int, stop: int
    ) -> tuple[dict[str, Any], Ones]:
        """The samples [start, stop) on one of several threads: copies of the outputs, and ones."""
        ones, copies = Ones(), _Copies()
        self._run_chunk(ready, feed, start, stop, None, ones, copies)
        return copies.found, ones

    def _run_chunk(
        self,
        ready: _Ready,
        feed: Feed,
        start: int,
        stop: int,
        pool: ThreadPoolExecutor | None,
        ones: Ones,
        outputs: Outputs | _Copies,
    ) -> None:
        """Run the samples [start, stop) and hand their outputs on."""
        number = stop - start
        state = self._state(ready, number)
        try:
            state.start(feed.part(start, stop), number)
            state.run(number, ones, pool, self.threads)
            outputs.add(state.outputs(number))
        except Failed:
            refuse(ready.once, self.program, feed, start, stop)
            raise AssertionError("the reference interpreter runs what the engine refused") from None
        finally:
            self._states.append(state)

    def _state(self, ready: _Ready, number: int) -> State:
        """A free state for the plan, or a new one."""
        with self._lock:
            for i, state in enumerate(self._states):
                exact = state.machine is not None
                fits = state.samples == number if exact else state.samples >= number
                if state.plan is ready.plan and fits:
                    return self._states.pop(i)
        return State(self._sampled, ready.plan, ready.once, number, self.fragments)

    def _counts(self, ready: _Ready, ones: Ones, samples: int) -> Counts:
        """Static counts from the text, the others as they were found."""
        if self._static is None:
            self._static = _Static.of(self._sampled)
        counts = Counts(samples)
        counts.sections["load"] = dict(ready.load.sections["load"])
        if samples:
            counts.sections["infer"] = self._static.times(samples, ones)
        return counts


class _Static:
    """The counts of one sample of `.infer`, in the order of the text, with room for `ones`."""

    def __init__(self, table: dict[tuple[str, str, str], int]) -> None:
        self._table = table
        self._keys, self._numbers = list(table), np.array(list(table.values()), object)
        self._ones = [key for key in table if key[2] == "ones"]

    @staticmethod
    def of(program: Program) -> _Static:
        table: dict[tuple[str, str, str], int] = {}
        counted = static_counts(program, pulses=False).sections["infer"]
        for (layer, op, name), number in counted.items():
            table[layer, op, name] = number
            if op.startswith("read.") and name == "bits":
                table[layer, op, "ones"] = 0
        return _Static(table)

    def times(self, samples: int, ones: Ones) -> dict[tuple[str, str, str], int]:
        """The counts of some samples, in which these ones were found."""
        found = self._table.copy()
        if samples != 1:
            found = dict(zip(self._keys, (self._numbers * samples).tolist()))
        for key in self._ones:
            number = ones[key[0], key[1]]
            if number:
                found[key] = number
            else:
                del found[key]
        return found


@dataclass
class _Copies:
    """Takes outputs as `Outputs` does, and keeps copies."""

    found: dict[str, Any] = field(default_factory=dict)

    def add(self, found: Mapping[str, Any]) -> None:
        self.found = {
            name: value.copy() if isinstance(value, np.ndarray) else value
            for name, value in found.items()
        }


def _maps(program: Program, machine: Machine) -> tuple[Any, Any]:
    """Which tiles have a `.map`, and their physical rows."""
    mapped = np.full(program.target.tiles, -1, np.int64)
    maps = np.zeros((max(1, len(machine.physical)), program.target.rows), np.int64)
    for i, (tile, rows) in enumerate(machine.physical.items()):
        mapped[tile], maps[i] = i, rows
    return mapped, maps


def _sample_bytes(program: Program, plan: Plan) -> int:
    """Memory of one sample's buffers, packed and flat."""
    flat = [mem for mem in program.mems.values() if mem.shape is not None]
    others = [item for item in plan.items if isinstance(item, Item) and item.how != "packed"]
    if all(item.how == "host" for item in others):  # no machine with all buffers
        roots = {item.root for item in plan.items if isinstance(item, Convert)}
        roots = roots.union(*(item.reads | item.writes for item in others))
        flat = [mem for mem in flat if mem.name in roots]
    sizes = [int(np.prod(mem.shape or ())) * container(mem.type).itemsize for mem in flat]
    return room_bytes(plan) + sum(sizes)
