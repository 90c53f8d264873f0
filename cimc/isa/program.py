"""A program as data: what the `.cim` text says, before anything runs it.

Comes after the backend (which builds it) and the text parser (which reads it); goes to
the checker, the interpreters and the cost model. Knows nothing of graphs or passes.
The meaning of each instruction is in `table.py`; the text is in `text.py`.

Comments are kept as written, with their `#`: `before` holds the lines above a statement
("" is an empty line), `after` the comment behind it ("" is none).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cimc.errors import Span
from cimc.isa.cells import Cells, are_bits

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Affine:
    """const + sum(coef * loop variable); terms are sorted by name, coefficients non-zero."""

    const: int = 0
    terms: tuple[tuple[str, int], ...] = ()

    @staticmethod
    def of(value: int | str | Affine) -> Affine:
        """An integer, a loop variable's name, or an expression as it is."""
        if isinstance(value, Affine):
            return value
        if isinstance(value, str):
            return Affine(0, ((value, 1),))
        return Affine(int(value))

    def __add__(self, other: int | Affine) -> Affine:
        other = Affine.of(other)
        coefs = dict(self.terms)
        for name, coef in other.terms:
            coefs[name] = coefs.get(name, 0) + coef
        terms = tuple(sorted((n, c) for n, c in coefs.items() if c))
        return Affine(self.const + other.const, terms)

    def __mul__(self, factor: int) -> Affine:
        terms = tuple((n, c * factor) for n, c in self.terms if factor)
        return Affine(self.const * factor, terms)

    def __sub__(self, other: int | Affine) -> Affine:
        return self + Affine.of(other) * -1

    @property
    def is_const(self) -> bool:
        return not self.terms

    def uses(self, var: str) -> bool:
        """Whether a loop variable is in it."""
        return any(name == var for name, _ in self.terms)

    def value(self, env: Mapping[str, int]) -> int:
        """The value with each loop variable from `env`."""
        total = self.const
        for name, coef in self.terms:
            total += coef * env[name]
        return total

    def bounds(self, env: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
        """Smallest and largest value with each loop variable in its inclusive interval."""
        low = high = self.const
        for name, coef in self.terms:
            a, b = (coef * v for v in env[name])
            low, high = low + min(a, b), high + max(a, b)
        return low, high


@dataclass(frozen=True)
class Range:
    """`size` elements from `start` on."""

    start: Affine
    size: Affine

    @staticmethod
    def of(start: int | Affine, size: int | Affine) -> Range:
        return Range(Affine.of(start), Affine.of(size))


@dataclass(frozen=True)
class Reg:
    """A register: `%x` (latch), `%a[0:32]` (a bank's range) or `%x.valid` (a field)."""

    name: str
    range: Range | None = None
    field: str | None = None


@dataclass(frozen=True)
class Rows:
    """Logical rows of a tile: `t[0][32*s +: 32]`, or one row `t[0][i]`."""

    tile: Affine
    range: Range


@dataclass(frozen=True)
class Ref:
    """A buffer, window, data item or fragment by name: `act1`, `act1[p]`, `act1[p, 0:32]`,
    `conv2.th[0:32]` (data: `index` is None and `range` selects along axis 0)."""

    name: str
    index: Affine | None = None
    range: Range | None = None


@dataclass(frozen=True)
class Refs:
    """A list of buffers: `(a, b)`; operands and results of a host fragment."""

    names: tuple[str, ...]


Operand = Reg | Rows | Ref | Refs | Affine
Option = Affine | Range | Ref


@dataclass
class Instr:
    """One instruction: a table row's name, its operands in order, its options by name."""

    op: str
    args: tuple[Operand, ...]
    opts: dict[str, Option] = field(default_factory=dict)
    span: Span | None = field(default=None, compare=False)
    before: tuple[str, ...] = ()
    after: str = ""
    # column and width of each operand (by position) and option (by name); from the text only
    columns: dict[int | str, tuple[int, int]] = field(
        default_factory=dict, compare=False, repr=False
    )


@dataclass
class Loop:
    """`for var in lo:hi` or `par var in lo:hi`, both with an exclusive upper bound."""

    kind: str
    var: str
    lo: Affine
    hi: Affine
    body: list[Instr | Loop]
    span: Span | None = field(default=None, compare=False)
    before: tuple[str, ...] = ()
    after: str = ""
    # comments between the last statement of the body and `end`, and behind `end`
    end_before: tuple[str, ...] = ()
    end_after: str = ""


@dataclass
class Layer:
    """A label and the instructions below it; counts and energy are summed by layer."""

    name: str
    body: list[Instr | Loop]
    span: Span | None = field(default=None, compare=False)
    before: tuple[str, ...] = ()
    after: str = ""


@dataclass
class Section:
    """`.load` (once), `.infer` (once a sample) or `.update` (once a call)."""

    name: str
    layers: list[Layer]
    span: Span | None = field(default=None, compare=False)
    before: tuple[str, ...] = ()
    after: str = ""


@dataclass
class Mem:
    """A buffer. `type` is an element type of the IR (`bip`, `u8`, `f32`, …) and `shape` its
    ONNX shape, or `type == "host"` for a value that connects host fragments only
    (then `shape` is None). `axis` is the channel axis: `name[p]` is the vector along it at
    position p, positions counted row-major over the other axes.
    `input`/`output` are the ONNX names of the model's interface, `batch` the axis along which
    `run` feeds samples (None: the value is shared by all samples)."""

    name: str
    type: str
    shape: tuple[int, ...] | None
    axis: int = 1
    input: str | None = None
    output: str | None = None
    batch: int | None = None
    span: Span | None = field(default=None, compare=False)
    before: tuple[str, ...] = ()
    after: str = ""


@dataclass
class View:
    """Another shape for the elements of a buffer or view: a row-major reshape, or a
    transposition by `perm`. Nothing moves."""

    name: str
    type: str
    shape: tuple[int, ...]
    source: str
    axis: int = 1
    perm: tuple[int, ...] | None = None
    span: Span | None = field(default=None, compare=False)
    before: tuple[str, ...] = ()
    after: str = ""


@dataclass
class Win:
    """What the window unit does for one layer. The buffer it is used with has the shape
    [batch, channels, *spatial] with channel axis 1.

    Column of kernel tap t (row-major over `kernel`) and channel c of the group:
    t * (channels / groups) + c. Segment s holds the columns [s*seg, min((s+1)*seg, K)).
    `pack` groups are loaded side by side, K columns each; the last pack may have fewer. The
    input is read as if up - 1 gaps lay between its elements along each spatial axis, which
    are outside like the padding.
    Position p counts row-major over [batch, *out]. `pads` is all begins, then all ends."""

    name: str
    channels: int
    kernel: tuple[int, ...]
    out: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: int = 1
    seg: int = 0  # columns in a segment; 0: no limit
    pack: int = 1
    up: tuple[int, ...] = ()  # (): no gaps; all 1 becomes ()
    span: Span | None = field(default=None, compare=False)
    before: tuple[str, ...] = ()
    after: str = ""

    def __post_init__(self) -> None:
        if all(factor == 1 for factor in self.up):
            self.up = ()

    @property
    def spread(self) -> tuple[int, ...]:
        """`up` along each axis."""
        return self.up or (1,) * len(self.kernel)


@dataclass
class Data:
    """A constant of the program, in its last part.

    kind `cells`: `Cells` of shape [rows, K], cut into segments of `seg` columns; an array of 0
    and 1 becomes one, any other stays as it is for `check` to refuse;
    kind an element type (`i32`, `bip`, …): numpy array;
    kind `onnx`: a serialised ONNX model (uint8 vector)."""

    name: str
    kind: str
    content: Array | Cells
    seg: int = 0
    macs: int = 0  # kind `onnx`: multiply-accumulates of one call
    why: str = ""  # kind `onnx`: why its layers run on the host
    span: Span | None = field(default=None, compare=False)
    before: tuple[str, ...] = ()
    after: str = ""

    def __post_init__(self) -> None:
        if self.kind == "cells" and isinstance(self.content, np.ndarray) and are_bits(self.content):
            self.content = Cells.of(self.content)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.content.shape

    @property
    def cells(self) -> Cells:
        """The content of kind `cells`."""
        assert isinstance(self.content, Cells)
        return self.content

    @property
    def array(self) -> Array:
        """The content as an array; that of `cells` unpacked to uint8 0 and 1, every time."""
        if isinstance(self.content, Cells):
            return self.content.rows(0, len(self.content))
        return self.content

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Data):
            return NotImplemented
        return self._key() == other._key()

    def _key(self) -> tuple[object, ...]:
        head = (self.name, self.kind, self.seg, self.macs, self.why, self.before, self.after)
        if isinstance(self.content, Cells):
            return (*head, self.content)
        array = np.ascontiguousarray(self.content)
        return (*head, array.dtype, array.shape, array.tobytes())


