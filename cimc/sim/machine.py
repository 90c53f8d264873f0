"""The machine's state: tiles, buffers and registers of a program.

Allocated here from the declarations; `bind.py` looks up the operands of instructions in it
and `cimc/isa/effects.py` changes it. Knows nothing of sections' order, inputs or counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from itertools import accumulate
from math import prod

import numpy as np
import numpy.typing as npt

from cimc.errors import CompileError
from cimc.ir.types import container
from cimc.isa.effects import Columns
from cimc.isa.program import Instr, Loop, Program, Reg, TargetLine
from cimc.isa.state import (
    Accumulators,
    Buffer,
    Fragment,
    HostBuffer,
    Ints,
    Latch,
    ResultBits,
    Scalar,
    Values,
    Window,
    Words,
    pack,
    unpack,
    words_for,
)
from cimc.isa.table import TABLE

Register = Latch | ResultBits | Accumulators | Scalar | Ints
Tiles = npt.NDArray[np.uint8]

_ALIGN = 64  # bytes: where a buffer may begin


class Machine:
    """The state for `samples` samples at a time. Machines may share `cells` [tiles, W, R] and
    `fragments`, the host fragments by name."""

    def __init__(
        self, program: Program, samples: int, cells: Words, fragments: Mapping[str, Fragment]
    ) -> None:
        self.target = program.target
        self.samples = samples
        self.lanes = 1
        self.cells = cells
        self.fragments = fragments
        self.data = program.datas
        self.windows = {name: Window(win) for name, win in program.wins.items()}
        self.physical = _physical_rows(program)
        self.buffers = _buffers(program, samples)
        self.sizes = register_sizes(program)
        self.registers = self._registers()

    def side_by_side(self, lanes: int) -> Machine:
        """A machine on the same buffers and cells with `lanes` lanes for each sample."""
        wide = copy(self)
        wide.lanes = lanes
        wide.registers = wide._registers()
        return wide

    def _registers(self) -> dict[str, Register]:
        return {name: self._register(kind, size) for name, (kind, size) in self.sizes.items()}

    def _register(self, kind: str, size: int) -> Register:
        words, samples = words_for(self.target.cols), self.samples * self.lanes
        if kind == "latch":
            return Latch.empty(words)
        if kind == "ctl":
            return Scalar()
        ints = np.zeros((samples, size), dtype=np.int64)
        if kind == "acc":
            limit = 1 << (self.target.acc_bits - 1)
            return Accumulators(ints, -limit, limit - 1)
        if kind == "bits":
            bits = np.zeros((samples, words, size), dtype=np.uint64)
            return ResultBits(bits, ints, np.zeros(size, dtype=np.int64))
        return ints

    def start_from(self, other: Machine) -> None:
        """Take over the buffers and registers of a machine of one sample, for every sample; the
        other may have more of them, and larger ones."""
        for name, buffer in self.buffers.items():
            source = other.buffers[name]
            if isinstance(buffer, Buffer) and isinstance(source, Buffer):
                buffer.flat[...] = source.flat
            elif isinstance(buffer, HostBuffer) and isinstance(source, HostBuffer):
                buffer.values[:] = source.values * self.samples
        for name, register in self.registers.items():
            _copy(register, other.registers[name])


def _copy(to: Register, source: Register) -> None:
    """The source may have more elements."""
    match to, source:
        case Latch(), Latch():
            to.bits, to.valid = source.bits, source.valid
            to.col, to.length = source.col, source.length
        case ResultBits(), ResultBits():
            size = len(to.width)
            to.words[...], to.ones[...] = source.words[:, :, :size], source.ones[:, :size]
            to.width[...] = source.width[:size]
        case Scalar(), Scalar():
            to.value = source.value
        case Accumulators(), Accumulators():
            to.values[...] = source.values[:, : to.values.shape[1]]
        case np.ndarray(), np.ndarray():
            to[...] = source[:, : to.shape[1]]


def _buffers(program: Program, samples: int) -> dict[str, Buffer | HostBuffer]:
    """Every `.mem`, zeroed, and every `.view` on the storage of its source."""
    buffers: dict[str, Buffer | HostBuffer] = {}
    flats = _flats(program, samples)
    for mem in program.mems.values():
        if mem.shape is None:
            buffers[mem.name] = HostBuffer([None] * samples)
        else:
            buffers[mem.name] = Buffer(mem.type, mem.shape, mem.axis, flats[mem.name])
    waiting = list(program.views.values())
    while waiting:
        ready = [view for view in waiting if view.source in buffers]
        assert ready, "views form a cycle"
        for view in ready:
            source = buffers[view.source]
            assert isinstance(source, Buffer)
            buffers[view.name] = source.view(view.type, view.shape, view.axis, view.perm)
        waiting = [view for view in waiting if view.name not in buffers]
    return buffers


def _flats(program: Program, samples: int) -> dict[str, Values]:
    """The storage of each buffer [samples, elements], zeroed: parts of one block, so that what
    is never written takes no memory of the system's."""
    shapes = {
        mem.name: (container(mem.type), (samples, prod(mem.shape)))
        for mem in program.mems.values()
        if mem.shape is not None
    }
    sizes = [prod(shape) * dtype.itemsize for dtype, shape in shapes.values()]
    ends = [0, *accumulate(-(-size // _ALIGN) * _ALIGN for size in sizes)]
    block = np.zeros(ends[-1] + _ALIGN, np.uint8)
    block = block[-block.ctypes.data % _ALIGN :]
    flats: dict[str, Values] = {}
    for (name, (dtype, shape)), start, size in zip(shapes.items(), ends, sizes, strict=False):
        part = block[start : start + size]
        # numpy makes objects (texts) no view of bytes
        flats[name] = np.zeros(shape, dtype) if dtype.hasobject else part.view(dtype).reshape(shape)
    return flats


def _physical_rows(program: Program) -> dict[int, Ints]:
    """Physical row of each logical row, for the tiles that have a `.map`."""
    rows: dict[int, Ints] = {}
    for remap in program.remaps:
        table = rows.setdefault(remap.tile, np.arange(program.target.rows))
        table[remap.logical] = remap.physical
    return rows


# -- registers -------------------------------------------------------------------------


def register_sizes(program: Program) -> dict[str, tuple[str, int]]:
    """Kind and number of elements of each register: the largest range that a reference
    reaches over all values of the loop variables. Latches and scalars have no elements."""
    sizes: dict[str, tuple[str, int]] = {}
    for section in program.sections:
        for layer in section.layers:
            _collect(layer.body, {}, sizes)
    return sizes


def _collect(
    body: Iterable[Instr | Loop], bounds: dict[str, Columns], sizes: dict[str, tuple[str, int]]
) -> None:
    for item in body:
        if isinstance(item, Instr):
            _collect_instr(item, bounds, sizes)
            continue
        # a loop that never runs is entered too, since its registers need to exist
        low, high = item.lo.bounds(bounds)[0], item.hi.bounds(bounds)[1] - 1
        _collect(item.body, {**bounds, item.var: (low, max(low, high))}, sizes)


def _collect_instr(
    instr: Instr, bounds: dict[str, Columns], sizes: dict[str, tuple[str, int]]
) -> None:
    for param, arg in zip(TABLE[instr.op].params, instr.args, strict=True):
        if not isinstance(arg, Reg):
            continue
        kind = param.kind
        if kind == "addend":
            kind = "counts" if arg.field is None else "latch"
        elif kind == "scalar":
            kind = "acc"
        end = 0 if arg.range is None else (arg.range.start + arg.range.size).bounds(bounds)[1]
        sizes[arg.name] = kind, max(0, end, sizes.get(arg.name, (kind, 0))[1])


# -- tiles -----------------------------------------------------------------------------


@dataclass(frozen=True)
class TileState:
    """The cells of all tiles after a run, packed: `words` [tiles, W, rows], physical rows, of
    `columns` columns each."""

    words: Words
    columns: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Tiles, rows, columns."""
        tiles, _, rows = self.words.shape
        return tiles, rows, self.columns

    def unpacked(self) -> Tiles:
        """The cells as uint8 0 and 1 [tiles, rows, columns]."""
        tiles = np.empty(self.shape, dtype=np.uint8)
        for bits, words in zip(tiles, self.words, strict=True):
            bits[...] = unpack(words.T, self.columns)
        return tiles


def pack_tiles(tiles: Tiles | TileState | None, target: TargetLine) -> Words:
    """Cells as words [tiles, W, R] of their own from the state after another run, packed or as
    uint8 0 and 1 [tiles, rows, cols], physical rows; all 0 for None. CompileError where it
    isn't the state of that target."""
    shape = (target.tiles, target.rows, target.cols)
    words = words_for(target.cols)
    if tiles is None:
        return np.zeros((target.tiles, words, target.rows), dtype=np.uint64)
    kind = np.dtype(np.uint8) if isinstance(tiles, TileState) else tiles.dtype
    if tiles.shape != shape or kind.kind not in "iub":
        raise CompileError(
            f"the tile state is {kind}{list(tiles.shape)}, not uint8{list(shape)}",
            help="give the state that a run of a program for the same target returned",
        )
    if isinstance(tiles, TileState):
        return tiles.words.copy()
    if tiles.size and not 0 <= tiles.min() <= tiles.max() <= 1:
        raise CompileError("the tile state holds values other than 0 and 1")
    cells = np.empty((target.tiles, words, target.rows), dtype=np.uint64)
    for packed, bits in zip(cells, tiles, strict=True):
        packed[...] = pack(bits.astype(np.bool_), 0, words).T
    return cells
