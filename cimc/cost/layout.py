"""Where a program's kernels lie, and what each layer needs: tiles, rows, cells, reads, MACs.

Reads a program alone, compiled here or loaded from text; `floorplan.py` draws the result and
`cimc inspect` prints it. Knows nothing of graphs, passes, costs or comments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from cimc.errors import CompileError
from cimc.isa.geometry import positions, segment, win_columns
from cimc.isa.program import (
    Affine,
    Data,
    Instr,
    Layer,
    Loop,
    Mem,
    Program,
    Range,
    Ref,
    Reg,
    Rows,
    Section,
    TargetLine,
    View,
    walk,
)
from cimc.sim.counters import Counts, static_counts

Env = dict[str, int]


@dataclass(frozen=True)
class Block:
    """Cells that `.load` programs for a layer: logical rows and columns of one tile."""

    layer: str
    tile: int
    row: int
    rows: int
    col: int
    cols: int


@dataclass(frozen=True)
class TileUse:
    """Rows of a tile that hold kernels, the cells in them, and the layers in row order."""

    tile: int
    rows: int
    cells: int
    layers: tuple[str, ...]


@dataclass(frozen=True)
class LayerUse:
    """A layer of `.infer`. `where` is `tiles`, `post` (post-processing unit) or `host`.

    positions: vectors that it stores for a sample; 0 on the host.
    kernels, inputs: dot products at a position on the tiles, and terms of each; else 0.
    row_reads, bits: rows activated for a sample, and columns evaluated in them.
    macs:      multiply-accumulates for a sample, taps in the padding included.
    tiles, rows, cells: tiles and rows that it reads, and the programmed cells in these rows.
    """

    name: str
    what: str
    where: str
    positions: int
    row_reads: int
    bits: int
    macs: int
    kernels: int
    inputs: int
    tiles: tuple[int, ...]
    rows: int
    cells: int


@dataclass(frozen=True)
class Fragment:
    """A host fragment: its data item, operators with their number, MACs of one call, and why
    its layers are not on the tiles ("" for a fragment without layers)."""

    name: str
    operators: tuple[tuple[str, int], ...]
    macs: int
    why: str


@dataclass(frozen=True)
class Layout:
    """All of it for one program."""

    target: TargetLine
    blocks: tuple[Block, ...]
    tiles: tuple[TileUse, ...]
    layers: tuple[LayerUse, ...]
    fragments: tuple[Fragment, ...]

    @property
    def tile_macs(self) -> int:
        return sum(layer.macs for layer in self.layers if layer.where == "tiles")

    @property
    def host_macs(self) -> int:
        return sum(layer.macs for layer in self.layers if layer.where == "host")

    @property
    def cells(self) -> int:
        """Cells of the chip that hold kernels."""
        return sum(tile.cells for tile in self.tiles)

    @property
    def rows(self) -> int:
        """Rows of the chip that hold kernels."""
        return sum(tile.rows for tile in self.tiles)

    @property
    def names(self) -> tuple[str, ...]:
        """Layers that have cells, in the order of their programming."""
        return tuple(dict.fromkeys(block.layer for block in self.blocks))

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        parts = ("blocks", "tiles", "layers", "fragments")
        target = {name: getattr(self.target, name) for name in ("name", "rows", "cols", "tiles")}
        return {
            "target": target,
            "macs": {"tiles": self.tile_macs, "host": self.host_macs},
            **{part: [asdict(item) for item in getattr(self, part)] for part in parts},
        }


def layout(program: Program) -> Layout:
    """The layout of a checked program."""
    blocks = tuple(dict.fromkeys(_blocks(program)))
    by_tile: dict[int, list[Block]] = {}
    for block in blocks:
        by_tile.setdefault(block.tile, []).append(block)
    target = program.target
    tiles = [_tile(tile, by_tile.get(tile, []), target) for tile in range(target.tiles)]
    counts = static_counts(program, pulses=False)
    section = program.section("infer")
    layers = section.layers if section is not None else []
    clears = static_counts(replace(program, sections=[Section("infer", _clears(layers))]))
    return Layout(
        target=target,
        blocks=blocks,
        tiles=tuple(tiles),
        layers=tuple(_layer(program, layer, counts, clears, by_tile) for layer in layers),
        fragments=tuple(_fragment(data) for data in program.data if data.kind == "onnx"),
    )


# -- cells -----------------------------------------------------------------------------


def _blocks(program: Program) -> Iterator[Block]:
    section, datas = program.section("load"), program.datas
    for layer in section.layers if section is not None else []:
        for instr, rows, env in _with_rows(layer.body, {}):
            cells = datas[_ref(instr.args[1]).name]
            columns = segment(cells.shape[1], cells.seg, _option(instr, "seg", env))[1]
            yield Block(
                layer.name, rows.tile.value(env), rows.range.start.value(env),
                rows.range.size.value(env), _option(instr, "col", env), columns,
            )  # fmt: skip


def _tile(tile: int, blocks: list[Block], target: TargetLine) -> TileUse:
    cells = np.zeros((target.rows, target.cols), np.bool_)
    for b in blocks:
        cells[b.row : b.row + b.rows, b.col : b.col + b.cols] = True
    layers = dict.fromkeys(b.layer for b in sorted(blocks, key=lambda b: b.row))
    return TileUse(tile, int(cells.any(axis=1).sum()), int(cells.sum()), tuple(layers))


def _with_rows(body: list[Instr | Loop], env: Env) -> Iterator[tuple[Instr, Rows, Env]]:
    """Each instruction that names rows, once for each set of rows: a loop whose variable
    chooses none is entered once."""
    for item in body:
        if isinstance(item, Instr):
            for arg in item.args:
                if isinstance(arg, Rows):
                    yield item, arg, env
            continue
        values = range(item.lo.value(env), item.hi.value(env))
        if not _chooses(item.body, item.var):
            values = values[:1]
        for value in values:
            yield from _with_rows(item.body, {**env, item.var: value})


def _chooses(body: list[Instr | Loop], var: str) -> bool:
    """Whether the rows that the body's instructions name depend on a loop variable."""
    for item in body:
        if isinstance(item, Loop):
            used = any(_uses(e, var) for e in (item.lo, item.hi)) or _chooses(item.body, var)
        else:
            used = any(_uses(e, var) for e in _row_expressions(item))
        if used:
            return True
    return False


