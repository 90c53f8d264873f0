"""Counts and energy for people (a terminal) and for programs (JSON).

The last station: takes a run's result and its `EnergyReport`; computes nothing new.
"""

from __future__ import annotations

from typing import Protocol

from rich import box
from rich.console import Console
from rich.table import Table

from cimc.cost.energy import EnergyReport
from cimc.sim.counters import Counts


class HasCounts(Protocol):
    """A run's result, as far as a report needs it."""

    @property
    def counts(self) -> Counts: ...


# counters shown by layer: heading, instruction families, counter
_COLUMNS = (
    ("row reads", ("read", "ld.row"), "rows"),
    ("bits read", ("read",), "bits"),
    ("acc ops", ("acc",), "ops"),
    ("pulses", ("",), "pulses"),
    ("host MACs", ("host",), "macs"),
)


_WIDTH = 120


def engineering(value: float, unit: str) -> str:
    """Three digits and a prefix: `engineering(1.234e-9, "J")` is `1.23 nJ`."""
    prefixes = ("p", "n", "µ", "m", "", "k", "M")
    scaled = value * 1e12
    for prefix in prefixes[:-1]:
        if abs(scaled) < 999.5:
            return f"{scaled:.3g} {prefix}{unit}"
        scaled /= 1000
    return f"{scaled:.3g} {prefixes[-1]}{unit}"


def quantity(count: int) -> str:
    """A count in at most five characters: `815`, `1.23k`, `45.6M`."""
    scaled = float(count)
    for suffix in ("", "k", "M", "G"):
        if scaled < 999.5:
            return f"{scaled:.3g}{suffix}"
        scaled /= 1000
    return f"{scaled:.3g}T"


def make_console() -> Console:
    """A console as wide as the terminal, or wide enough for the tables in a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


def print_counts_and_energy(
    result: HasCounts, report: EnergyReport, console: Console | None = None
) -> None:
    """Two tables, by layer and by component, and the totals."""
    console = console or make_console()
    console.print(_layers(result.counts, report))
    console.print(_components(report))
    console.print(_totals(report), highlight=False)
    expected = sorted({f"{op}.{counter}" for _, op, counter in result.counts.expected})
    if expected:
        console.print(f"expected values, not counted: {', '.join(expected)}", highlight=False)


def _layers(counts: Counts, report: EnergyReport) -> Table:
    samples = "1 sample" if counts.samples == 1 else f"{counts.samples} samples"
    title = f"Counts and energy of {samples}, by layer"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("layer", overflow="fold")
    for heading, _, _ in _COLUMNS:
        table.add_column(heading, justify="right")
    table.add_column("energy", justify="right")
    table.add_column("share", justify="right")
    energies, sums = report.by_layer(), counts.total()
    for layer in counts.layers():
        cells = [
            sum(
                number
                for (name, op, counter), number in sums.items()
                if (name, counter) == (layer, wanted) and op.startswith(family)
            )
            for _, family, wanted in _COLUMNS
        ]
        shown = [quantity(cell) if cell else "" for cell in cells]
        table.add_row(layer, *shown, *_share(energies.get(layer, 0.0), report.total))
    return table


def _components(report: EnergyReport) -> Table:
    table = Table(title="Energy by component", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("component")
    table.add_column("energy", justify="right")
    table.add_column("share", justify="right")
    for component, pj in report.by_component().items():
        table.add_row(component, *_share(pj, report.total))
    return table


def _share(pj: float, total: float) -> tuple[str, str]:
    return engineering(pj * 1e-12, "J"), f"{100 * pj / total if total else 0:.1f} %"


def _totals(report: EnergyReport) -> str:
    names = (
        ("load", report.load),
        ("infer, each sample", report.infer_per_sample),
        ("update", report.section("update")),
        ("total", report.total),
    )
    shown = [f"{name} {engineering(pj * 1e-12, 'J')}" for name, pj in names if pj]
    share = f"{100 * report.assumed_share:.0f} % of the total rests on assumed figures"
    return f"{'; '.join(shown)}\n{share} of target {report.target.name}"


def to_json(result: HasCounts, report: EnergyReport) -> dict[str, object]:
    """Counts, energies in pJ, and the target's figures, as plain dicts."""
    return {
        "samples": report.samples,
        "counts": result.counts.to_json(),
        "energy_pj": {
            "load": report.load,
            "infer": report.section("infer"),
            "infer_per_sample": report.infer_per_sample,
            "update": report.section("update"),
            "total": report.total,
            "by_layer": report.by_layer(),
            "by_component": report.by_component(),
            "assumed_share": report.assumed_share,
        },
        "target": {
            "name": report.target.name,
            "figures": {
                path: {
                    "value": figure.value,
                    "unit": figure.unit,
                    "source": figure.source,
                    "status": figure.status,
                }
                for path, figure in report.target.figures.items()
            },
        },
    }
