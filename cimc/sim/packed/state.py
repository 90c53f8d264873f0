"""The buffers of some samples at once, and how a plan runs on them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cimc.errors import CompileError
from cimc.ir.types import container, int_range, is_integer
from cimc.isa.effects import Tally
from cimc.isa.program import Instr, Layer, Loop, Mem, Program, Ref, Refs, View
from cimc.isa.state import Fragment, HostBuffer, Trap, exact
from cimc.isa.table import TABLE
from cimc.sim.bind import Tallies, bind, execute
from cimc.sim.lanes import LaneLoop
from cimc.sim.machine import Machine
from cimc.sim.packed import calls
from cimc.sim.packed.jit import run_table
from cimc.sim.packed.plan import Convert, Item, Plan
from cimc.sim.packed.rooms import packed_rooms
from cimc.sim.packed.step import Step

if TYPE_CHECKING:
    from cimc.sim.fragments.parts import Bound

Ones = Counter[tuple[str, str]]
"""Ones found by layer and instruction."""

_SHARED_WORK = 1 << 17
"""Nanoseconds, roughly, from which on several threads are worth it for one chunk."""


class Failed(Exception):
    """A value was refused; the reference interpreter says which and where."""


class _Table:
    """Steps as a table for `run_table`."""

    def __init__(self, steps: list[Step], params: Mapping[int, npt.NDArray[np.int64]]) -> None:
        self.steps = steps
        self.work = max(step.weight for step in steps)
        self.entries = np.array(
            [
                (
                    s.kernel.address,
                    params[id(s)].ctypes.data,
                    s.rows,
                    s.pairs,
                    int(bool(s.counts)),
                    0,
                )
                for s in steps
            ],
            np.int64,
        )
        self.address = int(self.entries.ctypes.data)
        self._counted = [i for i, step in enumerate(steps) if step.counts]

    def count(self, number: int, ones: Ones) -> None:
        """Take what was counted."""
        found = self.entries[:, calls.RESULT].tolist()
        for i in self._counted:
            step = self.steps[i]
            ones[step.layer, step.counts] += found[i] + step.fixed * number
        self.entries[:, calls.RESULT] = 0


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
        self.machine: Machine | None = None
        self._flat: dict[str, Any] = {}
        self._stays: set[str] = set()  # arrays that somebody holds the address of
        self._hosts: dict[int, tuple[Bound, list[tuple[Any, str]]]] = {}
        if not self._bind_hosts(fragments):
            self.machine = Machine(program, samples, once.cells, fragments)
        self.packed = packed_rooms(plan, samples)
        self._slots = {name: plan.layout.slot(name) for name in self.packed}
        self.values = {
            name: values
            for name, room in self.packed.items()
            if (values := self._slots[name].values(room)) is not None
        }
        steps = list(plan.steps)
        addresses = {name: array.ctypes.data for name, array in self.packed.items()}
        self.params = {id(step): step.bound(addresses) for step in steps}
        self.scratch_bytes = max((step.scratch for step in steps), default=0) + 256
        self.scratch = [np.zeros(self.scratch_bytes, np.uint8)]
        self.scratch_at = int(self.scratch[0].ctypes.data)
        self.parts = list(self._parts())
        self._outputs = program.outputs

    def _bind_hosts(self, fragments: Mapping[str, Fragment]) -> bool:
        """Bind the host fragments to buffers of our own: whether that is all that the
        reference's machine would be needed for."""
        others = [item for item in self.plan.items if isinstance(item, Item) and item.steps == []]
        if any(item.how in ("lanes", "reference") for item in others):
            return False
        for item in others:
            if item.how == "host" and not self._bind_host(item, fragments):
                return False
        return True

    def _bind_host(self, item: Item, fragments: Mapping[str, Fragment]) -> bool:
        instr = item.item
        assert isinstance(instr, Instr)
        code, x, y = instr.args
        assert isinstance(code, Ref)
        assert isinstance(x, Refs)
        assert isinstance(y, Refs)
        names = [*x.names, *y.names]
        if any(not _is_array(self.program, name) for name in names):
            return False
        arrays = [self._array(name) for name in names]
        fragment: Any = fragments[code.name]
        bound = fragment.bind(arrays[: len(x.names)], arrays[len(x.names) :])
        if bound is None:
            return False
        partly = [name for name in y.names if not self._takes_all(name)]
        checked = [(self._array(name), self._declared(name).type) for name in partly]
        self._hosts[id(item)] = bound, checked
        self._stays |= {self.plan.layout.root(name) for name in names}
        return True

    def _array(self, name: str) -> Any:
        """A buffer, or a view that only reshapes, as an array [samples, *shape]."""
        item = self._declared(name)
        assert item.shape is not None
        return self.flat(self.plan.layout.root(name)).reshape(self.samples, *item.shape)

    def _declared(self, name: str) -> Mem | View:
        return self.program.mems.get(name) or self.program.views[name]

    def _takes_all(self, name: str) -> bool:
        """Whether the buffer takes every value of its numpy type."""
        elem = self._declared(name).type
        if not is_integer(elem):
            return True
        limits: Any = np.iinfo(container(elem))
        return int_range(elem) == (limits.min, limits.max)

    def _parts(self) -> Iterator[_Table | Convert | Item]:
        """The items, those of kernels that follow each other as one table."""
        steps: list[Step] = []
        for item in self.plan.items:
            if isinstance(item, Item) and item.how == "packed":
                steps += item.steps
                continue
            if steps:
                yield _Table(steps, self.params)
            steps = []
            yield item
        if steps:
            yield _Table(steps, self.params)

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
        for root in self.plan.packed:
            slot = self.plan.layout.slot(root)
            left = np.zeros((1, slot.stride), np.uint8)
            slot.pack(self.once.buffers[root].flat, left)  # type: ignore[union-attr]
            self.packed[root][...] = left
        for root in self.plan.flat:
            if root not in given:
                self.flat(root)[...] = self.once.buffers[root].flat  # type: ignore[union-attr]
        if self.machine is not None:
            for buffer in self.machine.buffers.values():
                if isinstance(buffer, HostBuffer):
                    buffer.values[:] = [None] * self.samples
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
        # kernels know where a sample begins; its elements follow each other
        held = np.ascontiguousarray(value.reshape(len(value), -1))
        if name in self._stays:
            self.flat(name)[:number] = held
        else:
            self._flat[name] = held if len(held) == number else np.repeat(held, number, axis=0)

    def convert(self, item: Convert, number: int) -> None:
        """Bring a buffer into the other form."""
        root, flat = item.root, self.flat(item.root)
        values = self.values.get(root)
        if values is not None:
            self._slots[root].copy(flat[:number], values[:number], item.to == "packed")
            return
        slot, packed = self._slots[root], self.packed[root][:number]
        if item.to == "packed":
            slot.pack(flat[:number], packed)
        else:
            slot.unpack(packed, flat[:number])

    # -- running -----------------------------------------------------------------------

    def run(self, number: int, ones: Ones, pool: ThreadPoolExecutor | None, threads: int) -> None:
        """All items for the first `number` samples. Raises Failed."""
        for part in self.parts:
            if isinstance(part, _Table):
                self._run_table(part, number, pool, threads)
            elif isinstance(part, Convert):
                self.convert(part, number)
            else:
                self._otherwise(part, number, ones)
        for part in self.parts:
            if isinstance(part, _Table):
                part.count(number, ones)

    def _run_table(
        self, part: _Table, number: int, pool: ThreadPoolExecutor | None, threads: int
    ) -> None:
        if pool is None or number * part.work < _SHARED_WORK:
            bad = run_table(part.address, len(part.steps), number, self.scratch_at)
        else:
            bad = 0
            for i, step in enumerate(part.steps):
                found = self._step(step, number, pool, threads)
                if step.counts:
                    part.entries[i, calls.RESULT] += found
                else:
                    bad += found
        if bad:
            part.entries[:, calls.RESULT] = 0
            raise Failed

    def _step(self, step: Step, number: int, pool: ThreadPoolExecutor, threads: int) -> int:
        """One kernel, its rows or else its lanes shared out to threads where that pays."""
        params, rows = self.params[id(step)].ctypes.data, step.rows * number
        parts: list[tuple[int, int, int, int]] = [(0, rows, 0, step.pairs)]
        if step.weight * number >= _SHARED_WORK and step.shared:
            if rows >= 8 * threads:
                parts = [(a, b, 0, step.pairs) for a, b in pairwise(_split(rows, threads, 8))]
            elif step.pairs >= threads:
                parts = [(0, rows, a, b) for a, b in pairwise(_split(step.pairs, threads, 1))]
        while len(self.scratch) < len(parts):
            self.scratch.append(np.zeros(self.scratch_bytes, np.uint8))
        waiting = [
            pool.submit(step.kernel, params, scratch.ctypes.data, *part)
            for scratch, part in zip(self.scratch[1:], parts[1:])
        ]
        found = step.kernel(params, self.scratch_at, *parts[0])
        return found + sum(future.result() for future in waiting)

    def timed(self, number: int) -> Iterator[tuple[str, str, str, float, int, str]]:
        """Run all items and say how long each step took: the fields of `StepTime`. Raises
        Failed."""
        clock = time.perf_counter
        for item in self.plan.items:
            if isinstance(item, Item) and item.how == "packed":
                for step in item.steps:
                    params, rows = self.params[id(step)].ctypes.data, step.rows * number
                    start = clock()
                    bad = step.kernel(params, self.scratch_at, 0, rows, 0, step.pairs)
                    end = clock() - start
                    if bad and not step.counts:
                        raise Failed
                    yield step.layer, step.what, item.how, end, step.work, step.unit
                continue
            start = clock()
            if isinstance(item, Convert):
                self.convert(item, number)
                yield item.root, f"to {item.to}", "convert", clock() - start, 0, "element"
            else:
                self._otherwise(item, number, Ones())
                yield item.layer.name, "", item.how, clock() - start, 0, "element"

    def _otherwise(self, item: Item, number: int, ones: Ones) -> None:
        """An item without kernels: a host fragment, or the reference's effects."""
        if self.machine is not None or id(item) not in self._hosts:
            self._by_reference(item, ones)
            return
        bound, checked = self._hosts[id(item)]
        try:
            bound.run(number)
            for array, elem in checked:
                exact(array[:number], elem)
        except (CompileError, Trap):
            raise Failed from None

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
        for mem in self._outputs:
            if mem.shape is None:
                host = None if self.machine is None else self.machine.buffers[mem.name]
                values = host.values if isinstance(host, HostBuffer) else [None] * number
                found[mem.name] = list(values)
            else:
                found[mem.name] = self.flat(mem.name)[:number].reshape(number, *mem.shape)
        return found


def _is_array(program: Program, name: str) -> bool:
    """Whether a buffer, or a view that only reshapes one, holds numbers."""
    mem = program.mems.get(name)
    if mem is None:
        view = program.views[name]
        return view.perm is None and _is_array(program, view.source)
    return mem.shape is not None and mem.type != "str"


def _split(number: int, parts: int, unit: int) -> Sequence[int]:
    """Bounds of nearly equal parts, at multiples of a unit."""
    ends = [i * number // parts // unit * unit for i in range(parts)]
    return [*ends, number]
