"""Rewrites at the border of what they may do: each case was once wrong or a traceback."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import cimc
from cimc import oracle
from cimc.driver.bounds import bounds
from cimc.driver.registry import load_registry
from cimc.driver.rewrite import Rewriter
from cimc.frontend.evaluate import Evaluator
from cimc.frontend.importer import import_model
from cimc.ir.text import parse_graph
from cimc.ir.verify import verify


def _signs(rng, *shape):
    return np.where(rng.standard_normal(shape) > 0, 1, -1).astype(np.float32)


def _model(nodes, shape, **consts):
    float32 = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", float32, shape)],
        [helper.make_tensor_value_info("y", float32, None)],
        [numpy_helper.from_array(array, name) for name, array in consts.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _check(tmp_path, model, samples=3):
    """The program's outputs are the model's; returns the placed graph's operations."""
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    compiled = cimc.compile(path, pipeline="exact", check_each=True)
    shape = compiled.program.inputs[0].shape[1:]
    x = np.random.default_rng(3).standard_normal((samples, *shape)).astype(np.float32)
    found = compiled.run({"x": x}).outputs
    wanted = oracle.open_oracle(path, compiled.program)({"x": x})
    assert oracle.verdict(oracle.compare(wanted, found)) == "yes"
    return [node.op for node in compiled.graph.nodes]


NODE = helper.make_node
LAYER = [NODE("Sign", ["x"], ["s"]), NODE("Conv", ["s", "w"], ["c"], pads=[1, 1, 1, 1])]


@pytest.mark.parametrize(
    ("pool", "steps"),
    [
        ({"kernel_shape": [2, 2], "strides": [2, 2]}, [0.5, 3.5]),
        ({"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, [0.5, 3.5, -9.0, 7.5]),
    ],
)
def test_thresholds_that_differ_along_a_pooled_axis_stay_below_the_pool(tmp_path, pool, steps):
    shift = np.asarray(steps, np.float32).reshape(1, 1, -1, 1)
    nodes = [*LAYER, NODE("MaxPool", ["c"], ["p"], **pool),
             NODE("Add", ["p", "k"], ["a"]), NODE("Sign", ["a"], ["y"])]  # fmt: skip
    w = _signs(np.random.default_rng(1), 4, 3, 3, 3)
    ops = _check(tmp_path, _model(nodes, ["N", 3, 4, 4], w=w, k=shift))
    assert ops.index("cim.max_pool") < ops.index("cim.threshold")


@pytest.mark.parametrize("last", ["Neg", "Identity"])
def test_a_map_that_differs_within_a_window_is_not_moved_across_the_pool(tmp_path, last):
    rng = np.random.default_rng(2)
    nodes = [*LAYER, NODE("Add", ["c", "k"], ["a"]),
             NODE("MaxPool", ["a"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
             NODE(last, ["p"], ["n"]), NODE("Sign", ["n"], ["y"])]  # fmt: skip
    k = 5 * rng.standard_normal((1, 1, 4, 4)).astype(np.float32)
    _check(tmp_path, _model(nodes, ["N", 3, 4, 4], w=_signs(rng, 4, 3, 3, 3), k=k))


def test_constants_beside_a_sequence_fold():
    nodes = [NODE("SplitToSequence", ["k"], ["q"], axis=0), NODE("Mul", ["k", "k"], ["m"]),
             NODE("SequenceInsert", ["q", "x"], ["r"]),
             NODE("ConcatFromSequence", ["r"], ["c"], axis=0),
             NODE("Concat", ["c", "m"], ["y"], axis=0)]  # fmt: skip
    k = np.arange(8, dtype=np.float32).reshape(2, 4)
    graph = import_model(_model(nodes, [1, 4], k=k), "m.onnx")
    load_registry().passes["cleanup"]().run(graph, cimc.driver.PassContext())
    verify(graph)
    assert "onnx.Mul" not in [node.op for node in graph.nodes]


def test_a_stray_character_after_a_graph_has_a_place():
    with pytest.raises(cimc.errors.CompileError, match=r"unexpected `\\`"):
        parse_graph("graph @g(%q: i8[1]) -> (%q) {\n}\n\\", "g.cimir")


def test_relu_of_bip_is_a_bit():
    text = "graph @g(%q: bip[1,2]) -> (%y) {\n  %y = cim.relu(%q): u1[1,2]\n}\n"
    graph = parse_graph(text, "g.cimir")
    verify(graph)
    found = Evaluator(graph)({"q": np.array([[-1, 1]], np.int8)})["y"]
    assert found.dtype == np.uint8
    assert found.tolist() == [[0, 1]]


def test_layer_bounds_hold_for_any_integer_weight():
    text = (
        "graph @g(%x: i8[1,2]) -> (%y) {\n  const %w: i8[2,1] = [-128, 3]\n\n"
        "  %y = cim.matmul(%x, %w): i32[1,1]\n}\n"
    )
    graph = parse_graph(text, "g.cimir")
    reach = bounds(graph.outputs[0], graph.producers()).reach
    assert reach == 128 * 128 + 3 * 127


def test_a_threshold_beyond_i32_is_not_stated():
    text = (
        "graph @g(%q: i32[1,1]) -> (%y) {\n  const %z: f32[] = 0.0\n\n"
        "  %x = cim.dequant(%q): f32[1,1]\n  %d = onnx.Mul(%x, %z): f32[1,1]\n"
        "  %y = cim.sign(%d) zero=-1: bip[1,1]\n}\n"
    )
    graph = parse_graph(text, "g.cimir")
    load_registry().passes["fold-threshold"]().run(graph, cimc.driver.PassContext())
    assert Evaluator(graph)({"q": np.array([[7]], np.int32)})["y"].tolist() == [[-1]]


def test_a_rewriter_finds_all_users_after_several_replacements():
    text = (
        "graph @g(%q: i8[1,2]) -> (%b, %c) {\n  %a = cim.relu(%q): i8[1,2]\n"
        "  %b = cim.relu(%a): i8[1,2]\n  %c = cim.relu(%a): i8[1,2]\n}\n"
    )
    graph = parse_graph(text, "g.cimir")
    rw = Rewriter(graph)
    first, b, c = graph.nodes
    new = rw.op("cim.relu", [graph.inputs[0]], "new", first)
    rw.replace(first.output, new)
    rw.replace(new, graph.inputs[0])
    assert b.inputs == c.inputs == [graph.inputs[0]]
    rw.replace(b.output, c.output)
    assert graph.outputs == [c.output, c.output]


def test_long_sequences_and_strings_are_compared_whole():
    a, b = np.zeros(5000, np.float32), np.zeros(5000, np.float32)
    b[2500] = 1
    assert oracle.verdict(oracle.compare({"y": [a]}, {"y": [a.copy()]})) == "yes"
    assert oracle.verdict(oracle.compare({"y": [a]}, {"y": [b]})).startswith("no")
    words, others = a.astype(str).astype(object), b.astype(str).astype(object)
    assert oracle.verdict(oracle.compare({"y": words}, {"y": others})).startswith("no")
