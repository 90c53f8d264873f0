"""Counts: how often each part of the chip worked, by layer, instruction and counter.

`static_counts` derives them from the bounds of a program without running it; the
interpreters count while they run (`Counts.add`). Both give the same numbers for every
counter that is static in `cimc/isa/table.py`. For the others, `expected_counts` has
expected values. Knows nothing of costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from cimc.isa.control import PRODUCT
from cimc.isa.effects import Tally, compares
from cimc.isa.geometry import inside_shares, segment, win_columns, win_load, win_taps
from cimc.isa.program import (
    Affine,
    Instr,
    Loop,
    Mem,
    Program,
    Range,
    Ref,
    Reg,
    Rows,
    View,
    Win,
)
from cimc.isa.state import Scalar
from cimc.isa.table import TABLE
from cimc.sim.bind import Tallies
from cimc.sim.machine import Tiles, TileState, register_sizes
from cimc.sim.pulses import programming_pulses

Key = tuple[str, str, str]  # layer, instruction, counter
Env = dict[str, int]

_ONES = "expected ones"  # of a tally, in units of 1 / _PART
_PART = 1 << 20


@dataclass
class Counts:
    """`sections[name][layer, instruction, counter]`, without zeros: `load` and `update` once,
    `infer` summed over `samples`. Those named in `expected` were not counted: they are
    expected values."""

    samples: int
    sections: dict[str, dict[Key, int]] = field(
        default_factory=lambda: {"load": {}, "infer": {}, "update": {}}
    )
    expected: frozenset[Key] = frozenset()

    def add(self, section: str, tallies: Tallies, times: int) -> None:
        """Add what the instructions counted; static counters are multiplied by `times`."""
        table = self.sections[section]
        for (layer, op), tally in tallies.items():
            for counter in TABLE[op].counters:
                number = tally[counter.name] * (times if counter.static else 1)
                if number:
                    key = layer, op, counter.name
                    table[key] = table.get(key, 0) + number

    def total(self) -> dict[Key, int]:
        """All sections together: load + samples x infer + update."""
        sums: dict[Key, int] = {}
        for table in self.sections.values():
            for key, number in table.items():
                sums[key] = sums.get(key, 0) + number
        return sums

    def layers(self) -> list[str]:
        """The layers of `.infer` in order, then those that only other sections have."""
        keys = [*self.sections["infer"], *self.sections["load"], *self.sections["update"]]
        return list(dict.fromkeys(layer for layer, _, _ in keys))

    def static(self) -> Counts:
        """Without the counters that depend on the run's values."""
        kept = {
            name: {key: n for key, n in table.items() if is_static(key)}
            for name, table in self.sections.items()
        }
        return Counts(self.samples, kept)

    def to_json(self) -> dict[str, object]:
        """`{"samples": N, "load": {"layer.instruction.counter": n, …}, …}`, and the names of
        counts that are expected values under "expected", if there are any."""
        sections = {
            name: {".".join(key): number for key, number in table.items()}
            for name, table in self.sections.items()
        }
        found: dict[str, object] = {"samples": self.samples, **sections}
        if self.expected:
            found["expected"] = sorted(".".join(key) for key in self.expected)
        return found


def is_static(key: Key) -> bool:
    """Whether a count is known from the program's text alone."""
    _, op, name = key
    return next(counter.static for counter in TABLE[op].counters if counter.name == name)


# -- counting without running ----------------------------------------------------------


def static_counts(
    program: Program,
    samples: int = 1,
    tiles: Tiles | TileState | None = None,
    pulses: bool = True,
) -> Counts:
    """The static counts of a run with `samples` samples, and the programming pulses (unless
    left out), which follow from the cell images and the initial `tiles` (None: all cells 0)."""
    counts = Counts(samples)
    for name, tallies, times in _tallies(program, samples):
        counts.add(name, tallies, times)
    if pulses:
        for name, tallies in programming_pulses(program, tiles):
            counts.add(name, tallies, 1)
    return counts


def expected_counts(
    program: Program,
    samples: int = 1,
    tiles: Tiles | TileState | None = None,
    pulses: bool = True,
) -> Counts:
    """`static_counts` with the expected values of the counters that depend on the values of a
    run: the ones in the results of reads, for cells and inputs that are 0 and 1 equally often,
    and ternary inputs that have each of their values equally often. Of the columns that are
    valid (on average over all positions, where a window reaches beyond its buffer), xor then
    gives ones in half, and in a quarter, or and nand in three quarters; a latch that `ld.fill`
    filled has the value that it was filled with."""
    counts = Counts(samples)
    expected: set[Key] = set()
    for name, tallies, times in _tallies(program, samples):
        for (layer, op), tally in tallies.items():
            tally["ones"] = round(tally[_ONES] * times / _PART)
            if tally["ones"]:
                expected.add((layer, op, "ones"))
        counts.add(name, tallies, times)
    if pulses:
        for name, tallies in programming_pulses(program, tiles):
            counts.add(name, tallies, 1)
    return replace(counts, expected=frozenset(expected))


