"""Static checks of what flows through registers, and of `par`.

Third part of `check`, on valid instructions: a register range is read only after it was
written, and the iterations of a `par` share nothing but what they only read and what they
add to. Registers live to the end of their section; those private to a `par` end with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cimc.isa.check.scope import Scope, Site
from cimc.isa.loops import extent, substitute, trips
from cimc.isa.program import Affine, Instr, Layer, Loop, Range, Reg, Section

_LATCH = Range.of(0, 1)


class Written:
    """The ranges of each register that have certainly been written."""

    def __init__(self, other: Written | None = None) -> None:
        self.ranges: dict[str, list[Range]] = (
            {name: list(ranges) for name, ranges in other.ranges.items()} if other else {}
        )

    def add(self, name: str, new: Range, loops: Sequence[Loop]) -> None:
        """Note a write, merged with the ranges that it touches."""
        kept: list[Range] = []
        for old in self.ranges.get(name, []):
            merged = _union(old, new, loops)
            if merged is None:
                kept.append(old)
            else:
                new = merged
        self.ranges[name] = [*kept, new]

    def covers(self, name: str, part: Range, loops: Sequence[Loop]) -> bool:
        """Whether one of the ranges provably contains `part`."""
        return any(_contains(old, part, loops) for old in self.ranges.get(name, []))

    def leave(self, loop: Loop, outer: Sequence[Loop]) -> None:
        """Put what the iterations of a loop wrote in terms of the loops outside."""
        for name, ranges in list(self.ranges.items()):
            self.ranges[name] = []
            for old in ranges:
                self.add(name, _over_loop(old, loop), outer)


def _end(part: Range) -> Affine:
    return part.start + part.size


def _contains(old: Range, new: Range, loops: Sequence[Loop]) -> bool:
    if extent(new.start - old.start, loops)[0] < 0:
        return False
    return extent(_end(old) - _end(new), loops)[0] >= 0


def _union(old: Range, new: Range, loops: Sequence[Loop]) -> Range | None:
    """Both ranges as one, where they are known to overlap or touch."""
    if _contains(old, new, loops):
        return old
    if _contains(new, old, loops):
        return new
    for first, second in ((old, new), (new, old)):
        after = extent(second.start - first.start, loops)[0] >= 0
        touches = extent(_end(first) - second.start, loops)[0] >= 0
        grows = extent(_end(second) - _end(first), loops)[0] >= 0
        if after and touches and grows:
            return Range(first.start, _end(second) - first.start)
    return None


def _over_loop(part: Range, loop: Loop) -> Range:
    """A range that all iterations together have certainly written."""
    coef = dict(part.start.terms).get(loop.var, 0)
    first = Range(*(substitute(e, loop.var, loop.lo) for e in (part.start, part.size)))
    if not part.size.is_const or coef == 0 or abs(coef) > part.size.const:
        return first
    last = substitute(part.start, loop.var, loop.hi - 1)
    low, high = (first.start, last) if coef > 0 else (last, first.start)
    return Range(low, high - low + part.size)


def accesses(site: Site) -> Iterator[tuple[int, Reg, Range, str]]:
    """Operand number, register, range and role of the registers of an instruction; reads
    come before writes. A latch is one element."""
    operands = enumerate(zip(site.row.params, site.instr.args, strict=True))
    found = [
        (key, arg, arg.range or _LATCH, "r" if arg.field else param.role)
        for key, (param, arg) in operands
        if isinstance(arg, Reg)
    ]
    return iter(sorted(found, key=lambda access: access[3] == "w"))


def check_registers(scope: Scope) -> None:
    """Add reads before writes, and shared writes of `par`, to `scope`."""
    for section in scope.program.sections:
        written = Written()
        for layer in section.layers:
            _flow(scope, section, layer, layer.body, (), written)


def _flow(
    scope: Scope,
    section: Section,
    layer: Layer,
    body: list[Instr | Loop],
    loops: tuple[Loop, ...],
    written: Written,
) -> None:
    for item in body:
        if isinstance(item, Instr):
            _step(scope, Site(section.name, layer.name, loops, item), written)
            continue
        before = Written(written)
        _flow(scope, section, layer, item.body, (*loops, item), written)
        written.leave(item, loops)
        if trips(item, loops)[0] < 1:
            written.ranges = before.ranges
        if item.kind == "par":
            for name in _private(scope, section, layer, item, loops):
                written.ranges.pop(name, None)


def _step(scope: Scope, site: Site, written: Written) -> None:
    for key, reg, part, role in accesses(site):
        if role != "w" and not written.covers(reg.name, part, site.loops):
            scope.at(site, f"`%{reg.name}` is read here before it is written", key,
                     "registers of a `par` that its body writes first end with it")  # fmt: skip
        if role != "r":
            written.add(reg.name, part, site.loops)


@dataclass
class _Uses:
    """What the body of one `par` does with each register: the first site of each use."""

    written: Written = field(default_factory=Written)
    private: dict[str, Site] = field(default_factory=dict)
    shared: dict[str, tuple[Site, int]] = field(default_factory=dict)
    reduced: dict[str, tuple[Site, int]] = field(default_factory=dict)


def keeps_registers(section: Section, layer: Layer, loop: Loop) -> bool:
    """Whether the iterations of a loop outside any other have all registers to themselves: each
    writes what it reads, and sums nothing up over the iterations."""
    uses = _Uses()
    _collect(section, layer, loop.body, (loop,), uses)
    return not uses.shared and not uses.reduced


def borrowed(section: Section, layer: Layer, item: Instr | Loop) -> set[str]:
    """Registers that an item outside of loops may find as something before it left them."""
    uses = _Uses()
    if isinstance(item, Loop):
        _collect(section, layer, item.body, (item,), uses)
    else:
        _collect(section, layer, [item], (), uses)
    return {*uses.shared, *uses.reduced}


def _private(
    scope: Scope, section: Section, layer: Layer, par: Loop, loops: tuple[Loop, ...]
) -> list[str]:
    """Check the registers of a `par`; returns the names of the private ones."""
    uses = _Uses()
    _collect(section, layer, par.body, (*loops, par), uses)
    if trips(par, loops)[1] < 2:
        return list(uses.private)
    for name, (site, key) in uses.shared.items():
        if name in uses.private or name in uses.reduced:
            scope.at(site, f"iterations of a `par` share `%{name}`: it is read before this "
                     "iteration writes it, and written in the body", key)  # fmt: skip
    for name, (site, key) in uses.reduced.items():
        if name in uses.private and name not in uses.shared:
            scope.at(site, f"`%{name}` is both private to the iterations of a `par` and a sum "
                     "over them", key, "use two registers")  # fmt: skip
    return list(uses.private)


def _collect(
    section: Section, layer: Layer, body: list[Instr | Loop], loops: tuple[Loop, ...], uses: _Uses
) -> None:
    for item in body:
        if isinstance(item, Loop):
            before = Written(uses.written)
            _collect(section, layer, item.body, (*loops, item), uses)
            uses.written.leave(item, loops)
            if trips(item, loops)[0] < 1:
                uses.written.ranges = before.ranges
            continue
        site = Site(section.name, layer.name, loops, item)
        for key, reg, part, role in accesses(site):
            own = uses.written.covers(reg.name, part, loops)
            if role == "w":
                uses.private.setdefault(reg.name, site)
                uses.written.add(reg.name, part, loops)
            elif role == "r" and not own:
                uses.shared.setdefault(reg.name, (site, key))
            elif role == "rw" and not own:
                uses.reduced.setdefault(reg.name, (site, key))