@dataclass
class Remap:
    """`.map t[3] 17 -> 250`: logical row 17 of tile 3 lies on physical row 250."""

    tile: int
    logical: int
    physical: int
    span: Span | None = field(default=None, compare=False)
    before: tuple[str, ...] = ()
    after: str = ""


@dataclass
class TargetLine:
    """The geometry a program was compiled for; costs stay in the target's own file."""

    name: str
    rows: int
    cols: int
    tiles: int
    functions: tuple[str, ...]
    acc_bits: int
    span: Span | None = field(default=None, compare=False)
    before: tuple[str, ...] = ()
    after: str = ""


@dataclass(frozen=True)
class Interface:
    """The buffers of a program that its caller fills and reads: outputs of each sample, and
    those that have one value a `call`."""

    inputs: list[Mem]
    outputs: list[Mem]
    call: list[Mem] = field(default_factory=list)


@dataclass
class Program:
    """A whole `.cim` file. Declarations keep their order in `decls` for the printer;
    the properties below give them by name."""

    target: TargetLine
    pipeline: str
    decls: list[Mem | View | Win | Remap]
    sections: list[Section]
    data: list[Data]
    before: tuple[str, ...] = ()  # comments before `.cim 1`
    trailing: tuple[str, ...] = ()  # comments after everything
    cim_after: str = ""  # comment behind `.cim 1`
    pipeline_before: tuple[str, ...] = ()  # comments around `.pipeline`
    pipeline_after: str = ""

    @property
    def mems(self) -> dict[str, Mem]:
        return {d.name: d for d in self.decls if isinstance(d, Mem)}

    @property
    def views(self) -> dict[str, View]:
        return {d.name: d for d in self.decls if isinstance(d, View)}

    @property
    def wins(self) -> dict[str, Win]:
        return {d.name: d for d in self.decls if isinstance(d, Win)}

    @property
    def remaps(self) -> list[Remap]:
        return [d for d in self.decls if isinstance(d, Remap)]

    @property
    def datas(self) -> dict[str, Data]:
        return {d.name: d for d in self.data}

    @property
    def inputs(self) -> list[Mem]:
        return [d for d in self.decls if isinstance(d, Mem) and d.input is not None]

    @property
    def outputs(self) -> list[Mem]:
        return [d for d in self.decls if isinstance(d, Mem) and d.output is not None]

    def section(self, name: str) -> Section | None:
        """The section of that name, or None."""
        return next((s for s in self.sections if s.name == name), None)


def walk(body: list[Instr | Loop]) -> Iterator[Instr]:
    """All instructions below, in text order, loops entered once."""
    for item in body:
        if isinstance(item, Loop):
            yield from walk(item.body)
        else:
            yield item
