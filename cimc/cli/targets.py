"""`cimc targets`"""

from __future__ import annotations

import click


@click.command()
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List the targets; with NAME (or a TOML file) show its figures and where they come from."""
    from rich.table import Table

    from cimc.cost.report import make_console
    from cimc.cost.target import builtin_targets, load_target

    if name is None:
        for builtin in builtin_targets():
            click.echo(f"{builtin}  {load_target(builtin).summary}")
        return
    target = load_target(name)
    table = Table(title=f"{target.name}: {target.summary}")
    for heading in ("figure", "value", "unit", "status", "source"):
        table.add_column(heading)
    for key, figure in target.figures.items():
        table.add_row(key, str(figure.value), figure.unit, figure.status, figure.source)
    make_console().print(table)
