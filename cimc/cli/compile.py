"""`cimc compile MODEL -o OUT.cim`"""

from __future__ import annotations

from pathlib import Path

import click

from cimc.cli import options


@click.command()
@click.argument("model", type=click.Path(dir_okay=False))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="Program.")
@options.pipeline
@options.shape
@options.target
@options.plugin
@options.debug
def command(
    model: str,
    output: str,
    pipeline: str | None,
    shapes: tuple[str, ...],
    target: str | None,
    settings: tuple[str, ...],
    plugins: tuple[str, ...],
    dump_dir: str | None,
    check_each: bool,
    timings: bool,
) -> None:
    """Compile an ONNX model (or .cimir graph) to a program.

    The default pipeline is `exact`: nothing is approximated, float layers run on the host.
    """
    sizes, overrides = options.parse_shapes(shapes), options.parse_settings(settings)
    from cimc import api
    from cimc.cli.outputs import check_outputs
    from cimc.cli.summary import print_summary, print_timings

    check_outputs([(output, ".cim")], [model, *plugins, target])
    compiled = api.compile(
        model,
        pipeline=pipeline or api.DEFAULT_PIPELINE,
        target=target or api.DEFAULT_TARGET,
        overrides=overrides,
        shapes=sizes,
        plugins=plugins,
        dump_dir=Path(dump_dir) if dump_dir else None,
        check_each=check_each,
    )
    compiled.save(output)
    for note in compiled.notes:
        click.echo(note)
    print_summary(compiled.program, output)
    if timings:
        print_timings(compiled.timings)
