"""Short lines about a compilation."""

from __future__ import annotations

from collections.abc import Sequence

import click

from cimc.driver.runner import Timing
from cimc.isa.program import Program, walk


def print_summary(program: Program, path: str) -> None:
    """One line on the program, one on each host fragment that has a reason."""
    section = program.section("infer")
    layers = [] if section is None else section.layers
    on_tiles = sum(any(i.op.startswith("read.") for i in walk(la.body)) for la in layers)
    target = program.target
    click.echo(
        f"{path}: {_number(on_tiles, 'layer')} on {_number(target.tiles, 'tile')} of "
        f"{target.rows}x{target.cols} "
        f"({target.name}), pipeline {program.pipeline}"
    )
    for data in program.data:
        for reason in filter(None, data.why.split("; ")):
            click.echo(f"on the host: {_shorten(reason)}")


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _shorten(reason: str, most: int = 4) -> str:
    """`why: a, b, c, d and 49 more`"""
    why, _, names = reason.partition(": ")
    layers = names.split(", ")
    more = f" and {len(layers) - most} more" if len(layers) > most else ""
    return f"{why}: {', '.join(layers[:most])}{more}"


def print_timings(timings: Sequence[Timing], err: bool = False) -> None:
    """Milliseconds of each pass."""
    for timing in timings:
        mark = "" if timing.changed else "  (no change)"
        click.echo(f"{timing.seconds * 1000:8.1f} ms  {timing.name}{mark}", err=err)
