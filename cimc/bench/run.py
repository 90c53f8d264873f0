"""One run of the benchmark: which rows, in which order, and what comes out of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from cimc import api
from cimc.bench import machine, processes, rows
from cimc.bench.figures import Figure
from cimc.bench.roofline import counts_vectors
from cimc.bench.rows import Setup, against_same
from cimc.bench.runners import Network
from cimc.bench.same_model import Shapes, same_function
from cimc.bench.timing import FULL, QUICK
from cimc.errors import CompileError

ROWS: dict[str, Callable[[Setup], list[Figure]]] = {
    "popcount": rows.popcount,
    "mnist": rows.mnist,
    "reference": rows.reference,
    "tfc": rows.tfc,
    "resnet50": rows.resnet,
    "mobilenet": rows.mobilenet,
    "ds-cnn": rows.ds_cnn_row,
    "eval": processes.evaluation,
    "memory": processes.memory,
}
"""The groups of rows by the name that `--only` takes, in the order of the table."""


@dataclass(frozen=True)
class Report:
    """Everything that a run measured, and on what."""

    began: str
    machine: dict[str, object]
    threads: int
    quick: bool
    groups: dict[str, list[Figure]]

    @property
    def figures(self) -> list[Figure]:
        return [figure for group in self.groups.values() for figure in group]

    def to_json(self) -> dict[str, object]:
        return {
            "cimc_bench": 1,
            "began": self.began,
            "machine": self.machine,
            "threads": self.threads,
            "quick": self.quick,
            "figures": [figure.to_json() for figure in self.figures],
        }


def bench(
    only: Sequence[str] = (),
    models: Sequence[Path] = (),
    *,
    threads: int = 1,
    quick: bool = False,
    shapes: Shapes | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Measure rows of the table, and a row for each model.

    only:     groups of `ROWS`; all if there are neither groups nor models.
    models:   ONNX files; shapes: sizes of their inputs by name.
    progress: called with (groups done, groups in all).
    Raises CompileError for unknown groups and unusable models.
    """
    names = list(only) or ([] if models else list(ROWS))
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise CompileError(f"no row '{unknown[0]}'", help=f"there are {', '.join(ROWS)}")
    began = datetime.now(UTC).isoformat(timespec="seconds")
    feature = "" if counts_vectors() else machine.POPCOUNT
    groups: dict[str, list[Figure]] = {}
    with tempfile.TemporaryDirectory(prefix="cimc-bench-") as folder:
        setup = Setup(threads, QUICK if quick else FULL, quick, Path(folder), feature)
        tasks = [(name, partial(ROWS[name], setup)) for name in names]
        tasks += [(str(path), partial(_model, setup, path, shapes)) for path in models]
        for done, (name, task) in enumerate(tasks):
            if progress is not None:
                progress(done, len(tasks))
            groups[name] = task()
            for figure in groups[name] if quick else ():
                figure.goal = None  # goals are those of the full sizes
    return Report(began, machine.describe(), threads, quick, groups)


def _model(setup: Setup, path: Path, shapes: Shapes | None) -> list[Figure]:
    """A model of the user's, compiled by `auto`, against onnxruntime on the same function."""
    network = Network(path, api.compile(path, shapes=shapes))
    baseline = same_function(path, shapes)
    label = f"{path.name}, batch 1, against onnxruntime"
    return [against_same(setup, network, baseline, f"model-{path.stem}", label, 1, None)]