def _tallies(program: Program, samples: int) -> Iterator[tuple[str, Tallies, int]]:
    """What one execution of each section counts, and how often it runs."""
    loaded = _Widths.of(program)
    for name in ("load", "infer", "update"):
        section = program.section(name)
        if section is None:
            continue
        walk = _Walk(program, loaded if name == "load" else loaded.copy(), Tallies(Tally))
        for layer in section.layers:
            walk.layer = layer.name
            walk.body(layer.body, {})
        yield name, walk.tallies, samples if name == "infer" else 1


@dataclass(frozen=True)
class _Load:
    """What a latch holds: columns, the expected share of them that are valid, and the expected
    share of those that are 1."""

    columns: int = 0
    valid: float = 1.0
    high: float = 0.5


@dataclass
class _Widths:
    """What later counts depend on: what each latch holds, and columns that the read of each row
    of a result register evaluated."""

    latches: dict[str, _Load]
    bits: dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]]

    @staticmethod
    def of(program: Program) -> _Widths:
        sizes = register_sizes(program)
        return _Widths(
            {name: _Load() for name, (kind, _) in sizes.items() if kind == "latch"},
            {name: np.zeros(n, np.int64) for name, (kind, n) in sizes.items() if kind == "bits"},
        )

    def copy(self) -> _Widths:
        return _Widths(dict(self.latches), {name: w.copy() for name, w in self.bits.items()})

    def same(self, other: _Widths) -> bool:
        return self.latches == other.latches and all(
            np.array_equal(width, other.bits[name]) for name, width in self.bits.items()
        )


@dataclass
class _Walk:
    """Adds up the counters of a section."""

    program: Program
    widths: _Widths
    tallies: Tallies
    layer: str = ""

    def __post_init__(self) -> None:
        self.datas, self.wins = self.program.datas, self.program.wins
        self.buffers: dict[str, Mem | View] = {**self.program.mems, **self.program.views}
        self.inside: dict[tuple[str, str, bool], npt.NDArray[np.float64]] = {}

    def body(self, body: list[Instr | Loop], env: Env) -> None:
        for item in body:
            if isinstance(item, Loop):
                self.loop(item, env)
                continue
            tally = self.tallies[self.layer, item.op]
            for name, number in self.instr(item, env):
                tally[name] += number

    def loop(self, loop: Loop, env: Env) -> None:
        """One iteration after the other while sizes change with the loop variable or the
        widths still settle; then the rest at once."""
        outer, alike = self.tallies, not _sizes_use(loop.body, loop.var)
        end = loop.hi.value(env)
        value = loop.lo.value(env)
        while value < end:
            before = self.widths.copy()
            self.tallies = Tallies(Tally)
            self.body(loop.body, {**env, loop.var: value})
            repeat = end - value if alike and before.same(self.widths) else 1
            for key, tally in self.tallies.items():
                for name, number in tally.items():
                    outer[key][name] += number * repeat
            value += repeat
        self.tallies = outer

    def instr(self, instr: Instr, env: Env) -> Iterator[tuple[str, int]]:
        """The counters of one execution."""
        family = instr.op.split(".")[0]
        match family:
            case "set" | "reset":
                rows = _size(instr.args[0], env)
                yield "rows", rows
                yield "verify", rows * self.image_columns(instr, env)
            case "ld":
                columns = self.load(instr, env)
                if instr.op == "ld.row":
                    yield "rows", 1
                    yield "cells", columns
                yield "bits", columns
            case "read":
                rows, width = self.read(instr, env)
                yield "rows", rows
                yield "bits", rows * width
                load = self.widths.latches[_name(instr.args[2])]
                ones = rows * width * load.valid * _ones(instr.op, load.high)
                yield _ONES, round(ones * _PART)
            case "popc":
                yield "bits", self.popcount(instr, env)
            case "acc":
                yield "ops", _size(instr.args[0], env)
            case "ctl":
                yield "ops", self.control(instr, env)
            case "st" | "pp":
                count = self.channels(instr.args[0], env) * self.steps(instr)
                yield TABLE[instr.op].counters[0].name, count
            case "host":
                yield "calls", 1
                yield "macs", self.datas[_name(instr.args[0])].macs

    def image_columns(self, instr: Instr, env: Env) -> int:
        data = self.datas[_name(instr.args[1])]
        return segment(data.shape[1], data.seg, _opt(instr, "seg", env))[1]

    def load(self, instr: Instr, env: Env) -> int:
        """Columns that a load fills; remembered for the reads that use the latch."""
        if instr.op == "ld.window":
            win = self.wins[_name(instr.args[2])]
            group, seg = _opt(instr, "group", env), _opt(instr, "seg", env)
            _, count, start, length = win_load(win, group, seg)
            shares = self.shares(instr, win)[start : start + length]
            load = _Load(count * length, self.nonzero(instr) * float(shares.mean()))
        elif instr.op == "ld.vector":
            width = _opt(instr, "width", env)
            length = segment(self.channels(instr.args[1], env), width, _opt(instr, "seg", env))[1]
            load = _Load(length, self.nonzero(instr))
        elif instr.op == "ld.fill":
            value = _opt(instr, "value", env)
            load = replace(self.widths.latches[_name(instr.args[1])], high=float(value != 0))
        else:
            load = _Load(_columns(instr, env, self.program.target.cols))
        self.widths.latches[_name(instr.args[0])] = load
        return load.columns

    def nonzero(self, instr: Instr) -> float:
        """The expected share of a buffer's values that are valid."""
        return 2 / 3 if self.buffer(instr.args[1]).type == "tern" else 1.0

    def shares(self, instr: Instr, win: Win) -> npt.NDArray[np.float64]:
        """In which share of its windows each column of a load is valid."""
        buffer = self.buffer(instr.args[1])
        assert buffer.shape is not None
        key = win.name, buffer.name, "pad" in instr.opts
        if key not in self.inside:
            filled = np.ones(win_columns(win))
            self.inside[key] = filled if key[2] else inside_shares(win, buffer.shape[2:])
        return self.inside[key]

    def read(self, instr: Instr, env: Env) -> tuple[int, int]:
        """Rows and columns of a read; remembered for the popcount of its result."""
        bits, latch = instr.args[0], _name(instr.args[2])
        width = _columns(instr, env, self.widths.latches[latch].columns)
        self.widths.bits[_name(bits)][_slice(bits, env)] = width
        return _size(bits, env), width

    def popcount(self, instr: Instr, env: Env) -> int:
        bits = instr.args[1]
        return int(self.widths.bits[_name(bits)][_slice(bits, env)].sum())

    def channels(self, vec: object, env: Env) -> int:
        assert isinstance(vec, Ref)
        if vec.range is not None:
            return vec.range.size.value(env)
        buffer = self.buffer(vec)
        assert buffer.shape is not None
        return buffer.shape[buffer.axis]

    def control(self, instr: Instr, env: Env) -> int:
        """32-bit operations: of a scalar as one, or of each element."""
        match instr.op:
            case "ctl.sum" | "ctl.squares" | "ctl.lt" | "ctl.gt":
                return self.channels(instr.args[1], env)
            case "ctl.mul":
                return PRODUCT
            case "ctl.div":
                return Scalar.BITS
        return 1

    def buffer(self, vec: object) -> Mem | View:
        return self.buffers[_name(vec)]

    def steps(self, instr: Instr) -> int:
        """Operations for each element: taps of a window, comparisons for a level."""
        if instr.op in ("st.ge", "pp.ge"):
            return compares(self.datas[_name(instr.args[2])].shape)
        windowed = instr.op in ("pp.max", "pp.sum")
        return win_taps(self.wins[_name(instr.args[2])]) if windowed else 1


