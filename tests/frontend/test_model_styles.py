"""Models as exporters write them: old operator sets, ranks that only a constant tells, QONNX
operators between others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cimc import api
from cimc.oracle import compare, open_oracle, verdict

QONNX = "qonnx.custom_op.general"


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    dims: list[Any],
    out: list[Any] | None,
    consts: dict[str, Any],
    opset: int,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in consts.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(QONNX, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def same(path: Path, shape: tuple[int, ...]) -> api.Compiled:
    """Compile with every pass checked; the program must give the model's bits."""
    compiled = api.compile(path, pipeline="exact", check_each=True)
    feeds = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    expected = open_oracle(path, compiled.program)(feeds)
    assert verdict(compare(expected, compiled.run(feeds).outputs)) == "yes"
    return compiled


def layers(compiled: api.Compiled) -> list[str]:
    assert compiled.graph is not None
    return [n.op for n in compiled.graph.nodes if n.op in ("cim.conv", "cim.matmul")]


def bits(*shape: int) -> Any:
    return np.where(np.random.default_rng(1).random(shape) < 0.5, -1, 1).astype(np.float32)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_pad_of_operator_set_9(tmp_path: Path, value: float) -> None:
    nodes = [
        helper.make_node("Clip", ["x"], ["c"], min=-1.0, max=1.0),
        helper.make_node("Sign", ["c"], ["s"]),
        helper.make_node("Pad", ["s"], ["p"], pads=[0, 0, 1, 1, 0, 0, 1, 1], value=value),
        helper.make_node("Conv", ["p", "w"], ["y"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, [1, 2, 4, 4], [1, 3, 4, 4], {"w": bits(3, 2, 3, 3)}, 9)
    assert layers(same(path, (2, 2, 4, 4))) == ["cim.conv"]


def test_batch_axis_inside_a_reshape(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Sign", ["x"], ["s"]),
        helper.make_node("Shape", ["s"], ["dims"]),
        helper.make_node("Gather", ["dims", "first"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n"], ["n1"], axes=[0]),
        helper.make_node("Concat", ["n1", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["s", "shape"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["m"]),
        helper.make_node("Softmax", ["m"], ["y"], axis=1),
    ]
    consts = {"first": np.int64(0), "rest": np.asarray([-1]), "w": bits(8, 3)}
    path = save(tmp_path / "m.onnx", nodes, ["N", 2, 2, 2], ["N", 3], consts, 9)
    assert layers(same(path, (3, 2, 2, 2))) == ["cim.matmul"]


def test_multi_threshold_behind_a_product(tmp_path: Path) -> None:
    one = {"domain": QONNX, "out_scale": 2.0, "out_bias": -1.0}
    nodes = [
        helper.make_node("MultiThreshold", ["x", "t0"], ["a"], **one),
        helper.make_node("MatMul", ["a", "w0"], ["b"]),
        helper.make_node("MultiThreshold", ["b", "t1"], ["c"], **one),
        helper.make_node("MatMul", ["c", "w1"], ["y"]),
    ]
    consts = {
        "t0": np.zeros((1, 1), np.float32),
        "t1": np.asarray([[-2.5], [0.0], [3.0], [1.0]], np.float32),
        "w0": bits(8, 4),
        "w1": bits(4, 3),
    }
    path = save(tmp_path / "m.onnx", nodes, [1, 8], [1, 3], consts, 13)
    assert layers(same(path, (4, 8))) == ["cim.matmul", "cim.matmul"]


@pytest.mark.parametrize("group", ["DenseNet", "shuffle", "DoReFa"])
def test_bits_that_no_sign_marks(tmp_path: Path, group: str) -> None:
    heads = {
        "DenseNet": [
            helper.make_node("Concat", ["s", "t"], ["z"], axis=1),
        ],
        "shuffle": [
            helper.make_node("Concat", ["t", "s"], ["u"], axis=1),
            helper.make_node("Split", ["u"], ["a", "b"], axis=1),
            helper.make_node("Concat", ["b", "a"], ["z"], axis=1),
        ],
        "DoReFa": [
            helper.make_node("Concat", ["x", "y0"], ["u"], axis=1),
            helper.make_node("Clip", ["u", "zero", "one"], ["v"]),
            helper.make_node("Round", ["v"], ["z"]),
        ],
    }
    nodes = [
        helper.make_node("Sign", ["x"], ["s0"]),
        helper.make_node("Add", ["s0", "tenth"], ["s1"]),
        helper.make_node("Sign", ["s1"], ["s"]),
        helper.make_node("Conv", ["s", "w0"], ["y0"], pads=[1, 1, 1, 1]),
        helper.make_node("Sign", ["y0"], ["t"]),
        *heads[group],
        helper.make_node("Conv", ["z", "w1"], ["y"]),
    ]
    consts = {
        "w0": bits(2, 2, 3, 3), "w1": bits(3, 4, 1, 1), "tenth": np.float32(0.1),
        "zero": np.float32(0), "one": np.float32(1),
    }  # fmt: skip
    path = save(tmp_path / "m.onnx", nodes, [1, 2, 4, 4], [1, 3, 4, 4], consts, 12)
    assert layers(same(path, (2, 2, 4, 4))) == ["cim.conv", "cim.conv"]


def test_operator_without_inferred_rank_runs(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[0.5], scale=[2.0])
    ]
    path = save(tmp_path / "m.onnx", nodes, [1, 4], None, {}, 13)
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    onnx.save(model, path)
    same(path, (1, 4))
