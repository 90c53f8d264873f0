"""`python -m cimc.train TASK --preset NAME --data FILE`"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from cimc.errors import CompileError
from cimc.train import need_torch

_PATH = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)
_COUNT = click.IntRange(min=1)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("task", required=False)
@click.option("--list", "listed", is_flag=True, help="List tasks and presets, and end.")
@click.option("--preset", default="ours", show_default=True, help="How: see --list.")
@click.option("--plugin", type=_PATH, help="A Python file with PRESETS of yours.")
@click.option("--data", type=_PATH, help="Data set, .npz, such as mnist.npz.")
@click.option("--out", type=_FOLDER, help="Folder for results; without, TASK-PRESET-SEED.")
@click.option("--epochs", type=_COUNT, help="Other than the preset's; the schedule follows.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in --out.")
@click.option("--overwrite", is_flag=True, help="Start again where --out has a run already.")
@click.option("--stop-after", type=_COUNT, help="Stop after this epoch, to be resumed.")
@click.option("--limit-train", type=_COUNT, help="Only the first training samples.")
@click.option("--threads", type=_COUNT, help="Of PyTorch. Other numbers give other weights.")
def command(
    task: str | None,
    listed: bool,
    preset: str,
    plugin: Path | None,
    data: Path | None,
    out: Path | None,
    epochs: int | None,
    seed: int,
    resume: bool,
    overwrite: bool,
    stop_after: int | None,
    limit_train: int | None,
    threads: int | None,
) -> None:
    """Train a network by a preset, and write the ONNX model, the program and the figures.

    The folder has model.onnx, model.cim, result.json, log.json, epochs.png (with matplotlib) and
    checkpoint.pt. Ctrl-C loses the epoch that runs; --resume goes on, to the same result.
    """
    need_torch()
    from cimc.train import presets

    known = (*presets.PRESETS, *(presets.load(plugin) if plugin else ()))
    if listed:
        for one in known:
            click.echo(f"{one.task} --preset {one.name}: {one.summary}")
        return
    if task is None:
        raise click.UsageError("which task? --list shows them")
    found = presets.find(task, preset, known)
    if resume and overwrite:
        raise click.UsageError("--resume or --overwrite, not both")
    if data is None:
        raise click.UsageError(f"--data FILE: the data set of the task '{task}'")
    folder = out or Path(f"{task}-{preset}-{seed}")
    from cimc.train.run import run

    try:
        figures = run(
            found, data, folder, seed=seed, epochs=epochs, resume=resume, overwrite=overwrite,
            limit=limit_train, stop_after=stop_after, threads=threads, say=click.echo,
        )  # fmt: skip
    except KeyboardInterrupt:
        _interrupted(folder)
    if figures is None:
        click.echo(f"stopped; --resume goes on from {folder}")


def _interrupted(folder: Path) -> NoReturn:
    from cimc.train.loop import CHECKPOINT

    kept = (folder / CHECKPOINT).exists()
    what = f"--resume goes on from the last whole epoch in {folder}" if kept else "no epoch is done"
    click.echo(f"\ninterrupted; {what}", err=True)
    sys.exit(130)


def main(arguments: list[str] | None = None) -> Any:
    """User errors become one message and exit code 1."""
    try:
        sys.exit(command(arguments, prog_name="python -m cimc.train", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except CompileError as error:
        click.echo(str(error), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
