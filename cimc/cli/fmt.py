"""`cimc fmt FILE`"""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("-i", "--in-place", is_flag=True, help="Rewrite the file.")
@click.option("--check", is_flag=True, help="Exit with 1 if the file is not in canonical form.")
def command(file: str, in_place: bool, check: bool) -> None:
    """Print a program (.cim) or graph (.cimir) in its canonical form; comments stay."""
    from cimc.errors import CompileError
    from cimc.ir.printer import print_graph
    from cimc.ir.text import parse_graph
    from cimc.isa.printer import print_program
    from cimc.isa.text import parse
    from cimc.textfile import read_text, write_text

    suffix = Path(file).suffix
    if suffix not in (".cim", ".cimir"):
        raise CompileError("expected a program .cim or a graph .cimir", file)
    text = read_text(file)
    if suffix == ".cim":
        canonical = print_program(parse(text, file))
    else:
        canonical = print_graph(parse_graph(text, file))
    if check:
        if canonical != text:
            raise CompileError("not in canonical form", file, help=f"run `cimc fmt -i {file}`")
        return
    if in_place:
        if canonical != text:
            write_text(file, canonical)
        return
    click.echo(canonical, nl=False)
