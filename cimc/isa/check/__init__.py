"""Static checks of a program: all that can go wrong and is known from the text alone.

Runs after the parser or the backend, before any interpreter. Each part relies on what the
parts before it let pass, so their problems are listed part by part.
"""

from __future__ import annotations

from cimc.errors import raise_all
from cimc.isa.check.cells import check_cells
from cimc.isa.check.declarations import check_declarations
from cimc.isa.check.operands import check_code
from cimc.isa.check.outputs import check_outputs
from cimc.isa.check.parallel import check_buffers
from cimc.isa.check.registers import check_registers
from cimc.isa.check.scope import Scope
from cimc.isa.check.widths import check_widths
from cimc.isa.program import Program


def check(program: Program, file: str = "<program>") -> None:
    """Raise CompileError with the problems of a program; `file` names it where it has no text.

    1. declarations: names, shapes, windows, views, remaps, data values
    2. each instruction: names, operand kinds, ranges, options, sizes, what the target can do
    3. registers written before read, `par` rules, outputs of `.update`, cells programmed once,
       accumulator widths
    """
    scope = Scope(program, file)
    for parts in (
        (check_declarations,),
        (check_code,),
        (check_registers, check_buffers, check_outputs, check_cells, check_widths),
    ):
        for part in parts:
            part(scope)
        raise_all(scope.errors)
