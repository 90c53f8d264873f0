"""Models of every shape, hand-made: import, text, export, program all give the source's outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, defs, helper, numpy_helper
from onnx_cases import BOOL, F32, I64, graph, model, node, run, same, through

from cimc.errors import CompileError
from cimc.frontend.elements import elem_of
from cimc.frontend.export import to_onnx
from cimc.frontend.importer import import_model, import_onnx
from cimc.ir.printer import print_graph
from cimc.ir.text import parse_graph

X = np.array([[1.5, -2.0], [0.0, 3.25]], np.float32)


# -- element types --

RUNTIME_TYPES = ["FLOAT", "UINT8", "INT8", "UINT16", "INT16", "INT32", "INT64", "STRING", "BOOL",
                 "FLOAT16", "DOUBLE", "UINT32", "UINT64", "BFLOAT16"]  # fmt: skip


@pytest.mark.parametrize("name", RUNTIME_TYPES)
def test_element_types(name: str, tmp_path: Path) -> None:
    """As a constant and a result, through an operator that takes them all."""
    code = getattr(TensorProto, name)
    if name == "STRING":
        tensor = helper.make_tensor("c", code, [3], [b"a", b'"\n', "ä€".encode()])
    else:
        tensor = helper.make_tensor("c", code, [3], [0, 1, 1])
    proto = graph([node("Gather", ["c", "i"], ["y"])], [("i", I64, [2])], [("y", code, [2])])
    proto.initializer.append(tensor)
    if name == "BFLOAT16":  # numpy in onnxruntime has none
        proto.node[0].output[0] = "b"
        proto.node.append(node("Cast", ["b"], ["y"], to=F32))
        proto.output[0].type.tensor_type.elem_type = F32
    through(model(proto), {"i": np.array([2, 0])}, tmp_path)


@pytest.mark.parametrize(
    "code", [c for c in TensorProto.DataType.values() if elem_of(c) is not None]
)
def test_every_element_type_survives_text_and_export(code: int) -> None:
    """Also those that onnxruntime can't run: as a constant in the graph."""
    values: list[Any] = [0, 1, 1]
    if code == TensorProto.STRING:
        values = [b"0", b"1", b"1"]
    tensor = helper.make_tensor("c", code, [3], values)
    array = numpy_helper.to_array(tensor)
    proto = graph([node("Relu", ["x"], ["y"])], [("x", F32, [1])], [("y", F32, [1])])
    proto.initializer.append(tensor)
    try:
        found = import_model(model(proto, opset=24), "m.onnx")
    except CompileError as error:
        pytest.skip(f"onnxruntime doesn't take it: {str(error)[:100]}")
    again = parse_graph(print_graph(found))
    (back,) = to_onnx(again).graph.initializer
    assert back.data_type == code
    found_array = numpy_helper.to_array(back)
    if code == TensorProto.STRING:
        assert [bytes(v) if isinstance(v, bytes) else v.encode() for v in found_array] == values
    else:
        assert found_array.tobytes() == array.tobytes()


# -- operands and results --


def test_missing_operands_and_results(tmp_path: Path) -> None:
    nodes = [
        node("Clip", ["x", "", "high"], ["c"], "clip"),
        node("LSTM", ["s", "w", "r", "", "", "h0"], ["", "", "cell"], "lstm", hidden_size=2),
    ]
    rng = np.random.default_rng(0)
    consts = {
        "high": np.float32(1.0),
        "w": rng.standard_normal((1, 8, 2)).astype("f"),
        "r": rng.standard_normal((1, 8, 2)).astype("f"),
    }  # fmt: skip
    inputs = [("x", F32, [2, 2]), ("s", F32, [3, 1, 2]), ("h0", F32, [1, 1, 2])]
    proto = graph(nodes, inputs, [("c", F32, [2, 2]), ("cell", F32, [1, 1, 2])], consts)
    feeds = {"x": X, "s": rng.standard_normal((3, 1, 2)).astype("f"),
             "h0": rng.standard_normal((1, 1, 2)).astype("f")}  # fmt: skip
    through(model(proto), feeds, tmp_path)


def test_initialisers_that_are_inputs(tmp_path: Path) -> None:
    """As IR version 3 wrote them: constants all the same, no inputs of the graph."""
    proto = graph([node("Add", ["x", "c"], ["y"])], [("x", F32, [2, 2]), ("c", F32, [2])],
                  [("y", F32, [2, 2])], {"c": np.ones(2, "f")})  # fmt: skip
    built = model(proto, opset=8)
    built.ir_version = 3
    through(built, {"x": X}, tmp_path)
    assert import_onnx(tmp_path / "case.onnx").input_names == ["x"]


