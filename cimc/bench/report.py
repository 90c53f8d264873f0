"""The table of a run for people, the same as JSON, and a comparison with an earlier file.

Measures nothing. What is written here is the whole run; `read` takes it back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from cimc.bench.figures import Figure, written
from cimc.bench.run import Report
from cimc.cost.report import make_console
from cimc.errors import CompileError

_STYLES = {"aim": "bold green", "must": "green", "no": "red", "": "dim"}
FORMAT = "cimc_bench"


def print_report(report: Report, console: Console | None = None) -> None:
    """The table, and what it was measured on."""
    console = console or make_console()
    threads = "1 thread" if report.threads == 1 else f"{report.threads} threads"
    title = f"cimc bench, {threads} on each side; medians, and half the quartile distance"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("row", overflow="fold")
    for heading in ("figure", "±", "must", "aim", "reached"):
        table.add_column(heading, justify="right")
    for group in report.groups.values():
        for figure in group:
            table.add_row(*_cells(figure), style=None)
        table.add_section()
    console.print(table)
    for line in _footer(report):
        console.print(line, highlight=False)


def _cells(figure: Figure) -> list[str]:
    found, goal = figure.to_json(), figure.goal
    spread = f"{100 * float(str(found['spread'])):.0f} %"
    reached = figure.verdict
    style = _STYLES[reached]
    mark = "*" if figure.feature else ""
    below = "< " if goal is not None and goal.at_most else ""
    return [
        figure.label + mark,
        written(figure.value, figure.unit),
        spread,
        "" if goal is None else below + written(goal.must, figure.unit),
        "" if goal is None else below + written(goal.aim, figure.unit),
        f"[{style}]{'wrong outputs' if figure.wrong else reached or '-'}[/]",
    ]


def _footer(report: Report) -> list[str]:
    lines = [*machine_lines(report.machine)]
    missing = sorted({figure.feature for figure in report.figures if figure.feature})
    lines += [f"* the goal assumes {feature}, which is missing here" for feature in missing]
    if report.quick:
        lines.append(
            "quick: small networks and batches show that everything works, not how fast; no goals"
        )
    lines += [f"WRONG: {f.label}: {f.wrong}" for f in report.figures if f.wrong]
    return lines


def machine_lines(machine: Mapping[str, Any]) -> list[str]:
    """Processor, features, versions: a line each."""
    cores = "1 core" if machine["cores"] == 1 else f"{machine['cores']} cores"
    features = [name if there else f"no {name}" for name, there in machine["features"].items()]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    settings = [f"{key}={value}" for key, value in machine["numba"].items()]
    return [
        f"{machine['processor']} ({machine['llvm_processor']}), {cores}, {machine['system']}",
        ", ".join([*features, *settings]),
        versions,
    ]


def read(path: Path) -> dict[str, Any]:
    """An earlier run from its JSON. Raises CompileError for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CompileError("no such file", str(path)) from None
    except (OSError, ValueError) as error:
        raise CompileError(f"not a JSON file: {error}", str(path)) from None
    if not isinstance(found, dict) or found.get(FORMAT) != 1:
        help = "give a file that `cimc bench --json` wrote"
        raise CompileError("holds no run of this benchmark", str(path), help=help)
    return found


def print_comparison(
    earlier: Mapping[str, Any], report: Report, console: Console | None = None
) -> None:
    """Old and new figures and new divided by old, row by row, and what else differs."""
    console = console or make_console()
    title = f"Against the run of {earlier['began']}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("row", overflow="fold")
    for heading in ("old", "new", "new / old"):
        table.add_column(heading, justify="right")
    before = {figure["key"]: figure for figure in earlier["figures"]}
    for figure in report.figures:
        old = before.get(figure.key)
        table.add_row(
            figure.label,
            "-" if old is None else written(old["value"], figure.unit),
            written(figure.value, figure.unit),
            "" if old is None else f"{figure.value / old['value']:.3f}",
        )
    console.print(table)
    for line in _differences(earlier, report.to_json()):
        console.print(f"not the same: {line}", highlight=False)


def _differences(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> list[str]:
    """What makes two runs hard to compare, one line each."""
    found = [f"{key} {earlier[key]}, now {later[key]}" for key in ("threads", "quick")
             if earlier[key] != later[key]]  # fmt: skip
    old, new = earlier["machine"], later["machine"]
    for key in ("processor", "cores", "system", "numba"):
        if old[key] != new[key]:
            found.append(f"{key} {old[key]}, now {new[key]}")
    for name in sorted({*old["versions"], *new["versions"]}):
        pair = old["versions"].get(name), new["versions"].get(name)
        if pair[0] != pair[1]:
            found.append(f"{name} {pair[0]}, now {pair[1]}")
    return found
