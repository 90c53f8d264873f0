"""Runs passes over a graph: verifies after each, owns fixed points, times, dumps, checks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cimc.driver.base import Pass, PassContext
from cimc.errors import CompileError
from cimc.frontend.evaluate import Evaluator, random_feeds
from cimc.ir.graph import Graph
from cimc.ir.rules import Misfit
from cimc.ir.text import save_graph
from cimc.ir.types import Array
from cimc.ir.verify import verify

REPEAT_CAP = 100


@dataclass(frozen=True)
class Timing:
    """Wall seconds of one pass over the graph, repeats included."""

    name: str
    seconds: float
    changed: bool


def run_passes(
    graph: Graph,
    passes: Sequence[Pass],
    ctx: PassContext,
    *,
    dump_dir: Path | None = None,
    check_each: bool = False,
) -> list[Timing]:
    """Run the passes in order, in place.

    dump_dir:   write the graph after each pass as `NN-name.cimir`.
    check_each: run the graph before and after each exact pass on the same seeded inputs:
        integer outputs must be equal, float outputs within float32 rounding, because
        onnxruntime sums in another order where a constant weight was computed before.
    Raises CompileError, naming the pass, if a pass breaks the graph, never settles, or
    (with check_each) an exact pass changes an output.
    """
    timings = []
    if dump_dir is not None:
        _make_folder(dump_dir)
        save_graph(graph, dump_dir / "00-input.cimir")
    expected = _sample(graph) if check_each else None
    for index, step in enumerate(passes, 1):
        start = time.perf_counter()
        changed = _settle(graph, step, ctx)
        timings.append(Timing(step.name, time.perf_counter() - start, changed))
        if dump_dir is not None:
            save_graph(graph, dump_dir / f"{index:02}-{step.name}.cimir")
        if expected is None:
            continue
        found = _sample(graph)
        if step.kind == "exact":
            _compare(expected, found, step.name)
        expected = found
    return timings


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CompileError(f"can't make the folder: {error.strerror}", str(path)) from None


def _settle(graph: Graph, step: Pass, ctx: PassContext) -> bool:
    changed = False
    for _ in range(REPEAT_CAP):
        again = _run(graph, step, ctx)
        changed |= again
        _verify(graph, step.name)
        if not (again and step.repeat):
            return changed
    raise CompileError(f"pass '{step.name}' still changes the graph after {REPEAT_CAP} runs")


def _run(graph: Graph, step: Pass, ctx: PassContext) -> bool:
    try:
        return step.run(graph, ctx)
    except Misfit as misfit:
        raise CompileError(f"pass '{step.name}': {misfit}", f"@{graph.name}") from misfit


def _verify(graph: Graph, name: str) -> None:
    try:
        verify(graph)
    except CompileError as error:
        raise CompileError(f"pass '{name}' broke the graph: {error}") from error


def _sample(graph: Graph) -> list[dict[str, Array]]:
    evaluator = Evaluator(graph)
    return [evaluator(random_feeds(graph, seed)) for seed in (1, 2)]


def _compare(before: list[dict[str, Array]], after: list[dict[str, Array]], name: str) -> None:
    for old, new in zip(before, after):
        for key, array in old.items():
            if not _same(array, new[key]):
                raise CompileError(f"pass '{name}' is exact, but changed output '{key}'")


def _same(a: Array, b: Array) -> bool:
    if a.dtype.kind != "f":
        return np.array_equal(a, b)
    x, y = a.astype(np.float64), b.astype(np.float64)
    largest = float(np.max(np.abs(x), initial=0.0, where=np.isfinite(x)))
    return np.allclose(x, y, rtol=0.0, atol=1e-5 * largest, equal_nan=True)
