"""The int8 examples: the whole MNIST network in the program, and a network of ResNet-50's shape
within its bounds of size."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest

import cimc
from cimc.isa.program import walk
from cimc.oracle import compare, open_oracle, verdict

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
MNIST = EXAMPLES.parents[1] / "shared" / "data" / "mnist.npz"


def _operations(program):
    return {i.op for s in program.sections for layer in s.layers for i in walk(layer.body)}


def _check(model, compiled, feeds):
    found = compiled.run(feeds).outputs
    expected = open_oracle(model, compiled.program)(feeds)
    assert verdict(compare(expected, found)) == "yes"


@pytest.mark.parametrize("pipeline", ["exact", "auto"])
def test_mnist_runs_without_the_host(pipeline):
    model = EXAMPLES / "mnist" / "mnist_int8.onnx"
    compiled = cimc.compile(model, pipeline=pipeline)
    assert "host" not in _operations(compiled.program)
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 28, 28), dtype=np.uint8)
    _check(model, compiled, {"image": images})


@pytest.mark.slow
def test_mnist_accuracy():
    if not MNIST.exists():
        pytest.skip("needs ../shared/data/mnist.npz")
    data = np.load(MNIST)
    images, labels = data["x_test"][:1000, None], data["y_test"][:1000]
    compiled = cimc.compile(EXAMPLES / "mnist" / "mnist_int8.onnx")
    logits = compiled.run({"image": images}).outputs["logits"]
    assert (logits.argmax(1) == labels).mean() >= 0.98


def _resnet50(size):
    spec = importlib.util.spec_from_file_location("make", EXAMPLES / "resnet50" / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.resnet50(size=size)


@pytest.mark.slow
def test_a_large_network_stays_small(tmp_path):
    model, program = tmp_path / "resnet50.onnx", tmp_path / "resnet50.cim"
    proto = _resnet50(size=64)
    onnx.save(proto, model)
    weights = sum(len(t.raw_data) for t in proto.graph.initializer if t.data_type == 3)  # INT8
    compiled = cimc.compile(model, pipeline="exact")
    compiled.save(program)
    lines = program.read_text().splitlines()
    assert sum(not line.startswith(".data") for line in lines) < 3000
    assert program.stat().st_size < 1.4 * weights
    assert "host" not in _operations(compiled.program)
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64), dtype=np.uint8)
    _check(model, cimc.load(program), {"image": image})
