"""Options that several commands share, and their values."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cimc.api import Compiled
    from cimc.ir.graph import Graph

F = Callable[..., Any]


def _together(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


pipeline = click.option(
    "-p",
    "--pipeline",
    default=None,
    metavar="LIST",
    help="Passes and pipelines, separated by commas; options in braces, in quotes for the shell: "
    "'name{option=value}'.",
)
plugin = click.option(
    "--plugin", "plugins", multiple=True, metavar="FILE.py", help="Load passes from a file."
)
shape = click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="INPUT=1,3,224,224",
    help="Sizes of an input; needed for symbolic dimensions other than the batch.",
)
target = _together(
    click.option(
        "--target", default=None, metavar="NAME|FILE.toml", help="Hardware; see `cimc targets`."
    ),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a figure of the target, such as rows=128 or energy.sense=0.5.",
    ),
)
calibrate = click.option(
    "--calibrate",
    "calibration",
    default=None,
    metavar="DATA.npz",
    help="Samples for -p int8, binary or ternary: arrays by input name, or x_train.",
)
compiling = _together(pipeline, shape, target, plugin, calibrate)
costs = _together(
    click.option(
        "--target",
        default=None,
        metavar="NAME|FILE.toml",
        help="Whose costs to take, if not those of the target the program names.",
    ),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a cost, such as energy.sense=0.5.",
    ),
)


def _size(ctx: click.Context, param: click.Parameter, text: str | None) -> int | None:
    """A number of bytes: `500MB`, `2GiB`, `65536`."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?b?\s*", text, re.IGNORECASE)
    if match is None:
        raise click.BadParameter(f"'{text}' is no size: write 500MB, 2GiB or a number of bytes")
    number, prefix, binary = match.groups()
    power = "kmgt".index(prefix.lower()) + 1 if prefix else 0
    size = int(float(number) * (1024 if binary else 1000) ** power)
    if size == 0:
        raise click.BadParameter("a budget of no bytes holds nothing")
    return size


ENGINES = ("packed", "lanes", "reference")  # as in `cimc.api`, which takes long to import
running = _together(
    click.option(
        "--engine",
        type=click.Choice(ENGINES),
        default=ENGINES[0],
        show_default=True,
        help="packed: compiled, samples side by side; lanes: the reference interpreter with "
        "independent loops side by side; reference: step by step. All give the same.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(min=1),
        show_default="all processors",
        help="At most so many at once.",
    ),
    click.option(
        "--memory",
        callback=_size,
        metavar="SIZE",
        help="Budget for buffers and samples in work, such as 500MB or 2GiB.",
    ),
    click.option(
        "--no-contract",
        is_flag=True,
        help="Read every bit plane, also where products of bytes give the same bits.",
    ),
)


debug = _together(
    click.option(
        "--dump-dir",
        type=click.Path(file_okay=False),
        help="Write the graph after each pass into this folder.",
    ),
    click.option(
        "--check-each",
        is_flag=True,
        help="Run the graph before and after each exact pass on the same inputs.",
    ),
    click.option("--timings", is_flag=True, help="Print the time that each pass took."),
)