def test_old_models_with_new_initialisers(tmp_path: Path) -> None:
    """onnxruntime's quantizer adds initialisers that are no inputs, whatever the IR version."""
    proto = graph([node("Add", ["x", "c"], ["y"])], [("x", F32, [2, 2])], [("y", F32, [2, 2])],
                  {"c": X})  # fmt: skip
    built = model(proto, opset=8)
    built.ir_version = 3
    through(built, {"x": X}, tmp_path)


def test_input_constant_and_repeated_outputs(tmp_path: Path) -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("Identity", ["r"], ["again"])]
    outputs = [("r", F32, [2, 2]), ("again", F32, [2, 2]), ("c", F32, [2])]
    proto = graph(nodes, [("x", F32, [2, 2])], outputs, {"c": np.ones(2, "f")})
    through(model(proto), {"x": X}, tmp_path)


def test_outputs_without_shape_or_type(tmp_path: Path) -> None:
    proto = graph([node("Relu", ["x"], ["y"]), node("Neg", ["y"], ["z"])], [("x", F32, [2, 2])],
                  [("y", F32, None), ("z", F32, None)])  # fmt: skip
    proto.output[1].ClearField("type")
    through(model(proto), {"x": X}, tmp_path)


def test_an_input_as_output(tmp_path: Path) -> None:
    proto = graph([node("Relu", ["x"], ["y"])], [("x", F32, [2, 2])],
                  [("y", F32, [2, 2]), ("x", F32, [2, 2])])  # fmt: skip
    through(model(proto), {"x": X}, tmp_path)


def test_no_inputs(tmp_path: Path) -> None:
    proto = graph([node("Neg", ["c"], ["y"])], [], [("y", F32, [2])], {"c": np.ones(2, "f")})
    through(model(proto), {}, tmp_path)


def test_zero_size_tensors(tmp_path: Path) -> None:
    proto = graph([node("Concat", ["x", "c"], ["y"], axis=0), node("MatMul", ["e", "w"], ["z"])],
                  [("x", F32, [2, 2]), ("e", F32, [2, 0])],
                  [("y", F32, [2, 2]), ("z", F32, [2, 3])],
                  {"c": np.zeros((0, 2), "f"), "w": np.zeros((0, 3), "f")})  # fmt: skip
    through(model(proto), {"x": X, "e": np.zeros((2, 0), "f")}, tmp_path)


# -- nested graphs --


def test_if_with_captures(tmp_path: Path) -> None:
    then = graph([node("Mul", ["r", "c"], ["t"])], [], [("t", F32, [2, 2])])
    other = graph([node("Add", ["x", "d"], ["t2"])], [], [("t2", F32, [2, 2])],
                  {"d": np.full(2, 7, "f")})  # fmt: skip
    nodes = [node("Relu", ["x"], ["r"]),
             node("If", ["p"], ["y"], "if", then_branch=then, else_branch=other)]  # fmt: skip
    proto = graph(nodes, [("x", F32, [2, 2]), ("p", BOOL, [])], [("y", F32, [2, 2])],
                  {"c": np.full(2, 3, "f")})  # fmt: skip
    for p in (True, False):
        through(model(proto), {"x": X, "p": np.array(p)}, tmp_path)


def test_nested_if(tmp_path: Path) -> None:
    """Two levels; names inside that repeat those of the other branch."""
    inner = [graph([node(op, ["x"], ["t"])], [], [("t", F32, [2, 2])]) for op in ("Neg", "Abs")]
    deep = graph([node("If", ["q"], ["t3"], then_branch=inner[0], else_branch=inner[1])], [],
                 [("t3", F32, [2, 2])])  # fmt: skip
    flat = graph([node("Identity", ["x"], ["t3"])], [], [("t3", F32, [2, 2])])
    proto = graph([node("If", ["p"], ["y"], then_branch=deep, else_branch=flat)],
                  [("x", F32, [2, 2]), ("p", BOOL, []), ("q", BOOL, [])],
                  [("y", F32, [2, 2])])  # fmt: skip
    feeds = {"x": X, "p": np.array(True), "q": np.array(False)}
    through(model(proto), feeds, tmp_path)


