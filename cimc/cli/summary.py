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
        f"{path}: {on_tiles} layers on {target.tiles} tiles of {target.rows}x{target.cols} "
        f"({target.name}), pipeline {program.pipeline}"
    )
    for data in program.data:
        if data.why:
            click.echo(f"on the host: {data.why}")


def print_timings(timings: Sequence[Timing], err: bool = False) -> None:
    """Milliseconds of each pass."""
    for timing in timings:
        mark = "" if timing.changed else "  (no change)"
        click.echo(f"{timing.seconds * 1000:8.1f} ms  {timing.name}{mark}", err=err)
