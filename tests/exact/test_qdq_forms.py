"""QDQ groups, by the rule table of read-qdq: the native operations give the bits of the QLinear
and Integer operators that the groups are read as, and stay near the literal float model."""

import numpy as np
from exact_draw import SEEDS, cases, window
from exact_nets import out_sizes
from hypothesis import assume, given
from hypothesis import strategies as st
from integer_nets import MS, Quant, check, ends, runtime

from cimc.frontend.export import to_onnx
from cimc.frontend.importer import import_model

BYTES = ("u8", "i8")


def steps(net, shape=(), low=0.01, high=0.1):
    """Scales as numbers, float32."""
    return net.rng.uniform(low, high, shape).astype(np.float32)


def activation(draw, net, shape, types=BYTES):
    """A quantised input behind DequantizeLinear: the float, and its scale."""
    elem = draw(st.sampled_from(types))
    if elem in BYTES and draw(st.booleans()):
        scale = steps(net)
        zero = net.zero(elem) if elem != "u8" or draw(st.booleans()) else None
        return net.dequantise(net.input(elem, shape), net.const("f32", scale), zero), scale
    return requantised(net, net.input("f32", shape), elem)


def requantised(net, x, elem):
    """DequantizeLinear of QuantizeLinear: the float, and its scale."""
    low, high = ends(elem)
    scale = (steps(net, (), 0.01, 0.05) * np.float32(255 / (high - low))).astype(np.float32)
    q, name, zero = net.quantise(x, elem, net.const("f32", scale))
    return net.dequantise(q, name, zero), scale


def weights(draw, net, shape, axis, types=BYTES):
    """Constant weights behind DequantizeLinear, with one scale or one for each channel: the
    float, and the scales."""
    elem = draw(st.sampled_from(types))
    count = shape[axis]
    per = draw(st.sampled_from([(), (), (count,)])) if net.opset > 12 else ()
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
    attrs = {"axis": 0} if flat.ndim and net.opset > 12 else {}
    return [net.dequantise(values, net.const("f32", flat), zero, **attrs)], not other


def rest(draw, net, y, types=BYTES):
    """What follows a layer: perhaps an activation, perhaps a quantiser. The outputs, and whether
    a quantiser is one of them."""
    shape = net.types[y][1]
    kind = draw(st.sampled_from(["nothing", "nothing", "Relu", "Clip", "Sigmoid"]))
    outputs = [y] if draw(st.integers(0, 5)) == 0 else []
    if kind == "Relu":
        y = net.op("Relu", [y], "f32", shape)
    if kind == "Clip" and net.opset > 10:
        y = net.op("Clip", [y, net.const("f32", -0.5), net.const("f32", 6.0)], "f32", shape)
    if kind == "Sigmoid":
        y = net.op("Sigmoid", [y], "f32", shape)
    if draw(st.integers(0, 3)):
        y, _, _ = net.quantise(y, draw(st.sampled_from(types)))
    return list(dict.fromkeys([y, *outputs]))


def near(net, outputs, found):
    """At most one step away from the literal float model, or within rounding."""
    literal = to_onnx(import_model(net.model(*outputs), "literal"))
    for name, array in runtime(literal, net.feeds).items():
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
    opset = data.draw(st.sampled_from([10, 11, 12, 13, 13, 19, 21]))
    draw, net = data.draw, Quant(data.draw(SEEDS), opset)
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
    net.domain = draw(st.sampled_from(["", "", MS]))
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


FOUR = ("u4", "i4", "u8", "i8")


@cases(60)
@given(st.data())
def test_few_bits(data):
    """Weights, inputs and outputs of 4 and 8 bits in all mixes."""
    draw, net = data.draw, Quant(data.draw(SEEDS), opset=21)
    group, per, out = (draw(st.integers(1, 3)) for _ in range(3))
    x, sx = activation(draw, net, (1, group * per, 3, 4), FOUR)
    w, sw = weights(draw, net, (group * out, per, 2, 2), 0, FOUR)
    b, _ = bias(draw, net, group * out, np.asarray(sx * sw, np.float32))
    y = net.op("Conv", [x, w, *b], "f32", (1, group * out, 2, 3), group=group)
    outputs = rest(draw, net, y, FOUR)
    _, found = check(net, *outputs, layers=1, left=None)
    near(net, outputs, found)


@cases(60)
@given(st.data())
def test_conv_transpose(data):
    draw, net = data.draw, Quant(data.draw(SEEDS))
    group, per, out = (draw(st.integers(1, 3)) for _ in range(3))
    sizes = [draw(st.integers(1, 4)) for _ in range(draw(st.integers(1, 2)))]
    kernel = [draw(st.integers(1, 3)) for _ in sizes]
    strides = [draw(st.integers(1, 3)) for _ in sizes]
    pads = [draw(st.integers(0, k - 1)) for k in kernel] * 2
    spatial = [(n - 1) * s + k - 2 * p for n, s, k, p in zip(sizes, strides, kernel, pads)]
    assume(min(spatial) > 0)
    x, sx = activation(draw, net, (1, group * per, *sizes))
    w, sw = weights(draw, net, (group * per, out, *kernel), 1)
    b = []
    if not np.ndim(sw):
        b, _ = bias(draw, net, group * out, np.asarray(sx * sw, np.float32))
    y = net.op("ConvTranspose", [x, w, *b], "f32", (1, group * out, *spatial), group=group,
               strides=strides, pads=pads)  # fmt: skip
    outputs = rest(draw, net, y)
    taken = not np.ndim(sw) or group == 1
    _, found = check(net, *outputs, layers=int(taken), left=None)
    near(net, outputs, found)


