"""`cimc eval MODEL_OR_PROGRAM --data F.npz`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cimc.cli import options

if TYPE_CHECKING:
    from cimc.api import Compiled
    from cimc.cli.progress import Progress
    from cimc.sim.feed import Sink

_CHUNK = 256  # samples of a model at a time


@click.command(name="eval")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--data", required=True, type=click.Path(dir_okay=False), help="Data set, .npz.")
@click.option("--split", default="test", show_default=True, help="Uses x_SPLIT and y_SPLIT.")
@click.option(
    "--scale",
    type=click.Choice(["raw", "unit"]),
    default="raw",
    show_default=True,
    help="For a float input: pixels as they are, or divided by 255.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N samples.")
@options.running
@options.shape
def command(
    file: str,
    data: str,
    split: str,
    scale: str,
    limit: int | None,
    shapes: tuple[str, ...],
    **how: Any,
) -> None:
    """Measure top-1 accuracy of a program (.cim), or of a model as it is.

    The model takes one input; a missing channel axis is added. The first output is a score
    for each class, or the class itself. The data may be larger than memory.
    """
    sizes = options.parse_shapes(shapes)
    arguments = options.Running(**how).arguments
    from cimc import api
    from cimc.cli import arrays, sinks
    from cimc.cli.progress import progress_bar
    from cimc.errors import CompileError

    is_program = Path(file).suffix == ".cim"
    if is_program and sizes:
        raise click.UsageError("a .cim program is compiled already: its shapes are fixed")
    compiled = api.load(file) if is_program else api.compile(file, pipeline="exact", shapes=sizes)
    inputs = arrays.ports(compiled.program)
    if len(inputs) != 1 or inputs[0].batch is None:
        raise CompileError("eval needs a model with one input that has a batch axis", file)
    samples, labels = _read(Path(data), split, limit)
    rows = arrays.scaled(_fit(samples, inputs[0], data), inputs[0].elem, scale)
    guesses = sinks.Guesses(labels)
    with progress_bar("samples") as progress:
        if is_program:
            compiled.run({inputs[0].name: rows}, progress=progress, sink=guesses, **arguments)
        else:
            _run_model(file, compiled, rows, guesses, progress)
    share = 100 * guesses.right / len(labels)
    click.echo(f"top-1 {share:.2f} % ({guesses.right}/{len(labels)})")


def _run_model(file: str, compiled: Compiled, rows: Any, sink: Sink, progress: Progress) -> None:
    """The model in onnxruntime, chunk by chunk."""
    from cimc import oracle
    from cimc.sim.feed import Source

    port, total = compiled.program.inputs[0], rows.shape[0]
    model = oracle.open_model(file, compiled.program)
    for start in range(0, total, _CHUNK):
        stop = min(start + _CHUNK, total)
        part = rows.read(start, stop) if isinstance(rows, Source) else rows[start:stop]
        outputs = model({str(port.input): part})
        sink.take(start, {name: _apart(value, stop - start) for name, value in outputs.items()})
        progress(stop, total)


def _apart(values: Any, samples: int) -> Any:
    """An output of some samples with one row for each."""
    import numpy as np

    return values if isinstance(values, list) else np.asarray(values).reshape(samples, -1)


def _read(path: Path, split: str, limit: int | None) -> tuple[Any, Any]:
    """Samples, which may be a source, and their labels."""
    from cimc.cli.arrays import loaded
    from cimc.cli.sources import Mapped, open_npz
    from cimc.errors import CompileError

    data = open_npz(path)
    x, y = f"x_{split}", f"y_{split}"
    for key in (x, y):
        if key not in data:
            have = ", ".join(sorted(data))
            raise CompileError(f"has no array '{key}'", str(path), help=f"it has: {have}")
    samples, labels = data[x], loaded({y: data[y]})[y]
    if not samples.shape:
        raise CompileError(f"{x} is a single number, not samples along an axis", str(path))
    if labels.ndim == 0 or labels.size != len(labels):
        raise CompileError(
            f"{y} has the shape {list(labels.shape)}, not one label a sample",
            str(path),
            help="a label is the number of its class",
        )
    labels = labels[:limit].reshape(-1)
    count = min(samples.shape[0], limit or samples.shape[0])
    if count != len(labels) or not count:
        raise CompileError(f"{x} has {count} samples, {y} has {len(labels)} labels", str(path))
    shape = (count, *samples.shape[1:])
    return Mapped(samples, shape, samples.dtype, lambda part: part), labels


def _fit(samples: Any, port: Any, where: str) -> Any:
    """Add a channel axis where the model has one of size 1 and the data does not."""
    from cimc.cli.sources import Mapped
    from cimc.errors import CompileError

    want, shape = port.shape[1:], samples.shape
    if shape[1:] == want:
        return samples
    first = len(shape) + 1 == len(port.shape) and want[:1] == (1,) and shape[1:] == want[1:]
    if first or (shape[1:] == want[:-1] and want[-1:] == (1,)):
        fitted = (shape[0], *want)
        return Mapped(samples, fitted, samples.dtype, lambda part: part.reshape(-1, *want))
    raise CompileError(
        f"samples have the shape {list(shape[1:])}, input '{port.name}' takes {list(want)}", where
    )
