"""prune-similar{criterion=budget}: its options, and what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cimc.passes.prune_similar import PruneSimilar

from cimc import api
from cimc.driver import PassContext
from cimc.driver.calibration import load_calibration
from cimc.errors import CompileError

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples/digits"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"remove_macs": "0.1", "max_drop": "0.1"}, "not both"),
        ({"remove_macs": "1.5"}, "remove_macs must be at least 0, at most 1"),
        ({"max_drop": "-1"}, "max_drop must be at least 0, at most 1"),
        ({"remove_macs": "0.1", "c": "0.1"}, "c is no option of criterion=budget"),
        ({"remove_macs": "0.1", "mode": "literal"}, "mode is no option of criterion=budget"),
        ({"remove_macs": "0.1", "samples": 0}, "samples must be at least 1"),
        (
            {"criterion": "published", "max_drop": "0.1"},
            "max_drop is an option of criterion=budget",
        ),
    ],
)
def test_options_out_of_range(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PruneSimilar(**{"criterion": "budget", **options})  # type: ignore[arg-type]


def test_a_binary_network_within_its_drop() -> None:
    """Real digits, labels of their own: weights of the pruned network are ±1 as before, and its
    program has fewer rows."""
    data = load_calibration(DIGITS / "digits_test.npz")
    graph = api.read_graph(DIGITS / "digits_bnn.onnx")
    ctx = PassContext(calibration=data)
    assert PruneSimilar(criterion="budget", max_drop="0.02", samples=150).run(graph, ctx)
    weights = [n.arg(1).const for n in graph.nodes if n.op == "onnx.Conv"]
    assert all(w is not None and set(np.unique(w)) == {-1.0, 1.0} for w in weights)
    assert sum(w.shape[0] for w in weights if w is not None) < 64
    (said,) = (line for line in ctx.notes if "top-1" in line)
    before, after = (float(w.rstrip("%")) for w in said.split() if w.endswith("%"))
    assert before - after <= 2.0
    program = api.compile(graph, pipeline="exact")
    assert not [n for n in program.graph.nodes if n.op == "onnx.Conv"]


def test_data_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", image=np.zeros((4, 1, 9, 9), np.uint8))
    ctx = PassContext(calibration=load_calibration(tmp_path / "bad.npz"))
    graph = api.read_graph(DIGITS / "digits_bnn.onnx")
    with pytest.raises(CompileError, match="has the shape"):
        PruneSimilar(criterion="budget", remove_macs="0.2").run(graph, ctx)


def test_layers_that_are_left_out_keep_their_kernels() -> None:
    graph = api.read_graph(DIGITS / "digits_bnn.onnx")
    ctx = PassContext(calibration=load_calibration(DIGITS / "digits_test.npz"))
    PruneSimilar(criterion="budget", remove_macs="0.2", skip="conv1", samples=40).run(graph, ctx)
    first, second = (n.arg(1).const for n in graph.nodes if n.op == "onnx.Conv")
    assert first is not None
    assert second is not None
    assert first.shape[0] == 32
    assert second.shape[0] < 32
