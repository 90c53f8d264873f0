"""Values of a graph on calibration data, computed part by part while the graph changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from cimc.errors import CompileError
from cimc.frontend.evaluate import Evaluator, input_names, outline
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.types import Array


class Trace:
    """Runs operations of a graph on all samples, in the order that they are asked for. Operations
    that have not run may change meanwhile. On one thread: the order of sums of floats hangs on
    their number, and results are to be the same elsewhere."""

    def __init__(self, graph: Graph, samples: Sequence[dict[str, Array]]) -> None:
        self.graph, self._count = graph, len(samples)
        self._ran: set[Node] = set()
        self._values: dict[Value, list[Array]] = {
            value: [sample[name] for sample in samples]
            for value, name in zip(graph.inputs, input_names(graph))
        }

    def __getitem__(self, value: Value) -> list[Array]:
        """A value that was computed and is still needed, on each sample."""
        if value.const is not None:
            return [value.const] * self._count
        return self._values[value]

    def run_before(self, stop: Node | None, keep: Iterable[Value] = ()) -> None:
        """Run what stands before `stop` (None: everything). Afterwards values are there that
        later operations, outputs or `keep` need."""
        nodes = self.graph.nodes
        end = len(nodes) if stop is None else nodes.index(stop)
        needed = {*self.graph.outputs, *keep}
        self._run([n for n in nodes[:end] if n not in self._ran], needed)
        needed.update(v for n in nodes if n not in self._ran for v in n.reads())
        self._values = {v: arrays for v, arrays in self._values.items() if v in needed}

    def _run(self, nodes: Sequence[Node], needed: set[Value]) -> None:
        outside = {*outline(self.graph, nodes).outputs, *needed}
        wanted = [v for n in nodes for v in n.outputs if v in outside]
        if wanted:
            self._values.update(zip(wanted, self.apart(nodes, wanted)))
        self._ran.update(nodes)

    def apart(
        self,
        nodes: Sequence[Node],
        outputs: Sequence[Value],
        given: dict[Value, list[Array]] | None = None,
    ) -> list[list[Array]]:
        """Some operations' results on each sample, by the values of this trace or the given
        ones; they don't count as run."""
        part = replace(outline(self.graph, nodes), outputs=list(outputs))
        evaluate, known = Evaluator(part, threads=1), given or {}
        feeds = [(v.name, known[v] if v in known else self[v]) for v in part.inputs]
        found: list[list[Array]] = [[] for _ in outputs]
        for index in range(self._count):
            results = evaluate({name: arrays[index] for name, arrays in feeds})
            for arrays, value in zip(found, outputs):
                arrays.append(results[value.name])
        return found


def check_finite(arrays: Sequence[Array], what: str, place: str) -> None:
    """Raises CompileError for values that calibration can't use."""
    bad = sum(not np.isfinite(a).all() for a in arrays)
    if bad:
        raise CompileError(
            f"{what} is infinite or NaN on {bad} of {len(arrays)} samples", place,
            help="scale the calibration data as in training, or leave the layer out: skip=…",
        )  # fmt: skip
