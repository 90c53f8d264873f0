"""What a program is held against: its model, run without this compiler where that is
possible, one sample at a time.

Exact pipelines: the model in onnxruntime with graph optimisation off. Others: the ONNX export
of the graph after the last pass that changed its meaning (approximate passes; readings of
quantised models). Models with QONNX operators, which onnxruntime does not know, and graph IR
run in the evaluator: those operators by definition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from cimc.driver.base import Geometry, Pass, PassContext
from cimc.driver.calibration import Calibration
from cimc.driver.clone import clone
from cimc.driver.pipeline import parse_pipeline
from cimc.driver.registry import Registry, load_registry
from cimc.driver.runner import run_passes
from cimc.errors import CompileError
from cimc.frontend.bind import bind_shapes
from cimc.frontend.domains import PREFIX
from cimc.frontend.evaluate import Evaluator, input_names, outline, output_names
from cimc.frontend.export import to_onnx
from cimc.frontend.importer import import_model, import_onnx
from cimc.frontend.load import load_model
from cimc.frontend.session import call, open_session
from cimc.ir.graph import Graph
from cimc.ir.text import load_graph
from cimc.ir.types import Array
from cimc.isa.program import Program
from cimc.isa.sections import interface
from cimc.sim.feed import Feed, Source, join_samples

Feeds = Mapping[str, Array]
Once = Callable[[Feeds], dict[str, Array]]
"""From the inputs of one sample to the outputs, by ONNX name."""
# The newest IR version that the oldest onnxruntime we accept reads; operators do not depend on it.
_IR_VERSION = 10


class Oracle:
    """A function from inputs (any number of samples) to outputs by ONNX name.

    after: the first of the passes that changed the model's meaning; empty for the model as it is.
    added: outputs that passes added to those of the model, which have one value a call; None: give
    no such outputs.
    unknown: passes of the program's pipeline that nobody here knows, and so left out."""

    def __init__(
        self,
        path: Path,
        program: Program,
        once: Once,
        after: str = "",
        unknown: Sequence[str] = (),
        added: Feeds | None = None,
    ) -> None:
        self._path, self._program, self._once = path, program, once
        self.after, self.unknown, self._added = after, tuple(unknown), added

    def __call__(self, feeds: Mapping[str, Array | Source]) -> dict[str, Array]:
        """Raises CompileError for inputs that do not fit, and where the model can't run."""
        ports = interface(self._program)
        feed = Feed(self._program, feeds)
        found: dict[str, list[Any]] = {str(m.output): [] for m in ports.outputs}
        wanted = [] if self._added is None else [str(m.output) for m in ports.call]
        call = dict(self._added or {})
        for index in range(feed.samples):
            results = self._once(feed.sample(index))
            call |= {name: results[name] for name in wanted if name in results}
            _present([name for name in found if name not in results], self._path)
            for name, values in found.items():
                values.append(results[name])
        _present([name for name in wanted if name not in call], self._path)
        joined = {str(m.output): join_samples(found[str(m.output)], m.batch) for m in ports.outputs}
        return joined | {name: call[name] for name in wanted}


def _present(missing: Sequence[str], path: Path) -> None:
    """Raises CompileError for outputs of the program that the model lacks."""
    if missing:
        raise CompileError(
            f"the model has no output '{missing[0]}', the program has",
            str(path),
            help="is the program compiled from this model?",
        )


def open_oracle(
    model: str | Path,
    program: Program,
    registry: Registry | None = None,
    calibration: Calibration | None = None,
) -> Oracle:
    """The oracle of a program: its model in the form that the program's pipeline gives it.

    program: says what the pipeline was, and along which axes samples are fed. registry: holds
    the pipeline's passes. calibration: the data that the program was compiled with, if its
    pipeline took any. Raises CompileError for an unusable model, and one whose interface
    is not the program's.
    """
    path, unknown = Path(model), list[str]()
    passes = parse_pipeline(program.pipeline, registry or load_registry(), unknown)
    found = _meaning(path, program, passes, calibration)
    if found.graph is None:
        once = _as_it_is(path, program)
    elif any(node.domain == "qonnx" for node in found.graph.nodes):
        once = Evaluator(found.graph)
    else:
        once = _runner(to_onnx(found.graph), path, program)
    return Oracle(path, program, once, found.after, unknown, found.added)


