"""The command line: one file a command, loaded when it is called.

Help texts of the commands stand here, so that `cimc --help` imports nothing heavy.
"""

from __future__ import annotations

import importlib
import sys

import click

from cimc import __version__

# name: (module, one-line help); in the order of the data flow
COMMANDS = {
    "demo": ("demo", "Compile, run and check a trained network that comes with cimc."),
    "compile": ("compile", "Compile an ONNX model to a .cim program."),
    "run": ("run", "Run a program and report counts and energy."),
    "check": ("check", "Compare a program with its model, bit by bit."),
    "eval": ("evaluate", "Measure top-1 accuracy on a data set."),
    "inspect": ("inspect", "Show layers, tiles and what runs on the host, and why."),
    "prune-report": ("prune_report", "Draw what pruning does to a model."),
    "profile": ("profile", "Show where the time of a program goes, by layer and step."),
    "bench": ("bench", "Measure how fast programs run here, against onnxruntime."),
    "opt": ("opt", "Run passes: graph IR or ONNX in, graph IR or ONNX out."),
    "fmt": ("fmt", "Print a program or graph in its canonical form."),
    "passes": ("passes", "List passes and pipelines."),
    "targets": ("targets", "List hardware targets and their figures."),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        import difflib

        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        if args[0] not in COMMANDS and near:
            ctx.fail(f"No such command '{args[0]}'. Did you mean '{near[0]}'?")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"cimc.cli.{COMMANDS[name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cimc")
def cli() -> None:
    """Compile ONNX models to programs for digital compute-in-memory chips, and run them
    bit-accurately with counts and energy.

    Start with `cimc demo`, then `cimc compile model.onnx -o out.cim`.
    """


def main() -> None:
    """Entry point: user errors become one message and exit code 1."""
    from cimc.errors import CompileError

    try:
        # without standalone mode click returns the code of `ctx.exit`, or None
        sys.exit(cli(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except CompileError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; there is nobody to tell
        sys.exit(1)