def parse_shapes(texts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """`("x=1,3,224,224",)` as sizes by input name; click.UsageError for anything else."""
    shapes = {}
    for text in texts:
        name, equals, sizes = text.rpartition("=")
        parts = [p for p in sizes.split(",") if p]
        if not equals or not name or not all(p.strip().isdigit() for p in parts):
            raise click.UsageError(f"--shape {text}: write INPUT=1,3,224,224")
        shapes[name] = tuple(int(p) for p in parts)
    return shapes


def parse_settings(texts: tuple[str, ...]) -> dict[str, str]:
    """`("rows=128",)` as text by key; click.UsageError for anything else."""
    settings = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key or not value:
            raise click.UsageError(f"--set {text}: write KEY=VALUE")
        settings[key.strip()] = value.strip()
    return settings


@dataclass(frozen=True)
class Running:
    """How to run a program: the values of the options `running`."""

    engine: str
    threads: int | None
    memory: int | None
    no_contract: bool

    @property
    def arguments(self) -> dict[str, Any]:
        """For `Compiled.run`. click.UsageError for options that the engine doesn't have."""
        given = {"--threads": self.threads, "--memory": self.memory}
        given["--no-contract"] = self.no_contract or None
        wrong = [name for name, value in given.items() if value is not None]
        if wrong and self.engine != ENGINES[0]:
            raise click.UsageError(f"{wrong[0]} is an option of the engine {ENGINES[0]}")
        return {
            "engine": self.engine,
            "threads": self.threads,
            "memory": self.memory,
            "contract": not self.no_contract,
        }


@dataclass(frozen=True)
class Compiling:
    """How to compile a model: the values of the options `compiling`."""

    pipeline: str | None
    shapes: dict[str, tuple[int, ...]]
    target: str | None
    overrides: dict[str, str]
    plugins: tuple[str, ...]
    calibration: str | None = None

    @classmethod
    def of(cls, *, shapes: tuple[str, ...], settings: tuple[str, ...], **rest: Any) -> Compiling:
        """From the texts of the options; click.UsageError as the parsers below."""
        return cls(shapes=parse_shapes(shapes), overrides=parse_settings(settings), **rest)

    def __bool__(self) -> bool:
        """Whether any of them was given."""
        given = (self.pipeline, self.shapes, self.target, self.overrides, self.plugins)
        return any((*given, self.calibration))

    @property
    def sources(self) -> list[str | None]:
        """The files that they name."""
        return [*self.plugins, self.target, self.calibration]

    def compile(
        self, model: str, *, dump_dir: str | None = None, check_each: bool = False
    ) -> Compiled:
        """The model compiled so; see `cimc.api.compile`."""
        from cimc import api
        from cimc.cli.progress import progress_bar

        with (
            progress_bar("calibrating", "samples")
            if self.calibration
            else nullcontext() as progress
        ):
            return api.compile(
                model,
                pipeline=self.pipeline or api.DEFAULT_PIPELINE,
                target=self.target or api.DEFAULT_TARGET,
                overrides=self.overrides,
                shapes=self.shapes,
                plugins=self.plugins,
                calibration=self.calibration,
                progress=progress,
                dump_dir=Path(dump_dir) if dump_dir else None,
                check_each=check_each,
            )

    def open(self, file: str) -> Compiled:
        """A program as it is, or a model compiled so. click.UsageError for options of compilation
        with a program."""
        from cimc import api

        if Path(file).suffix != ".cim":
            return self.compile(file)
        if self:
            raise click.UsageError("a .cim program is compiled already: give its model instead")
        return api.load(file)

    def graph(self, model: str) -> tuple[Graph, list[str]]:
        """The model as a graph of known shapes, after the passes that were given and without
        placement, and their notes. Raises CompileError."""
        from cimc import api
        from cimc.cli.progress import progress_bar
        from cimc.cost.target import load_target
        from cimc.driver.base import PassContext
        from cimc.driver.calibration import calibration_for
        from cimc.driver.pipeline import parse_pipeline
        from cimc.driver.registry import load_registry
        from cimc.driver.runner import run_passes
        from cimc.errors import in_file
        from cimc.frontend.bind import bind_shapes

        passes = parse_pipeline(self.pipeline or "", load_registry(self.plugins))
        data = calibration_for(passes, self.calibration, f"-p {self.pipeline}")
        hardware = load_target(self.target or api.DEFAULT_TARGET, self.overrides)
        graph = api.read_graph(model)
        bind_shapes(graph, self.shapes, model)
        context = PassContext(api.geometry_of(hardware), calibration=data)
        shown = progress_bar("calibrating", "samples") if data is not None else nullcontext()
        with shown as context.progress, in_file(model):
            run_passes(graph, passes, context)
        return graph, context.notes
