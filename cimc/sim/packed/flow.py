"""Which instruction a register's value comes from, in the body of one outermost loop.

First step of the analysis: `read` takes the body apart into sites, `definition` and `sums` follow
registers backwards. Everything that doesn't follow from the text is refused with a reason, and
the loop runs in the reference interpreter. Knows nothing of values, cells or buffers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cimc.isa.program import Instr, Loop, Reg
from cimc.isa.table import TABLE

Path = tuple[Loop, ...]


class Refused(Exception):
    """Why a loop can't run in the packed engine."""


@dataclass(frozen=True, eq=False)
class Site:
    """An instruction in the loops of `path`, outermost first, without the outermost loop of
    all; `at` counts the sites in text order."""

    instr: Instr
    path: Path
    at: int

    @property
    def op(self) -> str:
        return self.instr.op


def inside(path: Path, outer: Path) -> bool:
    """Whether `path` stands in the loops `outer`, or is it."""
    return len(path) >= len(outer) and all(a is b for a, b in zip(path, outer))


def register(site: Site, index: int) -> Reg:
    """Operand `index`, which is a register."""
    arg = site.instr.args[index]
    assert isinstance(arg, Reg)
    return arg


@dataclass
class Flow:
    """The sites of a body, and those that write each register."""

    sites: list[Site]
    writes: dict[str, list[Site]] = field(default_factory=dict)

    @staticmethod
    def read(body: Sequence[Instr | Loop]) -> Flow:
        flow = Flow(list(_number(_walk(body, ()))))
        for site in flow.sites:
            for name in written(site):
                flow.writes.setdefault(name, []).append(site)
        return flow

    def definition(self, use: Site, name: str) -> Site:
        """The site whose result `use` finds in a latch, bits or counts register."""
        before = [site for site in self.writes.get(name, []) if site.at < use.at]
        if not before:
            raise Refused(f"%{name} holds something from before the loop")
        found = before[-1]
        if not inside(use.path, found.path):
            raise Refused(f"%{name} was last written in an inner loop that has ended")
        if len(use.path) > len(found.path):
            inner = (*found.path, use.path[len(found.path)])
            if any(s.at > use.at and inside(s.path, inner) for s in self.writes[name]):
                raise Refused(f"%{name} holds something from the iteration before")
        return found

    def sums(self, use: Site, name: str) -> tuple[Site, list[Site]]:
        """The `acc.clr` before `use`, in the same loops, and the updates of the accumulator
        between them."""
        updates: list[Site] = []
        for site in reversed([s for s in self.writes.get(name, []) if s.at < use.at]):
            if not inside(site.path, use.path):
                raise Refused(f"%{name} is summed up over iterations of an outer loop")
            if site.op != "acc.clr":
                updates.append(site)
                continue
            if len(site.path) != len(use.path):
                raise Refused(f"%{name} is cleared in an inner loop that has ended")
            return site, updates[::-1]
        raise Refused(f"%{name} isn't cleared in the loop")


def written(site: Site) -> Iterator[str]:
    """The registers that an instruction writes."""
    for param, arg in zip(TABLE[site.op].params, site.instr.args, strict=True):
        if isinstance(arg, Reg) and param.role != "r":
            yield arg.name


def _walk(body: Sequence[Instr | Loop], path: Path) -> Iterator[tuple[Instr, Path]]:
    for item in body:
        if isinstance(item, Loop):
            yield from _walk(item.body, (*path, item))
        else:
            yield item, path


def _number(found: Iterator[tuple[Instr, Path]]) -> Iterator[Site]:
    for at, (instr, path) in enumerate(found):
        yield Site(instr, path, at)