def test_loop(tmp_path: Path) -> None:
    body = graph(
        [node("Add", ["sum", "x"], ["next"]), node("Identity", ["go"], ["on"]),
         node("ReduceMax", ["next"], ["largest"], keepdims=0)],
        [("i", I64, []), ("go", BOOL, []), ("sum", F32, [2, 2])],
        [("on", BOOL, []), ("next", F32, [2, 2]), ("largest", F32, [])],
    )  # fmt: skip
    proto = graph([node("Loop", ["n", "", "x"], ["y", "all"], "loop", body=body)],
                  [("x", F32, [2, 2])], [("y", F32, [2, 2]), ("all", F32, ["k"])],
                  {"n": np.array(3)})  # fmt: skip
    through(model(proto), {"x": X}, tmp_path)


def test_scan(tmp_path: Path) -> None:
    body = graph(
        [node("Add", ["s", "e"], ["s2"]), node("Mul", ["s2", "c"], ["o"])],
        [("s", F32, [2]), ("e", F32, [2])],
        [("s2", F32, [2]), ("o", F32, [2])],
    )
    proto = graph([node("Scan", ["z", "x"], ["y", "all"], body=body, num_scan_inputs=1)],
                  [("x", F32, [2, 2])], [("y", F32, [2]), ("all", F32, [2, 2])],
                  {"z": np.zeros(2, "f"), "c": np.full(2, 2, "f")})  # fmt: skip
    through(model(proto), {"x": X}, tmp_path)


def test_binary_layer_beside_a_nested_graph(tmp_path: Path) -> None:
    """The layer goes to a tile although an If uses its input and its result."""
    then = graph([node("Neg", ["m"], ["t"])], [], [("t", F32, [2, 3])])
    other = graph([node("Concat", ["s", "one"], ["t2"], axis=1)], [], [("t2", F32, [2, 3])])
    nodes = [node("Sign", ["x"], ["s"]), node("MatMul", ["s", "w"], ["m"], "fc"),
             node("If", ["p"], ["y"], then_branch=then, else_branch=other)]  # fmt: skip
    consts = {"w": np.array([[1, -1, 1], [1, 1, -1]], "f"), "one": np.ones((2, 1), "f")}
    proto = graph(nodes, [("x", F32, [2, 2]), ("p", BOOL, [])], [("y", F32, [2, 3])], consts)
    through(model(proto), {"x": X, "p": np.array(True)}, tmp_path)


# -- sequences and optionals --


def test_sequences(tmp_path: Path) -> None:
    nodes = [node("SequenceConstruct", ["x", "x"], ["s"]),
             node("SequenceInsert", ["s", "c"], ["t"]),
             node("ConcatFromSequence", ["t"], ["y"], axis=0),
             node("SequenceLength", ["t"], ["n"])]  # fmt: skip
    proto = graph(nodes, [("x", F32, [2, 2])], [("y", F32, [5, 2]), ("n", I64, [])],
                  {"c": np.ones((1, 2), "f")})  # fmt: skip
    through(model(proto), {"x": X}, tmp_path)


def test_sequence_output(tmp_path: Path) -> None:
    proto = graph([node("SplitToSequence", ["x"], ["y"], axis=0)], [("x", F32, [2, 2])], [])
    tensor = helper.make_tensor_type_proto(F32, [1, 2])
    sequence = helper.make_sequence_type_proto(tensor)
    proto.output.append(helper.make_value_info("y", sequence))
    through(model(proto), {"x": X}, tmp_path, programs=False)


def test_optionals(tmp_path: Path) -> None:
    nodes = [node("Optional", ["x"], ["o"]), node("OptionalHasElement", ["o"], ["has"]),
             node("OptionalGetElement", ["o"], ["y"])]  # fmt: skip
    proto = graph(nodes, [("x", F32, [2, 2])], [("has", BOOL, []), ("y", F32, [2, 2])])
    through(model(proto), {"x": X}, tmp_path)


# -- constants --

SPARSE = helper.make_sparse_tensor(
    helper.make_tensor("sp", F32, [2], [5.0, -1.0]), helper.make_tensor("si", I64, [2], [0, 3]), [4]
)
ATTRIBUTES: list[tuple[str, Any, int]] = [
    ("value", numpy_helper.from_array(np.ones((2, 2), "f")), F32),
    ("value_float", 0.1, F32),
    ("value_floats", [0.1, -0.0, 3.0], F32),
    ("value_int", -7, I64),
    ("value_ints", [1, -(2**62)], I64),
    ("value_string", "text", TensorProto.STRING),
    ("value_strings", ["a", "b"], TensorProto.STRING),
    ("sparse_value", SPARSE, F32),
]


