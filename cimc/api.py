"""The way through in Python: `compile`, `load`, and what they return.

import cimc
program = cimc.compile("model.onnx", target="digital-rram-180nm")
result = program.run({"image": images})
result.outputs["logits"], result.counts, result.energy.total
program.save("out.cim")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cimc.cost.energy import EnergyReport, energy
from cimc.cost.target import Target, builtin_targets, load_target
from cimc.errors import CompileError, in_file
from cimc.ir.types import Array
from cimc.isa.check import check
from cimc.isa.program import Program
from cimc.isa.text import load as load_program
from cimc.isa.text import save as save_program
from cimc.sim.counters import Counts, static_counts
from cimc.sim.feed import Sink, Source
from cimc.sim.machine import Tiles, TileState
from cimc.sim.reference import run as run_reference

if TYPE_CHECKING:  # a program runs without the compiler, which takes long to import
    from cimc.driver.base import Geometry, Pass
    from cimc.driver.calibration import Data
    from cimc.driver.registry import Registry
    from cimc.driver.runner import Timing
    from cimc.ir.graph import Graph
    from cimc.sim.packed.engine import Engine, StepTime

DEFAULT_PIPELINE = "auto"
DEFAULT_TARGET = "digital-rram-180nm"
PLACE = "place"
ENGINES = ("packed", "lanes", "reference")
"""Compiled kernels on packed words; the reference interpreter with independent loops side by
side; the same step by step."""


@dataclass
class RunResult:
    """outputs by ONNX name (samples along the batch axis), counts and energy of the run,
    samples that were run, and the state of the tiles' cells afterwards."""

    outputs: dict[str, Array]
    counts: Counts
    samples: int
    state: TileState
    target: Target

    @cached_property
    def energy(self) -> EnergyReport:
        """Energy of the run."""
        return energy(self.counts, self.target)

    @cached_property
    def tiles(self) -> Tiles:
        """The cells as uint8 0 and 1 [tiles, rows, cols], physical rows."""
        return self.state.unpacked()


@dataclass
class Compiled:
    """A program with its target; the graph and timings if it was compiled here."""

    program: Program
    target: Target
    graph: Graph | None = None
    timings: list[Timing] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _engines: dict[tuple[int | None, int | None, bool], Engine] = field(
        default_factory=dict, repr=False, compare=False
    )

    @cached_property
    def counts(self) -> Counts:
        """Static counts of one call with one sample."""
        return static_counts(self.program)

    @cached_property
    def energy(self) -> EnergyReport:
        """Energy of one call with one sample, from the static counts."""
        return energy(self.counts, self.target)

    def run(
        self,
        inputs: Mapping[str, Array | Source],
        *,
        engine: str = ENGINES[0],
        threads: int | None = None,
        memory: int | None = None,
        contract: bool = True,
        count_only: bool = False,
        tiles: Tiles | TileState | None = None,
        progress: Callable[[int, int], None] | None = None,
        sink: Sink | None = None,
    ) -> RunResult:
        """Run on inputs by ONNX name; several samples along the batch axis.

        threads, memory, contract: see `cimc.sim.packed.engine.Engine`; other engines ignore them.
        count_only: no values, only counts; those that depend on values are expected ones.
        tiles: cells to start from, as `RunResult.state` or `.tiles`; None: all 0.
        progress: called with (samples done, all samples) now and then.
        sink: takes the outputs as they come; those of the result are empty then.
        Raises CompileError for inputs that do not fit and for run-time errors.
        """
        if engine not in ENGINES:
            raise CompileError(f"no engine '{engine}'", help=f"there is {', '.join(ENGINES)}")
        _check_options(threads, memory)
        if engine == "packed" or count_only:
            made = self.engine(threads=threads, memory=memory, contract=contract)
            result = made.run(
                inputs, tiles=tiles, count_only=count_only, progress=progress, sink=sink
            )
        else:
            lanes = engine == "lanes"
            result = run_reference(
                self.program, inputs, tiles=tiles, lanes=lanes, progress=progress, sink=sink
            )
        return RunResult(result.outputs, result.counts, result.samples, result.state, self.target)

    def engine(
        self, *, threads: int | None = None, memory: int | None = None, contract: bool = True
    ) -> Engine:
        """The packed engine for this program, made once for the same options."""
        from cimc.sim.packed.engine import Engine

        key = threads, memory, contract
        if key not in self._engines:
            self._engines[key] = Engine(
                self.program, threads=threads, memory=memory, contract=contract
            )
        return self._engines[key]

    def profile(
        self, inputs: Mapping[str, Array], *, repeats: int = 5, contract: bool = True
    ) -> list[StepTime]:
        """How long each step of the packed engine takes on one thread; see `Engine.profile`."""
        return self.engine(threads=1, contract=contract).profile(inputs, repeats=repeats)

    def save(self, path: str | Path) -> None:
        """Write the program as text, whole or not at all."""
        save_program(self.program, Path(path))


