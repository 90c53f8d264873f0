"""`cimc run PROGRAM`"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cimc.cli import options


@click.command()
@click.argument("program", type=click.Path(dir_okay=False))
@click.option(
    "--input",
    "input_file",
    type=click.Path(dir_okay=False),
    help="Inputs: .npz with ONNX input names as keys, or .npy, or .png for an image. They may be "
    "larger than memory.",
)
@click.option(
    "--output", type=click.Path(dir_okay=False), help="Write outputs as .npz, by ONNX output name."
)
@options.running
@click.option(
    "--count-only",
    is_flag=True,
    help="Only counts and energy, without values: counts that depend on them are expected ones.",
)
@click.option("--seed", default=0, show_default=True, help="For the input if none is given.")
@click.option(
    "--scale",
    type=click.Choice(["raw", "unit"]),
    default="raw",
    show_default=True,
    help="Pixels of a .png for a float input: 0..255 or 0..1.",
)
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False), help="Write counts and energy."
)
@options.costs
def command(
    program: str,
    input_file: str | None,
    output: str | None,
    count_only: bool,
    seed: int,
    scale: str,
    json_file: str | None,
    target: str | None,
    settings: tuple[str, ...],
    **how: Any,
) -> None:
    """Run a program bit-accurately; print counts and energy by layer and component.

    Without --input it makes a seeded input, and says so. Inputs are read and outputs written as
    samples are run; the output file is there when all are done, or not at all.
    """
    overrides = options.parse_settings(settings)
    arguments = options.Running(**how).arguments
    if count_only and output is not None:
        raise click.UsageError("--count-only computes no values: there is nothing to write")
    from cimc import api
    from cimc.cli import arrays, sinks
    from cimc.cli.outputs import check_outputs
    from cimc.cli.progress import progress_bar
    from cimc.cost.report import print_counts_and_energy, to_json
    from cimc.cost.search import print_search, search_costs
    from cimc.textfile import write_text

    check_outputs([(output, ".npz"), (json_file, "")], [program, input_file, target])
    compiled = api.load(program, target=target, overrides=overrides)
    for note in compiled.notes:
        click.echo(f"note: {note}")
    inputs = arrays.ports(compiled.program)
    feeds: Mapping[str, Any]
    if input_file is None:
        feeds = arrays.seeded_inputs(inputs, 1, seed)
        click.echo(f"no --input: one random sample, seed {seed}")
    else:
        feeds = arrays.read_inputs(Path(input_file), inputs, scale)
    path = None if output is None else Path(output)
    with sinks.output_file(compiled.program, path) as sink, progress_bar("samples") as progress:
        result = compiled.run(
            feeds, count_only=count_only, progress=progress, sink=sink, **arguments
        )
        for line in [] if count_only else sink.lines(result.samples):
            click.echo(line)
        print_counts_and_energy(result, result.energy)
        print_search(searches := search_costs(result.counts, result.target), result.target)
        if path is not None:
            sink.save(result.samples)
            click.echo(f"outputs: {output}")
    if json_file is not None:
        found = to_json(result, result.energy)
        if searches:
            found["search"] = [cost.to_json() for cost in searches]
        text = json.dumps(found, indent=2)
        write_text(json_file, text + "\n")
        click.echo(f"counts and energy: {json_file}")
