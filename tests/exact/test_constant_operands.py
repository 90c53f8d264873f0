"""QLinearAdd and QLinearMul with a constant, on all values; resizing by whole factors."""

from itertools import product

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from cimc.driver.base import Geometry, PassContext
from cimc.driver.pipeline import parse_pipeline
from cimc.driver.registry import load_registry
from cimc.driver.runner import run_passes
from cimc.frontend.evaluate import Evaluator
from cimc.frontend.importer import import_model
from cimc.frontend.session import call, open_session

TYPES = {"u8": (np.uint8, TensorProto.UINT8), "i8": (np.int8, TensorProto.INT8)}


def folded(node, consts, elem, shape):
    """The operations that pipeline exact makes of a node, and outputs of the node and of them."""
    code = TYPES[elem][1]
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", code, shape)],
        [helper.make_tensor_value_info("y", code, None)],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in consts.items()],
    )
    imports = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    session = open_session(model.SerializeToString(), "m.onnx")
    found = import_model(model, "m.onnx")
    context = PassContext(Geometry(256, 128, 1, ("and",), 32))
    run_passes(found, parse_pipeline("exact", load_registry()), context)

    def both(x):
        return call(session, {"x": x}, "m.onnx")[0], Evaluator(found)({"x": x})["y"]

    return [n.op for n in found.nodes], both


@pytest.mark.parametrize(
    ("op", "elem", "left"), list(product(("QLinearAdd", "QLinearMul"), TYPES, (False, True)))
)
@pytest.mark.parametrize("sizes", [(1,), (5, 1), (5,)], ids=str)
def test_constants(op, elem, left, sizes):
    """One number, one for each channel along the second axis, along the last."""
    rng = np.random.default_rng([len(op), len(elem), *sizes])
    dtype = TYPES[elem][0]
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    x = np.arange(low, high + 1).astype(dtype)
    x = np.stack([rng.permutation(x) for _ in range(5)])[None]  # [1, 5, 256]
    if sizes == (5,):
        x = x.swapaxes(1, 2)
    for _ in range(4):
        sa, sb, sy = np.exp(rng.uniform(-5, -1, 3)).astype(np.float32)
        points = rng.integers(low, high + 1, 3).astype(dtype)
        consts = {"sa": sa, "za": points[0], "sb": sb, "zb": points[1], "sy": sy, "zy": points[2],
                  "b": rng.integers(low, high + 1, sizes).astype(dtype)}  # fmt: skip
        first, second = ["x", "sa", "za"], ["b", "sb", "zb"]
        operands = [*second, *first] if left else [*first, *second]
        node = helper.make_node(op, [*operands, "sy", "zy"], ["y"], domain="com.microsoft")
        ops, both = folded(node, consts, elem, list(x.shape))
        assert ops == ["cim.lut" if sizes == (1,) else "cim.threshold"]
        np.testing.assert_array_equal(*both(np.ascontiguousarray(x)))


@pytest.mark.parametrize("how", ["half_pixel", "asymmetric", "pytorch_half_pixel"])
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("shape", [(1, 3, 2, 3), (2, 1, 1, 5), (1, 2, 4)], ids=str)
def test_resize(shape, how, rounding):
    """Whatever the mode says, the result is that of onnxruntime; not all modes repeat."""
    rng = np.random.default_rng(shape)
    for factors in ((1, 2), (3, 1), (2, 4), (1, 1)):
        scales = np.float32([1] * (len(shape) - 2) + list(factors))
        node = helper.make_node(
            "Resize", ["x", "", "scales"], ["y"], coordinate_transformation_mode=how,
            nearest_mode=rounding, mode="nearest",
        )  # fmt: skip
        ops, both = folded(node, {"scales": scales}, "u8", list(shape))
        np.testing.assert_array_equal(*both(rng.integers(0, 256, shape).astype(np.uint8)))
        if (how, rounding) in (("half_pixel", "round_prefer_floor"), ("asymmetric", "floor")):
            assert "onnx.Resize" not in ops
