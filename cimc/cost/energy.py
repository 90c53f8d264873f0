"""Energy of a run: the sum over all counters of count x cost, and nothing else.

Takes the counts of an interpreter, or `static_counts`, and a target's costs; `report.py`
shows the result. Knows nothing of programs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import fsum

from cimc.cost.target import Target
from cimc.isa.table import TABLE
from cimc.sim.counters import Counts

COMPONENTS = {
    "word_line": "array read",
    "sense": "array read",
    "popcount": "popcount",
    "accumulate": "accumulator",
    "multiply": "accumulator",
    "latch": "input latch",
    "store": "store and post-processing",
    "requant": "store and post-processing",
    "post": "store and post-processing",
    "set": "programming",
    "reset": "programming",
    "control": "control unit",
    "host_call": "host",
    "host_mac": "host",
}
"""The part of the chip that pays each cost. What `set` and `reset` cost is all programming."""


@dataclass(frozen=True)
class Item:
    """One product: a counter of an instruction of a layer, times its cost."""

    section: str
    layer: str
    op: str
    counter: str
    component: str
    count: int
    pj: float  # count x cost, in pJ
    assumed: bool  # whether the cost is an assumed figure


@dataclass(frozen=True)
class EnergyReport:
    """All products of a run, and their sums in pJ."""

    target: Target
    samples: int
    items: tuple[Item, ...]

    @property
    def total(self) -> float:
        return fsum(item.pj for item in self.items)

    @property
    def load(self) -> float:
        return self.section("load")

    @property
    def infer_per_sample(self) -> float:
        """Energy of one inference; 0 without samples."""
        return self.section("infer") / self.samples if self.samples else 0.0

    @property
    def assumed_share(self) -> float:
        """The part of the total, 0 to 1, that rests on figures with the status `assumed`."""
        assumed = fsum(item.pj for item in self.items if item.assumed)
        return assumed / self.total if self.total else 0.0

    def section(self, name: str) -> float:
        """Energy of `load`, of `infer` for all samples, or of `update`."""
        return fsum(item.pj for item in self.items if item.section == name)

    def by_layer(self) -> dict[str, float]:
        """Energy of each layer, all sections together, in the order of `.infer`."""
        return self._sums(lambda item: item.layer)

    def by_component(self) -> dict[str, float]:
        """Energy of each component."""
        return self._sums(lambda item: item.component)

    def _sums(self, group: Callable[[Item], str]) -> dict[str, float]:
        parts: dict[str, list[float]] = {}
        for item in self.items:
            parts.setdefault(group(item), []).append(item.pj)
        return {name: fsum(pj) for name, pj in parts.items()}


def energy(counts: Counts, target: Target) -> EnergyReport:
    """Each counter that has a cost, times that cost."""
    items = [
        item
        for section in ("infer", "load", "update")
        for (layer, op, counter), count in counts.sections[section].items()
        for item in _items(target, section, layer, op, counter, count)
    ]
    return EnergyReport(target, counts.samples, tuple(items))


def _items(
    target: Target, section: str, layer: str, op: str, counter: str, count: int
) -> list[Item]:
    cost = next(c.cost for c in TABLE[op].counters if c.name == counter)
    if not cost:
        return []
    component = "programming" if op in ("set", "reset") else COMPONENTS[cost]
    assumed = target.figures[f"energy.{cost}"].status == "assumed"
    pj = count * target.energy[cost]
    return [Item(section, layer, op, counter, component, count, pj, assumed)]
