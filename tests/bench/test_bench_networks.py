"""The networks that are measured: all on tiles, and their baselines do the same."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from onnx import TensorProto

from cimc import api
from cimc.bench.builder import tensor
from cimc.bench.mnist import mnist_binary, mnist_float, mnist_qdq
from cimc.bench.networks import binary_layer, ds_cnn, mobilenet_v2, tfc_1w1a
from cimc.bench.programs import engine, random_feeds
from cimc.bench.resnet import resnet50, resnet50_float
from cimc.bench.runners import compile_network, wrong_outputs
from cimc.frontend.importer import import_model
from cimc.frontend.session import open_session
from cimc.isa.program import walk


def _compiled(model, pipeline="auto"):
    return api.compile(import_model(model, model.graph.name), pipeline=pipeline)


def _layers(program):
    return program.section("infer").layers


def _on_tiles(program):
    """How many layers read tiles, and whether the host does anything."""
    operations = [{i.op for i in walk(layer.body)} for layer in _layers(program)]
    reading = sum(any(op.startswith("read.") for op in ops) for ops in operations)
    return reading, any("host" in ops for ops in operations)


def _outputs(model, **feeds):
    """Of the model in onnxruntime, unoptimised and exact on any processor."""
    (found,) = open_session(model.SerializeToString(), model.graph.name).run(None, feeds)
    return found


@pytest.mark.parametrize("pipeline", ["auto", "exact"])
@pytest.mark.parametrize(
    ("model", "layers"),
    [(mnist_binary, 6), (ds_cnn, 10), (partial(resnet50, size=32), 54)],
    ids=["mnist", "ds-cnn", "resnet50"],
)
def test_everything_is_on_tiles(model, layers, pipeline):
    assert _on_tiles(_compiled(model(), pipeline).program) == (layers, False)


@pytest.mark.parametrize("pipeline", ["auto", "exact"])
def test_all_layers_of_tfc_are_on_tiles(pipeline):
    assert _on_tiles(_compiled(tfc_1w1a(), pipeline).program)[0] == 4


def test_all_layers_of_mobilenet_are_on_tiles_as_int8():
    compiled = _compiled(mobilenet_v2(size=32))
    assert _on_tiles(compiled.program)[0] == 53
    assert "53 layers to dynamic int8" in compiled.notes[0]


def test_the_binary_layer_is_one_gemm_of_bits_and_a_small_one():
    program = _compiled(binary_layer(64, 128, 3, 14)).program
    assert _on_tiles(program) == (2, False)
    macs = {layer.name: layer.after or layer.before for layer in _layers(program)}
    assert any("128x64x3x3, bip x bip" in str(comment) for comment in macs.values())


@pytest.mark.parametrize(
    "model",
    [mnist_binary, tfc_1w1a, ds_cnn, partial(binary_layer, 32, 8, 3, 6)],
    ids=["mnist", "tfc", "ds-cnn", "binary layer"],
)
def test_programs_do_what_their_models_do(model, tmp_path):
    network = compile_network(model(), tmp_path)
    feeds = random_feeds(network.program, 3)
    assert wrong_outputs(network, engine(network.compiled, 1), feeds) == ""


def _images(count):
    return np.random.default_rng(5).integers(0, 256, (count, 1, 28, 28), dtype=np.uint8)


def test_the_int8_baseline_of_mnist_is_the_same_function():
    images = _images(40)
    expected = _outputs(mnist_binary(), image=images)
    np.testing.assert_array_equal(_outputs(mnist_qdq(), image=images), expected)


def test_the_float_baseline_of_mnist_differs_by_rounding_only():
    images = _images(40)
    sums = _outputs(mnist_binary(), image=images)
    logits = _outputs(mnist_float(), image=images)
    assert np.corrcoef(sums.ravel(), logits.ravel())[0, 1] > 0.999


def test_signs_of_the_mnist_network_are_balanced():
    """Else the engine could win by what never occurs in a real network."""
    model = mnist_binary()
    del model.graph.output[:]
    signs = [node.output[0] for node in model.graph.node if node.op_type == "Sign"]
    infos = [tensor(name, TensorProto.FLOAT, None) for name in signs]
    model.graph.output.extend(infos)
    session = open_session(model.SerializeToString(), "signs")
    for name, values in zip(signs, session.run(signs, {"image": _images(8)})):
        assert set(np.unique(values)) == {-1.0, 1.0}, name
        assert 0.3 < (values > 0).mean() < 0.7, name


def test_the_float_resnet_has_the_weights_of_the_int8_one():
    image = np.random.default_rng(1).integers(0, 256, (1, 3, 64, 64), dtype=np.uint8)
    scores = _outputs(resnet50(size=64), image=image)
    floats = (image.astype(np.float32) - 128) * np.float32(0.05)
    expected = _outputs(resnet50_float(size=64), image=floats)
    assert np.corrcoef(scores.ravel().astype(float), expected.ravel())[0, 1] > 0.98


@pytest.mark.parametrize(
    ("model", "least"), [(ds_cnn, 10), (mnist_qdq, 1000)], ids=["ds-cnn", "mnist"]
)
def test_random_weights_keep_values_in_range(model, least):
    """Saturated outputs would hide a wrong one."""
    model, rng = model(), np.random.default_rng(0)
    source = model.graph.input[0]
    sizes = [8, *(d.dim_value for d in source.type.tensor_type.shape.dim[1:])]
    low, dtype = (-128, np.int8) if source.name == "features" else (0, np.uint8)
    feeds = {source.name: rng.integers(low, low + 256, sizes, dtype=dtype)}
    found = _outputs(model, **feeds)
    assert len(np.unique(found)) > 8
    assert np.ptp(found.astype(int)) > least
    if found.dtype == np.int8:
        assert np.isin(found, [-128, 127]).mean() < 0.5


def test_the_same_seed_gives_the_same_network():
    assert tfc_1w1a(3).SerializeToString() == tfc_1w1a(3).SerializeToString()
    assert tfc_1w1a(3).SerializeToString() != tfc_1w1a(4).SerializeToString()
