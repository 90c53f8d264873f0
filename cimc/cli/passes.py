"""`cimc passes`"""

from __future__ import annotations

import dataclasses

import click

from cimc.cli import options


@click.command()
@options.plugin
def command(plugins: tuple[str, ...]) -> None:
    """List passes and pipelines: name, kind, what each does, options.

    Exact passes keep every output, approximate ones say what they changed, reading ones turn
    QDQ groups into the integer layers that they mean.
    """
    from cimc.driver.registry import load_registry

    registry = load_registry(plugins)
    width = max(map(len, (*registry.passes, *registry.pipelines)))
    click.echo("passes")
    for name, cls in registry.passes.items():
        click.echo(f"  {name:<{width}}  {cls.kind:<11}  {cls.summary}")
        for field in dataclasses.fields(cls):
            default = "" if field.default is dataclasses.MISSING else f"={field.default}"
            click.echo(f"  {'':<{width}}  {'option':<11}  {field.name}{default}")
    click.echo("pipelines")
    for name, spec in registry.pipelines.items():
        click.echo(f"  {name:<{width}}  {registry.summaries[name]}")
        click.echo(f"  {'':<{width}}  = {spec}")
