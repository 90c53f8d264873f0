"""Runs passes that misbehave: the runner says which one, and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cimc.driver import Pass, PassContext, Rewriter
from cimc.driver.runner import REPEAT_CAP, run_passes
from cimc.errors import CompileError
from cimc.ir.graph import Graph, Value
from cimc.ir.text import load_graph, parse_graph
from cimc.ir.types import TensorType

TEXT = """\
graph @g(%x: f32[2]) -> (%y) {
  const %c: f32[2] = [1.0, 2.0]

  %y = onnx.Mul(%x, %c): f32[2]
}
"""


@dataclass(frozen=True)
class Breaks(Pass):
    """Gives a value a second definition's name."""

    name = "breaks"
    summary = "break the graph"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        graph.nodes[0].inputs[0] = Value("ghost", TensorType("f32", (2,)))
        return True


@dataclass(frozen=True)
class Doubles(Pass):
    """Doubles the constant: not exact, whatever it says."""

    name = "doubles"
    summary = "double the constant"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        value = graph.consts[0]
        value.const = np.asarray(value.const) * np.float32(2)
        ctx.notes.append("doubled")
        return True


@dataclass(frozen=True)
class DoublesByName(Doubles):
    """The same, and says so."""

    name = "doubles-by-name"
    kind = "approximate"


@dataclass(frozen=True)
class Counts(Pass):
    """Changes the constant `times` times."""

    name = "counts"
    summary = "change a few times"
    repeat = True
    times: int = 3

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        ctx.notes.append("run")
        return len(ctx.notes) <= self.times


@dataclass(frozen=True)
class Misfits(Pass):
    """Makes an operation from operands that don't fit it."""

    name = "misfits"
    summary = "add what can't be added"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        rw = Rewriter(graph)
        wide = Value("w", TensorType("i8", (3,)))
        rw.op("cim.add", [graph.inputs[0], wide], "z", graph.nodes[0])
        return True


def run(*passes: Pass, check_each: bool = False, dump_dir: Path | None = None) -> PassContext:
    context = PassContext()
    run_passes(parse_graph(TEXT), passes, context, check_each=check_each, dump_dir=dump_dir)
    return context


def test_a_pass_that_breaks_the_graph_is_named() -> None:
    with pytest.raises(CompileError, match=r"(?s)pass 'breaks' broke the graph: .*ghost"):
        run(Counts(), Breaks(), Doubles())


def test_operands_that_do_not_fit() -> None:
    with pytest.raises(CompileError, match="pass 'misfits': shapes differ"):
        run(Misfits())


def test_repeat_until_nothing_changes() -> None:
    assert run(Counts(times=3)).notes == ["run"] * 4


def test_repeat_has_a_cap() -> None:
    with pytest.raises(CompileError, match=f"pass 'counts' still changes .* {REPEAT_CAP} runs"):
        run(Counts(times=REPEAT_CAP + 1))


def test_check_each_catches_what_is_not_exact() -> None:
    assert run(Doubles()).notes == ["doubled"]
    with pytest.raises(CompileError, match="pass 'doubles' is exact, but changed output 'y'"):
        run(Counts(), Doubles(), check_each=True)


def test_check_each_lets_approximate_passes_approximate() -> None:
    assert run(DoublesByName(), Counts(times=0), check_each=True).notes == ["doubled", "run"]


def test_dump_dir(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "dumps"
    run(Doubles(), Counts(), dump_dir=folder)
    names = ["00-input.cimir", "01-doubles.cimir", "02-counts.cimir"]
    assert sorted(p.name for p in folder.iterdir()) == names
    first, second = (load_graph(folder / n).consts[0].const for n in names[:2])
    assert np.array_equal(np.asarray(first) * 2, np.asarray(second))


def test_dump_dir_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CompileError, match="file"):
        run(Doubles(), dump_dir=tmp_path / "file")


def test_timings() -> None:
    timings = run_passes(parse_graph(TEXT), [Doubles(), Counts(times=0)], PassContext())
    assert [(t.name, t.changed) for t in timings] == [("doubles", True), ("counts", False)]
    assert all(t.seconds >= 0 for t in timings)
