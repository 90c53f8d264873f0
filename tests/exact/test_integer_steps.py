"""Each element-wise rule of the integer passes on all values: 256 bytes, or 65,536 pairs."""

import numpy as np
import pytest
from integer_nets import DTYPES, MS, Quant, check, ends, passed, runtime, same

from cimc.frontend.evaluate import Evaluator
from cimc.frontend.importer import import_model

BYTES = ("u8", "i8")
ZEROS = {"u8": (0, 128, 255, 77), "i8": (0, -128, 127, -5)}


def every(elem):
    low, high = ends(elem)
    return np.arange(low, high + 1).astype(DTYPES[elem])


def pairs(a, b):
    """All pairs of values of two types, [1, 65536] each."""
    x, y = np.meshgrid(every(a), every(b))
    return x.reshape(1, -1), y.reshape(1, -1)


def given(net, elem, array):
    """An input that holds these values."""
    name = net.input(elem, array.shape)
    net.feeds[name] = array
    return name


def numbers(net, elem, k):
    """A zero point as a constant, one of the ends and some others."""
    return net.const(elem, ZEROS[elem][k % 4])


# Scales of two operands and the result: plain ones, and such that many results are ties.
SCALES = [(0.03, 0.05, 0.07), (0.5, 0.25, 0.5), (0.1, 0.1, 0.2), (0.013, 0.9, 0.4), (0.1, 0.3, 3.0)]


@pytest.mark.parametrize("elem", BYTES)
@pytest.mark.parametrize("k", range(5))
def test_qlinear_add(elem, k):
    net = Quant(k)
    x, y = (given(net, elem, a) for a in pairs(elem, elem))
    sx, sy, s = (net.const("f32", v) for v in SCALES[k])
    zx, zy, z = (numbers(net, elem, k + i) for i in range(3))
    out = net.op("QLinearAdd", [x, sx, zx, y, sy, zy, s, z], elem, (1, 65536), MS)
    check(net, out)


@pytest.mark.parametrize("types", [("u8", "u8", "u8"), ("u8", "i8", "i8"), ("i8", "i8", "u8")])
@pytest.mark.parametrize("cut", ["", "Relu", "Clip"])
@pytest.mark.parametrize("k", range(5))
def test_sum_of_two(types, cut, k):
    """Q(DQ(a) + DQ(b)), and with Relu or Clip before Q."""
    a, b, c = types
    net = Quant(k)
    x, y = (given(net, elem, array) for elem, array in zip(types, pairs(a, b)))
    scales = [net.const("f32", v) for v in SCALES[k]]
    x, y = (net.dequantise(q, s, numbers(net, e, k + i))
            for i, (q, s, e) in enumerate(zip((x, y), scales, types)))  # fmt: skip
    total = net.op("Add", [x, y], "f32", (1, 65536))
    if cut:
        limits = [net.const("f32", -1.3), net.const("f32", 3.05)] if cut == "Clip" else []
        total = net.op(cut, [total, *limits], "f32", (1, 65536))
    out, _, _ = net.quantise(total, c, scales[2], numbers(net, c, k + 2))
    graph, _ = check(net, out)
    assert next(n.op for n in graph.nodes) == "cim.qadd"


MAPS = {
    "nothing": lambda n, x: x,
    "Relu": lambda n, x: _of(n, "Relu", x),
    "Clip": lambda n, x: _of(n, "Clip", x, n.const("f32", -1.0), n.const("f32", 6.0)),
    "LeakyRelu": lambda n, x: _of(n, "LeakyRelu", x, alpha=0.1),
    "PRelu": lambda n, x: _of(n, "PRelu", x, n.const("f32", [0.3])),
    "Sigmoid": lambda n, x: _of(n, "Sigmoid", x),
    "Tanh": lambda n, x: _of(n, "Tanh", x),
    "Erf": lambda n, x: _of(n, "Erf", x),
    "Exp": lambda n, x: _of(n, "Exp", x),
    "Elu": lambda n, x: _of(n, "Elu", x),
    "Softplus": lambda n, x: _of(n, "Softplus", x),
    "HardSigmoid": lambda n, x: _of(n, "HardSigmoid", x),
    "HardSwish": lambda n, x: _of(n, "HardSwish", x),
    "Swish": lambda n, x: _of(n, "Mul", x, _of(n, "Sigmoid", x)),
    "Swish by hand": lambda n, x: _of(n, "Div", x, _of(n, "Add", n.const("f32", 1.0), _of(
        n, "Exp", _of(n, "Neg", x)))),
    "Hard swish by hand": lambda n, x: _of(n, "Mul", x, _of(n, "Div", _of(n, "Clip", _of(
        n, "Add", x, n.const("f32", [3.0])), n.const("f32", 0.0), n.const("f32", 6.0)),
        n.const("f32", 6.0))),
    "Gelu by hand": lambda n, x: _of(n, "Mul", _of(n, "Mul", x, _of(n, "Add", _of(n, "Erf", _of(
        n, "Div", x, n.const("f32", 1.4142135))), n.const("f32", 1.0))), n.const("f32", 0.5)),
    "square": lambda n, x: _of(n, "Mul", x, x),
    "scaled": lambda n, x: _of(n, "Sub", n.const("f32", 1.0), _of(
        n, "Mul", x, n.const("f32", [[0.37]]))),
    "Where": lambda n, x: _of(n, "Where", _of(n, "Greater", x, n.const("f32", 0.1)), x,
                              n.const("f32", 0.0)),
    "another quantiser": lambda n, x: n.dequantise(*n.quantise(x, "u8")),
}  # fmt: skip