def _check_options(threads: int | None, memory: int | None) -> None:
    """Raises CompileError for options that mean nothing."""
    for name, value in (("threads", threads), ("memory", memory)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            help = "memory is a number of bytes" if name == "memory" else None
            raise CompileError(f"{name}={value!r}: expected an integer from 1 on", help=help)


def read_graph(path: str | Path) -> Graph:
    """A graph from an ONNX file or from IR text (`.cimir`). Raises CompileError."""
    from cimc.frontend.importer import import_onnx
    from cimc.ir.text import load_graph

    path = Path(path)
    if path.suffix == ".cimir":
        return load_graph(path)
    return import_onnx(path)


def geometry_of(target: Target) -> Geometry:
    """What passes may know of a target."""
    from cimc.driver.base import Geometry

    return Geometry(target.rows, target.cols, target.tiles, target.functions, target.acc_bits)


def compile(
    model: str | Path | Graph,
    *,
    pipeline: str = DEFAULT_PIPELINE,
    target: str = DEFAULT_TARGET,
    overrides: Mapping[str, str] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    plugins: Sequence[str | Path] = (),
    registry: Registry | None = None,
    calibration: Data | None = None,
    progress: Callable[[int, int], None] | None = None,
    dump_dir: Path | None = None,
    check_each: bool = False,
) -> Compiled:
    """Compile a model to a program.

    model:     an ONNX or `.cimir` file, or a graph (which is changed).
    pipeline:  comma list of passes and pipelines; `place` is appended.
    target:    a built-in target's name or a TOML file; overrides: its figures by key.
    shapes:    sizes of inputs by ONNX name; symbolic batch axes are 1 otherwise.
    calibration: for static quantisation and binarisation, an `.npz` file or arrays by input
        name, samples along their first axes.
    progress:  called with (done, total) by passes that take long.
    Raises CompileError.
    """
    from cimc.backend.lower import lower
    from cimc.driver.base import PassContext
    from cimc.driver.calibration import calibration_for
    from cimc.driver.pipeline import parse_pipeline, with_option
    from cimc.driver.registry import load_registry
    from cimc.driver.runner import run_passes
    from cimc.frontend.bind import bind_shapes
    from cimc.ir.graph import Graph

    hardware = load_target(target, dict(overrides or {}))
    registry = registry or load_registry(plugins)
    passes = _with_placement(parse_pipeline(pipeline, registry), registry)
    data = calibration_for(passes, calibration, f"-p {pipeline}")
    where = model.name if isinstance(model, Graph) else str(model)
    graph = model if isinstance(model, Graph) else read_graph(model)
    batch = bind_shapes(graph, shapes or {}, where)
    context = PassContext(geometry_of(hardware), calibration=data, progress=progress)
    with in_file(where):
        timings = run_passes(graph, passes, context, dump_dir=dump_dir, check_each=check_each)
    text = pipeline if data is None else with_option(pipeline, registry, "data", data.record)
    program = lower(graph, context.geometry, hardware.name, text, batch)
    check(program, where)
    return Compiled(program, hardware, graph, timings, context.notes)


def _with_placement(passes: Sequence[Pass], registry: Registry) -> list[Pass]:
    """The passes, then those of `place` in their order; one that the user named himself keeps
    his options: `-p exact,allocate-tiles{strategy=fast}`."""
    from cimc.driver.pipeline import parse_pipeline

    place = parse_pipeline(PLACE, registry)
    names = [p.name for p in place]
    own = {p.name: p for p in passes if p.name in names}
    return [p for p in passes if p.name not in names] + [own.get(p.name, p) for p in place]


def load(
    path: str | Path, *, target: str | None = None, overrides: Mapping[str, str] | None = None
) -> Compiled:
    """A program from its `.cim` text, checked, with the costs of the target it names.

    target, overrides: whose costs to take instead, and single figures of it; the geometry
    is the program's own. A program of a target that is not known here (a user's own file)
    gets the default target's costs and a note. Raises CompileError.
    """
    if Path(path).suffix in (".onnx", ".cimir"):
        help = f"compile it first: cimc compile {path} -o out.cim"
        raise CompileError("is a model, not a .cim program", str(path), help)
    program = load_program(Path(path))
    if program.section("infer") is None:
        raise CompileError("the program has no section `.infer`", str(path), help="is it whole?")
    check(program, str(path))
    notes = []
    name = target or program.target.name
    if target is None and name not in builtin_targets():
        name = DEFAULT_TARGET
        notes.append(
            f"target '{program.target.name}' is not known here: energy is that of {name}; "
            "give its file with --target"
        )
    costs = dict(overrides or {})
    for key in costs:
        if not key.startswith(("energy.", "search.")):
            raise CompileError(
                "the program is compiled: only costs can change",
                f"--set {key}",
                help="compile the model again with it",
            )
    return Compiled(program, load_target(name, costs), notes=notes)
