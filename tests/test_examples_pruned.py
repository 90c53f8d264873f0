"""The MNIST network that was pruned while it was trained: what is left of it, and its program."""

from pathlib import Path

import numpy as np
import pytest

import cimc
from cimc.api import read_graph
from cimc.frontend.bind import bind_shapes
from cimc.frontend.operations import count
from cimc.frontend.reduction import compare
from cimc.oracle import compare as differences
from cimc.oracle import open_oracle, verdict

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "mnist"
PRUNED, DENSE = EXAMPLES / "mnist_pruned.onnx", EXAMPLES / "mnist_bnn.onnx"
MNIST = EXAMPLES.parents[2] / "shared" / "data" / "mnist.npz"


def _operations(model):
    graph = read_graph(model)
    bind_shapes(graph, {}, str(model))
    return count(graph)


def test_macs_against_the_dense_network():
    found = compare(_operations(PRUNED), _operations(DENSE), str(PRUNED)).convolutions
    assert found.dense == 4_290_048
    assert found.macs == found.effective
    assert found.removed >= 0.85


def test_its_program_holds_and_is_small():
    compiled, dense = (cimc.compile(m, pipeline="exact") for m in (PRUNED, DENSE))
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 28, 28), dtype=np.uint8)
    found = compiled.run({"image": images}).outputs
    expected = open_oracle(PRUNED, compiled.program)({"image": images})
    assert verdict(differences(expected, found)) != "no"
    reads = [
        sum(
            n
            for (_, op, what), n in c.counts.total().items()
            if op == "read.xor" and what == "rows"
        )
        for c in (compiled, dense)
    ]
    assert reads[0] < 0.4 * reads[1]


@pytest.mark.slow
def test_accuracy():
    if not MNIST.exists():
        pytest.skip("needs ../shared/data/mnist.npz")
    data = np.load(MNIST)
    logits = cimc.compile(PRUNED, pipeline="exact").run({"image": data["x_test"][:, None]})
    assert (logits.outputs["logits"].argmax(1) == data["y_test"]).mean() >= 0.985