@cases(60)
@given(st.data())
def test_means(data):
    """GlobalAveragePool, ReduceMean, AveragePool between quantisers."""
    opset = data.draw(st.sampled_from([13, 18]))
    draw, net = data.draw, Quant(data.draw(SEEDS), opset=opset)
    channels, sizes = draw(st.integers(1, 5)), [draw(st.integers(1, 5)) for _ in range(2)]
    x, _ = activation(draw, net, (1, channels, *sizes))
    kind = draw(st.sampled_from(["GlobalAveragePool", "ReduceMean", "ReduceMean", "AveragePool"]))
    shape = (1, channels, 1, 1)
    if kind == "GlobalAveragePool":
        y = net.op(kind, [x], "f32", shape)
    elif kind == "ReduceMean":
        keep, axes = draw(st.integers(0, 1)), draw(st.sampled_from([[2, 3], [-1, -2]]))
        shape = shape if keep else shape[:2]
        if opset < 18:
            y = net.op(kind, [x], "f32", shape, axes=axes, keepdims=keep)
        else:
            y = net.op(kind, [x, net.const("i64", axes)], "f32", shape, keepdims=keep)
    else:
        kernel, attrs = window(draw, sizes, pool=True)
        attrs["count_include_pad"] = draw(st.integers(0, 1))
        attrs.pop("dilations", None)
        spatial = out_sizes(sizes, kernel, **{k: v for k, v in attrs.items() if k[0] != "c"})
        y = net.op(kind, [x], "f32", (1, channels, *spatial), kernel_shape=kernel, **attrs)
    outputs = [net.quantise(y, draw(st.sampled_from(BYTES)))[0]]
    _, found = check(net, *outputs, left=None)
    near(net, outputs, found)


def block(draw, net, x):
    """A part of a network: the float after it, of rank 4."""
    shape = net.types[x][1]
    kinds = ["conv", "conv", "pool", "sum", "concat", "turn", "pad", "mean"]
    kind = draw(st.sampled_from(kinds))
    if kind == "pool":
        y = net.op("MaxPool", [x], "f32", shape, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        return y
    if kind == "mean":
        return net.op("AveragePool", [x], "f32", (*shape[:2], 3, 3), kernel_shape=[2, 2])
    if kind == "turn":
        return net.op("Transpose", [x], "f32", (shape[0], shape[1], shape[3], shape[2]),
                      perm=[0, 1, 3, 2])  # fmt: skip
    if kind == "concat":
        other, _ = requantised(net, net.op("Relu", [x], "f32", shape), draw(st.sampled_from(BYTES)))
        return net.op("Concat", [x, other], "f32", (shape[0], 2 * shape[1], *shape[2:]), axis=1)
    margin = [0, 0, 1, 1, 0, 0, 1, 1]
    source = x
    if kind == "pad":
        source = net.op("Pad", [x, net.const("i64", margin)], "f32", shape)
    w, sw = weights(draw, net, (shape[1], shape[1], 3, 3), 0)
    pads = [0, 0, 0, 0] if kind == "pad" else [1, 1, 1, 1]
    b, _ = bias(draw, net, shape[1], np.asarray(sw * net.rng.uniform(0.01, 0.1), np.float32))
    y = net.op("Conv", [source, w, *b], "f32", shape, pads=pads)
    act = draw(st.sampled_from(["", "Relu", "HardSwish", "Sigmoid"]))
    if act:
        y = net.op(act, [y], "f32", shape)
    if kind == "sum":
        y, _ = requantised(net, y, draw(st.sampled_from(BYTES)))
        y = net.op("Add", [x, y], "f32", shape)
        y = net.op("Relu", [y], "f32", shape) if draw(st.booleans()) else y
    return y


@cases(80)
@given(st.data())
def test_networks(data):
    """Blocks between quantisers, a classifier behind them, in several operator sets."""
    draw, net = data.draw, Quant(data.draw(SEEDS), opset=data.draw(st.sampled_from([14, 17, 20])))
    x, _ = activation(draw, net, (1, 2, 4, 4))
    for _ in range(draw(st.integers(1, 3))):
        if net.types[x][1][2:] != (4, 4):
            break
        x = block(draw, net, x)
        if draw(st.integers(0, 4)):
            x, _ = requantised(net, x, draw(st.sampled_from(BYTES)))
    shape = net.types[x][1]
    size = int(np.prod(shape[1:]))
    x = net.op("Flatten", [x], "f32", (1, size))
    if draw(st.booleans()):
        x, _ = requantised(net, x, draw(st.sampled_from(BYTES)))
    w, _ = weights(draw, net, (7, size), 0)
    if draw(st.booleans()):
        x = net.op("Gemm", [x, w], "f32", (1, 7), transB=1)
    else:
        w = net.op("Transpose", [w], "f32", (size, 7), perm=[1, 0])
        x = net.op("MatMul", [x, w], "f32", (1, 7))
    if draw(st.booleans()):
        x, _ = requantised(net, x, draw(st.sampled_from(BYTES)))
    y = net.op("Softmax", [x], "f32", (1, 7)) if draw(st.booleans()) else x
    check(net, y, left=None)
