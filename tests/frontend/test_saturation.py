"""Integer layers at the extremes, where kernels without VNNI clip, in numpy and onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from cimc.frontend import saturation
from cimc.frontend.saturation import saturates, unsaturated
from cimc.frontend.session import call, open_session

node = helper.make_node
U8, I8, I32 = TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32
CASES = ("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QGemm")


def model(
    op: str, w: Any, zero: Any = None, elem: int = U8, constants: bool = False
) -> tuple[ModelProto, tuple[int, ...]]:
    """A layer of one kind with weights [K, N], and the shape of its input for one row of K."""
    k = len(w)
    conv = "Conv" in op
    consts = {
        "w": w.T.reshape(-1, k, 1, 1) if conv else w,
        "zx": np.asarray(3, np.uint8 if elem == U8 else np.int8),
        "zw": np.zeros((), np.int8) if zero is None else zero,
        "s": np.float32(1.0),
        "sy": np.float32(1e4),
        "zy": np.uint8(100),
    }
    if op.endswith("Integer"):
        inputs = ["x", "w", "zx"] if zero is None else ["x", "w", "zx", "zw"]
        layer = node(op, inputs, ["y"])
    elif op == "QGemm":
        inputs = ["x", "s", "zx", "w", "s", "zw", "", "sy", "zy"]
        layer = node(op, inputs, ["y"], domain="com.microsoft")
    else:
        layer = node(op, ["x", "s", "zx", "w", "s", "zw", "sy", "zy"], ["y"])
    shape = (2, k, 1, 1) if conv else (2, k)
    held = {n: numpy_helper.from_array(np.asarray(a), n) for n, a in consts.items()
            if n in layer.input}  # fmt: skip
    nodes = [layer]
    if constants:
        nodes = [*(node("Constant", [], [n], value=t) for n, t in held.items()), layer]
        held = {}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", elem, shape)],
        [helper.make_tensor_value_info("y", I32 if op.endswith("Integer") else U8, None)],
        list(held.values()),
    )
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), shape


def run(proto: ModelProto, x: Any) -> Any:
    return call(open_session(proto.SerializeToString(), "test"), {"x": x}, "test")[0]


def expected(op: str, x: Any, w: Any, zero: int = 0) -> Any:
    """By int64, and float32 for the requantisation."""
    sums = (x.reshape(len(x), -1).astype(np.int64) - 3) @ (w.astype(np.int64) - zero)
    if op.endswith("Integer"):
        return sums.astype(np.int32)
    return np.clip(np.round(sums.astype(np.float32) * np.float32(1 / 1e4)) + 100, 0, 255)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 31, 64, 129])
@pytest.mark.parametrize("op", CASES)
def test_worst_case(op: str, k: int) -> None:
    """All of 255 by -128, by 127, and by both in turns: sums of pairs leave 16 bits, as no
    other products do. The sums are int64's."""
    turns = np.where(np.arange(k) % 2, -128, 127)
    w = np.stack([np.full(k, -128), np.full(k, 127), turns, -1 - turns], 1).astype(np.int8)
    proto, shape = model(op, w)
    x = np.full(shape, 255, np.uint8)
    np.testing.assert_array_equal(run(proto, x).reshape(2, -1), expected(op, x, w))


@pytest.mark.parametrize("constants", [False, True])
@pytest.mark.parametrize("op", CASES)
def test_unsaturated_keeps_bits(op: str, constants: bool) -> None:
    rng = np.random.default_rng(4)
    w = rng.integers(-128, 128, (37, 6)).astype(np.int8)
    zero = np.asarray(-7, np.int8)
    proto, shape = model(op, w, zero, constants=constants)
    before = proto.SerializeToString()
    moved = unsaturated(proto)
    assert proto.SerializeToString() == before
    assert {t.data_type for t in moved.graph.initializer if ".u8" in t.name} == {U8}
    weights = next(n for n in moved.graph.node if n.op_type == op).input
    assert sum(name.endswith(".u8") for name in weights) == 2
    x = rng.integers(0, 256, shape).astype(np.uint8)
    found = run(moved, x)
    np.testing.assert_array_equal(found, run(proto, x))
    np.testing.assert_array_equal(found.reshape(2, -1), expected(op, x, w, -7))


def test_zero_points_of_channels() -> None:
    w = np.random.default_rng(5).integers(-128, 128, (9, 4)).astype(np.int8)
    proto, shape = model("QLinearMatMul", w, np.array([1, -2, 0, 127], np.int8))
    next(t for t in proto.graph.initializer if t.name == "s")
    scales = numpy_helper.from_array(np.ones(4, np.float32), "sw")
    proto.graph.initializer.append(scales)
    proto.graph.node[0].input[4] = "sw"
    x = np.random.default_rng(6).integers(0, 256, shape).astype(np.uint8)
    np.testing.assert_array_equal(run(unsaturated(proto), x), run(proto, x))


@pytest.mark.parametrize("op", ["ConvInteger", "MatMulInteger"])
def test_missing_zero_point(op: str) -> None:
    proto, shape = model(op, np.full((8, 2), -3, np.int8))
    moved = unsaturated(proto)
    assert len(moved.graph.node[0].input) == 4
    x = np.full(shape, 9, np.uint8)
    np.testing.assert_array_equal(run(moved, x), run(proto, x))


def test_signed_inputs_stay() -> None:
    """They have kernels of their own."""
    proto, _ = model("QLinearConv", np.ones((4, 2), np.int8), elem=I8)
    assert unsaturated(proto) == proto


def test_nested_graphs() -> None:
    """A branch that uses weights of the graph around it."""
    branch = helper.make_graph(
        [node("MatMulInteger", ["x", "w"], ["out"])],
        "branch",
        [],
        [helper.make_tensor_value_info("out", I32, None)],
    )
    graph = helper.make_graph(
        [node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
        "g",
        [helper.make_tensor_value_info("x", U8, [1, 2])],
        [helper.make_tensor_value_info("y", I32, None)],
        [
            numpy_helper.from_array(np.array(True), "c"),
            numpy_helper.from_array(np.array([[127], [127]], np.int8), "w"),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    moved = unsaturated(proto)
    inner = moved.graph.node[0].attribute[0].g
    assert inner.node[0].input[1] == "w.u8"
    assert run(moved, np.array([[255, 255]], np.uint8)).item() == 255 * 254


def test_sessions_are_exact_where_kernels_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    proto, shape = model("ConvInteger", np.full((4, 2), 127, np.int8))
    data, x = proto.SerializeToString(), np.full(shape, 255, np.uint8)
    monkeypatch.setattr(saturation, "saturates", lambda: True)
    assert b"w.u8" in saturation.exact(data)
    np.testing.assert_array_equal(run(proto, x), np.full((2, 2, 1, 1), 252 * 127 * 4))
    monkeypatch.setattr(saturation, "saturates", lambda: False)
    assert saturation.exact(data) is data


def test_the_answer_is_kept() -> None:
    assert saturates() is saturates()
