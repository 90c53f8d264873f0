"""What a pass is: a frozen dataclass whose fields are its options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from cimc.driver.calibration import Calibration
from cimc.ir.graph import Graph


@dataclass(frozen=True)
class Geometry:
    """What passes may know of a target: tile size in cells, how many tiles (None: as many as
    needed), the Boolean functions of a column, the accumulator's width in bits."""

    rows: int = 256
    cols: int = 128
    tiles: int | None = None
    functions: tuple[str, ...] = ("and", "nand", "or", "xor")
    acc_bits: int = 32


@dataclass
class PassContext:
    """What a pass gets beside the graph.

    notes:       lines for the user; an approximate pass says here what it changed.
    calibration: data for passes that quantise by the range of activations.
    progress:    called with (done, total) by passes that take long."""

    geometry: Geometry = field(default_factory=Geometry)
    notes: list[str] = field(default_factory=list)
    calibration: Calibration | None = None
    progress: Callable[[int, int], None] | None = None


@dataclass(frozen=True)
class Pass:
    """A graph rewrite: a valid graph in, a valid graph out. Fields are the options:
    `allocate-tiles{strategy=fast}` sets the field `strategy`.

    name:     kebab-case; the file is the same in snake_case.
    summary:  one line in lower case.
    kind:     `exact` keeps every output: integers in every bit, floats within the rounding of
              onnxruntime's own sums; `approximate` says what it changed; `reading` changes what
              the float text computes to what the quantised form means.
    repeat:   the driver runs it until it changes nothing.
    adds_outputs: it may add outputs that the model doesn't have.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    kind: ClassVar[Literal["exact", "approximate", "reading"]] = "exact"
    repeat: ClassVar[bool] = False
    adds_outputs: ClassVar[bool] = False

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Rewrite `graph` in place; True if it changed. Raises CompileError."""
        raise NotImplementedError
