"""What the static checks share: the names of a program, its instructions with the loops
around them, and the list of problems with their places.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from math import prod

from cimc.errors import CompileError, Span
from cimc.isa.printer import print_instr
from cimc.isa.program import Data, Instr, Layer, Loop, Mem, Program, Section, View, Win
from cimc.isa.table import TABLE, Row

Named = Mem | View | Win | Data

KIND_NAMES = {Mem: "a buffer", View: "a buffer", Win: "a window", Data: "a data item"}


@dataclass(slots=True, eq=False)
class Site:
    """One instruction and where it stands; `loops` are the loops around it, outermost first."""

    section: str
    layer: str
    loops: tuple[Loop, ...]
    instr: Instr

    @property
    def row(self) -> Row:
        return TABLE[self.instr.op]


@dataclass
class Scope:
    """A program under check and the problems found so far."""

    program: Program
    file: str
    errors: list[CompileError] = field(default_factory=list)

    def __post_init__(self) -> None:
        program = self.program
        self.names: dict[str, Named] = {}
        for item in (*program.decls, *program.data):
            if isinstance(item, (Mem, View, Win, Data)):
                self.names.setdefault(item.name, item)

    def add(self, message: str, where: Span | str | None, help: str | None = None) -> None:
        """A problem at a declaration, label or loop."""
        self.errors.append(CompileError(message, where or self.file, help))

    def at(
        self, site: Site, message: str, key: int | str | None = None, help: str | None = None
    ) -> None:
        """A problem at an instruction, or at its operand or option `key`."""
        self.errors.append(CompileError(message, self.place(site, key), help))

    def place(self, site: Site, key: int | str | None = None) -> Span | str:
        """The span of an instruction or operand; words where the program has no text."""
        instr = site.instr
        if instr.span is None:
            return f"{self.file}: layer '{site.layer}': `{print_instr(instr)}`"
        if key is None or key not in instr.columns:
            return instr.span
        column, width = instr.columns[key]
        return replace(instr.span, column=column, width=width)

    def suggest(self, name: str, known: list[str]) -> str | None:
        """A help text with the closest known name."""
        close = get_close_matches(name, known, 1)
        return f"did you mean `{close[0]}`?" if close else None

    def root(self, name: str) -> Mem:
        """The buffer behind a view (of a view …)."""
        item = self.names[name]
        while isinstance(item, View):
            item = self.names[item.source]
        assert isinstance(item, Mem)
        return item

    def vectors(self, name: str) -> tuple[int, int]:
        """Positions and channels of a buffer or view that isn't `host`."""
        item = self.names[name]
        assert isinstance(item, (Mem, View))
        assert item.shape is not None
        channels = item.shape[item.axis]
        return prod(item.shape) // channels if channels else 0, channels


def sites(program: Program) -> Iterator[Site]:
    """Every instruction of a program, in text order, loops entered once."""
    for section in program.sections:
        for layer in section.layers:
            yield from body_sites(section, layer, layer.body, ())


def body_sites(
    section: Section, layer: Layer, body: list[Instr | Loop], loops: tuple[Loop, ...]
) -> Iterator[Site]:
    """Every instruction of a body that stands inside `loops`."""
    for item in body:
        if isinstance(item, Instr):
            yield Site(section.name, layer.name, loops, item)
        else:
            yield from body_sites(section, layer, item.body, (*loops, item))