def open_model(model: str | Path, program: Program) -> Oracle:
    """The model as it is, on the program's inputs, without the outputs that have one value a call.
    Raises CompileError as `open_oracle`."""
    path = Path(model)
    return Oracle(path, program, _as_it_is(path, program), added=None)


def _as_it_is(path: Path, program: Program) -> Once:
    if path.suffix == ".cimir":
        return Evaluator(load_graph(path))
    proto = load_model(path)
    if any(PREFIX.get(node.domain) == "qonnx" for node in proto.graph.node):
        return Evaluator(import_model(proto, str(path)))
    proto.ir_version = min(proto.ir_version, _IR_VERSION)
    return _runner(proto, path, program)


@dataclass(frozen=True)
class _Meaning:
    """What passes made of a model: the graph after the last pass that changed it and is not exact,
    and the first such pass (None and "" if there is none); outputs that passes added."""

    graph: Graph | None = None
    after: str = ""
    added: Feeds = field(default_factory=dict)


def _meaning(
    path: Path, program: Program, passes: Sequence[Pass], calibration: Calibration | None
) -> _Meaning:
    matters = [i for i, p in enumerate(passes) if p.kind != "exact" or p.adds_outputs]
    if not matters:
        return _Meaning()
    graph = load_graph(path) if path.suffix == ".cimir" else import_onnx(path)
    _same_inputs(input_names(graph), path, program)
    sizes = {str(m.input): m.shape for m in program.inputs if m.shape is not None}
    bind_shapes(graph, sizes, str(path))
    target = program.target
    context = PassContext(
        Geometry(target.rows, target.cols, target.tiles, target.functions, target.acc_bits),
        calibration=calibration,
    )
    found: Graph | None = None
    after = ""
    for step in passes[: matters[-1] + 1]:
        (timing,) = run_passes(graph, [step], context)
        if timing.changed and step.kind != "exact":
            found, after = clone(graph)[0], after or step.name
    return _Meaning(found, after, _searched(graph))


def _searched(graph: Graph) -> Feeds:
    """What the searches for similar kernels find, by name of the output."""
    names = dict(zip(graph.outputs, output_names(graph)))
    nodes = [n for n in graph.nodes if n.op == "cim.similar" and n.output in names]
    if not nodes:
        return {}
    part = outline(graph, nodes)
    results = Evaluator(part)({})
    return {names[value]: results[value.name] for value in part.outputs}


def _runner(proto: ModelProto, path: Path, program: Program) -> Once:
    """A model in onnxruntime, if its inputs are the program's; on one thread, as host fragments
    are, since the order of some sums of floats hangs on their number."""
    session = open_session(_bytes(proto, path), str(path), threads=1)
    _same_inputs([i.name for i in session.get_inputs()], path, program)
    names = [o.name for o in session.get_outputs()]

    def once(feeds: Feeds) -> dict[str, Array]:
        return dict(zip(names, call(session, dict(feeds), str(path))))

    return once


def _same_inputs(names: Iterable[str], path: Path, program: Program) -> None:
    found, wanted = set(names), {m.input for m in program.inputs}
    if found != wanted:
        raise CompileError(
            f"the model takes {_quoted(found)}, the program takes {_quoted(wanted)}",
            str(path),
            help="is the program compiled from this model?",
        )


def _quoted(names: Iterable[str | None]) -> str:
    return ", ".join(sorted(f"'{name}'" for name in names)) or "no inputs"


def _bytes(proto: ModelProto, path: Path) -> bytes:
    try:
        return bytes(proto.SerializeToString())
    except ValueError:
        raise CompileError("the model is larger than 2 GiB", str(path)) from None


