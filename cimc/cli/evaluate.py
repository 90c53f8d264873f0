"""`cimc eval MODEL_OR_PROGRAM --data F.npz`"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cimc.cli import options


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
@options.shape
def command(
    file: str, data: str, split: str, scale: str, limit: int | None, shapes: tuple[str, ...]
) -> None:
    """Measure top-1 accuracy of a program (.cim), or of a model as it is.

    The model takes one input; a missing channel axis is added. The first output is a score
    for each class, or the class itself.
    """
    sizes = options.parse_shapes(shapes)
    import numpy as np

    from cimc import api
    from cimc.cli import arrays
    from cimc.cli.progress import progress_bar
    from cimc.errors import CompileError

    if Path(file).suffix == ".cim":
        if sizes:
            raise click.UsageError("a .cim program is compiled already: its shapes are fixed")
        compiled = api.load(file)
    else:
        compiled = api.compile(file, pipeline="exact", shapes=sizes)
    inputs = arrays.ports(compiled.program)
    if len(inputs) != 1 or inputs[0].batch is None:
        raise CompileError("eval needs a model with one input that has a batch axis", file)
    samples, labels = _read(Path(data), split, limit)
    feeds = {inputs[0].name: arrays.scaled(_fit(samples, inputs[0], data), inputs[0].elem, scale)}
    if Path(file).suffix == ".cim":
        with progress_bar("samples") as progress:
            outputs = compiled.run(feeds, progress=progress).outputs
    else:
        from cimc import oracle

        outputs = oracle.open_model(file, compiled.program)(feeds)
    scores = next(iter(outputs.values()))
    guesses: Any = np.asarray(scores).reshape(len(labels), -1)
    if guesses.shape[1] > 1:
        guesses = guesses.argmax(axis=1)
    right = int((guesses.reshape(-1) == labels).sum())
    click.echo(f"top-1 {100 * right / len(labels):.2f} % ({right}/{len(labels)})")


def _read(path: Path, split: str, limit: int | None) -> tuple[Any, Any]:
    from cimc.cli.arrays import read_npz
    from cimc.errors import CompileError

    data = read_npz(path)
    x, y = f"x_{split}", f"y_{split}"
    for key in (x, y):
        if key not in data:
            have = ", ".join(sorted(data))
            raise CompileError(f"has no array '{key}'", str(path), help=f"it has: {have}")
    if data[x].ndim == 0:
        raise CompileError(f"{x} is a single number, not samples along an axis", str(path))
    if data[y].ndim == 0 or data[y].size != len(data[y]):
        raise CompileError(
            f"{y} has the shape {list(data[y].shape)}, not one label a sample",
            str(path),
            help="a label is the number of its class",
        )
    samples, labels = data[x][:limit], data[y][:limit].reshape(-1)
    if len(samples) != len(labels) or not len(labels):
        raise CompileError(
            f"{x} has {len(samples)} samples, {y} has {len(labels)} labels", str(path)
        )
    return samples, labels


def _fit(samples: Any, port: Any, where: str) -> Any:
    """Add a channel axis where the model has one of size 1 and the data does not."""
    from cimc.errors import CompileError

    want = port.shape[1:]
    if samples.shape[1:] == want:
        return samples
    if samples.ndim + 1 == len(port.shape) and want[:1] == (1,) and samples.shape[1:] == want[1:]:
        return samples[:, None]
    if samples.shape[1:] == want[:-1] and want[-1:] == (1,):
        return samples[..., None]
    raise CompileError(
        f"samples have the shape {list(samples.shape[1:])}, input '{port.name}' takes {list(want)}",
        where,
    )
