"""`cimc inspect FILE`"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from cimc.cli import options


@click.command(name="inspect")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option(
    "--floorplan",
    type=click.Path(dir_okay=False),
    metavar="OUT.png",
    help="Draw the tiles to scale and the kernels on them.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False),
    metavar="OUT.json",
    help="Write everything shown, and each block of cells.",
)
@options.compiling
def command(
    file: str,
    floorplan: str | None,
    json_file: str | None,
    **how: Any,
) -> None:
    """Show the layers of a program, where they lie on the tiles, and what runs on the host
    and why.

    FILE is a .cim program, or a model, which is compiled first with the options given.
    """
    compiling = options.Compiling.of(**how)
    from cimc import api
    from cimc.cli.outputs import check_outputs
    from cimc.cost.floorplan import save
    from cimc.cost.layout import layout
    from cimc.cost.layout_report import print_host, print_layers, print_tiles
    from cimc.cost.report import make_console
    from cimc.isa.printer import program_lines
    from cimc.textfile import text_lines, write_text

    check_outputs([(floorplan, ".png"), (json_file, "")], [file, *compiling.sources])
    if Path(file).suffix == ".cim":
        if compiling:
            raise click.UsageError("a .cim program is compiled already: give its model instead")
        compiled = api.load(file)
        size = _size(text_lines(file))
    else:
        compiled = compiling.compile(file)
        size = _size(f"{line}\n" for line in program_lines(compiled.program))
    plan = layout(compiled.program)
    console = make_console()
    line = compiled.program.target
    click.echo(f"{file}: pipeline {compiled.program.pipeline}, target {line.name}")
    click.echo(
        f"program text: {size['lines_before_data']} lines before .data, "
        f"{size['lines']} in all, {size['bytes']:,} bytes"
    )
    print_layers(plan, console)
    print_tiles(plan, console)
    print_host(plan, console)
    if floorplan is not None:
        save(plan, Path(file).name, floorplan)
        click.echo(f"floorplan: {floorplan}")
    if json_file is not None:
        found = {"file": file, "pipeline": compiled.program.pipeline, "size": size}
        write_text(json_file, json.dumps(found | plan.to_json(), indent=2) + "\n")
        click.echo(f"json: {json_file}")


def _size(text: Iterable[str]) -> dict[str, int]:
    """Lines, lines before the first `.data`, and bytes of a program's text, from its lines."""
    size = {"lines": 0, "lines_before_data": 0, "bytes": 0}
    code = True
    for line in text:
        code = code and not line.startswith(".data")
        size["lines"] += 1
        size["lines_before_data"] += code
        size["bytes"] += len(line.encode())
    return size
