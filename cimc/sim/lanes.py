"""Runs the iterations of independent loops side by side, with the effects of the reference.

A loop over positions, `for p in 0:N`, whose iterations share nothing, runs as one iteration on
*lanes*: every sample at every position of a run of positions. Registers are as wide as there are
lanes; the variable of the loop holds all its values at once. Everything else runs one iteration
after the other. Values, cells and counts are those of the reference interpreter, and so are
errors: a loop in which a value is refused runs again, step by step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cimc.errors import CompileError
from cimc.isa.check.registers import borrowed, keeps_registers
from cimc.isa.effects import Tally
from cimc.isa.program import (
    Affine,
    Instr,
    Layer,
    Loop,
    Program,
    Range,
    Ref,
    Refs,
    Reg,
    Section,
    walk,
)
from cimc.isa.sections import roots
from cimc.isa.state import words_for
from cimc.isa.table import TABLE
from cimc.sim.bind import BoundLoop, Env, Step, Tallies, bind, execute
from cimc.sim.machine import Machine

_STATE_BYTES = 64 << 20  # registers of all lanes: what stays near the processor

Body = list[Instr | Loop]


# -- which loops -----------------------------------------------------------------------


def independent(
    program: Program, section: Section, layer: Layer, loop: Loop, later: set[str]
) -> bool:
    """Whether the iterations of a loop outside any other share no register and no element of a
    buffer, and use its variable for positions only. A sufficient condition: each vector that
    is written lies at a position of its own, each register is written before it is read, and
    none of them is among those that are read `later`."""
    if not (loop.lo.is_const and loop.hi.is_const):
        return False
    return (
        _only_positions(loop.body, loop.var)
        and _own_places(program, loop)
        and keeps_registers(section, layer, loop)
        and not later & _written(loop.body)
    )


def with_later(section: Section) -> list[tuple[Layer, Instr | Loop, set[str]]]:
    """Each item of a section, with the registers of before it that items behind it may read."""
    found: list[tuple[Layer, Instr | Loop, set[str]]] = []
    later: set[str] = set()
    for layer in reversed(section.layers):
        for item in reversed(layer.body):
            found.append((layer, item, set(later)))
            later |= borrowed(section, layer, item)
    return found[::-1]


def _written(body: Body) -> set[str]:
    """Names of the registers that a body writes."""
    return {
        arg.name
        for instr in walk(body)
        for param, arg in zip(TABLE[instr.op].params, instr.args, strict=True)
        if isinstance(arg, Reg) and param.role != "r"
    }


def _only_positions(body: Body, var: str) -> bool:
    for item in body:
        if isinstance(item, Loop):
            if item.lo.uses(var) or item.hi.uses(var) or not _only_positions(item.body, var):
                return False
            continue
        if item.op in ("set", "reset", "host"):
            return False
        if any(expr.uses(var) for arg in item.args for expr in _inside(arg)):
            return False
        for value in item.opts.values():
            exprs = [value] if isinstance(value, Affine) else list(_inside(value))
            if any(expr.uses(var) for expr in exprs):
                return False
    return True


def _inside(arg: object) -> Iterator[Affine]:
    """The expressions of an operand or option but the position of a vector."""
    span = arg if isinstance(arg, Range) else getattr(arg, "range", None)
    if isinstance(span, Range):
        yield span.start
        yield span.size
    tile = getattr(arg, "tile", None)
    if isinstance(tile, Affine):
        yield tile


def _own_places(program: Program, loop: Loop) -> bool:
    """Each buffer is written at one position p + constant, and none of them is read."""
    behind = roots(program)
    written: set[tuple[str, str, int]] = set()
    read: set[str] = set()
    for instr in walk(loop.body):
        for name, ref, role in _buffers(instr):
            if role != "w":
                read.add(behind[name])
                continue
            if ref is None or ref.index is None or ref.index.terms != ((loop.var, 1),):
                return False
            if (behind[name], name, ref.index.const) in written:
                continue
            if any(behind[name] == root for root, _, _ in written):
                return False  # through two views, or at two places
            written.add((behind[name], name, ref.index.const))
    return not read & {root for root, _, _ in written}


def _buffers(instr: Instr) -> Iterator[tuple[str, Ref | None, str]]:
    """Name, operand and role of each buffer that an instruction uses."""
    for param, arg in zip(TABLE[instr.op].params, instr.args, strict=True):
        if isinstance(arg, Refs):
            yield from ((name, None, param.role) for name in arg.names)
        elif isinstance(arg, Ref) and param.kind in ("vec", "scalar"):
            yield arg.name, arg, param.role
    for value in instr.opts.values():
        if isinstance(value, Ref) and value.index is not None:
            yield value.name, value, "r"


# -- running them ----------------------------------------------------------------------


@dataclass
class LaneLoop:
    """An independent loop of a layer, on the state of a machine."""

    loop: Loop
    layer: str
    machine: Machine
    tallies: Tallies

    def run(self, env: Env) -> None:
        """All iterations; CompileError where a value is refused."""
        low, high = self.loop.lo.const, self.loop.hi.const
        most = self._most()
        counted: list[tuple[int, Tallies]] = []
        try:
            for start in range(low, high, most):
                positions = np.arange(start, min(start + most, high))
                counted.append((len(positions), self._lanes(positions)))
        except CompileError:
            self._alone()
            return
        for times, tallies in counted:
            self._count(tallies, times)

    def _most(self) -> int:
        """Positions at a time, so that the registers of all lanes take no more than
        `_STATE_BYTES`."""
        words = 4 * words_for(self.machine.target.cols) + 4
        names = {a.name for i in walk(self.loop.body) for a in i.args if isinstance(a, Reg)}
        rows = sum(size for n, (_, size) in self.machine.sizes.items() if n in names)
        return max(1, _STATE_BYTES // (8 * words * (rows + 1) * self.machine.samples))

    def _lanes(self, positions: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Tallies:
        tallies = Tallies(Tally)
        machine = self.machine.side_by_side(len(positions))
        body = bind(machine, [Layer(self.layer, self.loop.body)], tallies)
        env: Env = {self.loop.var: positions}  # type: ignore[dict-item]
        execute(body, env)
        return tallies

    def _alone(self) -> None:
        execute(bind(self.machine, [Layer(self.layer, [self.loop])], self.tallies), {})

    def _count(self, tallies: Tallies, times: int) -> None:
        """Static counters are those of one iteration, the others of all lanes."""
        for (layer, op), tally in tallies.items():
            total = self.tallies[layer, op]
            for counter in TABLE[op].counters:
                number = tally[counter.name]
                total[counter.name] += number * times if counter.static else number


def bind_lanes(
    machine: Machine, program: Program, section: Section, tallies: Tallies
) -> list[Step | BoundLoop | LaneLoop]:
    """The instructions of a section as steps, independent loops as lanes."""
    found: list[Step | BoundLoop | LaneLoop] = []
    for layer, item, later in with_later(section):
        if not isinstance(item, Loop) or not independent(program, section, layer, item, later):
            found += bind(machine, [Layer(layer.name, [item])], tallies)
            continue
        for instr in walk(item.body):
            tallies[layer.name, instr.op]  # counts in the order of the text
        found.append(LaneLoop(item, layer.name, machine, tallies))
    return found
