"""`cimc prune-report BEFORE [AFTER] -o DIR`"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cimc.cli import options

if TYPE_CHECKING:
    from cimc.report.pages import Changes


@click.command()
@click.argument("before", type=click.Path(dir_okay=False), required=False)
@click.argument("after", type=click.Path(dir_okay=False), required=False)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(file_okay=False),
    help="Folder; made if absent.",
)
@click.option(
    "--curve",
    "curves",
    multiple=True,
    type=click.Path(dir_okay=False),
    metavar="FILE.json",
    help="Accuracy against operations removed: a list of {label, points: [[share, accuracy], …]}, "
    "numbers from 0 to 1.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["png", "svg"]),
    default="png",
    show_default=True,
    help="Of the pictures.",
)
@options.compiling
def command(
    before: str | None,
    after: str | None,
    output: str,
    curves: tuple[str, ...],
    format_: str,
    **how: Any,
) -> None:
    """Draw what pruning does to a model: similar kernels, those that went, operations, accuracy.

    Give a model before and after (.onnx or .cimir; layers are matched by name, kernels by
    comparing), or one model and the passes that prune it: -p 'prune-similar{...}'. With --curve
    alone, only the curves are drawn. DIR/index.html shows all pictures.
    """
    compiling = options.Compiling.of(**how)
    if before is None and (not curves or compiling):
        raise click.UsageError("give a model, or at least --curve")
    if after is not None and compiling.pipeline is not None:
        raise click.UsageError("give a second model or passes that make it (-p), not both")
    if before is not None and after is None and compiling.pipeline is None:
        raise click.UsageError("give the pruned model too, or the passes that prune: -p")
    from cimc.cli.progress import progress_bar
    from cimc.report.curves import read_curves
    from cimc.report.pages import check_folder, draw, write
    from cimc.report.pictures import need_matplotlib

    need_matplotlib()
    check_folder(output)
    lines = [curve for path in curves for curve in read_curves(path)]
    found, title = None, "Accuracy and operations"
    if before is not None:
        found = _changes(before, after, compiling)
        title = f"Pruning of {Path(before).name}"
    with progress_bar("drawing", "layers") if found is not None else nullcontext() as progress:
        made = draw(found, lines, format_, progress)
    text = found.lines if found is not None else []
    write(output, made, title, text)
    for line in text:
        click.echo(line)
    click.echo(f"{Path(output) / 'index.html'}: {len(made)} pictures")


def _changes(before: str, after: str | None, compiling: options.Compiling) -> Changes:
    from cimc.report.pages import changes

    plain = options.Compiling(None, compiling.shapes, None, {}, ())
    dense, _ = plain.graph(before)
    if after is not None:
        return changes(dense, plain.graph(after)[0], after)
    pruned, notes = compiling.graph(before)
    for note in notes:
        click.echo(note)
    return changes(dense, pruned, before)
