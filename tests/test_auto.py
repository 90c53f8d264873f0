"""Pipeline `auto`, the whole way: the program gives the bits of the quantised ONNX model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import NodeProto, TensorProto, helper, numpy_helper

from cimc import api
from cimc.cli.main import cli
from cimc.frontend.session import call, open_session
from cimc.oracle import compare, open_oracle, verdict

SHARED = Path(__file__).resolve().parents[2] / "shared" / "models"
node = helper.make_node


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def save(
    path: Path, nodes: list[NodeProto], consts: dict[str, Any], x: tuple[int, ...], opset: int = 13
) -> Path:
    """A model of an input x and an output y."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *x[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in consts.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def assert_same(path: Path, folder: Path, x: Any, layers: int) -> api.Compiled:
    """Program, oracle and the model that `opt` writes give the same bits, sample by sample;
    that many layers are on tiles."""
    compiled = api.compile(path, pipeline="auto")
    name = str(compiled.program.inputs[0].input)
    found = compiled.run({name: x}).outputs
    assert verdict(compare(open_oracle(path, compiled.program)({name: x}), found)) == "yes"
    written = folder / "q.onnx"
    result = CliRunner().invoke(cli, ["opt", str(path), "-p", "auto", "-o", str(written)])
    assert result.exit_code == 0, result.output
    session = open_session(written.read_bytes(), "q.onnx")
    rows = [call(session, {name: x[k : k + 1]}, "q.onnx")[0] for k in range(len(x))]
    (output,) = found.values()
    np.testing.assert_array_equal(np.concatenate(rows), output)
    assert compiled.graph is not None
    on_tiles = [n for n in compiled.graph.nodes if n.op in ("cim.conv", "cim.matmul")]
    assert len(on_tiles) == layers
    return compiled


NETWORKS: dict[str, tuple[list[NodeProto], dict[str, Any], tuple[int, ...], int]] = {
    "convolutions": (
        [
            node("Conv", ["x", "w", "b"], ["a"], "first", pads=[1, 0, 0, 1], strides=[2, 1]),
            node("Relu", ["a"], ["r"], "relu"),
            node("Conv", ["r", "d"], ["c"], "depthwise", group=4, dilations=[2, 2]),
            node("GlobalAveragePool", ["c"], ["p"]),
            node("Flatten", ["p"], ["f"]),
            node("Gemm", ["f", "g", "gb"], ["s"], "scores", transB=1),
            node("Softmax", ["s"], ["y"]),
        ],
        {
            "w": normal(4, 3, 3, 3), "b": normal(4), "d": normal(4, 1, 2, 2),
            "g": normal(5, 4), "gb": normal(5),
        },
        (2, 3, 9, 8),
        3,
    ),
    "residual": (
        [
            node("Conv", ["x", "w"], ["a"], "left", auto_pad="SAME_UPPER"),
            node("Conv", ["x", "v"], ["c"], "right"),
            node("Add", ["a", "c"], ["y"]),
        ],
        {"w": normal(4, 3, 3, 3), "v": normal(4, 3, 1, 1)},
        (2, 3, 5, 5),
        2,
    ),
    "sequences": (
        [
            node("MatMul", ["x", "w"], ["a"], "rows"),
            node("Tanh", ["a"], ["t"]),
            node("MatMul", ["v", "t"], ["y"], "columns"),
        ],
        {"w": normal(5, 7), "v": normal(3, 4)},
        (2, 4, 5),
        2,
    ),
    "transposed": (
        [
            node("ConvTranspose", ["x", "w", "b"], ["a"], "up", strides=[2, 3], pads=[1, 0, 0, 1],
                 output_padding=[1, 2]),
            node("ConvTranspose", ["a", "v"], ["y"], "groups", group=2, strides=[1, 2]),
        ],
        {"w": normal(3, 4, 3, 3), "b": normal(4), "v": normal(4, 2, 2, 2)},
        (2, 3, 4, 3),
        2,
    ),
    "gemm in its own way": (
        [node("Gemm", ["x", "w", "c"], ["y"], "fc", transB=1, alpha=0.7, beta=1.3)],
        {"w": normal(5, 6), "c": normal(5)},
        (3, 6),
        1,
    ),
    "binary among floats": (
        [
            node("MatMul", ["x", "w"], ["a"], "float"),
            node("Sign", ["a"], ["s"]),
            node("MatMul", ["s", "v"], ["y"], "binary"),
        ],
        {"w": normal(6, 8), "v": np.float32(0.3) * np.sign(normal(8, 5, seed=1))},
        (3, 6),
        2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str, tmp_path: Path) -> None:
    nodes, consts, shape, layers = NETWORKS[name]
    path = save(tmp_path / "m.onnx", nodes, consts, shape)
    assert_same(path, tmp_path, normal(*shape, seed=7), layers)


def test_constant_inputs(tmp_path: Path) -> None:
    """All zeros and all ones: the scale of zeros, and the largest zero point."""
    path = save(tmp_path / "m.onnx", [node("MatMul", ["x", "w"], ["y"])], {"w": normal(4, 3)},
                (1, 4))  # fmt: skip
    x = np.array([[0, 0, 0, 0], [1, 1, 1, 1], [-1, -1, -1, -1], [1e-40, 0, 0, 0]], np.float32)
    assert_same(path, tmp_path, x, 1)


@pytest.mark.parametrize(
    ("name", "layers"), [("onnxzoo_mnist-8", 3), ("st_mobilenet_v2_035_128", 53)]
)
def test_real_models(name: str, layers: int, tmp_path: Path) -> None:
    path = SHARED / f"{name}.onnx"
    if not path.exists():
        pytest.skip("../shared/models is not there")
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    x = normal(1, *(d.dim_value for d in list(dims)[1:]), seed=2)
    assert_same(path, tmp_path, x, layers)


def test_default_and_what_is_said(tmp_path: Path) -> None:
    """Without -p: one line says what is approximated, one how far the model is off."""
    path = save(tmp_path / "m.onnx", [node("MatMul", ["x", "w"], ["y"], "fc")],
                {"w": normal(6, 4)}, (1, 6))  # fmt: skip
    program = tmp_path / "m.cim"
    lines = CliRunner().invoke(cli, ["compile", str(path), "-o", str(program)]).output.split("\n")
    assert lines[0] == (
        "quantize-dynamic: 1 layer to dynamic int8: activations per tensor at run time, "
        "weights int8 per tensor"
    )
    assert lines[1].endswith("pipeline auto")
    shown = CliRunner().invoke(cli, ["check", str(path), str(program)]).output.strip().split("\n")
    assert shown[-2].startswith("off the model as it was before quantize-dynamic: at most 0.")
    assert shown[-1] == "bit-exact: yes"
