"""Static checks of a program's frame: sections, labels, loops and the variables in expressions.

First of the checks of the code; what it lets pass, the checks of single instructions rely on.
"""

from __future__ import annotations

from collections.abc import Iterator

from cimc.isa.check.declarations import NAME
from cimc.isa.check.scope import Scope, Site
from cimc.isa.loops import trips
from cimc.isa.program import (
    Affine,
    Instr,
    Layer,
    Loop,
    Mem,
    Operand,
    Option,
    Range,
    Ref,
    Reg,
    Rows,
    Section,
    View,
)


def check_frame(scope: Scope) -> None:
    """Add the problems of sections, labels and loops to `scope`."""
    _sections(scope)
    for section in scope.program.sections:
        for layer in section.layers:
            _loops(scope, layer, layer.body, ())


def _sections(scope: Scope) -> None:
    seen: set[str] = set()
    for section in scope.program.sections:
        if section.name not in ("load", "infer", "update"):
            scope.add(f"unknown section `.{section.name}`", section.span)
        if section.name in seen:
            scope.add(f"the section `.{section.name}` stands here twice", section.span)
        seen.add(section.name)
        _labels(scope, section)


def _labels(scope: Scope, section: Section) -> None:
    seen: set[str] = set()
    for layer in section.layers:
        if not NAME.match(layer.name):
            scope.add(f"`{layer.name}` is no label", layer.span)
        if layer.name in seen:
            scope.add(f"the label `{layer.name}` stands twice in `.{section.name}`", layer.span)
        seen.add(layer.name)


def _loops(scope: Scope, layer: Layer, body: list[Instr | Loop], outer: tuple[Loop, ...]) -> None:
    """Bounds and variables of the loops, and the variables that expressions use."""
    for item in body:
        known = {loop.var for loop in outer}
        if isinstance(item, Instr):
            _variables(scope, Site("", layer.name, outer, item), known)
            continue
        where = item.span or f"{scope.file}: layer '{layer.name}': loop over {item.var}"
        unknown = [n for bound in (item.lo, item.hi) for n, _ in bound.terms if n not in known]
        if unknown:
            scope.add(f"unknown loop variable `{unknown[0]}`", where)
            continue
        if item.var in known:
            scope.add(f"the loop variable `{item.var}` hides an outer one", where)
            continue
        least, most = trips(item, outer)
        if most <= 0:
            scope.add(f"this loop never runs: {most} iterations", where)
            continue
        if least < 0:
            scope.add(f"the upper bound lies below the lower one: {least} iterations", where)
            continue
        _loops(scope, layer, item.body, (*outer, item))


def _variables(scope: Scope, site: Site, known: set[str]) -> None:
    places: list[tuple[int | str, Operand | Option]] = [*enumerate(site.instr.args)]
    for key, value in [*places, *site.instr.opts.items()]:
        used = (name for expr in _expressions(value) for name, _ in expr.terms)
        for name in (n for n in used if n not in known):
            buffer = isinstance(scope.names.get(name), (Mem, View))
            help = f"one integer of a buffer is `{name}[0]`" if buffer else None
            scope.at(site, f"unknown loop variable `{name}`", key, help)


def _expressions(value: Operand | Option) -> Iterator[Affine]:
    if isinstance(value, Affine):
        yield value
    elif isinstance(value, Range):
        yield from (value.start, value.size)
    elif isinstance(value, Rows):
        yield from (value.tile, value.range.start, value.range.size)
    elif isinstance(value, (Ref, Reg)):
        if isinstance(value, Ref) and value.index is not None:
            yield value.index
        if value.range is not None:
            yield from (value.range.start, value.range.size)
