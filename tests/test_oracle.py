"""The oracle takes the form that a program's pipeline gives the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cimc.driver.base import PassContext
from cimc.driver.pipeline import parse_pipeline
from cimc.driver.registry import load_registry
from cimc.driver.runner import run_passes
from cimc.errors import CompileError
from cimc.frontend.evaluate import Evaluator
from cimc.frontend.importer import import_onnx
from cimc.isa.program import Mem, Program, TargetLine
from cimc.oracle import off, open_model, open_oracle

node = helper.make_node
TARGET = TargetLine("ideal", 256, 128, 1, ("and", "nand", "or", "xor"), 32)
QONNX = "qonnx.custom_op.general"
RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 6)).astype(np.float32)
FLOATS = RNG.standard_normal((6, 4)).astype(np.float32)
BITS = np.where(RNG.random((6, 4)) < 0.5, -1, 1).astype(np.float32)


def save(path: Path, nodes: list[onnx.NodeProto], w: Any) -> Path:
    """A model of an input x [N, 6] and an output y [N, 4], with weights w."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [
            numpy_helper.from_array(np.asarray(w, np.float32), "w"),
            numpy_helper.from_array(np.float32(0.5), "half"),
            numpy_helper.from_array(np.float32(0.0), "zero"),
            numpy_helper.from_array(np.float32(4.0), "bits"),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(QONNX, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def float_model(folder: Path) -> Path:
    return save(folder / "m.onnx", [node("MatMul", ["x", "w"], ["y"], "fc")], FLOATS)


def binary_model(folder: Path, alpha: float) -> Path:
    nodes = [node("Sign", ["x"], ["s"]), node("MatMul", ["s", "w"], ["y"], "fc")]
    return save(folder / "m.onnx", nodes, alpha * BITS)


def program(pipeline: str) -> Program:
    """One without instructions: its header and interface are all that counts here."""
    mems: list[Any] = [
        Mem("x", "f32", (1, 6), input="x", batch=0),
        Mem("y", "f32", (1, 4), output="y", batch=0),
    ]
    return Program(TARGET, pipeline, mems, [], [])


def expected(path: Path, spec: str) -> Any:
    graph = import_onnx(path)
    run_passes(graph, parse_pipeline(spec, load_registry()), PassContext())
    evaluate = Evaluator(graph)
    return np.concatenate([evaluate({"x": row[None]})["y"] for row in X])


@pytest.mark.parametrize("pipeline", ["exact", "", "cleanup"])
def test_exact_pipelines_leave_the_model(tmp_path: Path, pipeline: str) -> None:
    path = float_model(tmp_path)
    oracle = open_oracle(path, program(pipeline))
    assert not oracle.after
    np.testing.assert_array_equal(oracle({"x": X})["y"], expected(path, ""))


def test_float_layers(tmp_path: Path) -> None:
    path = float_model(tmp_path)
    oracle = open_oracle(path, program("auto"))
    assert oracle.after == "quantize-dynamic"
    found = oracle({"x": X})
    np.testing.assert_array_equal(found["y"], expected(path, "cleanup,quantize-dynamic"))
    model = open_model(path, program("auto"))
    np.testing.assert_array_equal(model({"x": X})["y"], expected(path, ""))
    assert off(model, {"x": X}, found).startswith("at most 0.")
    assert off(model, {"x": X}, model({"x": X})) == "nothing"


def test_binary_layers(tmp_path: Path) -> None:
    """What is exact is held against the model itself, in `auto` too."""
    path = binary_model(tmp_path, 0.5)
    oracle = open_oracle(path, program("auto"))
    assert not oracle.after
    np.testing.assert_array_equal(oracle({"x": X})["y"], expected(path, ""))


def test_layers_that_round(tmp_path: Path) -> None:
    path = binary_model(tmp_path, 0.3)
    oracle = open_oracle(path, program("auto"))
    assert oracle.after == "recognise-layers"
    np.testing.assert_array_equal(
        oracle({"x": X})["y"], expected(path, "cleanup,quantize-dynamic,recognise-any-alpha")
    )


def test_qonnx_operators_by_definition(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["a"], "fc"),
        node("Quant", ["a", "half", "zero", "bits"], ["y"], domain=QONNX),
    ]
    path = save(tmp_path / "m.onnx", nodes, FLOATS)
    oracle = open_oracle(path, program("auto"))
    assert oracle.after == "quantize-dynamic"
    np.testing.assert_array_equal(oracle({"x": X})["y"], expected(path, "quantize-dynamic"))


def test_graphs_in_text(tmp_path: Path) -> None:
    path = tmp_path / "g.cimir"
    path.write_text(
        "graph @g(%x: f32[N,6]) -> (%y) {\n  const %w: f32[6,4] = random seed=1\n"
        "  %y = onnx.MatMul(%x, %w): f32[N,4]\n}\n"
    )
    exact, auto = (open_oracle(path, program(p))({"x": X})["y"] for p in ("exact", "auto"))
    assert 0 < np.abs(exact - auto).max() < 0.2


PLUGIN = """
from dataclasses import dataclass
from cimc.driver import Pass
from cimc.ir.graph import Node, Value

@dataclass(frozen=True)
class Double(Pass):
    name = "double"
    summary = "double the output"
    kind = "approximate"

    def run(self, graph, ctx):
        (y,) = graph.outputs
        twice = Value(graph.fresh("twice"), y.type)
        graph.nodes.append(Node("onnx.Add", [y, y], [twice]))
        graph.outputs[:] = [twice]
        return True
"""


def test_passes_of_a_plugin(tmp_path: Path) -> None:
    plugin = tmp_path / "double.py"
    plugin.write_text(PLUGIN)
    path = float_model(tmp_path)
    assert open_oracle(path, program("cleanup,double")).unknown == ("double",)
    oracle = open_oracle(path, program("cleanup,double"), load_registry([plugin]))
    assert oracle.after == "double"
    np.testing.assert_array_equal(oracle({"x": X})["y"], 2 * expected(path, ""))


@pytest.mark.parametrize("pipeline", ["exact", "auto"])
def test_another_model(tmp_path: Path, pipeline: str) -> None:
    other = program(pipeline)
    other.decls[0] = Mem("z", "f32", (1, 6), input="z", batch=0)
    with pytest.raises(CompileError, match="the model takes 'x', the program takes 'z'"):
        open_oracle(float_model(tmp_path), other)