def _row_expressions(instr: Instr) -> Iterator[Affine]:
    rows = [arg for arg in instr.args if isinstance(arg, Rows)]
    for arg in rows:
        yield from (arg.tile, arg.range.start, arg.range.size)
    if rows:
        yield from (value for value in instr.opts.values() if isinstance(value, Affine))


def _uses(expression: Affine, var: str) -> bool:
    return any(name == var for name, _ in expression.terms)


def _option(instr: Instr, name: str, env: Env) -> int:
    value = instr.opts.get(name, Affine())
    assert isinstance(value, Affine)
    return value.value(env)


def _ref(arg: object) -> Ref:
    assert isinstance(arg, Ref)
    return arg


# -- layers ----------------------------------------------------------------------------


def _layer(
    program: Program, layer: Layer, counts: Counts, clears: Counts, by_tile: dict[int, list[Block]]
) -> LayerUse:
    totals: Counter[tuple[str, str]] = Counter()
    for (name, op, counter), number in counts.sections["infer"].items():
        if name == layer.name:
            totals[op.split(".")[0], counter] += number
    products = clears.sections["infer"].get((layer.name, "acc.clr", "ops"), 0)
    instrs = list(walk(layer.body))
    host = any(i.op == "host" for i in instrs)
    reads = totals["read", "rows"]
    rows = _rows_read(layer, program.target.rows)
    spots, columns = _positions(program, instrs), _columns(program, instrs) if reads else 0
    return LayerUse(
        name=layer.name,
        what=_what(program, instrs),
        where="host" if host else "tiles" if reads else "post",
        positions=spots,
        row_reads=reads,
        bits=totals["read", "bits"],
        # a dot product starts with a cleared accumulator and has a term for each column
        macs=totals["host", "macs"] + products * columns,
        kernels=products // spots if reads and spots else 0,
        inputs=columns,
        tiles=tuple(sorted(rows)),
        rows=sum(int(used.sum()) for used in rows.values()),
        cells=sum(
            int(used[b.row : b.row + b.rows].sum()) * b.cols
            for tile, used in rows.items()
            for b in by_tile.get(tile, [])
        ),
    )


def _clears(layers: list[Layer]) -> list[Layer]:
    """The clears of the accumulators that dot products are summed in; what `acc.mac` multiplies
    by is a sum of inputs."""
    found: list[Layer] = []
    for layer in layers:
        macs = (i for i in walk(layer.body) if i.op == "acc.mac")
        names = {i.args[1].name for i in macs if isinstance(i.args[1], Reg)}
        found.append(Layer(layer.name, _clears_but(layer.body, names)))
    return found


