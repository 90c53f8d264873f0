"""The buffers of some samples at once, and how a plan runs on them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.errors import CompileError
from cimc.ir.types import container
from cimc.isa.effects import Tally
from cimc.isa.program import Layer, Loop, Program
from cimc.isa.state import Fragment, HostBuffer
from cimc.isa.table import TABLE
from cimc.sim.bind import Tallies, bind, execute
from cimc.sim.lanes import LaneLoop
from cimc.sim.machine import Machine
from cimc.sim.packed.plan import Convert, Item, Plan
from cimc.sim.packed.step import Step

Ones = Counter[tuple[str, str]]
"""Ones found by layer and instruction."""

_SHARED_WORK = {"bit": 1 << 26, "byte": 1 << 23, "element": 1 << 20}
"""Work of a step from which on several threads are worth it for one chunk."""


class Failed(Exception):
    """A value was refused; the reference interpreter says which and where."""


class State:
    """Room for `samples` samples. `once` is the machine that `.load` left."""

    def __init__(
        self,
        program: Program,
        plan: Plan,
        once: Machine,
        samples: int,
        fragments: Mapping[str, Fragment],
    ) -> None:
        self.program, self.plan, self.once, self.samples = program, plan, once, samples
        self.machine = (
            Machine(program, samples, once.cells, fragments) if plan.needs_machine else None
        )
        self._flat: dict[str, Any] = {}
        self.packed: dict[str, npt.NDArray[np.uint8]] = {}
        self._used = self._roots()
        steps = list(plan.steps)
        for step in steps:
            for _, name, _ in step.bases:
                self._room(name)
        for item in plan.items:
            if isinstance(item, Convert) and item.to == "packed":
                self._room(item.root)
        for root in plan.packed:
            self._room(root)
        addresses = {name: array.ctypes.data for name, array in self.packed.items()}
        self.params = {id(step): step.bound(addresses) for step in steps}
        self.scratch_bytes = max((step.scratch for step in steps), default=0) + 256
        self.scratch = [np.zeros(self.scratch_bytes, np.uint8)]
        self.tallies = Tallies(Tally)

    def _roots(self) -> set[str]:
        return {mem.name for mem in self.program.mems.values()}

    def _room(self, root: str) -> None:
        if root not in self.packed:
            slot = self.plan.layout.slot(root)
            self.packed[root] = np.zeros((self.samples, slot.stride), np.uint8)

    # -- buffers -----------------------------------------------------------------------

    def flat(self, root: str) -> Any:
        """The values of a buffer as the reference has them [samples, elements]."""
        if self.machine is not None:
            return self.machine.buffers[root].flat  # type: ignore[union-attr]
        if root not in self._flat:
            mem = self.program.mems[root]
            assert mem.shape is not None
            shape = self.samples, int(np.prod(mem.shape))
            self._flat[root] = np.zeros(shape, container(mem.type))
        return self._flat[root]

    def start(self, given: Mapping[str, Any], number: int) -> None:
        """Begin with the inputs of `number` samples, and what `.load` left."""
        if self.machine is not None:
            assert number == self.samples
            self.machine.start_from(self.once)
        for root in self.plan.packed:
            slot = self.plan.layout.slot(root)
            left = np.zeros((1, slot.stride), np.uint8)
            slot.pack(self.once.buffers[root].flat, left)  # type: ignore[union-attr]
            self.packed[root][...] = left
        for root in self.plan.flat:
            if self.machine is None and root not in given:
                self.flat(root)[...] = self.once.buffers[root].flat  # type: ignore[union-attr]
        for name, value in given.items():
            self._give(name, value, number)

    def _give(self, name: str, value: Any, number: int) -> None:
        if self.machine is not None:
            buffer = self.machine.buffers[name]
            if isinstance(buffer, HostBuffer):
                buffer.values[:] = [value[0]] * number
            else:
                buffer.flat[...] = value.reshape(len(value), -1)
            return
        held = value.reshape(len(value), -1)
        self._flat[name] = held if len(held) == number else np.repeat(held, number, axis=0)

    def convert(self, item: Convert, number: int) -> None:
        """Bring a buffer into the other form."""
        slot, packed, flat = self.plan.layout.slot(item.root), self.packed, self.flat(item.root)
        if item.to == "packed":
            slot.pack(flat[:number], packed[item.root][:number])
        else:
            slot.unpack(packed[item.root][:number], flat[:number])

    # -- running -----------------------------------------------------------------------

    def run(self, number: int, ones: Ones, pool: ThreadPoolExecutor | None, threads: int) -> None:
        """All items for the first `number` samples. Raises Failed."""
        for item in self.plan.items:
            if isinstance(item, Convert):
                self.convert(item, number)
            elif item.how == "packed":
                for step in item.steps:
                    self.step(step, number, ones, pool, threads)
            else:
                self._by_reference(item, ones)

    def timed(self, number: int) -> Iterator[tuple[str, str, str, float, int, str]]:
        """Run all items and say how long each step took: the fields of `StepTime`. Raises
        Failed."""
        ones, clock = Ones(), time.perf_counter
        for item in self.plan.items:
            if isinstance(item, Item) and item.how == "packed":
                for step in item.steps:
                    start = clock()
                    self.step(step, number, ones, None, 1)
                    yield step.layer, step.what, item.how, clock() - start, step.work, step.unit
                continue
            start = clock()
            if isinstance(item, Convert):
                self.convert(item, number)
                yield item.root, f"to {item.to}", "convert", clock() - start, 0, "element"
            else:
                self._by_reference(item, ones)
                yield item.layer.name, "", item.how, clock() - start, 0, "element"

    def step(
        self, step: Step, number: int, ones: Ones, pool: ThreadPoolExecutor | None, threads: int
    ) -> None:
        """One kernel call, or one for each thread."""
        params = self.params[id(step)].ctypes.data
        rows = step.rows * number
        if pool is None or step.work * number < _SHARED_WORK[step.unit]:
            scratch = self.scratch[0].ctypes.data
            result = step.kernel(params, scratch, 0, rows, 0, step.pairs)
        else:
            result = self._shared(step, params, rows, pool, threads)
        if step.counts:
            ones[step.layer, step.counts] += result + step.fixed * number
        elif result:
            raise Failed

    def _shared(
        self, step: Step, params: int, rows: int, pool: ThreadPoolExecutor, threads: int
    ) -> int:
        """A step's rows, or else its lanes, shared out to threads."""
        while len(self.scratch) < threads:
            self.scratch.append(np.zeros(self.scratch_bytes, np.uint8))
        calls: list[tuple[int, int, int, int]] = []
        if step.shared and rows >= 8 * threads:
            ends = _split(rows, threads, 8)
            calls = [(a, b, 0, step.pairs) for a, b in pairwise(ends)]
        elif step.pairs >= threads and step.shared:
            ends = _split(step.pairs, threads, 1)
            calls = [(0, rows, a, b) for a, b in pairwise(ends)]
        else:
            return step.kernel(params, self.scratch[0].ctypes.data, 0, rows, 0, step.pairs)
        waiting = [
            pool.submit(step.kernel, params, self.scratch[i + 1].ctypes.data, *call)
            for i, call in enumerate(calls[1:])
        ]
        first = step.kernel(params, self.scratch[0].ctypes.data, *calls[0])
        return first + sum(future.result() for future in waiting)

    def _by_reference(self, item: Item, ones: Ones) -> None:
        assert self.machine is not None
        tallies = Tallies(Tally)
        try:
            if item.how == "lanes":
                assert isinstance(item.item, Loop)
                LaneLoop(item.item, item.layer.name, self.machine, tallies).run({})
            else:
                layer = Layer(item.layer.name, [item.item])
                execute(bind(self.machine, [layer], tallies), {})
        except CompileError:
            raise Failed from None
        for (name, op), tally in tallies.items():
            if any(not counter.static for counter in TABLE[op].counters):
                ones[name, op] += tally["ones"]

    def outputs(self, number: int) -> dict[str, Any]:
        """The values of each output buffer by its name: [number, *shape], or a list."""
        found: dict[str, Any] = {}
        for mem in self.program.outputs:
            if mem.shape is None:
                assert self.machine is not None
                found[mem.name] = list(self.machine.buffers[mem.name].values)  # type: ignore[union-attr]
            else:
                found[mem.name] = self.flat(mem.name)[:number].reshape(number, *mem.shape)
        return found


def _split(number: int, parts: int, unit: int) -> Sequence[int]:
    """Bounds of nearly equal parts, at multiples of a unit."""
    ends = [i * number // parts // unit * unit for i in range(parts)]
    return [*ends, number]
