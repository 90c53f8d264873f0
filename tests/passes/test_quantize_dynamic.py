"""quantize-dynamic against onnxruntime's own quantize_dynamic, and against float for the layers
that that leaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cimc.passes.quantize_dynamic import quantised
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.quant_utils import quantize_data

from cimc.driver.base import PassContext
from cimc.driver.pipeline import parse_pipeline
from cimc.driver.registry import load_registry
from cimc.driver.runner import run_passes
from cimc.frontend.export import to_onnx
from cimc.frontend.importer import import_model
from cimc.ir.graph import Graph

SHARED = Path(__file__).resolve().parents[3] / "shared" / "models"
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
node = helper.make_node


def model(
    nodes: list[NodeProto],
    consts: dict[str, Any],
    opset: int = 17,
    x: Sequence[Any] = ("N", 4, 7, 7),
    elem: int = TensorProto.FLOAT,
) -> ModelProto:
    """A model of one input `x` and one output `y`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", elem, list(x))],
        [helper.make_tensor_value_info("y", elem, None)],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in consts.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    found = helper.make_model(graph, opset_imports=imports, ir_version=8)
    return onnx.shape_inference.infer_shapes(found)


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def quantise(proto: ModelProto, spec: str = "cleanup,quantize-dynamic") -> tuple[Graph, list[str]]:
    """The graph after the passes, and their notes."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    graph, ctx = import_model(copy, "test"), PassContext()
    run_passes(graph, parse_pipeline(spec, load_registry()), ctx)
    return graph, ctx.notes


def run(proto: ModelProto, x: Any) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def reference(proto: ModelProto, folder: Path) -> ModelProto:
    quantize_dynamic(
        proto,
        folder / "quantised.onnx",
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        weight_type=QuantType.QInt8,
        per_channel=False,
        reduce_range=False,
    )
    return onnx.load(folder / "quantised.onnx")


def int8_weights(proto: ModelProto) -> dict[bytes, Any]:
    """Int8 constants of more than one element."""
    found = [numpy_helper.to_array(t) for t in proto.graph.initializer]
    return {a.tobytes(): a.shape for a in found if a.dtype == np.int8 and a.size > 1}


def scales(proto: ModelProto) -> set[float]:
    """The constant factors of the products of two scales."""
    consts = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    factors = [n.input[1] for n in proto.graph.node if n.op_type == "Mul"]
    return {float(consts[f]) for f in factors if f in consts and consts[f].ndim == 0}


def assert_recipe(proto: ModelProto, x: Any, folder: Path) -> None:
    """Equal weights, scales and output bits."""
    expected, found = reference(proto, folder), to_onnx(quantise(proto)[0])
    assert int8_weights(found) == int8_weights(expected)
    assert scales(found) == scales(expected)
    a, b = run(expected, x), run(found, x)
    assert a.dtype == b.dtype == np.float32
    np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))


CONVS: dict[str, tuple[list[NodeProto], dict[str, Any]]] = {
    "bias, pads, strides": (
        [node("Conv", ["x", "w", "b"], ["y"], "conv", pads=[1, 0, 2, 1], strides=[2, 1])],
        {"w": normal(5, 4, 3, 3), "b": normal(5)},
    ),
    "groups, dilations": (
        [node("Conv", ["x", "w"], ["y"], "conv", group=2, dilations=[2, 2])],
        {"w": normal(6, 2, 3, 3)},
    ),
    "auto_pad": (
        [node("Conv", ["x", "w", "b"], ["y"], auto_pad="SAME_LOWER", strides=[2, 2])],
        {"w": normal(3, 4, 2, 2), "b": normal(3)},
    ),
    "one input of two layers": (
        [
            node("Conv", ["x", "w"], ["a"], "left"),
            node("Conv", ["x", "v"], ["b"], "right"),
            node("Add", ["a", "b"], ["y"]),
        ],
        {"w": normal(3, 4, 3, 3), "v": normal(3, 4, 3, 3, seed=1)},
    ),
    "weights of two layers": (
        [
            node("Conv", ["x", "w", "b"], ["a"], "first", pads=[1, 1, 1, 1]),
            node("Relu", ["a"], ["r"]),
            node("Conv", ["r", "w"], ["y"], "second"),
        ],
        {"w": normal(4, 4, 3, 3), "b": normal(4)},
    ),
    "zeros": ([node("Conv", ["x", "w"], ["y"])], {"w": np.zeros((2, 4, 3, 3), np.float32)}),
    "denormal": (
        [node("Conv", ["x", "w"], ["y"])],
        {"w": np.full((2, 4, 1, 1), 1e-40, np.float32)},
    ),
    "huge": ([node("Conv", ["x", "w"], ["y"])], {"w": np.full((2, 4, 1, 1), 3e38, np.float32)}),
    "all parts": (
        [
            node("Conv", ["x", "w", "b"], ["a"], "conv"),
            node("BatchNormalization", ["a", "s", "b", "m", "v"], ["n"], "bn"),
            node("Clip", ["n", "low", "high"], ["c"]),
            node("Flatten", ["c"], ["f"]),
            node("Gemm", ["f", "g", "gb"], ["h"], "gemm", transB=1),
            node("Gemm", ["h", "k"], ["i"], "gemm2"),
            node("MatMul", ["i", "u"], ["o"], "matmul"),
            node("Softmax", ["o"], ["y"]),
        ],
        {
            "w": normal(5, 4, 3, 3), "b": normal(5), "s": normal(5, seed=2), "m": normal(5, seed=3),
            "v": np.ones(5, np.float32), "low": np.float32(0), "high": np.float32(6),
            "g": normal(8, 125), "gb": normal(8), "k": normal(8, 6), "u": normal(6, 3),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
@pytest.mark.parametrize("name", CONVS)
def test_recipe(name: str, opset: int, tmp_path: Path) -> None:
    assert_recipe(model(*CONVS[name], opset), normal(2, 4, 7, 7, seed=9), tmp_path)


@pytest.mark.parametrize("rank", [1, 3])
def test_recipe_of_other_ranks(rank: int, tmp_path: Path) -> None:
    proto = model([node("Conv", ["x", "w"], ["y"])], {"w": normal(3, 2, *(2,) * rank)},
                  x=["N", 2, *(5,) * rank])  # fmt: skip
    assert_recipe(proto, normal(1, 2, *(5,) * rank), tmp_path)


DENSE: dict[str, tuple[NodeProto, dict[str, Any], tuple[int, ...]]] = {
    "matmul": (node("MatMul", ["x", "w"], ["y"], "m"), {"w": normal(6, 4)}, (2, 3, 6)),
    "matmul of a vector": (node("MatMul", ["x", "w"], ["y"], "m"), {"w": normal(6, 4)}, (6,)),
    "stacks": (node("MatMul", ["x", "w"], ["y"], "m"), {"w": normal(2, 6, 4)}, (2, 3, 6)),
    "gemm": (node("Gemm", ["x", "w", "c"], ["y"], "m"), {"w": normal(6, 4), "c": normal(4)},
             (3, 6)),
    "scalar bias": (node("Gemm", ["x", "w", "c"], ["y"], "m", transB=1),
                    {"w": normal(4, 6), "c": np.float32(0.3)}, (3, 6)),
}  # fmt: skip


@pytest.mark.parametrize("name", DENSE)
def test_recipe_of_dense_layers(name: str, tmp_path: Path) -> None:
    layer, consts, shape = DENSE[name]
    proto = model([layer], consts, x=shape)
    assert_recipe(proto, normal(*shape, seed=5), tmp_path)


def reshaped(proto: ModelProto) -> ModelProto:
    """The model with reshaped constants in the place of the reshapes."""
    known = {t.name: t for t in proto.graph.initializer}
    for op in [n for n in proto.graph.node if n.op_type == "Reshape" and n.input[0] in known]:
        array, shape = (numpy_helper.to_array(known[name]) for name in op.input)
        proto.graph.initializer.append(numpy_helper.from_array(array.reshape(shape), op.output[0]))
        proto.graph.node.remove(op)
    return proto


@pytest.mark.parametrize("name", ["onnxzoo_mnist-8", "st_mobilenet_v2_035_128"])
def test_recipe_of_real_models(name: str, tmp_path: Path) -> None:
    """The first has operator set 8, which onnxruntime raises to 11, with the same kernels; and a
    reshape of a constant, which has to be folded for it to see the weights."""
    path = SHARED / f"{name}.onnx"
    if not path.exists():
        pytest.skip("../shared/models is not there")
    proto = reshaped(to_onnx(quantise(onnx.load(path), "cleanup")[0]))
    dims = [d.dim_value or 1 for d in proto.graph.input[0].type.tensor_type.shape.dim]
    assert_recipe(proto, normal(*dims), tmp_path)


@given(
    arrays(
        np.float32,
        st.integers(1, 20),
        elements=st.floats(-(2.0**127), 2.0**127, width=32),
    )
)
def test_numbers(w: Any) -> None:
    """Weights and scale of any finite array."""
    zero, scale, levels = quantize_data(w, TensorProto.INT8, True)
    found = quantised(w)
    assert zero == 0
    np.testing.assert_array_equal(found[0], levels)
    assert found[1].dtype == scale.dtype or scale == 1
    assert found[1] == scale


def integers(*shape: int, most: int = 127, least: int = -127) -> Any:
    """Random integers as float32, the extremes among them: int8 with a scale of 1."""
    x = np.random.default_rng(sum(shape)).integers(least, most + 1, shape)
    flat = x.reshape(-1)
    flat[0], flat[-1] = least, most
    return x.astype(np.float32)


def assert_exact(proto: ModelProto, x: Any) -> Graph:
    """The only layer becomes integers; on integers that int8 holds it then gives what it gave."""
    graph, notes = quantise(proto)
    assert notes[0].startswith("quantize-dynamic: 1 layer to dynamic int8: ")
    assert not [n for n in graph.nodes if n.op.split(".")[1] in LAYERS]
    np.testing.assert_array_equal(run(to_onnx(graph), x), run(proto, x))
    return graph


SIGNED = {"most": 127, "least": -128}
TRANSPOSED: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "plain": ({}, (3, 2, 3, 3)),
    "strides": ({"strides": [2, 3]}, (3, 2, 3, 3)),
    "pads": ({"strides": [2, 2], "pads": [1, 0, 0, 1]}, (3, 2, 3, 3)),
    "output_padding": ({"strides": [3, 2], "output_padding": [2, 1]}, (3, 2, 2, 3)),
    "output_padding, pads": (
        {"strides": [2, 2], "output_padding": [1, 1], "pads": [1, 1, 1, 1]},
        (3, 2, 3, 3),
    ),
    "dilations": ({"strides": [2, 1], "dilations": [2, 3]}, (3, 2, 2, 2)),
    "kernel below stride": ({"strides": [3, 2]}, (3, 2, 1, 1)),
    "pads beyond the kernel": ({"strides": [2, 2], "pads": [2, 1, 1, 3]}, (3, 2, 1, 2)),
    "same upper": ({"strides": [2, 2], "auto_pad": "SAME_UPPER"}, (3, 2, 3, 3)),
    "same lower": ({"strides": [2, 2], "auto_pad": "SAME_LOWER"}, (3, 2, 3, 3)),
    "same, kernel below stride": ({"strides": [3, 3], "auto_pad": "SAME_UPPER"}, (3, 2, 2, 2)),
    "valid": ({"strides": [2, 2], "auto_pad": "VALID"}, (3, 2, 3, 3)),
    "output_shape": ({"strides": [2, 2], "output_shape": [8, 10]}, (3, 2, 3, 3)),
    "output_shape, upper": (
        {"strides": [2, 2], "output_shape": [8, 8], "auto_pad": "SAME_UPPER"},
        (3, 2, 3, 3),
    ),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", TRANSPOSED)
def test_conv_transpose(name: str, bias: bool) -> None:
    """5. ConvTranspose, 2-D."""
    attrs, shape = TRANSPOSED[name]
    inputs = ["x", "w", "b"] if bias else ["x", "w"]
    consts = {"w": integers(*shape), "b": integers(shape[1])}
    layer = node("ConvTranspose", inputs, ["y"], "up", **attrs)
    proto = model([layer], {k: v for k, v in consts.items() if k in inputs}, x=[1, 3, 4, 5])
    graph = assert_exact(proto, integers(1, 3, 4, 5, **SIGNED))
    assert [n.source for n in graph.nodes if n.op == "cim.conv"] == ["up"]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv_transpose_of_groups(rank: int) -> None:
    size = (5, 4, 3)[:rank]
    consts = {"w": integers(4, 3, *(2,) * rank), "b": integers(6)}
    layer = node("ConvTranspose", ["x", "w", "b"], ["y"], group=2, strides=[2] * rank)
    proto = model([layer], consts, x=[2, 4, *size])
    assert_exact(proto, integers(2, 4, *size, **SIGNED))


@pytest.mark.parametrize("shape", [(4, 5), (2, 4, 5), (2, 3, 4, 5), (4,)])
def test_weights_on_the_left(shape: tuple[int, ...]) -> None:
    """4. MatMul(w, x)"""
    proto = model([node("MatMul", ["w", "x"], ["y"])], {"w": integers(3, 4)}, x=shape)
    assert_exact(proto, integers(*shape, **SIGNED))


@pytest.mark.parametrize("turn", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_gemm_in_every_way(side: str, turn: tuple[int, int]) -> None:
    """3 and 4. transA, transB, alpha and beta, which is applied to constants beforehand."""
    m, k, n = 3, 4, 5
    a, b = (k, m) if turn[0] else (m, k), (n, k) if turn[1] else (k, n)
    names, x = (["w", "x"], b) if side == "left" else (["x", "w"], a)
    # alpha * w is what becomes int8
    consts = {"w": integers(*(a if side == "left" else b)) / 2, "c": integers(m, n)}
    layer = node("Gemm", [*names, "c"], ["y"], transA=turn[0], transB=turn[1], alpha=2.0, beta=0.5)
    proto = model([layer], consts, x=x)
    assert_exact(proto, integers(*x, **SIGNED))


def test_gemm_without_a_share_of_its_bias() -> None:
    layer = node("Gemm", ["x", "w", "c"], ["y"], beta=0.0)
    proto = model([layer], {"w": integers(6, 4), "c": normal(4)}, x=(2, 6))
    graph = assert_exact(proto, integers(2, 6, **SIGNED))
    assert not [n for n in graph.nodes if n.op == "onnx.Add"]


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_bias_known_at_run_time_only(op: str) -> None:
    nodes = [
        node("Flatten", ["x"], ["f"], axis=0),
        node("Gather", ["f", "i"], ["g"], axis=1),
        node("Squeeze", ["g", "axes"], ["b"]),
        node(op, ["x", "w", "b"], ["y"], "conv"),
    ]
    consts = {"w": integers(3, 3, 2, 2), "i": np.array([0, 1, 2]), "axes": np.array([0])}
    assert_exact(model(nodes, consts, x=(1, 3, 4, 4)), integers(1, 3, 4, 4, **SIGNED))


def test_weights_behind_a_quantiser() -> None:
    """A layer with stored int8 weights and a float input."""
    nodes = [
        node("DequantizeLinear", ["w", "s"], ["d"]),
        node("Conv", ["x", "d"], ["y"], "conv"),
    ]
    weights = integers(3, 4, 3, 3).astype(np.int8)
    proto = model(nodes, {"w": weights, "s": np.float32(1.0)}, x=(1, 4, 7, 7))
    graph = assert_exact(proto, integers(1, 4, 7, 7, **SIGNED))
    assert [v for v in graph.consts if np.array_equal(v.const, weights)]


# -- what stays ------------------------------------------------------------------------


def why(proto: ModelProto, spec: str = "cleanup,quantize-dynamic") -> str | None:
    """Why the last layer stays; the graph computes what it computed."""
    graph, notes = quantise(proto, spec)
    assert not notes
    return next(n.why for n in reversed(graph.nodes) if n.op.split(".")[1] in (*LAYERS, "LSTM",
                "If"))  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "consts", "text"),
    [
        ([node("MatMul", ["x", "x"], ["y"])], {}, "its weights are known at run time only"),
        (
            [node("MatMul", ["x", "w"], ["y"])],
            {"w": np.full((4, 2), np.inf, np.float32)},
            "its weights hold infinity or NaN",
        ),
        (
            [node("MatMul", ["w", "x"], ["y"])],
            {"w": normal(2, 3, 4)},
            "its weights on the left side are no matrix",
        ),
        (
            [node("MatMul", ["x", "w"], ["y"])],
            {"w": np.zeros((4, 0), np.float32)},
            "its weights are empty",
        ),
    ],
)
def test_left_in_float(nodes: list[NodeProto], consts: dict[str, Any], text: str) -> None:
    assert why(model(nodes, consts, x=(4, 4))) == text


@pytest.mark.parametrize(("dtype", "elem"), [(np.float16, "f16"), (np.float64, "f64")])
def test_other_floats_stay(dtype: Any, elem: str) -> None:
    onnx_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    proto = model([node("MatMul", ["x", "w"], ["y"])], {"w": normal(4, 4).astype(dtype)},
                  x=(4, 4), elem=onnx_type)  # fmt: skip
    assert why(proto) == f"it is in {elem}: dynamic int8 takes float32"


def test_recurrent_cells_stay() -> None:
    layer = node("LSTM", ["x", "w", "r"], ["y"], "cell", hidden_size=3)
    proto = model([layer], {"w": normal(1, 12, 4), "r": normal(1, 12, 3)}, x=(5, 1, 4))
    assert why(proto) == "recurrent cells stay on the host"


def test_layers_inside_control_flow_stay() -> None:
    branch = helper.make_graph(
        [node("MatMul", ["x", "w"], ["out"])],
        "branch",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
    )
    proto = model([node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
                  {"c": np.array(True), "w": normal(4, 4)}, x=(4, 4))  # fmt: skip
    assert why(proto, "quantize-dynamic") == "layers inside control flow stay on the host"


def test_binary_layers_are_set_aside() -> None:
    """6. of three layers, the binary one and the one that recognition alone can take stay."""
    rng = np.random.default_rng(3)
    bits = [np.where(rng.random((6, 6)) < 0.5, -1, 1).astype(np.float32) for _ in range(2)]
    nodes = [
        node("MatMul", ["x", "w"], ["a"], "float"),
        node("Sign", ["a"], ["s"]),
        node("MatMul", ["s", "b0"], ["t"], "ternary"),
        node("Sign", ["t"], ["u"]),
        node("MatMul", ["u", "b1"], ["y"], "last"),
    ]
    proto = model(nodes, {"w": normal(6, 6), "b0": bits[0], "b1": bits[1]}, x=(2, 6))
    graph, notes = quantise(proto)
    assert [n.source for n in graph.nodes if n.op == "onnx.MatMul"] == ["ternary", "last"]
    assert notes[0].startswith("quantize-dynamic: 1 layer ")
    layers = [n for n in quantise(proto, "auto")[0].nodes if n.op == "cim.matmul"]
    assert [n.source for n in layers][-2:] == ["ternary", "last"]


# -- operator sets ---------------------------------------------------------------------


def test_old_operator_set() -> None:
    """7. An operator set before 11 is really converted."""
    nodes = [
        node("Conv", ["x", "w"], ["a"], "conv"),
        node("Clip", ["a"], ["c"], "clip", min=-1.0, max=1.0),
        node("Squeeze", ["c"], ["y"], "squeeze", axes=[0]),
    ]
    proto = model(nodes, {"w": normal(3, 4, 3, 3)}, 9, x=(1, 4, 7, 7))
    graph, notes = quantise(proto)
    assert notes[0].endswith("; operator set 9 converted to 13")
    assert graph.opsets["onnx"] == 13
    assert [n.source for n in graph.nodes if n.op == "onnx.ConvInteger"] == ["conv"]
    x = normal(1, 4, 7, 7)
    np.testing.assert_allclose(run(to_onnx(graph), x), run(proto, x), atol=0.15)


def test_old_operator_set_without_float_layers_stays() -> None:
    proto = model([node("Relu", ["x"], ["y"])], {}, 9)
    assert quantise(proto)[0].opsets["onnx"] == 9


def test_operator_set_that_can_not_be_converted() -> None:
    """Upsample has a run-time operand that Resize takes in another form."""
    nodes = [
        node("Conv", ["x", "w"], ["a"], "conv"),
        node("Upsample", ["a", "s"], ["y"], mode="linear"),
    ]
    consts = {"w": normal(3, 4, 3, 3), "s": np.array([1, 1, 2, 2], np.float32)}
    proto = model(nodes, consts, 9, x=(1, 4, 7, 7))
    text = str(why(proto))
    assert text.startswith("operator set 9 can't be converted")
