"""The instruction table: one row an instruction.

The parser and printer read the operand kinds, the checker the operand kinds and roles,
the interpreter the effect, the counters their cost. A new instruction is a new row here
and a function in `effects.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cimc.isa import control, effects

# Operand kinds:
#   latch    %x                 input latch of a tile: bits and a valid mask
#   bits     %d[lo:hi]          result bits, one row each
#   counts   %c[lo:hi]          popcount results
#   acc      %a[lo:hi]          accumulators
#   addend   %c[lo:hi] | %x.valid | %x.ones | data[lo:hi] | data[p] or data[p, lo:hi]
#   rows     t[tile][lo:hi]     stored rows
#   row      t[tile][i]         one stored row
#   vec      buf[p] or buf[p, lo:hi]   the channels at a position
#   win      name of a .win     window geometry
#   table    data[lo:hi]        constants along axis 0
#   cells    data[lo:hi]        rows of a `cells` data item
#   code     name of an `onnx` data item
#   bufs     (a, b)             buffers
#   scalar   buf[p] | %s[0:1]   one integer, of a buffer or an accumulator
#   whole    name of a .data    all constants of an item
#   ctl      %s                 a scalar of the control unit
# Roles: "r" read, "w" written, "rw" both.


@dataclass(frozen=True)
class Param:
    """An operand: name in the specification, kind, and whether it is read or written."""

    name: str
    kind: str
    role: str


@dataclass(frozen=True)
class Opt:
    """An option `name=value`: kind `int` (affine), `range` (`lo:hi`), `table`, `vec`, or
    `scalar` (affine, or one element of a buffer)."""

    name: str
    kind: str = "int"
    default: int | None = 0  # None: absent


@dataclass(frozen=True)
class Counter:
    """`unit` says what one count is; `cost` is the key in the target's `[energy]` table.
    `static`: known from the text alone; else known only from the run's values."""

    name: str
    cost: str
    unit: str
    static: bool = True


@dataclass(frozen=True)
class Row:
    """One instruction."""

    name: str
    params: tuple[Param, ...]
    opts: tuple[Opt, ...]
    counters: tuple[Counter, ...]
    summary: str
    effect: Callable[..., None]
    sections: tuple[str, ...] = ("load", "infer", "update")


def _p(text: str) -> tuple[Param, ...]:
    """`"d:bits:w x:latch:r"` as operands."""
    return tuple(Param(*part.split(":")) for part in text.split())


_READ = (
    Counter("rows", "word_line", "row activation"),
    Counter("bits", "sense", "column of one row evaluated"),
    Counter("ones", "", "result bit that is 1", static=False),
)
_POPC = (Counter("bits", "popcount", "bit entering the popcount tree"),)
_ACC = (Counter("ops", "accumulate", "accumulator update"),)
_LATCH = (Counter("bits", "latch", "input latch bit loaded"),)
_LOAD_ROW = (
    Counter("rows", "word_line", "row activation"),
    Counter("cells", "sense", "column of one row evaluated"),
    *_LATCH,
)
_STORE = (Counter("elements", "store", "element compared or stored"),)
_REQUANT = (Counter("elements", "requant", "element requantised and stored"),)
_MULTIPLY = (Counter("ops", "multiply", "multiply-accumulate of an accumulator"),)
_POST = (Counter("ops", "post", "element operation of the post-processing unit"),)
_CONTROL = (Counter("ops", "control", "32-bit multiply and add of the control unit"),)
_PROGRAM = (
    Counter("rows", "word_line", "row activation"),
    Counter("verify", "sense", "cell read before the write"),
)
_COLS = Opt("cols", "range", None)
_MASK = Opt("mask", "vec", None)
_TAKE = Opt("take", "table", None)


def _pulses(cost: str) -> tuple[Counter, ...]:
    return (*_PROGRAM, Counter("pulses", cost, "programming pulse of one cell", static=False))


