"""Instructions bound to a machine: operands are looked up once, then the steps run fast.

`bind` turns the layers of a section into steps, `execute` runs them in order. What a step
does is in `cimc/isa/effects.py`; which state it changes, in `machine.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cimc.errors import CompileError
from cimc.isa.effects import Tally
from cimc.isa.program import (
    Affine,
    Data,
    Instr,
    Layer,
    Loop,
    Operand,
    Option,
    Range,
    Ref,
    Refs,
    Reg,
    Rows,
    walk,
)
from cimc.isa.state import (
    Accumulators,
    Addend,
    Buffer,
    Image,
    Index,
    Ints,
    Latch,
    ResultBits,
    Scalar,
    StoredRows,
    Trap,
    Vec,
    exact,
    ones_in,
)
from cimc.isa.table import TABLE
from cimc.sim.machine import Machine, Register

Env = dict[str, int]
Resolver = Callable[[Env], Any]
Tallies = defaultdict[tuple[str, str], Tally]  # what each instruction of each layer counted


@dataclass
class Step:
    """An instruction with its operands and options ready to be looked up."""

    layer: str
    instr: Instr
    tally: Tally
    effect: Callable[..., None]
    operands: list[Resolver]
    options: dict[str, Resolver]

    def run(self, env: Env) -> None:
        """Do it, with the loop variables of `env`; CompileError where a value is refused."""
        try:
            options = {name: option(env) for name, option in self.options.items()}
            self.effect(self.tally, *[operand(env) for operand in self.operands], **options)
        except Trap as trap:
            at = "".join(f", {name} = {value}" for name, value in env.items())
            message = f"layer {self.layer}, {self.instr.op}{at}: {trap.message}"
            raise CompileError(message, self.instr.span, trap.help) from None


@dataclass
class BoundLoop:
    """A loop with its bounds and body ready."""

    var: str
    lo: Resolver
    hi: Resolver
    body: list[Step | BoundLoop]


class Runnable(Protocol):
    """A step, or whatever runs in its place."""

    def run(self, env: Env) -> None: ...


def execute(body: Sequence[Runnable | BoundLoop], env: Env) -> None:
    """Run the steps in order; `for` and `par` alike in index order."""
    for item in body:
        if not isinstance(item, BoundLoop):
            item.run(env)
            continue
        for value in range(item.lo(env), item.hi(env)):
            env[item.var] = value
            execute(item.body, env)
        env.pop(item.var, None)


def run_once(machine: Machine, layers: Sequence[Layer], tallies: Tallies) -> None:
    """Run the layers of `.load` or `.update` one after the other. Behind each, the cells that
    it programmed are in the tiles: their images are released (see `Cells.release`)."""
    for layer in layers:
        execute(bind(machine, [layer], tallies), {})
        for instr in walk(layer.body):
            if instr.op in ("set", "reset"):
                _, image = instr.args
                assert isinstance(image, Ref)
                machine.data[image.name].cells.release()


def bind(machine: Machine, layers: list[Layer], tallies: Tallies) -> list[Step | BoundLoop]:
    """The instructions of a section as steps on the machine's state."""
    return [item for layer in layers for item in _body(machine, layer.name, layer.body, tallies)]


def _body(
    machine: Machine, layer: str, body: list[Instr | Loop], tallies: Tallies
) -> Iterator[Step | BoundLoop]:
    for item in body:
        if isinstance(item, Loop):
            inner = list(_body(machine, layer, item.body, tallies))
            yield BoundLoop(item.var, item.lo.value, item.hi.value, inner)
            continue
        try:
            yield _step(machine, layer, item, tallies[layer, item.op])
        except Trap as trap:
            raise CompileError(trap.message, item.span, trap.help) from None


def _step(machine: Machine, layer: str, instr: Instr, tally: Tally) -> Step:
    row = TABLE[instr.op]
    operands = [
        _operand(machine, param.kind, arg)
        for param, arg in zip(row.params, instr.args, strict=True)
    ]
    kinds = {opt.name: opt.kind for opt in row.opts}
    options = {name: _option(machine, kinds[name], v) for name, v in instr.opts.items()}
    return Step(layer, instr, tally, row.effect, operands, options)


# -- operands --------------------------------------------------------------------------


def _operand(machine: Machine, kind: str, arg: Operand) -> Resolver:
    """How to look up an operand of a table row's kind; once and for all where it's fixed."""
    resolve = _lookup(machine, kind, arg)
    if kind == "scalar" or not _is_fixed(arg):
        return resolve
    fixed = resolve({})
    return lambda env: fixed


