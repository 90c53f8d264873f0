"""A progress bar on a terminal, nothing in a pipe; and how far a command came that is stopped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import click

Progress = Callable[[int, int], None]


@contextmanager
def progress_bar(title: str, unit: str = "") -> Iterator[Progress]:
    """Yields a callback(done, total). Ctrl-C inside says how many were done, of what `unit` or
    else the title names, and ends the command with exit code 130."""
    reached = ""
    with _bar(title) if sys.stderr.isatty() else nullcontext() as show:

        def progress(done: int, total: int) -> None:
            nonlocal reached
            reached = f" after {done} of {total} {unit or title}"
            if show is not None:
                show(done, total)

        try:
            yield progress
        except KeyboardInterrupt:
            click.echo(f"interrupted{reached}", err=True)
            raise click.exceptions.Exit(130) from None


@contextmanager
def _bar(title: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.3g}/s" if task.speed else "")

    class Done(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("starting" if task.total is None else f"{task.completed}/{task.total}")

    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        Done(),
        Rate(),
        Remaining(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
