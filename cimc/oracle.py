"""What a program is held against: its model, run without this compiler where that is
possible, one sample at a time.

ONNX models run in onnxruntime with graph optimisation off. Models with QONNX operators, which
onnxruntime does not know, and graph IR run in the evaluator: those operators by definition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from cimc.errors import CompileError
from cimc.frontend.domains import PREFIX
from cimc.frontend.evaluate import Evaluator
from cimc.frontend.importer import import_model
from cimc.frontend.load import load_model
from cimc.frontend.session import call, open_session
from cimc.ir.text import load_graph
from cimc.ir.types import Array
from cimc.isa.program import Program
from cimc.sim.feed import Feed, join_samples

Feeds = Mapping[str, Array]
# The newest IR version that the oldest onnxruntime we accept reads; operators do not depend on it.
_IR_VERSION = 10


def open_oracle(model: str | Path, program: Program) -> Callable[[Feeds], dict[str, Array]]:
    """A function from inputs (any number of samples) to outputs by ONNX name.

    program: says along which axes samples are fed. Raises CompileError for an unusable model
    or one whose interface is not the program's.
    """
    path = Path(model)
    once = _graph_runner(path) if path.suffix == ".cimir" else _model_runner(path, program)
    outputs = [m for m in program.outputs if m.output is not None]

    def run(feeds: Feeds) -> dict[str, Array]:
        feed = Feed(program, feeds)
        found: dict[str, list[Any]] = {str(m.output): [] for m in outputs}
        for index in range(feed.samples):
            results = once(feed.sample(index))
            missing = [name for name in found if name not in results]
            if missing:
                raise CompileError(
                    f"the model has no output '{missing[0]}', the program has",
                    str(path),
                    help="is the program compiled from this model?",
                )
            for name, values in found.items():
                values.append(results[name])
        return {str(m.output): join_samples(found[str(m.output)], m.batch) for m in outputs}

    return run


def _graph_runner(path: Path) -> Callable[[Feeds], dict[str, Array]]:
    return Evaluator(load_graph(path))


def _model_runner(path: Path, program: Program) -> Callable[[Feeds], dict[str, Array]]:
    proto = load_model(path)
    if any(PREFIX.get(node.domain) == "qonnx" for node in proto.graph.node):
        return Evaluator(import_model(proto, str(path)))
    proto.ir_version = min(proto.ir_version, _IR_VERSION)
    session = open_session(_bytes(proto, path), str(path))
    inputs, wanted = {i.name for i in session.get_inputs()}, {m.input for m in program.inputs}
    if inputs != wanted:
        raise CompileError(
            f"the model takes {_quoted(inputs)}, the program takes {_quoted(wanted)}",
            str(path),
            help="is the program compiled from this model?",
        )
    names = [o.name for o in session.get_outputs()]

    def once(feeds: Feeds) -> dict[str, Array]:
        return dict(zip(names, call(session, dict(feeds), str(path))))

    return once


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


def verdict(comparisons: Sequence[Comparison]) -> str:
    """`yes`, `no (max diff …)`, or `n/a (max diff …)` for floats within rounding."""
    kinds = {c.kind for c in comparisons}
    if kinds <= {"equal"}:
        return "yes"
    largest = max(c.largest for c in comparisons)
    return f"{'no' if 'different' in kinds else 'n/a'} (max diff {largest:.3g})"
