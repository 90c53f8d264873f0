"""What `cimc inspect` shows of two files: operations against a dense original, and two programs
side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cimc.cli.options import Compiling

if TYPE_CHECKING:
    from cimc.frontend.operations import LayerOps


def show_operations(
    file: str, against: str | None, json_file: str | None, compiling: Compiling
) -> None:
    """MACs by layer; see `cimc.frontend.operations`. Raises CompileError."""
    from cimc.cli.outputs import check_outputs
    from cimc.cost.operations import print_operations
    from cimc.cost.report import make_console
    from cimc.frontend.reduction import alone, compare
    from cimc.textfile import write_text

    check_outputs([(json_file, "")], [file, against, *compiling.sources])
    plain = Compiling(None, compiling.shapes, None, {}, ())
    layers, notes = _operations(file, compiling)
    for note in notes:
        click.echo(note)
    if against is None and compiling.pipeline is not None:
        against = file
    if against is None:
        found = alone(layers)
    else:
        found = compare(layers, _operations(against, plain)[0], file)
    click.echo(file if against is None else f"{file} against {against}")
    print_operations(found, against is not None, make_console())
    if json_file is not None:
        everything = {"file": file, "against": against, **found.to_json()}
        write_text(json_file, json.dumps(everything, indent=2) + "\n")
        click.echo(f"json: {json_file}")


def _operations(file: str, compiling: Compiling) -> tuple[list[LayerOps], list[str]]:
    from cimc.cost.operations import program_operations
    from cimc.frontend.operations import count

    if Path(file).suffix == ".cim":
        return program_operations(compiling.open(file).program), []
    graph, notes = compiling.graph(file)
    return count(graph), notes


def show_difference(before: str, after: str, json_file: str | None, compiling: Compiling) -> None:
    """Two programs, or models compiled alike, by layer; see `cimc.cost.difference`. Raises
    CompileError."""
    from cimc.cli.outputs import check_outputs
    from cimc.cost.difference import Difference, print_difference, profile
    from cimc.cost.report import make_console
    from cimc.textfile import write_text

    check_outputs([(json_file, "")], [before, after, *compiling.sources])
    first, second = compiling.open(before), compiling.open(after)
    for name, made in ((before, first), (after, second)):
        line = made.program.target
        click.echo(f"{name}: pipeline {made.program.pipeline}, target {line.name}")
    found = Difference(profile(first.program, first.target), profile(second.program, second.target))
    print_difference(found, make_console())
    if json_file is not None:
        everything = {"before_file": before, "after_file": after, **found.to_json()}
        write_text(json_file, json.dumps(everything, indent=2) + "\n")
        click.echo(f"json: {json_file}")
