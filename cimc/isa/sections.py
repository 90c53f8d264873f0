"""Which buffers the sections of a program use, and what has one value a call.

`.infer` runs once a sample, `.update` once a call: outputs that `.update` writes have no samples,
and the buffers that only `.update` uses are needed once. Knows the table; nothing of values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cimc.isa.program import Instr, Interface, Mem, Program, Ref, Refs, View, walk
from cimc.isa.table import TABLE


def roots(program: Program) -> dict[str, str]:
    """The buffer behind each buffer and view, by name."""
    found = {name: name for name in program.mems}
    for view in program.views.values():
        name = view.source
        while name in program.views:
            name = program.views[name].source
        found[view.name] = name
    return found


def uses(program: Program, section: str) -> Iterator[tuple[str, str]]:
    """Name of each buffer or view that a section uses, and role: "r" or "w"."""
    found = program.section(section)
    for layer in found.layers if found else ():
        for instr in walk(layer.body):
            yield from buffers_of(instr)


def buffers_of(instr: Instr) -> Iterator[tuple[str, str]]:
    """Name of each buffer or view that an instruction uses, and role: "r" or "w"."""
    for param, arg in zip(TABLE[instr.op].params, instr.args, strict=True):
        if isinstance(arg, Refs):
            yield from ((name, param.role) for name in arg.names)
        elif isinstance(arg, Ref) and param.kind in ("vec", "scalar"):
            yield arg.name, param.role
    for value in instr.opts.values():
        if isinstance(value, Ref) and value.index is not None:
            yield value.name, "r"


def interface(program: Program) -> Interface:
    """What the caller of a program fills and reads."""
    behind = roots(program)
    written = {behind[name] for name, role in uses(program, "update") if role == "w"}
    return Interface(
        program.inputs,
        [mem for mem in program.outputs if mem.name not in written],
        [mem for mem in program.outputs if mem.name in written],
    )


def without_update(program: Program) -> Program:
    """The program without `.update` and the buffers that it alone uses: what runs for samples."""
    if program.section("update") is None:
        return program
    behind = roots(program)
    kept = {behind[name] for part in ("load", "infer") for name, _ in uses(program, part)}
    gone = {behind[name] for name, _ in uses(program, "update")} - kept
    ports = interface(program)
    gone -= {mem.name for mem in (*ports.inputs, *ports.outputs)}
    decls = [
        d for d in program.decls if not isinstance(d, (Mem, View)) or behind[d.name] not in gone
    ]
    sections = [section for section in program.sections if section.name != "update"]
    return replace(program, decls=decls, sections=sections)
