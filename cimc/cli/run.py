"""`cimc run PROGRAM`"""

from __future__ import annotations

import json
from pathlib import Path

import click

from cimc.cli import options


@click.command()
@click.argument("program", type=click.Path(dir_okay=False))
@click.option(
    "--input",
    "input_file",
    type=click.Path(dir_okay=False),
    help="Inputs: .npz with ONNX input names as keys, or .npy, or .png for an image.",
)
@click.option(
    "--output", type=click.Path(dir_okay=False), help="Write outputs as .npz, by ONNX output name."
)
@click.option(
    "--engine",
    default="lanes",
    show_default=True,
    help="reference: step by step; lanes: the same, independent loops side by side.",
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
    engine: str,
    seed: int,
    scale: str,
    json_file: str | None,
    target: str | None,
    settings: tuple[str, ...],
) -> None:
    """Run a program bit-accurately; print counts and energy by layer and component.

    Without --input it makes a seeded input, and says so.
    """
    overrides = options.parse_settings(settings)
    from cimc import api
    from cimc.cli import arrays
    from cimc.cli.outputs import check_outputs
    from cimc.cli.progress import progress_bar
    from cimc.cost.report import print_counts_and_energy, to_json
    from cimc.textfile import write_text

    check_outputs([(output, ".npz"), (json_file, "")], [program, input_file, target])
    compiled = api.load(program, target=target, overrides=overrides)
    for note in compiled.notes:
        click.echo(f"note: {note}")
    inputs = arrays.ports(compiled.program)
    if input_file is None:
        feeds = arrays.seeded_inputs(inputs, 1, seed)
        click.echo(f"no --input: one random sample, seed {seed}")
    else:
        feeds = arrays.read_inputs(Path(input_file), inputs, scale)
    with progress_bar("samples") as progress:
        result = compiled.run(feeds, engine=engine, progress=progress)
    for name, array in result.outputs.items():
        click.echo(f"{name}: {_brief(array)}")
    print_counts_and_energy(result, result.energy)
    if output is not None:
        arrays.write_npz(Path(output), result.outputs)
        click.echo(f"outputs: {output}")
    if json_file is not None:
        text = json.dumps(to_json(result, result.energy), indent=2)
        write_text(json_file, text + "\n")
        click.echo(f"counts and energy: {json_file}")


def _brief(array: object) -> str:
    """Type, shape and the first values of an output."""
    import numpy as np

    if not isinstance(array, np.ndarray):
        return str(array)[:200]
    form = "{:.6g}" if array.dtype.kind == "f" else "{}"
    values = ", ".join(form.format(v) for v in array.ravel()[:10])
    more = ", …" if array.size > 10 else ""
    return f"{array.dtype}{list(array.shape)} [{values}{more}]"