def _lookup(machine: Machine, kind: str, arg: Operand) -> Resolver:
    match arg:
        case Reg():
            return _register(machine, kind, arg)
        case Rows():
            return _rows(machine, arg)
        case Ref() if kind == "scalar":
            vector = _vec(machine, arg)
            return lambda env: vector(env).values
        case Refs():
            buffers = [machine.buffers[name] for name in arg.names]
            return lambda env: buffers
        case Ref() if kind == "vec":
            return _vec(machine, arg)
        case Ref() if kind in ("win", "code"):
            units = machine.windows if kind == "win" else machine.fragments
            unit = units[arg.name]
            return lambda env: unit
        case Ref():
            if arg.index is not None:
                return _row(machine, arg, arg.index)
            return _constant(kind, machine.data[arg.name], arg.range)
    raise AssertionError(f"operand {arg} of kind {kind}")


def _is_fixed(arg: Operand) -> bool:
    """Whether the operand is the same object whatever the loop variables and latches hold."""
    match arg:
        case Reg(field=str()):
            return False
        case Rows():
            return arg.tile.is_const and _is_fixed_range(arg.range)
        case Ref(index=Affine() as index):
            return index.is_const and _is_fixed_range(arg.range)
        case Reg() | Ref():
            return _is_fixed_range(arg.range)
    return True


def _is_fixed_range(span: Range | None) -> bool:
    return span is None or (span.start.is_const and span.size.is_const)


def _span(span: Range, env: Env) -> tuple[int, int]:
    """[lo, hi) of a range."""
    lo = span.start.value(env)
    return lo, lo + span.size.value(env)


def _register(machine: Machine, kind: str, arg: Reg) -> Resolver:
    register, span, columns = machine.registers[arg.name], arg.range, machine.target.cols
    if isinstance(register, Latch):
        latch = register
        if arg.field is None:
            return lambda env: latch
        of_valid = arg.field == "valid"
        return lambda env: Addend(
            ones_in(latch.valid if of_valid else latch.bits)[:, None], columns
        )
    if isinstance(register, Scalar):
        return lambda env: register
    assert span is not None
    if kind == "scalar":
        return lambda env: _part(register, slice(*_span(span, env))).values
    if kind == "addend":
        return lambda env: Addend(_part(register, slice(*_span(span, env))), columns)
    return lambda env: _part(register, slice(*_span(span, env)))


def _part(register: Register, index: slice) -> Any:
    """A range of the result bits, popcounts or accumulators of a register."""
    match register:
        case ResultBits(words, ones, width):
            return ResultBits(words[:, :, index], ones[:, index], width[index])
        case Accumulators(values, low, high):
            return Accumulators(values[:, index], low, high)
        case Latch() | Scalar():
            raise AssertionError("a latch or scalar has no range")
    return register[:, index]


def _rows(machine: Machine, arg: Rows) -> Resolver:
    cells, physical, columns = machine.cells, machine.physical, machine.target.cols

    def resolve(env: Env) -> StoredRows:
        tile = arg.tile.value(env)
        index: Index = slice(*_span(arg.range, env))
        if tile in physical:
            index = physical[tile][index]
        return StoredRows(cells[tile], index, columns)

    return resolve


def _vec(machine: Machine, arg: Ref) -> Resolver:
    buffer, position, span = machine.buffers[arg.name], arg.index, arg.range
    assert isinstance(buffer, Buffer)
    assert position is not None
    lanes = machine.lanes
    if span is not None:
        return lambda env: Vec(buffer, position.value(env), *_span(span, env), lanes)
    channels = buffer.shape[buffer.axis]
    return lambda env: Vec(buffer, position.value(env), 0, channels, lanes)


def _constant(kind: str, data: Data, span: Range | None) -> Resolver:
    """Data along axis 0: rows of an image, thresholds, or an addend for each accumulator."""

    def image(env: Env) -> Image:
        return Image(data.cells, *(_span(span, env) if span else (0, data.shape[0])), data.seg)

    def resolve(env: Env) -> Any:
        part: Any = data.array if span is None else data.array[slice(*_span(span, env))]
        if kind != "addend":
            return part
        values: Ints = exact(part, "i64")[None]
        bound = max(abs(int(v)) for v in (values.min(initial=0), values.max(initial=0)))
        return Addend(values, bound)

    return image if kind == "cells" else resolve


def _row(machine: Machine, arg: Ref, index: Affine) -> Resolver:
    """An addend that is a row of a table, or one for each lane: then for all samples alike."""
    table, span, samples = machine.data[arg.name].array, arg.range, machine.samples
    assert isinstance(table, np.ndarray)
    bound = max(abs(int(v)) for v in (table.min(initial=0), table.max(initial=0)))

    def resolve(env: Env) -> Addend:
        position: int | Ints = index.value(env)
        part: Any = table[position]
        part = part if span is None else part[..., slice(*_span(span, env))]
        held = exact(part, "i64")
        values = np.tile(held, (samples, 1)) if held.ndim > 1 else held[None]
        return Addend(values, bound)

    return resolve


def _option(machine: Machine, kind: str, value: Option) -> Resolver:
    match value:
        case Range():
            return lambda env: _span(value, env)
        case Ref():
            return _operand(machine, kind, value)
        case Affine() if kind == "scalar":
            return lambda env: np.array([[value.value(env)]])
    return value.value