ROWS: tuple[Row, ...] = (
    # -- program cells --
    Row("set", _p("t:rows:w w:cells:r"), (Opt("seg"), Opt("col")), _pulses("set"),
        "pulse to 1 each cell of the rows whose data bit is 1 and that holds 0",
        effects.set_, ("load", "update")),
    Row("reset", _p("t:rows:w w:cells:r"), (Opt("seg"), Opt("col")), _pulses("reset"),
        "pulse to 0 each cell of the rows whose data bit is 0 and that holds 1",
        effects.reset, ("load", "update")),
    # -- fill input latches --
    Row("ld.window", _p("x:latch:w v:vec:r win:win:r"),
        (Opt("seg"), Opt("plane"), Opt("group"), Opt("col"), Opt("pad", "scalar", None)), _LATCH,
        "load one bit plane of one segment of a window; taps outside are not valid, or hold pad",
        effects.ld_window),
    Row("ld.vector", _p("x:latch:w v:vec:r"),
        (Opt("seg"), Opt("plane"), Opt("width", "int", None), Opt("col")), _LATCH,
        "load one bit plane of one segment of a vector", effects.ld_vector),
    Row("ld.fill", _p("y:latch:w x:latch:r"), (Opt("value"),), _LATCH,
        "the same valid mask as x, every bit = value", effects.ld_fill),
    Row("ld.row", _p("x:latch:w t:row:r"), (_COLS,), _LOAD_ROW,
        "load a stored row; its columns are valid", effects.ld_row, ("update",)),
    # -- read rows --
    Row("read.and", _p("d:bits:w t:rows:r x:latch:r"), (_COLS,), _READ,
        "d = cell AND bit, 0 where not valid", effects.read_and),
    Row("read.nand", _p("d:bits:w t:rows:r x:latch:r"), (_COLS,), _READ,
        "d = NOT (cell AND bit), 0 where not valid", effects.read_nand),
    Row("read.or", _p("d:bits:w t:rows:r x:latch:r"), (_COLS,), _READ,
        "d = cell OR bit, 0 where not valid", effects.read_or),
    Row("read.xor", _p("d:bits:w t:rows:r x:latch:r"), (_COLS,), _READ,
        "d = cell XOR bit, 0 where not valid", effects.read_xor),
    # -- count and accumulate --
    Row("popc", _p("c:counts:w d:bits:r"), (Opt("width"),), _POPC,
        "c = number of ones in each row of d, or in each `width` columns of it", effects.popc),
    Row("acc.clr", _p("a:acc:w"), (), _ACC, "a = 0", effects.acc_clr),
    Row("acc.add", _p("a:acc:rw s:addend:r"), (Opt("shl"),), _ACC,
        "a += s << shl; a scalar is added to each", effects.acc_add),
    Row("acc.sub", _p("a:acc:rw s:addend:r"), (Opt("shl"),), _ACC,
        "a -= s << shl; a scalar is subtracted from each", effects.acc_sub),
    Row("acc.mac", _p("a:acc:rw s:scalar:r t:table:r"), (), _MULTIPLY,
        "a += s * t", effects.acc_mac),
    # -- store --
    Row("st.acc", _p("v:vec:w a:acc:r"), (_TAKE,), _STORE,
        "store the integers; a value outside the buffer's type is an error", effects.st_acc),
    Row("st.ge", _p("v:vec:w a:acc:r th:table:r"), (Opt("flip", "table", None), _TAKE), _STORE,
        "store the level: how many thresholds a reaches", effects.st_ge),
    Row("st.rq", _p("v:vec:w a:acc:r s:table:r"), (Opt("zero"), _TAKE), _REQUANT,
        "store a * s in float32, rounded half to even, + zero, cut to the buffer's type",
        effects.st_rq),
    # -- between buffers --
    Row("pp.max", _p("y:vec:w x:vec:r win:win:r"), (), _POST,
        "largest value of the window; taps outside don't count", effects.pp_max),
    Row("pp.add", _p("z:vec:w x:vec:r y:vec:r"), (), _POST, "z = x + y", effects.pp_add),
    Row("pp.relu", _p("y:vec:w x:vec:r"), (), _POST, "y = max(x, 0)", effects.pp_relu),
    Row("pp.ge", _p("y:vec:w x:vec:r th:table:r"), (Opt("flip", "table", None),), _POST,
        "store the level: how many thresholds x reaches", effects.pp_ge),
    Row("pp.sum", _p("y:vec:w x:vec:r win:win:r"), (Opt("zero"),), _POST,
        "sum of x - zero over the window; taps outside don't count", effects.pp_sum),
    Row("pp.rq", _p("y:vec:w x:vec:r s:table:r"), (Opt("zero"),), _REQUANT,
        "store x * s as st.rq does", effects.pp_rq),
    Row("pp.lut", _p("y:vec:w x:vec:r t:whole:r"), (), _POST,
        "y = t[x less the lowest value of its type]", effects.pp_lut),
    Row("pp.qadd", _p("z:vec:w x:vec:r y:vec:r t:whole:r"), (Opt("fused"),), _REQUANT,
        "sum of two quantised values, requantised", effects.pp_qadd),
    Row("pp.mov", _p("y:vec:w x:vec:r"), (), _POST,
        "copy the values into another type, exactly", effects.pp_mov),
    # -- decide over results --
    Row("ctl.set", _p("s:ctl:w"), (Opt("value"),), _CONTROL, "s = value",
        control.ctl_set, ("update",)),
    Row("ctl.sum", _p("s:ctl:rw x:vec:r"), (_MASK,), _CONTROL,
        "s += the sum of x, where the mask isn't 0", control.ctl_sum, ("update",)),
    Row("ctl.squares", _p("s:ctl:rw x:vec:r"), (_MASK,), _CONTROL,
        "s += the sum of the squares of x, where the mask isn't 0",
        control.ctl_squares, ("update",)),
    Row("ctl.mul", _p("s:ctl:w a:ctl:r b:ctl:r"), (), _CONTROL, "s = a * b",
        control.ctl_mul, ("update",)),
    Row("ctl.sub", _p("s:ctl:w a:ctl:r b:ctl:r"), (), _CONTROL, "s = a - b",
        control.ctl_sub, ("update",)),
    Row("ctl.div", _p("s:ctl:w a:ctl:r b:ctl:r"), (), _CONTROL,
        "s = a / b, rounded down; 0 for b = 0", control.ctl_div, ("update",)),
    Row("ctl.lt", _p("y:vec:w x:vec:r t:ctl:r"), (_MASK,), _CONTROL,
        "y = 1 where x < t and the mask isn't 0, else 0", control.ctl_lt, ("update",)),
    Row("ctl.gt", _p("y:vec:w x:vec:r t:ctl:r"), (_MASK,), _CONTROL,
        "y = 1 where x > t and the mask isn't 0, else 0", control.ctl_gt, ("update",)),
    Row("ctl.st", _p("v:vec:w s:ctl:r"), (), _CONTROL,
        "store the scalar; a value outside the buffer's type is an error",
        control.ctl_st, ("update",)),
    # -- host --
    Row("host", _p("f:code:r x:bufs:r y:bufs:w"), (),
        (Counter("calls", "host_call", "call of a host fragment"),
         Counter("macs", "host_mac", "multiply-accumulate on the host")),
        "run an ONNX fragment in onnxruntime", effects.host, ("infer",)),
)  # fmt: skip

TABLE: dict[str, Row] = {row.name: row for row in ROWS}
