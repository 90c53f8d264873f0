"""Bad scales and zero points of quantisers: what is found where a model is read."""

import re

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from cimc.errors import CompileError, CompileErrors
from cimc.frontend.importer import import_model
from cimc.frontend.quantisers import check_quantisers
from cimc.ir.text import parse_graph


def dequantiser(scale, zero=None, axis=None, data=TensorProto.UINT8):
    """A model of one DequantizeLinear, named dq."""
    consts = {"s": np.asarray(scale, np.float32)}
    if zero is not None:
        consts["z"] = zero
    attrs = {} if axis is None else {"axis": axis}
    nodes = [helper.make_node("DequantizeLinear", ["x", *consts], ["y"], name="dq", **attrs)]
    return model(nodes, consts, data)


def model(nodes, consts, data=TensorProto.UINT8):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", data, [1, 3])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in consts.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def message(found):
    with pytest.raises(CompileError) as error:
        import_model(found, "m.onnx")
    return str(error.value)


@pytest.mark.parametrize(
    ("scale", "shown"),
    [
        (0.0, "its scale is 0"),
        (-0.5, "its scale is -0.5"),
        (np.inf, "its scale is inf"),
        (2.0**-140, "its scale is 7.17465e-43 (denormal)"),
        ([0.1, 0.0, -1.0], "its scale[1] is 0"),
    ],
)
def test_scales_must_be_positive_and_normal(scale, shown):
    text = message(dequantiser(scale, axis=None if np.ndim(scale) == 0 else 1))
    assert text.startswith("m.onnx: node 'dq' (DequantizeLinear): error: ")
    assert re.search(f"{re.escape(shown)}: expected a positive normal f32 number", text)
    assert "help: " in text


def test_nan_is_no_scale():
    assert "its scale is nan: expected a positive normal f32" in message(dequantiser(np.nan))


@pytest.mark.parametrize(
    ("zero", "shown"),
    [
        (np.int8(-3), "zero point -3 is i8, but the data is u8: expected a value of u8, 0 to 255"),
        (np.int32(300), "zero point 300 is i32, but the data is u8"),
    ],
)
def test_zero_points_have_the_type_of_the_data(zero, shown):
    assert shown in message(dequantiser(0.5, zero))


def test_int32_data_has_no_zero_point():
    text = message(dequantiser(0.5, np.int32(7), data=TensorProto.INT32))
    assert "zero point is 7: int32 data has the zero point 0" in text


def test_a_scale_for_each_channel():
    text = message(dequantiser([0.5, 0.25], axis=-1))
    assert "there are 2 scales, but its data has the size 3 along axis -1" in text


def test_a_zero_point_for_each_scale():
    text = message(dequantiser([0.5, 0.25, 0.5], np.zeros(2, np.uint8), axis=1))
    assert "there are 3 scales and 2 zero points" in text


def test_all_of_a_model_at_once():
    consts = {"s": np.float32(0), "t": np.float32(-1), "z": np.int8(1)}
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s"], ["a"], name="first"),
        helper.make_node("QuantizeLinear", ["a", "t"], ["b"], name="second"),
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["c"], name="third"),
    ]
    with pytest.raises(CompileErrors) as error:
        import_model(model(nodes, consts), "m.onnx")
    text = str(error.value)
    assert [text.count(f"'{n}'") for n in ("first", "second", "third")] == [1, 1, 2]


LAYERS = {
    "onnx.QLinearConv(%x, %s, %z, %w, %bad, %z, %s, %z)": "w's scale is 0",
    "onnx.QLinearConv(%x, %s, %z, %w, %s, %i, %s, %z)": "w's zero point -1 is i8",
    "onnx.QLinearMatMul(%x, %s, %z, %w, %s, %z, %bad, %z)": "y's scale is 0",
    "ms.QGemm(%x, %bad, %z, %w, %s, %z, _, %s, %z)": "a's scale is 0",
    "ms.QLinearAdd(%x, %s, %z, %w, %bad, %z, %s, %z)": "b's scale is 0",
    "ms.QLinearGlobalAveragePool(%x, %s, %z, %bad, %z)": "y's scale is 0",
    "ms.QLinearConcat(%s, %z, %x, %s, %z, %w, %bad, %z) axis=1": "input 1's scale is 0",
    "onnx.ConvInteger(%x, %w, %i)": "x's zero point -1 is i8",
    "ms.DequantizeLinear(%x, %bad, %z)": "its scale is 0",
}


@pytest.mark.parametrize("call", LAYERS)
def test_operators_on_integers(call):
    graph = parse_graph(
        "graph @g(%x: u8[1,1,2,2]) -> (%y) {\n"
        "  const %s: f32[] = 0.5\n  const %bad: f32[] = 0.0\n  const %z: u8[] = 3\n"
        "  const %i: i8[] = -1\n  const %w: u8[1,1,1,1] = [1]\n"
        f"  %y = {call}: u8[1,1,2,2]\n}}\n"
    )
    with pytest.raises(CompileError) as error:
        check_quantisers(graph, "g")
    assert LAYERS[call] in str(error.value)
    assert ":7:" in str(error.value), "its line"


def test_sound_quantisers_pass():
    import_model(dequantiser([0.5, 0.25, 1e-30], np.zeros(3, np.uint8), axis=1), "m.onnx")
