"""`cimc check MODEL [PROGRAM]`"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cimc.cli import options

if TYPE_CHECKING:
    from cimc.driver.registry import Registry


@click.command()
@click.argument("model", type=click.Path(dir_okay=False))
@click.argument("program", required=False, type=click.Path(dir_okay=False))
@click.option("--input", "input_file", type=click.Path(dir_okay=False), help="Inputs, as for run.")
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Random samples without --input.",
)
@click.option("--seed", default=0, show_default=True, help="Of the random samples.")
@options.compiling
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str,
    program: str | None,
    input_file: str | None,
    samples: int,
    seed: int,
    **how: Any,
) -> None:
    """Run a program and its model on the same inputs and compare every output bit.

    The model runs in onnxruntime with graph optimisation off, QONNX operators by their
    definition, one sample at a time. After passes that approximate, or read QDQ groups as
    integer layers, it is the graph that they made, exported to ONNX, and a line says how far
    that is from the model as it is. Without PROGRAM the model is compiled first. The last line
    is `bit-exact: yes`, `no`, or `n/a` for float outputs that agree within rounding; the exit
    code is 1 for `no`.
    """
    compiling = options.Compiling.of(**how)
    from cimc import api, oracle
    from cimc.cli import arrays
    from cimc.driver.calibration import calibration_for
    from cimc.driver.pipeline import parse_pipeline
    from cimc.driver.registry import load_registry
    from cimc.errors import CompileError

    if Path(model).suffix == ".cim":
        help = "first the model: cimc check MODEL [PROGRAM]"
        raise CompileError("is a .cim program, not a model", model, help)
    registry = load_registry(compiling.plugins)
    if program is not None:
        if replace(compiling, pipeline=None, plugins=(), calibration=None):
            raise click.UsageError("a .cim program is compiled already: give its model alone")
        compiled = api.load(program)
        if not _same(compiling.pipeline, compiled.program.pipeline, registry):
            raise click.UsageError(
                f"the program was compiled with -p {compiled.program.pipeline}, "
                f"not {compiling.pipeline}"
            )
    else:
        compiled = compiling.compile(model)
        for note in compiled.notes:
            click.echo(note)
    text = compiled.program.pipeline
    passes = parse_pipeline(text, registry, [])
    data = calibration_for(passes, compiling.calibration, f"pipeline {text}")
    reference = oracle.open_oracle(model, compiled.program, registry, data)
    inputs = arrays.ports(compiled.program)
    feeds: Mapping[str, Any]
    if input_file is not None:
        feeds = arrays.read_inputs(Path(input_file), inputs)
    else:
        feeds = arrays.seeded_inputs(inputs, samples, seed)
        click.echo(f"no --input: {samples} random samples, seed {seed}")
    found = compiled.run(feeds).outputs
    comparisons = oracle.compare(reference(feeds), found)
    for name in reference.unknown:
        click.echo(f"pass '{name}' is not known here and counts as exact; --plugin loads it")
    for comparison in comparisons:
        click.echo(str(comparison))
    if reference.after:
        as_it_is = oracle.open_model(model, compiled.program)
        distance = oracle.off(as_it_is, feeds, found)
        click.echo(f"off the model as it was before {reference.after}: {distance}")
    verdict = oracle.verdict(comparisons)
    click.echo(f"bit-exact: {verdict}")
    ctx.exit(1 if verdict.startswith("no") else 0)


def _same(given: str | None, stated: str, registry: Registry) -> bool:
    """Whether the pipeline on the command line, if any, is the one that a program states, but for
    the record of its calibration data."""
    from cimc.driver.pipeline import parse_pipeline

    if given in (None, stated):
        return True
    lists = [parse_pipeline(text, registry, []) for text in (given or "", stated)]
    first, second = (
        [replace(p, data="") if hasattr(p, "data") else p for p in passes]  # type: ignore[call-arg]
        for passes in lists
    )
    return first == second
