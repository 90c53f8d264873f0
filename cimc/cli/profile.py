"""`cimc profile PROGRAM`"""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("program", type=click.Path(dir_okay=False))
@click.option("--input", "input_file", type=click.Path(dir_okay=False), help="Inputs, as for run.")
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    help="Samples at once: random ones, or the first of --input. As many as fit 64 MB, at most 64.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Of the whole run; steps are timed on one.",
)
@click.option("--json", "json_file", type=click.Path(dir_okay=False), help="Write everything.")
def command(
    program: str, input_file: str | None, batch: int | None, threads: int, json_file: str | None
) -> None:
    """Show where a program's time goes: by layer and step of the packed engine, with the share
    of what the processor can do at most where a step is products of bits or bytes."""
    from cimc import api
    from cimc.bench.machine import describe
    from cimc.bench.profile import EFFORT, default_batch, print_profile, profile
    from cimc.bench.programs import first, random_feeds
    from cimc.cli import arrays
    from cimc.cli.outputs import check_outputs
    from cimc.textfile import write_text

    check_outputs([(json_file, "")], [program, input_file])
    compiled = api.load(program)
    for note in compiled.notes:
        click.echo(f"note: {note}")
    if input_file is None:
        batch = batch or default_batch(compiled.program)
        feeds = random_feeds(compiled.program, batch)
        click.echo(f"no --input: {batch} random sample{'s' if batch > 1 else ''}, seed 0")
    else:
        feeds = arrays.loaded(arrays.read_inputs(Path(input_file), arrays.ports(compiled.program)))
        batch = batch or default_batch(compiled.program)
        feeds = first(compiled.program, feeds, batch)
    found = profile(compiled, feeds, threads, EFFORT)
    print_profile(found)
    if json_file is not None:
        everything = {"cimc_profile": 1, "machine": describe(), **found.to_json()}
        write_text(json_file, json.dumps(everything, indent=2) + "\n")
        click.echo(f"everything measured: {json_file}")
