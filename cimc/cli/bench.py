"""`cimc bench [MODEL...]`"""

from __future__ import annotations

import json
from pathlib import Path

import click

from cimc.cli import options


@click.command()
@click.argument("models", nargs=-1, type=click.Path(dir_okay=False))
@click.option(
    "--only",
    metavar="ROW,…",
    help="Some rows: popcount, mnist, reference, tfc, resnet50, mobilenet, ds-cnn, eval, memory.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Of the engine and of onnxruntime alike.",
)
@click.option("--quick", is_flag=True, help="Small batches and networks: does everything work?")
@click.option("--json", "json_file", type=click.Path(dir_okay=False), help="Write everything.")
@click.option(
    "--compare",
    "earlier_file",
    type=click.Path(dir_okay=False),
    help="A file of an earlier --json: show old, new and their quotient.",
)
@options.shape
@click.pass_context
def command(
    ctx: click.Context,
    /,
    models: tuple[str, ...],
    only: str | None,
    threads: int,
    quick: bool,
    json_file: str | None,
    earlier_file: str | None,
    shapes: tuple[str, ...],
) -> None:
    """Measure how fast programs run here, as ratios: against onnxruntime, the reference
    interpreter, and what the processor can do at most.

    The networks are made with random weights. Each pair is timed in turns in one run, with as
    many threads; figures are medians. An ONNX MODEL is measured against onnxruntime on the same
    function, alone or beside the rows of --only. The exit code is 1 if outputs are wrong.
    """
    sizes = options.parse_shapes(shapes)
    names = [name.strip() for name in only.split(",") if name.strip()] if only else []
    from cimc.bench import report
    from cimc.bench.run import bench
    from cimc.cli.outputs import check_outputs
    from cimc.cli.progress import progress_bar
    from cimc.textfile import write_text

    check_outputs([(json_file, "")], models)
    earlier = report.read(Path(earlier_file)) if earlier_file else None
    with progress_bar("rows") as progress:
        found = bench(
            names, [Path(model) for model in models],
            threads=threads, quick=quick, shapes=sizes, progress=progress,
        )  # fmt: skip
    if json_file is not None:  # first, or a reader of the table that goes would take it along
        write_text(json_file, json.dumps(found.to_json(), indent=2) + "\n")
    report.print_report(found)
    if earlier is not None:
        report.print_comparison(earlier, found)
    if json_file is not None:
        click.echo(f"everything measured: {json_file}")
    ctx.exit(1 if any(figure.wrong for figure in found.figures) else 0)