def _of(net, op, *inputs, **attrs):
    return net.op(op, list(inputs), "f32", (1, 256), **attrs)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("types", [("u8", "u8"), ("i8", "i8"), ("u8", "i8")])
@pytest.mark.parametrize("k", range(2))
def test_map_of_a_byte(name, types, k):
    """Q(f(DQ(x))) as a table: the same wherever a value lies in the tensor."""
    net = Quant(k, opset=14)
    x = given(net, types[0], every(types[0]).reshape(1, -1))
    value = net.dequantise(x, net.const("f32", SCALES[k][0]), numbers(net, types[0], k + 1))
    value = MAPS[name](net, value)
    out, _, _ = net.quantise(value, types[1], net.const("f32", SCALES[k][2]),
                             numbers(net, types[1], k + 1))  # fmt: skip
    graph, expected = check(net, out)
    assert [n.op for n in graph.nodes] == ["cim.lut"]
    ((fed, values),) = net.feeds.items()
    order = net.rng.permutation(256)[:101]
    model = net.model(out)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    np.testing.assert_array_equal(
        runtime(model, {fed: values[:, order]})[out], expected[out][:, order]
    )


@pytest.mark.parametrize("op", ["QLinearSigmoid", "QLinearLeakyRelu"])
@pytest.mark.parametrize("elem", BYTES)
@pytest.mark.parametrize("k", range(5))
def test_tables_of_operators(op, elem, k):
    net = Quant(k)
    x = given(net, elem, every(elem).reshape(1, -1))
    a, _, c = (net.const("f32", v) for v in SCALES[k])
    attrs = {"alpha": 0.17} if op == "QLinearLeakyRelu" else {}
    inputs = [x, a, numbers(net, elem, k), c, numbers(net, elem, k + 1)]
    check(net, net.op(op, inputs, elem, (1, 256), MS, **attrs))


@pytest.mark.parametrize("elem", BYTES)
@pytest.mark.parametrize("k", range(5))
def test_qlinear_concat(elem, k):
    net = Quant(k)
    x, y = (given(net, elem, every(elem).reshape(1, -1)) for _ in range(2))
    a, b, c = (net.const("f32", v) for v in SCALES[k])
    zero = numbers(net, elem, k)
    inputs = [c, zero, x, a, numbers(net, elem, k + 1), y, b, zero, x, c, zero]
    check(net, net.op("QLinearConcat", inputs, elem, (1, 768), MS, axis=1))


# (x scale, w scale, y scale): the accumulators 0.5, 1.5, … of a step are many
TIES = [(0.1, 0.03, 0.006), (0.07, 0.3, 0.21), (0.5, 0.5, 4.0), (0.013, 0.7, 0.2), (1.0, 1.0, 6.0)]


@pytest.mark.parametrize("types", [("u8", "u8"), ("u8", "i8"), ("i8", "i8")])
@pytest.mark.parametrize("k", range(5))
def test_requantised_products(types, k):
    """All products of two bytes, each requantised."""
    net = Quant(k)
    x = given(net, types[0], every(types[0]).reshape(-1, 1))
    w = net.const(types[1], every(types[1]).reshape(1, -1))
    sx, sw, sy = (net.const("f32", v) for v in TIES[k])
    inputs = [x, sx, numbers(net, types[0], k), w, sw, numbers(net, types[1], k + 1), sy,
              numbers(net, types[0], k + 2)]  # fmt: skip
    check(net, net.op("QLinearMatMul", inputs, types[0], (256, 256)), layers=1)


@pytest.mark.parametrize("elem", BYTES)
@pytest.mark.parametrize("taps", [1, 2, 3, 6, 7, 49])
def test_global_averages(elem, taps):
    """All pairs of bytes among the taps, with steps that make ties."""
    for k in range(5):
        net = Quant(k)
        x, y = pairs(elem, elem)
        more = [net.integers(elem, (1, 65536)).astype(DTYPES[elem]) for _ in range(taps - 2)]
        values = np.stack([x, y, *more][:taps], axis=-1).reshape(1, 65536, 1, taps)
        a, _, c = TIES[k]
        inputs = [given(net, elem, values), net.const("f32", a), numbers(net, elem, k),
                  net.const("f32", c), numbers(net, elem, k + 1)]  # fmt: skip
        out = net.op("QLinearGlobalAveragePool", inputs, elem, (1, 65536, 1, 1), MS)
        model = net.model(out)
        graph = passed(import_model(model, "case"), "recognise-integers")
        assert [n.op for n in graph.nodes] == ["cim.sum_pool", "cim.requant"]
        same(runtime(model, net.feeds), Evaluator(graph)(net.feeds))


@pytest.mark.parametrize("elem", BYTES)
@pytest.mark.parametrize("k", range(4))
def test_dequantize(elem, k):
    net = Quant(k)
    x = given(net, elem, every(elem).reshape(1, -1))
    out = net.dequantise(x, net.const("f32", SCALES[k][0]), numbers(net, elem, k))
    graph, _ = check(net, out)
    assert [n.op for n in graph.nodes] == ["cim.dequant"]
