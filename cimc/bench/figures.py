"""A measured figure, what it has to reach, and how both are written. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from cimc.bench.timing import spread

Unit = Literal["times", "share", "images/s", "weight bytes"]


@dataclass(frozen=True)
class Goal:
    """What a figure must reach and should reach; with `at_most` it has to stay below."""

    must: float
    aim: float
    at_most: bool = False

    def verdict(self, value: float) -> str:
        """`aim`, `must` or `no`: the best that the value reaches."""
        sign = -1 if self.at_most else 1
        if value * sign >= self.aim * sign:
            return "aim"
        return "must" if value * sign > self.must * sign else "no"


@dataclass
class Figure:
    """One line of the table.

    key:     its name in files and for comparing, such as `mnist-float-64`.
    label:   what people read.
    values:  one of each round, in `unit`; the figure is their median.
    goal:    None for a figure that is shown for information.
    feature: what of the processor the goal assumes and this one lacks; empty if there is none.
    wrong:   how the engine's outputs differ from what they must be; empty if they don't.
    details: everything else that was measured, as plain values."""

    key: str
    label: str
    values: list[float]
    unit: Unit
    goal: Goal | None = None
    feature: str = ""
    wrong: str = ""
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def value(self) -> float:
        return median(self.values)

    @property
    def verdict(self) -> str:
        """`aim`, `must`, `no`, or empty without a goal; a wrong result reaches nothing."""
        if self.wrong:
            return "no"
        return "" if self.goal is None else self.goal.verdict(self.value)

    def to_json(self) -> dict[str, object]:
        goal = self.goal
        return {
            "key": self.key,
            "label": self.label,
            "unit": self.unit,
            "value": self.value,
            "spread": spread(self.values),
            "values": self.values,
            "must": None if goal is None else goal.must,
            "aim": None if goal is None else goal.aim,
            "at_most": goal is not None and goal.at_most,
            "reached": self.verdict,
            "feature_missing": self.feature,
            "wrong": self.wrong,
            "details": dict(self.details),
        }


def written(value: float, unit: str) -> str:
    """A figure with its unit: `11.3x`, `84.2 %`, `480 k/s`."""
    if unit == "share":
        return f"{100 * value:.1f} %"
    if unit == "images/s":
        return f"{value / 1e3:.0f} k/s" if value >= 1e5 else f"{value / 1e3:.1f} k/s"
    times = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return f"{times}x"