def _ones(op: str, high: float) -> float:
    """The expected share of ones in a read's valid columns, of cells that are 0 and 1 equally
    often and bits of which `high` are 1."""
    match op:
        case "read.and":
            return high / 2
        case "read.nand":
            return 1 - high / 2
        case "read.or":
            return (1 + high) / 2
    return 0.5


def _name(arg: object) -> str:
    assert isinstance(arg, Reg | Ref)
    return arg.name


def _range(arg: object) -> Range:
    assert isinstance(arg, Reg | Rows)
    assert arg.range is not None
    return arg.range


def _size(arg: object, env: Env) -> int:
    return _range(arg).size.value(env)


def _slice(arg: object, env: Env) -> slice:
    span = _range(arg)
    lo = span.start.value(env)
    return slice(lo, lo + span.size.value(env))


def _opt(instr: Instr, name: str, env: Env) -> int:
    return _affine(instr, name).value(env)


def _affine(instr: Instr, name: str) -> Affine:
    value = instr.opts.get(name, Affine())
    assert isinstance(value, Affine)
    return value


def _columns(instr: Instr, env: Env, default: int) -> int:
    """The size of the option `cols`, or what holds without it."""
    cols = instr.opts.get("cols")
    return cols.size.value(env) if isinstance(cols, Range) else default


def _sizes_use(body: list[Instr | Loop], var: str) -> bool:
    """Whether a count in the body may change with the loop variable."""
    for item in body:
        if isinstance(item, Loop):
            used = item.lo.uses(var) or item.hi.uses(var) or _sizes_use(item.body, var)
        else:
            used = any(size.uses(var) for size in _size_expressions(item))
        if used:
            return True
    return False


def _size_expressions(instr: Instr) -> Iterator[Affine]:
    """The expressions of an instruction that its counts, or the counts of a later one, depend
    on. Where a result register's range starts decides which rows a popcount finds."""
    for value in (*instr.args, *instr.opts.values()):
        span = value if isinstance(value, Range) else getattr(value, "range", None)
        if isinstance(span, Range):
            yield span.size
            if isinstance(value, Reg) and instr.op.startswith(("read.", "popc")):
                yield span.start
    for name in ("seg", "width", "group", "value"):
        yield _affine(instr, name)