@pytest.mark.parametrize(("key", "value", "code"), ATTRIBUTES)
def test_constant_attributes(key: str, value: Any, code: int, tmp_path: Path) -> None:
    proto = graph([node("Constant", [], ["c"], **{key: value}), node("Identity", ["c"], ["y"])],
                  [("x", F32, [1])], [("y", code, None)])  # fmt: skip
    through(model(proto), {"x": np.ones(1, "f")}, tmp_path)


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_initialiser(flat: bool, tmp_path: Path) -> None:
    indices = [1, 2] if flat else [0, 1, 1, 0]
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("c", F32, [2], [5.0, -1.0]),
        helper.make_tensor("ci", I64, [2] if flat else [2, 2], indices), [2, 2],
    )  # fmt: skip
    proto = graph([node("Add", ["x", "c"], ["y"])], [("x", F32, [2, 2])], [("y", F32, [2, 2])])
    proto.sparse_initializer.append(sparse)
    through(model(proto), {"x": X}, tmp_path)


# -- domains and functions --


def test_local_functions(tmp_path: Path) -> None:
    inner = helper.make_function(
        "my", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    outer = helper.make_function(
        "my", "Scale", ["a"], ["b"],
        [node("Twice", ["a"], ["t"], domain="my"), node("Neg", ["t"], ["b"])],
        [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)],
    )  # fmt: skip
    nodes = [node("Scale", ["x"], ["t"], domain="my"), node("Scale", ["t"], ["y"], domain="my")]
    built = model(graph(nodes, [("x", F32, [2, 2])], [("y", F32, [2, 2])]), my=1)
    built.functions.extend([inner, outer])
    through(built, {"x": X}, tmp_path)


def test_alias_of_the_default_domain(tmp_path: Path) -> None:
    proto = graph([node("Relu", ["x"], ["y"], domain="ai.onnx")], [("x", F32, [2, 2])],
                  [("y", F32, [2, 2])])  # fmt: skip
    built = model(proto)
    built.opset_import[0].domain = "ai.onnx"
    path = tmp_path / "m.onnx"
    path.write_bytes(built.SerializeToString())
    found = import_onnx(path)
    assert found.nodes[0].op == "onnx.Relu"
    assert found.opsets == {"onnx": 17}
    assert same(run(to_onnx(found), {"x": X})["y"], np.maximum(X, 0))


def test_operators_of_onnxruntime(tmp_path: Path) -> None:
    """ONNX shape inference doesn't know them: their types come from onnxruntime."""
    nodes = [
        node("Gelu", ["x"], ["g"], domain="com.microsoft"),
        node("FusedMatMul", ["g", "g"], ["y"], domain="com.microsoft", transB=1),
    ]
    proto = graph(nodes, [("x", F32, [2, 2])], [("y", F32, None)])
    through(model(proto, com_microsoft=1), {"x": X}, tmp_path)
    found = import_onnx(tmp_path / "case.onnx")
    assert [str(n.output.type) for n in found.nodes] == ["f32[2,2]", "f32[2,2]"]


def test_ranks_behind_operators_of_onnxruntime() -> None:
    """ONNX's own inference finds the element type of `n` alone, and the rank of `r`."""
    nodes = [
        node("Gelu", ["x"], ["g"], domain="com.microsoft"),
        node("HardSigmoid", ["g"], ["n"]),
        node("Reshape", ["n", "to"], ["r"]),
        node("Neg", ["r"], ["y"]),
    ]
    proto = graph(nodes, [("x", F32, ["N", 2])], [("y", F32, None)], {"to": np.array([0, 2, 1])})
    found = import_model(model(proto, com_microsoft=1), "m.onnx")
    assert [str(n.output.type) for n in found.nodes] == ["f32[N,2]"] * 2 + ["f32[N,2,1]"] * 2


def test_classical_learning_operators(tmp_path: Path) -> None:
    proto = graph(
        [node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[1.0, 2.0], scale=[0.5, 2.0])],
        [("x", F32, [2, 2])],
        [("y", F32, [2, 2])],
    )
    through(model(proto, ai_onnx_ml=3), {"x": X}, tmp_path)


# -- names --

NAMES = [
    ["a b", "a_b", "a/b", "a.b"],
    ["/layer.0/Relu_output_0", "_layer_0_Relu_output_0", "layer/0", "0"],
    ["ä", "é", "€", "变量"],
    ["%x", "@g", "c", "_c"],
    ["y.2", "y.2.2", "x.host", "host0"],
    ["_Cast", "_c.2", "part", "given"],
    ["if", "const", "graph", "place"],
    ["a" * 300, "a" * 299 + "b", "A", "a"],
    ["a\nb", "a\tb", '"', "#"],
]


