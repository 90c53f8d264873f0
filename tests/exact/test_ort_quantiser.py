"""Networks as onnxruntime's own quantizer leaves them: program and oracle give the same bits."""

import itertools
import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from cimc import api
from cimc.oracle import compare, open_oracle, verdict

node = helper.make_node
BYTE, SIGNED = QuantType.QUInt8, QuantType.QInt8


def normal(*shape):
    """Seeded by the shape: the same numbers in each run."""
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32) / 2


NETWORKS = {
    "residual": (
        [
            node("Conv", ["x", "w1", "b1"], ["a"], pads=[1, 1, 1, 1]),
            node("Relu", ["a"], ["r"]),
            node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", ["p", "w2", "b2"], ["c"], group=4, pads=[1, 1, 1, 1]),
            node("Clip", ["c", "low", "high"], ["k"]),
            node("Conv", ["k", "w3"], ["d"]),
            node("Add", ["d", "p"], ["s"]),
            node("Relu", ["s"], ["sr"]),
            node("Concat", ["sr", "p"], ["cc"], axis=1),
            node("GlobalAveragePool", ["cc"], ["g"]),
            node("Flatten", ["g"], ["f"]),
            node("Gemm", ["f", "wg", "bg"], ["y"], transB=1),
        ],
        {
            "w1": normal(4, 3, 3, 3), "b1": normal(4), "w2": normal(4, 1, 3, 3), "b2": normal(4),
            "w3": normal(4, 4, 1, 1), "low": np.float32(0), "high": np.float32(6),
            "wg": normal(10, 8), "bg": normal(10),
        },
        (1, 3, 8, 8),
        4,
    ),
    "dense": (
        [
            node("MatMul", ["x", "w1"], ["a"]),
            node("Add", ["a", "b1"], ["a1"]),
            node("Sigmoid", ["a1"], ["s"]),
            node("MatMul", ["s", "w2"], ["m"]),
            node("Softmax", ["m"], ["y"], axis=-1),
        ],
        {"w1": normal(12, 20), "b1": normal(20), "w2": normal(20, 5)},
        (1, 12),
        2,
    ),
    "swish": (
        [
            node("Conv", ["x", "w1", "b1"], ["a"], strides=[2, 2]),
            node("HardSwish", ["a"], ["h"]),
            node("Conv", ["h", "w2"], ["c"]),
            node("LeakyRelu", ["c"], ["l"], alpha=0.1),
            node("AveragePool", ["l"], ["q"], kernel_shape=[2, 2]),
            node("Reshape", ["q", "to"], ["f"]),
            node("Gemm", ["f", "wg", "bg"], ["y"]),
        ],
        {
            "w1": normal(4, 3, 3, 3), "b1": normal(4), "w2": normal(5, 4, 1, 1),
            "to": np.array([0, -1]), "wg": normal(20, 6), "bg": normal(6),
        },
        (1, 3, 7, 7),
        3,
    ),
}  # fmt: skip
"""Nodes, constants, input shape, layers."""


class Samples(CalibrationDataReader):
    def __init__(self, arrays):
        self._left = iter([{"x": a} for a in arrays])

    def get_next(self):
        return next(self._left, None)


def save(name, folder):
    """The float model, and inputs for it."""
    nodes, consts, shape, _ = NETWORKS[name]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in consts.items()],
    )
    path = folder / "float.onnx"
    imports = [helper.make_opsetid("", 14)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path, [normal(6, *shape[1:])[k : k + 1] * 6 for k in range(6)]


def same_bits(path, x, layers):
    compiled = api.compile(path, pipeline="exact")
    found = compiled.run({"x": x}).outputs
    assert verdict(compare(open_oracle(path, compiled.program)({"x": x}), found)) == "yes"
    native = [n for n in compiled.graph.nodes if n.op in ("cim.conv", "cim.matmul")]
    assert len(native) == layers


STATIC = [
    (form, channels, x, w, (k + channels) % 2 == 0)
    for k, (form, channels, (x, w)) in enumerate(
        itertools.product(
            (QuantFormat.QDQ, QuantFormat.QOperator),
            (False, True),
            ((BYTE, BYTE), (BYTE, SIGNED), (SIGNED, SIGNED)),
        )
    )
]
"""Form, weights by channel, types of activations and weights, reduce_range."""


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("settings", STATIC, ids=lambda s: "-".join(str(p) for p in s))
def test_static(name, settings, tmp_path):
    form, channels, x_type, w_type, reduced = settings
    path, samples = save(name, tmp_path)
    quantised = tmp_path / "q.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_static(
            path, quantised, Samples(samples), quant_format=form, per_channel=channels,
            activation_type=x_type, weight_type=w_type, reduce_range=reduced,
        )  # fmt: skip
    same_bits(quantised, np.concatenate(samples[:3]), NETWORKS[name][3])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("w_type", [BYTE, SIGNED], ids=str)
@pytest.mark.parametrize("channels", [False, True])
def test_dynamic(name, w_type, channels, tmp_path):
    path, samples = save(name, tmp_path)
    quantised = tmp_path / "q.onnx"
    quantize_dynamic(path, quantised, weight_type=w_type, per_channel=channels)
    same_bits(quantised, np.concatenate(samples[:3]), NETWORKS[name][3])
