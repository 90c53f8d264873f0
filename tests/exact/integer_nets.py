"""Small models of quantised operators for the tests of exactness: QLinear, Integer and QDQ forms.

A `Quant` keeps shape and element type of each value; values, scales and zero points come from a
seeded generator. What a test draws is structure.
"""

from __future__ import annotations

import numpy as np
from exact_check import REGISTRY
from hypothesis import currently_in_test_context, note
from onnx import TensorProto, helper, numpy_helper, printer

from cimc.driver.base import PassContext
from cimc.driver.clone import clone
from cimc.driver.pipeline import parse_pipeline
from cimc.driver.runner import run_passes
from cimc.frontend.evaluate import Evaluator
from cimc.frontend.export import to_onnx
from cimc.frontend.importer import import_model
from cimc.frontend.session import call, open_session
from cimc.ir.printer import print_graph

MS = "com.microsoft"
CODES = {
    "u8": TensorProto.UINT8, "i8": TensorProto.INT8, "i32": TensorProto.INT32,
    "f32": TensorProto.FLOAT, "i64": TensorProto.INT64,
    "u4": TensorProto.UINT4, "i4": TensorProto.INT4,
}  # fmt: skip
DTYPES = {"u8": np.uint8, "i8": np.int8, "i32": np.int32, "i64": np.int64, "f32": np.float32}


def ends(elem):
    """Lowest and highest value of an integer type."""
    bits = int(elem[1:])
    return (0, 2**bits - 1) if elem[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


class Quant:
    """An ONNX graph in the making, with one sample of values for its inputs."""

    def __init__(self, seed=0, opset=13):
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.domain = ""  # of its quantisers
        self.nodes, self.inits, self.inputs = [], [], []
        self.types, self.feeds = {}, {}

    def integers(self, elem, shape):
        """Values of the whole range, often its ends."""
        low, high = ends(elem)
        values = self.rng.integers(low, high, shape, endpoint=True)
        return np.where(self.rng.random(shape) < 0.1, self.rng.choice([low, high], shape), values)

    def input(self, elem, shape):
        name = f"x{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, CODES[elem], shape))
        self.types[name] = elem, tuple(shape)
        if elem == "f32":
            self.feeds[name] = (self.rng.standard_normal(shape) * 3).astype(np.float32)
        else:
            self.feeds[name] = self.integers(elem, shape).astype(DTYPES[elem])
        return name

    def const(self, elem, array):
        name = f"c{len(self.inits)}"
        if elem in DTYPES:
            tensor = numpy_helper.from_array(np.asarray(array, DTYPES[elem]), name)
        else:
            flat = np.asarray(array).reshape(-1).astype(int).tolist()
            tensor = helper.make_tensor(name, CODES[elem], np.shape(array), flat)
        self.inits.append(tensor)
        return name

    def scale(self, shape=(), low=0.01, high=0.1):
        return self.const("f32", self.rng.uniform(low, high, shape))

    def zero(self, elem, shape=()):
        return self.const(elem, self.integers(elem, shape))

    def weights(self, elem, shape):
        """Of the whole range, or of few bits."""
        low, high = ends(elem)
        if self.rng.random() < 0.4:
            middle = int(self.rng.integers(low, high, endpoint=True))
            reach = int(self.rng.integers(0, 4))
            low, high = max(low, middle - reach), min(high, middle + reach)
        return self.const(elem, self.rng.integers(low, high, shape, endpoint=True))

    def op(self, op, inputs, elem, shape, domain="", outputs=1, **attrs):
        """A node; its first result has this type and shape."""
        stem = f"{op.lower()}{len(self.nodes)}"
        outs = [stem, *(f"{stem}.{k}" for k in range(1, outputs))]
        self.nodes.append(helper.make_node(op, inputs, outs, name=stem, domain=domain, **attrs))
        self.types[stem] = elem, tuple(shape)
        return outs if outputs > 1 else stem

    def quantise(self, x, elem, scale=None, zero=None):
        """QuantizeLinear; gives the name, and those of its scale and zero point."""
        scale = scale or self.scale((), 0.02, 0.5)
        zero = zero or self.zero(elem)
        shape = self.types[x][1]
        q = self.op("QuantizeLinear", [x, scale, zero], elem, shape, self.domain)
        return q, scale, zero

    def dequantise(self, q, scale, zero, **attrs):
        inputs = [q, scale] if zero is None else [q, scale, zero]
        shape = self.types[q][1] if q in self.types else ()
        return self.op("DequantizeLinear", inputs, "f32", shape, self.domain, **attrs)

    def model(self, *outputs):
        infos = [helper.make_tensor_value_info(o, CODES[self.types[o][0]], None) for o in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, infos, self.inits)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MS, 1)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=9 if self.opset < 21 else 10
        )


def runtime(model, feeds):
    """Outputs by name, from onnxruntime with graph optimisation off."""
    session = open_session(model.SerializeToString(), "oracle", threads=1)
    return dict(zip([o.name for o in session.get_outputs()], call(session, feeds, "oracle")))


LAYERS = ("cim.conv", "cim.matmul")
READ, REST = "cleanup,lift-clip,read-qdq", "recognise-quantization,fold"


def passed(graph, pipeline):
    """The graph after passes."""
    run_passes(graph, parse_pipeline(pipeline, REGISTRY), PassContext())
    return graph


def check(net, *outputs, layers=None, left=()):
    """The passes keep the bits of the model: in onnxruntime, in the form that read-qdq gives it.
    Returns the graph after them, and the outputs.

    layers: how many native ones there must be. left: ONNX operators that may be left; None for
    any."""
    model = net.model(*outputs)
    _say(printer.to_text(model))
    graph = passed(import_model(model, "case"), READ)
    expected = runtime(to_onnx(graph), net.feeds)
    if not any(n.op_type in ("QuantizeLinear", "DequantizeLinear") for n in model.graph.node):
        same(runtime(model, net.feeds), expected)
    read = clone(graph)[0]
    passed(graph, REST)
    _say(f"{print_graph(read)}\n{print_graph(graph)}")
    same(expected, Evaluator(graph)(net.feeds))
    same(expected, runtime(to_onnx(graph), net.feeds))
    if layers is not None:
        reasons = [n.why for n in graph.nodes if n.why]
        assert sum(n.op in LAYERS for n in graph.nodes) == layers, reasons
    if left is not None:
        rest = [n.op for n in graph.nodes if not n.op.startswith("cim.")]
        assert not [op for op in rest if op not in left], rest
    return graph, expected


def _say(text):
    if currently_in_test_context():
        note(text)


def same(expected, found):
    """Outputs agree in type, shape and bits."""
    for name, array in expected.items():
        assert (array.dtype, array.shape) == (found[name].dtype, found[name].shape)
        np.testing.assert_array_equal(found[name], array)
