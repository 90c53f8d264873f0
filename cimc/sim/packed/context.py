"""What the builders of steps know: the program, its layout, its cells, and the loop at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cimc.isa.loops import values
from cimc.isa.program import Affine, Program, Ref
from cimc.sim.packed.flow import Refused
from cimc.sim.packed.layout import Access, Layout
from cimc.sim.packed.matrix import Cells
from cimc.sim.packed.terms import Env

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Context:
    """The outermost loop runs its variable `var` from `low` to `high`; contract: bit planes may
    become products of bytes."""

    program: Program
    layout: Layout
    cells: Cells
    contract: bool
    proved: Callable[[], bool]  # whether the checker shows that no accumulator overflows
    layer: str
    var: str
    low: int
    high: int

    @property
    def values(self) -> Ints:
        """The outer variable's values."""
        return np.arange(self.low, self.high)

    def positions(self, index: Affine, env: Env, out: int) -> Ints:
        """A vector's position in each iteration of the outer loop, in iteration `out` of the
        inner loops."""
        fixed, step = self.line(index, env, out)
        return fixed + step * self.values

    def line(self, index: Affine, env: Env, out: int) -> tuple[int, int]:
        """The same as (position at 0, step)."""
        step = dict(index.terms).get(self.var, 0)
        rest = index - Affine.of(self.var) * step
        at = {name: int(env[name][out]) for name, _ in rest.terms}
        return rest.value(at), step

    def access(self, ref: Ref) -> Access:
        return self.layout.access(ref.name)

    def channels(self, ref: Ref, env: Env, outs: int) -> tuple[Ints, Ints]:
        """First channel and number of channels of a vector, in each inner iteration."""
        if ref.range is None:
            whole = self.access(ref).channels
            return np.zeros(outs, np.int64), np.full(outs, whole)
        if ref.range.start.uses(self.var) or ref.range.size.uses(self.var):
            raise Refused("channels that change with the outer loop")
        return values(ref.range.start, env, outs), values(ref.range.size, env, outs)

    def data(self, name: str) -> npt.NDArray[np.generic]:
        """A constant's values."""
        array = self.program.datas[name].array
        assert isinstance(array, np.ndarray)
        return array


def together(keys: list[object]) -> Iterator[list[int]]:
    """The numbers of equal keys, in the order of first appearance."""
    found: dict[object, list[int]] = {}
    for number, key in enumerate(keys):
        found.setdefault(key, []).append(number)
    yield from found.values()
