"""`cimc inspect FILE`"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cimc.cli import comparisons, options

if TYPE_CHECKING:
    from rich.console import Console

    from cimc import api
    from cimc.cost.search import SearchCost
    from cimc.sim.packed.explain import Explanation, ItemWords


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
@click.option(
    "--engine",
    "show_engine",
    is_flag=True,
    help="Show how the packed engine runs each loop, and why some run another way.",
)
@click.option(
    "--no-contract", is_flag=True, help="With --engine: every bit plane by itself, as for run."
)
@click.option(
    "--macs",
    "show_macs",
    is_flag=True,
    help="Show multiply-accumulates by layer, and which of them meet zero weights, instead.",
)
@click.option(
    "--against",
    type=click.Path(dir_okay=False),
    metavar="DENSE",
    help="With --macs: the model or program before pruning. Without it and with -p: FILE as it is.",
)
@click.option(
    "--diff",
    type=click.Path(dir_okay=False),
    metavar="BEFORE",
    help="Show what FILE takes and does next to another program, by layer, instead.",
)
@options.compiling
def command(
    file: str,
    floorplan: str | None,
    json_file: str | None,
    show_engine: bool,
    no_contract: bool,
    show_macs: bool,
    against: str | None,
    diff: str | None,
    **how: Any,
) -> None:
    """Show the layers of a program, where they lie on the tiles, and what runs on the host
    and why.

    FILE is a .cim program, or a model, which is compiled first with the options given.

    `cimc inspect --diff a.cim b.cim` shows b next to a. `cimc inspect --macs pruned.onnx
    --against dense.onnx` counts operations; a model is not compiled for that, only the passes
    of -p run.
    """
    compiling = options.Compiling.of(**how)
    if no_contract and not show_engine:
        raise click.UsageError("--no-contract changes what --engine shows: give both")
    if against is not None and not show_macs:
        raise click.UsageError("--against is what --macs compares with: give both")
    if show_macs or diff is not None:
        if floorplan is not None or show_engine or (show_macs and diff is not None):
            raise click.UsageError(
                "--macs, --diff, and --engine or --floorplan are shown one at a time"
            )
        if diff is not None:
            comparisons.show_difference(diff, file, json_file, compiling)
        else:
            comparisons.show_operations(file, against, json_file, compiling)
        return
    from cimc.cli.outputs import check_outputs
    from cimc.cost.floorplan import save
    from cimc.cost.layout import layout
    from cimc.cost.layout_report import print_host, print_layers, print_tiles
    from cimc.cost.report import make_console
    from cimc.cost.search import print_search
    from cimc.isa.printer import program_lines
    from cimc.textfile import text_lines, write_text

    check_outputs([(floorplan, ".png"), (json_file, "")], [file, *compiling.sources])
    compiled = compiling.open(file)
    if Path(file).suffix == ".cim":
        size = _size(text_lines(file))
    else:
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
    searches = _searches(compiled)
    print_search(searches, compiled.target, console)
    ways = _ways(compiled, not no_contract) if show_engine else None
    if ways is not None:
        _print_ways(ways, console)
    if floorplan is not None:
        save(plan, Path(file).name, floorplan)
        click.echo(f"floorplan: {floorplan}")
    if json_file is not None:
        found: dict[str, Any] = {"file": file, "pipeline": compiled.program.pipeline, "size": size}
        found |= plan.to_json()
        if searches:
            found["search"] = [cost.to_json() for cost in searches]
        if ways is not None:
            found["engine"] = {"contract": not no_contract} | ways.to_json()
        write_text(json_file, json.dumps(found, indent=2) + "\n")
        click.echo(f"json: {json_file}")


def _searches(compiled: api.Compiled) -> list[SearchCost]:
    """What the searches for similar kernels in `.update` cost."""
    from cimc.cost.search import search_costs
    from cimc.sim.counters import static_counts

    if compiled.program.section("update") is None:
        return []
    return search_costs(static_counts(compiled.program, pulses=False), compiled.target)


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


# -- the engine ------------------------------------------------------------------------

_UNITS = {"bit": " bit-MACs", "byte": " MACs", "element": " elements"}


def _ways(compiled: api.Compiled, contract: bool) -> Explanation:
    from cimc.sim.packed.explain import explain

    return explain(compiled.engine(contract=contract).ready().plan)


def _print_ways(ways: Explanation, console: Console) -> None:
    """A line for each step of each loop, then the buffers that change their form."""
    from rich import box
    from rich.table import Table

    table = Table(
        title="How the packed engine runs .infer; work of one sample",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for heading in ("layer", "loop or instruction", "runs", "step", "way"):
        table.add_column(heading, overflow="fold")
    table.add_column("work", justify="right", no_wrap=True)
    for item in ways.items:
        for line in _lines(item):
            table.add_row(*line)
    console.print(table)
    if ways.conversions:
        moved = ", ".join(f"{name} to {form}" for name, form in ways.conversions)
        console.print(f"buffers that change their form: {moved}", highlight=False, markup=False)


def _lines(item: ItemWords) -> Iterator[list[str]]:
    """Cells of the table; layer and loop stand once."""
    from rich.markup import escape

    from cimc.cost.report import quantity

    # a host fragment has many buffers with long names: they are in the JSON
    what = item.item.partition(",")[0] if item.how == "host" else item.item
    head = [escape(text) for text in (item.layer, what, item.how)]
    if not item.steps:
        yield [*head, "", escape(item.why or "nothing to do"), ""]
    for step in item.steps:
        work = quantity(step.work) + _UNITS[step.unit]
        yield [*head, step.instruction, escape(step.text), work]
        head = ["", "", ""]