def _clears_but(body: list[Instr | Loop], names: set[str]) -> list[Instr | Loop]:
    kept: list[Instr | Loop] = []
    for item in body:
        if isinstance(item, Loop):
            kept.append(replace(item, body=_clears_but(item.body, names)))
        elif item.op == "acc.clr" and isinstance(item.args[0], Reg):
            kept += [] if item.args[0].name in names else [item]
    return kept


def _rows_read(layer: Layer, rows: int) -> dict[int, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Which logical rows a layer reads, by tile."""
    found: dict[int, np.ndarray[Any, np.dtype[np.bool_]]] = {}
    for instr, arg, env in _with_rows(layer.body, {}):
        if instr.op.startswith("read."):
            used = found.setdefault(arg.tile.value(env), np.zeros(rows, np.bool_))
            first = arg.range.start.value(env)
            used[first : first + arg.range.size.value(env)] = True
    return found


def _columns(program: Program, instrs: list[Instr]) -> int:
    """Columns of the windows and vectors that a layer loads, each of them once: the terms of
    its dot products."""
    loads: dict[tuple[str, str], int] = {}
    for instr in instrs:
        if instr.op == "ld.window":
            win = program.wins[_ref(instr.args[2]).name]
            loads[_ref(instr.args[1]).name, win.name] = win_columns(win)
        elif instr.op == "ld.vector":
            source = _ref(instr.args[1])
            loads[source.name, ""] = _channels(program, source)
    return sum(loads.values())


def _buffer(program: Program, ref: Ref) -> Mem | View:
    return program.mems.get(ref.name) or program.views[ref.name]


def _channels(program: Program, ref: Ref) -> int:
    buffer = _buffer(program, ref)
    assert buffer.shape is not None
    if isinstance(ref.range, Range) and ref.range.size.is_const:
        return ref.range.size.const
    return buffer.shape[buffer.axis]


def _stored(instrs: list[Instr]) -> list[Ref]:
    """The vectors that a layer writes to buffers."""
    stores = [i for i in instrs if i.op.startswith(("st.", "pp."))]
    return [_ref(i.args[0]) for i in stores]


def _positions(program: Program, instrs: list[Instr]) -> int:
    stored = _stored(instrs)
    if not stored:
        return 0
    buffer = _buffer(program, stored[0])
    assert buffer.shape is not None
    return positions(buffer.shape, buffer.axis)


_POST = {
    "pp.add": "add",
    "pp.relu": "relu",
    "pp.ge": "threshold",
    "pp.rq": "requantise",
    "pp.lut": "table",
    "pp.qadd": "quantised add",
    "pp.mov": "move",
}


def _what(program: Program, instrs: list[Instr]) -> str:
    """A layer in a few words: `conv 3x3 32->64, bip`, `max 2x2`, `host`."""
    loads = [i for i in instrs if i.op in ("ld.window", "ld.vector")]
    if loads:
        return _kernels(program, loads[0], _stored(instrs))
    for instr in instrs:
        if instr.op == "host":
            return "host fragment"
        if instr.op in ("pp.max", "pp.sum"):
            kernel = program.wins[_ref(instr.args[2]).name].kernel
            return f"{instr.op.removeprefix('pp.')} {_size(kernel)}"
        if instr.op in _POST:
            return _POST[instr.op]
    return "other"


def _kernels(program: Program, load: Instr, stored: list[Ref]) -> str:
    source = _buffer(program, _ref(load.args[1]))
    assert source.shape is not None
    out = ""
    if stored:
        buffer = _buffer(program, stored[0])
        assert buffer.shape is not None
        out = f"->{buffer.shape[buffer.axis]}"
    if load.op == "ld.vector":
        return f"matmul {source.shape[source.axis]}{out}, {source.type}"
    win = program.wins[_ref(load.args[2]).name]
    groups = f" in {win.groups} groups" if win.groups > 1 else ""
    return f"conv {_size(win.kernel)} {win.channels}{out}{groups}, {source.type}"


def _size(kernel: tuple[int, ...]) -> str:
    return "x".join(str(k) for k in kernel)


# -- host ------------------------------------------------------------------------------


def _fragment(data: Data) -> Fragment:
    """A fragment's operators in the order of their first use."""
    try:
        model = onnx.load_model_from_string(data.array.astype(np.uint8).tobytes())
    except DecodeError:
        raise CompileError("the data item is no ONNX model", f".data {data.name}") from None
    operators = Counter(node.op_type for node in model.graph.node)
    return Fragment(data.name, tuple(operators.items()), data.macs, data.why)
