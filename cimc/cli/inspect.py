"""`cimc inspect FILE`"""

from __future__ import annotations

import json
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
    from cimc.isa.printer import print_program
    from cimc.textfile import read_text, write_text

    check_outputs([(floorplan, ".png"), (json_file, "")], [file, *compiling.sources])
    if Path(file).suffix == ".cim":
        if compiling:
            raise click.UsageError("a .cim program is compiled already: give its model instead")
        compiled = api.load(file)
        text = read_text(file)
    else:
        compiled = compiling.compile(file)
        text = print_program(compiled.program)
    plan = layout(compiled.program)
    console = make_console()
    size = _size(text)
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


def _size(text: str) -> dict[str, int]:
    """Lines, lines before the first `.data`, and bytes of a program's text."""
    lines = text.splitlines()
    before = next((i for i, line in enumerate(lines) if line.startswith(".data")), len(lines))
    return {"lines": len(lines), "lines_before_data": before, "bytes": len(text.encode())}
