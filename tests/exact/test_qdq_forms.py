"""QDQ groups, by the rule table of read-qdq: the native operations give the bits of the QLinear
and Integer operators that the groups are read as, and stay near the literal float model."""

import numpy as np
from exact_draw import SEEDS, cases, window
from exact_nets import out_sizes
from hypothesis import given
from hypothesis import strategies as st
from integer_nets import Quant, check, runtime

BYTES = ("u8", "i8")


def steps(net, shape=(), low=0.01, high=0.1):
    """Scales as numbers, float32."""
    return net.rng.uniform(low, high, shape).astype(np.float32)


def activation(draw, net, shape, types=BYTES):
    """An integer input behind DequantizeLinear: the float, and its scale."""
    elem = draw(st.sampled_from(types))
    scale = steps(net)
    zero = net.zero(elem) if elem != "u8" or draw(st.booleans()) else None
    return net.dequantise(net.input(elem, shape), net.const("f32", scale), zero), scale


def weights(draw, net, shape, axis, types=BYTES):
    """Constant weights behind DequantizeLinear, with one scale or one for each channel: the
    float, and the scales."""
    elem = draw(st.sampled_from(types))
    count = shape[axis]
    per = draw(st.sampled_from([(), (), (count,)]))
    scale = steps(net, per)
    zero = None if draw(st.booleans()) else net.zero(elem, per)
    if elem != "u8" and zero is None and draw(st.booleans()):
        zero = net.const(elem, np.zeros(per))
    attrs = {"axis": axis - draw(st.sampled_from([0, len(shape)]))} if per else {}
    q = net.weights(elem, shape)
    if elem in BYTES and not per and zero and draw(st.booleans()):  # quantised when it runs
        values = net.const("f32", net.rng.standard_normal(shape))
        q = net.op("QuantizeLinear", [values, net.const("f32", scale), zero], elem, shape)
    net.types.setdefault(q, (elem, shape))
    return net.dequantise(q, net.const("f32", scale), zero, **attrs), scale


def bias(draw, net, count, scale):
    """The name of a bias, and whether it is one of integers in the steps `scale`."""
    kind = draw(st.sampled_from(["none", "integers", "integers", "float", "other steps"]))
    if kind == "none":
        return [], True
    if kind == "float":
        return [net.const("f32", net.rng.standard_normal(count) * 5)], False
    values = net.const("i32", net.rng.integers(-3000, 3000, count))
    net.types[values] = "i32", (count,)
    other = kind == "other steps"
    flat = np.asarray(scale * np.float32(3 if other else 1), np.float32)
    zero = net.const("i32", np.zeros(flat.shape)) if draw(st.booleans()) else None
    attrs = {"axis": 0} if flat.ndim else {}
    return [net.dequantise(values, net.const("f32", flat), zero, **attrs)], not other


def rest(draw, net, y, types=BYTES):
    """What follows a layer: perhaps an activation, perhaps a quantiser. The outputs, and whether
    a quantiser is one of them."""
    shape = net.types[y][1]
    kind = draw(st.sampled_from(["nothing", "nothing", "Relu", "Clip", "Sigmoid"]))
    outputs = [y] if draw(st.integers(0, 5)) == 0 else []
    if kind == "Relu":
        y = net.op("Relu", [y], "f32", shape)
    if kind == "Clip":
        y = net.op("Clip", [y, net.const("f32", -0.5), net.const("f32", 6.0)], "f32", shape)
    if kind == "Sigmoid":
        y = net.op("Sigmoid", [y], "f32", shape)
    if draw(st.integers(0, 3)):
        y, _, _ = net.quantise(y, draw(st.sampled_from(types)))
    return list(dict.fromkeys([y, *outputs]))


def near(net, outputs, found):
    """At most one step away from the literal float model, or within rounding."""
    for name, array in runtime(net.model(*outputs), net.feeds).items():
        other = found[name].astype(np.float64)
        if array.dtype.kind == "f":
            np.testing.assert_allclose(
                other, array, rtol=1e-4, atol=1e-4 * np.abs(array).max(initial=0)
            )
        else:
            assert np.abs(other - array).max(initial=0) <= 1


@cases(150)
@given(st.data())
def test_conv(data):
    draw, net = data.draw, Quant(data.draw(SEEDS))
    rank, batch = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 0]))
    group, per, out = (draw(st.integers(1, 3)) for _ in range(3))
    sizes = [draw(st.integers(1, 6)) for _ in range(rank)]
    kernel, attrs = window(draw, sizes)
    spatial = out_sizes(sizes, kernel, **attrs)
    x, sx = activation(draw, net, (batch, group * per, *sizes))
    w, sw = weights(draw, net, (group * out, per, *kernel), 0)
    b, _ = bias(draw, net, group * out, np.asarray(sx * sw, np.float32))
    y = net.op("Conv", [x, w, *b], "f32", (batch, group * out, *spatial), group=group, **attrs)
    outputs = rest(draw, net, y)
    _, found = check(net, *outputs, layers=1, left=None)
    near(net, outputs, found)


@cases(120)
@given(st.data())
def test_matmul(data):
    """Weights on either side; a bias by an Add of its own."""
    draw, net = data.draw, Quant(data.draw(SEEDS))
    lead = draw(st.sampled_from([(), (1,), (2,), (1, 3), (0,)]))
    m, k, n = (draw(st.integers(1, size)) for size in (4, 20, 9))
    left = draw(st.integers(0, 4)) == 0
    if left:
        x, _ = activation(draw, net, (*lead, k, n))
        w, _ = weights(draw, net, (m, k), 0)
        y = net.op("MatMul", [w, x], "f32", (*lead, m, n))
    else:
        x, sx = activation(draw, net, (*lead, m, k))
        w, sw = weights(draw, net, (k, n), 1)
        y = net.op("MatMul", [x, w], "f32", (*lead, m, n))
        b, _ = bias(draw, net, n, np.asarray(sx * sw, np.float32))
        if b:
            sides = [y, *b] if draw(st.booleans()) else [*b, y]
            y = net.op("Add", sides, "f32", (*lead, m, n))
    outputs = rest(draw, net, y)
    _, found = check(net, *outputs, layers=None if left else 1, left=None)
    near(net, outputs, found)


@cases(120)
@given(st.data())
def test_gemm(data):
    draw, net = data.draw, Quant(data.draw(SEEDS))
    m, k, n = (draw(st.integers(1, size)) for size in (4, 20, 9))
    turned, flipped = draw(st.booleans()), draw(st.booleans())
    x, sx = activation(draw, net, (k, m) if turned else (m, k))
    w, sw = weights(draw, net, (n, k) if flipped else (k, n), 0 if flipped else 1)
    b, _ = bias(draw, net, n, np.asarray(sx * sw, np.float32))
    attrs = {"transA": int(turned), "transB": int(flipped)}
    y = net.op("Gemm", [x, w, *b], "f32", (m, n), **attrs)
    outputs = rest(draw, net, y)
    _, found = check(net, *outputs, layers=1, left=None)
    near(net, outputs, found)
