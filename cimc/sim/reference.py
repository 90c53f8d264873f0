"""The reference interpreter: runs a program instruction by instruction, exactly.

Takes a checked program and the caller's arrays; gives outputs, counts and the final cells.
Each instruction's meaning is in `cimc/isa/effects.py`. This is the specification that other
engines are tested against; it is vectorised over rows and samples and nothing else.

Order of a run: `.load` once; `.infer` for each sample, from the state that `.load` left;
`.update` once, on from the state that `.load` left (cells are shared: `.infer` writes none).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

from cimc.errors import CompileError
from cimc.ir.types import Array, container
from cimc.isa.effects import Tally
from cimc.isa.program import Program
from cimc.isa.sections import without_update
from cimc.isa.state import Buffer, Fragment, HostBuffer, words_for
from cimc.sim.bind import Tallies, bind, execute, run_once
from cimc.sim.counters import Counts
from cimc.sim.feed import Feed, Outputs, Sink, Source
from cimc.sim.lanes import bind_lanes
from cimc.sim.machine import Machine, Tiles, TileState, pack_tiles, register_sizes

# Samples at a time: bounded by memory, and by what stays in a processor's cache.
_STATE_BYTES = 256 << 20
_MOST_SAMPLES = 512

Progress = Callable[[int, int], None]


@dataclass
class Result:
    """What a run gave.

    outputs: arrays by ONNX output name (see `Outputs.join`).
    counts:  every counter of the sections that ran.
    state:   the cells after the run, packed; a later run may start from it.
    samples: number of inferences."""

    outputs: dict[str, Any]
    counts: Counts
    state: TileState
    samples: int

    @cached_property
    def tiles(self) -> Tiles:
        """The cells after the run, uint8 0 and 1 [tiles, rows, cols], physical rows."""
        return self.state.unpacked()


def run(
    program: Program,
    inputs: Mapping[str, Array | Source],
    *,
    tiles: Tiles | TileState | None = None,
    lanes: bool = False,
    progress: Progress | None = None,
    sink: Sink | None = None,
) -> Result:
    """Run a program on N samples.

    inputs:   arrays by ONNX input name, of the exact numpy type and shape (see `Feed`).
    tiles:    the cells to start from, as `Result.state` or `Result.tiles`; None: all 0.
    lanes:    run the iterations of independent loops side by side (see `lanes.py`).
    progress: called with (samples done, N) now and then.
    sink:     takes the outputs as they come; those of the result are empty then.

    Raises CompileError for unusable inputs, an accumulator that overflows, and a value that a
    buffer's type doesn't hold."""
    feed = Feed(program, inputs)
    fragments = host_fragments(program)
    cells = pack_tiles(tiles, program.target)
    alone = without_update(program)
    once = Machine(program, 1, cells, fragments)
    counts = Counts(feed.samples)
    outputs = Outputs(program, feed.samples, sink)

    run_section(once, program, "load", counts)
    machine: Machine | None = None
    done = 0
    while done < feed.samples:
        size = min(_chunk(alone, machine), feed.samples - done)
        if machine is None or machine.samples != size:
            machine = Machine(alone, size, cells, fragments)
        machine.start_from(once)
        feed.fill(machine, done)
        try:
            run_section(machine, program, "infer", counts, lanes)
        except CompileError:
            refuse(once, program, feed, done, done + size)
            raise
        outputs.take(machine)
        done += size
        if progress is not None:
            progress(done, feed.samples)
    run_section(once, program, "update", counts)
    outputs.finish(once)
    state = TileState(cells, program.target.cols)
    return Result(outputs.join(), counts, state, feed.samples)


def refuse(once: Machine, program: Program, feed: Feed, start: int, stop: int) -> None:
    """Run the samples [start, stop) one by one and raise the CompileError of the first that is
    refused: which one it is doesn't depend on how many run at a time. once: what `.load` left."""
    section = program.section("infer")
    assert section is not None
    for sample in range(start, stop):
        machine = Machine(program, 1, once.cells, once.fragments)
        machine.start_from(once)
        feed.fill(machine, sample)
        try:
            execute(bind(machine, section.layers, Tallies(Tally)), {})
        except CompileError as error:
            if feed.samples == 1:
                raise
            message = f"sample {sample}: {error.message}"
            raise CompileError(message, error.where, error.help) from None


def host_fragments(program: Program) -> dict[str, Fragment]:
    """The fragments that the host runs, by name."""
    items = [data for data in program.data if data.kind == "onnx"]
    if not items:
        return {}
    from cimc.sim.host import OnnxFragment  # onnxruntime takes long to import

    return {data.name: OnnxFragment(data) for data in items}


def run_section(
    machine: Machine, program: Program, name: str, counts: Counts, lanes: bool = False
) -> None:
    """Run a section on a machine's samples and add what it counted. Raises CompileError."""
    section = program.section(name)
    if section is None:
        return
    tallies = Tallies(Tally)
    if name != "infer":
        run_once(machine, section.layers, tallies)
    elif lanes:
        execute(bind_lanes(machine, program, section, tallies), {})
    else:
        execute(bind(machine, section.layers, tallies), {})
    counts.add(name, tallies, machine.samples)


def _host_bytes(buffer: Buffer | HostBuffer) -> int:
    """Memory of the largest value of a sample; 0 for a buffer of the program's own."""
    if isinstance(buffer, Buffer):
        return 0
    from cimc.sim.host import value_bytes

    return max(map(value_bytes, buffer.values))


def _chunk(program: Program, last: Machine | None) -> int:
    """Samples to run next. How large a host value is shows only in the `last` run, so that a
    program that has some starts with one sample."""
    if last is None and any(mem.shape is None for mem in program.mems.values()):
        return 1
    buffers = sum(
        prod(mem.shape) * container(mem.type).itemsize
        for mem in program.mems.values()
        if mem.shape is not None
    )
    host = sum(map(_host_bytes, last.buffers.values())) if last else 0
    # a result bit row: its words, the popcount and temporaries of the same size
    row = 8 * (4 * words_for(program.target.cols) + 4)
    registers = sum(size for _, size in register_sizes(program).values()) * row
    state = buffers + registers + host
    return max(1, min(_MOST_SAMPLES, _STATE_BYTES // max(1, state)))
