"""`cimc opt FILE -p PASSES`"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import click

from cimc.cli import options


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False), help="A .cimir or .onnx file; else stdout."
)
@options.compiling
@options.debug
def command(
    file: str,
    output: str | None,
    pipeline: str | None,
    shapes: tuple[str, ...],
    target: str | None,
    settings: tuple[str, ...],
    plugins: tuple[str, ...],
    calibration: str | None,
    dump_dir: str | None,
    check_each: bool,
    timings: bool,
) -> None:
    """Run passes over a graph (.onnx or .cimir) and print or write the result.

    Without -p the graph is only read, verified and printed. Comments stay then; passes drop
    them. Symbolic dimensions are kept unless --shape binds them.
    """
    sizes, overrides = options.parse_shapes(shapes), options.parse_settings(settings)
    from cimc import api
    from cimc.cli.progress import progress_bar
    from cimc.cli.summary import print_timings
    from cimc.cost.target import load_target
    from cimc.driver.base import PassContext
    from cimc.driver.calibration import calibration_for
    from cimc.driver.pipeline import parse_pipeline
    from cimc.driver.registry import load_registry
    from cimc.driver.runner import run_passes
    from cimc.errors import CompileError
    from cimc.frontend.bind import bind_shapes
    from cimc.frontend.export import save_onnx
    from cimc.ir.printer import print_graph
    from cimc.ir.verify import verify
    from cimc.textfile import write_text

    if output is not None and Path(output).suffix not in (".cimir", ".onnx"):
        raise CompileError("expected a file .cimir or .onnx", output)
    passes = parse_pipeline(pipeline or "", load_registry(plugins))
    data = calibration_for(passes, calibration, f"-p {pipeline}" if pipeline else file)
    hardware = load_target(target or api.DEFAULT_TARGET, overrides)
    graph = api.read_graph(file)
    verify(graph)
    if sizes:
        bind_shapes(graph, sizes, file)
    context = PassContext(api.geometry_of(hardware), calibration=data)
    with progress_bar("calibrating") if data is not None else nullcontext() as context.progress:
        found = run_passes(
            graph, passes, context,
            dump_dir=Path(dump_dir) if dump_dir else None, check_each=check_each,
        )  # fmt: skip
    for note in context.notes:
        click.echo(note, err=True)
    if output is not None and Path(output).suffix == ".onnx":
        save_onnx(graph, Path(output))
    elif output is not None:
        write_text(output, print_graph(graph, comments=not passes))
    else:
        click.echo(print_graph(graph, comments=not passes), nl=False)
    if timings:
        print_timings(found, err=True)