@pytest.mark.parametrize("names", NAMES, ids=str)
def test_odd_names(names: list[str], tmp_path: Path) -> None:
    """Spaces, slashes, other scripts, names that collide once they are made plain, names that
    the compiler uses itself."""
    a, b, c, d = names
    nodes = [node("Sign", [a], [b], b), node("MatMul", [b, c], [d], a), node("Relu", [d], ["y"], c)]
    proto = graph(nodes, [(a, F32, [2, 2])], [("y", F32, [2, 1]), (d, F32, [2, 1])],
                  {c: np.array([[1], [-1]], "f")})  # fmt: skip
    through(model(proto), {a: X}, tmp_path)


# -- shapes --


def test_symbolic_dimensions(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "z"], ["m"]), node("Relu", ["m"], ["y"])]
    proto = graph(nodes, [("x", F32, ["batch size", "K", "L"]), ("z", F32, ["L", 3])],
                  [("y", F32, [None, None, 3])])  # fmt: skip
    feeds = {"x": np.ones((1, 2, 4), "f"), "z": np.ones((4, 3), "f")}
    through(model(proto), feeds, tmp_path)
    found = import_onnx(tmp_path / "case.onnx")
    assert str(found.nodes[0].output.type) == "f32[batch_size,K,3]"


@pytest.mark.parametrize("opset", range(7, defs.onnx_opset_version() + 1))
def test_opsets(opset: int, tmp_path: Path) -> None:
    """A binary layer in every operator set that onnxruntime still runs."""
    nodes = [
        node("Greater", ["x", "zero"], ["p"]), node("Cast", ["p"], ["u"], to=F32),
        node("Conv", ["u", "w"], ["c"], "conv"), node("MaxPool", ["c"], ["m"], kernel_shape=[2]),
        node("BatchNormalization", ["m", "s", "b", "b", "s"], ["n"]),
        node("Flatten", ["n"], ["y"]),
    ]  # fmt: skip
    consts = {"zero": np.zeros(1, "f"), "w": np.array([[[1, -1]], [[1, 1]]], "f"),
              "s": np.array([0.5, 2], "f"), "b": np.array([0.1, -1], "f")}  # fmt: skip
    proto = graph(nodes, [("x", F32, [1, 1, 5])], [("y", F32, [1, 6])], consts)
    feeds = {"x": np.random.default_rng(opset).standard_normal((1, 1, 5)).astype("f")}
    built = model(proto, opset=opset)
    built.ir_version = 10
    try:
        run(built, feeds)
    except Exception as error:  # onnxruntime has no common exception class
        pytest.skip(f"onnxruntime doesn't take opset {opset}: {str(error)[:60]}")
    through(built, feeds, tmp_path)


# -- external tensors --


def external(folder: Path, location: str) -> Path:
    """A model whose weights are said to lie in the file `location`; 16 bytes of them in
    `folder/m/w.bin`."""
    proto = model(
        graph(
            [node("Add", ["x", "w"], ["y"])],
            [("x", F32, [2, 2])],
            [("y", F32, [2, 2])],
            {"w": np.arange(4, dtype="f").reshape(2, 2)},
        )
    )
    tensor = proto.graph.initializer[0]
    inside = folder / "m"
    inside.mkdir()
    (inside / "w.bin").write_bytes(tensor.raw_data)
    onnx.external_data_helper.set_external_data(tensor, location, 0, 16)
    tensor.ClearField("raw_data")
    path = inside / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_tensors(tmp_path: Path) -> None:
    found = import_onnx(external(tmp_path, "w.bin"))
    assert found.consts[0].const is not None
    assert found.consts[0].const.tolist() == [[0, 1], [2, 3]]


def test_external_tensors_outside(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    for number, location in enumerate(["../secret.bin", str(tmp_path / "secret.bin"), "link.bin"]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "secret.bin").write_bytes(bytes(16))
        path = external(folder, location)
        (path.parent / "link.bin").symlink_to(tmp_path / "secret.bin")
        with pytest.raises(CompileError, match="tensor 'w' lies outside the model's folder"):
            import_onnx(path)


@pytest.mark.parametrize("location", ["absent.bin", ".", "m.onnx/w", ""])
def test_external_tensors_missing(location: str, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="tensor 'w'"):
        import_onnx(external(tmp_path, location))


def test_external_tensors_too_short(tmp_path: Path) -> None:
    path = external(tmp_path, "w.bin")
    (path.parent / "w.bin").write_bytes(bytes(7))
    with pytest.raises(CompileError):
        import_onnx(path)
