"""`cimc compile MODEL -o OUT.cim`"""

from __future__ import annotations

from typing import Any

import click

from cimc.cli import options


@click.command()
@click.argument("model", type=click.Path(dir_okay=False))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="Program.")
@options.compiling
@options.debug
def command(
    model: str,
    output: str,
    dump_dir: str | None,
    check_each: bool,
    timings: bool,
    **how: Any,
) -> None:
    """Compile an ONNX model (or .cimir graph) to a program.

    The default pipeline is `auto`: layers that are quantised, binary or ternary stay as they
    are, float layers become dynamic int8, and a line says so. With `-p exact` nothing is
    approximated, and float layers run on the host; with --calibrate they become static int8
    (`-p int8`), or binary or ternary (`-p binary`, `-p ternary`).
    """
    compiling = options.Compiling.of(**how)
    from cimc.cli.outputs import check_outputs
    from cimc.cli.summary import print_summary, print_timings

    check_outputs([(output, ".cim")], [model, *compiling.sources])
    compiled = compiling.compile(model, dump_dir=dump_dir, check_each=check_each)
    compiled.save(output)
    for note in compiled.notes:
        click.echo(note)
    print_summary(compiled.program, output)
    if timings:
        print_timings(compiled.timings)