@dataclass(frozen=True)
class Comparison:
    """How one output compares. `kind` is `equal`, `rounding` (floats that agree within
    float32 rounding) or `different`; differences are over all elements."""

    name: str
    kind: str
    elements: int
    unequal: int
    largest: float
    relative: float
    ulps: int

    def __str__(self) -> str:
        if self.kind == "equal":
            return f"{self.name}: {self.elements} elements, all bits equal"
        return (
            f"{self.name}: {self.unequal} of {self.elements} elements differ, at most by "
            f"{self.largest:.3g} (relative {self.relative:.3g}, {self.ulps} ulp)"
        )


# Sums of floats have no single order: K terms may differ by about K/2 ulp of the largest.
_TOLERANCE = 1e-5


def compare(expected: Feeds, found: Feeds) -> list[Comparison]:
    """One comparison for each output of the program."""
    return [_compare(name, expected[name], found[name]) for name in found]


def _compare(name: str, expected: Any, found: Any) -> Comparison:
    if not isinstance(expected, np.ndarray) or expected.dtype == object:
        same = _same(expected, found)
        return Comparison(name, "equal" if same else "different", 1, int(not same), 0.0, 0.0, 0)
    if expected.shape != found.shape or expected.dtype != found.dtype:
        raise CompileError(
            f"output '{name}' is {found.dtype}{list(found.shape)}, the model gives "
            f"{expected.dtype}{list(expected.shape)}"
        )
    both_nan = np.zeros(expected.shape, bool)
    if expected.dtype.kind == "f":
        both_nan = np.isnan(expected) & np.isnan(found)
    differ = (expected != found) & ~both_nan
    unequal = int(differ.sum())
    if not unequal:
        return Comparison(name, "equal", expected.size, 0, 0.0, 0.0, 0)
    a, b = expected[differ].astype(np.float64), found[differ].astype(np.float64)
    largest = float(np.max(np.abs(a - b)))
    scale = float(np.nanmax(np.abs(expected.astype(np.float64)), initial=0.0))
    relative = largest / scale if scale else float("inf")
    rounding = expected.dtype.kind == "f" and relative <= _TOLERANCE
    kind = "rounding" if rounding else "different"
    return Comparison(
        name, kind, expected.size, unequal, largest, relative, _ulps(expected, found, differ)
    )


def _same(a: Any, b: Any) -> bool:
    """Equality of what onnxruntime gives beside plain tensors: strings, lists, maps of them."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        nan = a.dtype.kind == "f" and a.dtype == b.dtype
        return a.dtype == b.dtype and bool(np.array_equal(a, b, equal_nan=nan))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return str(a) == str(b)


def _ulps(expected: Any, found: Any, differ: Any) -> int:
    """Steps of float32 between the most different pair."""
    if expected.dtype != np.float32:
        return 0
    order = [a[differ].view(np.int32).astype(np.int64) for a in (expected, found)]
    steps = [np.where(o < 0, -(o & 0x7FFFFFFF), o) for o in order]
    return int(np.max(np.abs(steps[0] - steps[1])))


def off(model: Oracle, feeds: Mapping[str, Array | Source], found: Feeds) -> str:
    """How far the outputs are from those of the model as it is: `at most 0.01 in logits
    (relative 0.002)`, `nothing`, or why that can't be said."""
    try:
        expected = model(feeds)
        comparisons = compare(expected, {name: found[name] for name in expected})
    except CompileError as error:
        return f"not known: {error.message}"
    worst = max(comparisons, key=lambda c: c.relative, default=None)
    if worst is None or all(c.kind == "equal" for c in comparisons):
        return "nothing"
    return f"at most {worst.largest:.3g} in {worst.name} (relative {worst.relative:.3g})"


def verdict(comparisons: Sequence[Comparison]) -> str:
    """`yes`, `no (max diff …)`, or `n/a (max diff …)` for floats within rounding."""
    kinds = {c.kind for c in comparisons}
    if kinds <= {"equal"}:
        return "yes"
    largest = max(c.largest for c in comparisons)
    return f"{'no' if 'different' in kinds else 'n/a'} (max diff {largest:.3g})"
