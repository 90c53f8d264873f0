"""QLinear and Integer layers of ONNX: the native operations that the passes make of them give
onnxruntime's bits."""

from __future__ import annotations

from exact_draw import SEEDS, cases, window
from exact_nets import out_sizes
from hypothesis import assume, given
from hypothesis import strategies as st
from integer_nets import MS, Quant, check

KERNELS = [("u8", "u8"), ("u8", "i8"), ("i8", "i8")]
"""Types of x and w for which onnxruntime has QLinear kernels; y has that of x."""


# -- QLinear and Integer operators ------------------------------------------------------


def conv_parts(draw, net, most=3):
    """A drawn convolution: input shape, kernel shape, attributes, output shape."""
    rank = draw(st.integers(1, 3))
    group, per, out = (draw(st.integers(1, n)) for n in (3, 3, most))
    batch = draw(st.sampled_from([1, 1, 2, 0]))
    sizes = [draw(st.integers(1, 6)) for _ in range(rank)]
    kernel, attrs = window(draw, sizes)
    if draw(st.booleans()):
        kernel, attrs = [1] * rank, {}
    if group > 1:
        attrs["group"] = group
    spatial = out_sizes(sizes, kernel, **{k: v for k, v in attrs.items() if k != "group"})
    x, w = (batch, group * per, *sizes), (group * out, per, *kernel)
    return x, w, attrs, (batch, group * out, *spatial)


def channels_or_one(draw, count):
    return draw(st.sampled_from([(), (1,), (count,)]))


@cases(150)
@given(st.data())
def test_qlinear_conv(data):
    draw, net = data.draw, Quant(data.draw(SEEDS))
    x_type, w_type = draw(st.sampled_from(KERNELS))
    x_shape, w_shape, attrs, y_shape = conv_parts(draw, net)
    x, count = net.input(x_type, x_shape), w_shape[0]
    zeros = draw(st.sampled_from([(), (1,), (count,)]))
    inputs = [
        x, net.scale(), net.zero(x_type),
        net.weights(w_type, w_shape), net.scale(channels_or_one(draw, count)),
        net.zero(w_type, zeros), net.scale((), 0.05, 2.0), net.zero(x_type),
    ]  # fmt: skip
    if draw(st.booleans()):
        inputs.append(net.const("i32", net.rng.integers(-9000, 9000, count)))
    y = net.op("QLinearConv", inputs, x_type, y_shape, **attrs)
    check(net, y, layers=1)


@cases(120)
@given(st.data())
def test_conv_integer(data):
    """Zero points left out, constant, or known at run time only."""
    draw, net = data.draw, Quant(data.draw(SEEDS))
    x_shape, w_shape, attrs, y_shape = conv_parts(draw, net)
    kind = draw(st.sampled_from(["none", "known", "given", "dynamic"]))
    if kind == "dynamic":
        x, _, zero = net.op("DynamicQuantizeLinear", [net.input("f32", x_shape)], "u8", x_shape,
                            outputs=3)  # fmt: skip
        assume(x_shape[0])
    else:
        x = net.input("u8", x_shape)
        zero = "" if kind == "none" else net.zero("u8")
        zero = net.input("u8", draw(st.sampled_from([(), (1,)]))) if kind == "given" else zero
    w_type = draw(st.sampled_from(["u8", "i8"]))
    inputs = [x, net.weights(w_type, w_shape), zero]
    if draw(st.booleans()):
        inputs.append(net.zero(w_type, draw(st.sampled_from([(), (1,)]))))
    y = net.op("ConvInteger", inputs, "i32", y_shape, **attrs)
    check(net, y, layers=1, left=("onnx.DynamicQuantizeLinear",))


def product_shapes(draw):
    """Shapes of an activation and a weight matrix, of the product, and which side the weights
    are on."""
    k, n = draw(st.integers(1, 20)), draw(st.integers(1, 9))
    kind = draw(st.sampled_from(["right", "right", "rows", "left", "stack"]))
    lead = draw(st.sampled_from([(), (), (1,), (2,), (1, 3), (0,)]))
    m = draw(st.integers(1, 4))
    if kind == "left":
        return (*lead, k, m), (n, k), (*lead, n, m), True
    if kind == "stack" and lead and 0 not in lead:
        return (*lead, m, k), (*lead, k, n), (*lead, m, n), False
    ones = (1,) * len(lead) if kind == "rows" else ()
    return (*lead, m, k), (*ones, k, n), (*lead, m, n), False


@cases(150)
@given(st.data())
def test_qlinear_matmul(data):
    draw, net = data.draw, Quant(data.draw(SEEDS))
    x_shape, w_shape, y_shape, left = product_shapes(draw)
    x_type, w_type = draw(st.sampled_from([("u8", "u8"), ("i8", "i8")] if left else KERNELS))
    plain = len(w_shape) == 2 and not left
    per = draw(st.sampled_from([(), (1,), (w_shape[-1],)] if plain else [(), (1,)]))
    zeros = draw(st.sampled_from([(), (w_shape[-1],)] if plain else [()]))
    data_side = [net.input(x_type, x_shape), net.scale(), net.zero(x_type)]
    weights = [net.weights(w_type, w_shape), net.scale(per), net.zero(w_type, zeros)]
    sides = weights + data_side if left else data_side + weights
    inputs = [*sides, net.scale((), 0.05, 2.0), net.zero(x_type)]
    y = net.op("QLinearMatMul", inputs, x_type, y_shape)
    check(net, y, layers=1)


@cases(120)
@given(st.data())
def test_matmul_integer(data):
    draw, net = data.draw, Quant(data.draw(SEEDS))
    x_shape, w_shape, y_shape, left = product_shapes(draw)
    x_type, w_type = draw(st.sampled_from([("u8", "u8"), ("i8", "i8")] if left else KERNELS))
    x, w = net.input(x_type, x_shape), net.weights(w_type, w_shape)
    kind = draw(st.sampled_from(["none", "known", "given"]))
    zx = "" if kind == "none" else net.zero(x_type)
    zx = net.input(x_type, draw(st.sampled_from([(), (1,)]))) if kind == "given" else zx
    plain = len(w_shape) == 2 and not left
    zw = ""
    if draw(st.booleans()):
        zw = net.zero(w_type, draw(st.sampled_from([(), (w_shape[-1],)] if plain else [()])))
    inputs = [w, x, zw, zx] if left else [x, w, zx, zw]
    y = net.op("MatMulInteger", inputs, "i32", y_shape)
    check(net, y, layers=1)


@cases(100)
@given(st.data())
def test_qgemm(data):
    draw, net = data.draw, Quant(data.draw(SEEDS))
    m, k, n = (draw(st.integers(1, size)) for size in (4, 20, 9))
    x_type, w_type = draw(st.sampled_from(KERNELS))
    turned, flipped = draw(st.booleans()), draw(st.booleans())
    per = draw(st.sampled_from([(), (n,)]))
    inputs = [
        net.input(x_type, (k, m) if turned else (m, k)), net.scale(), net.zero(x_type),
        net.weights(w_type, (n, k) if flipped else (k, n)), net.scale(per), net.zero(w_type, per),
        net.const("i32", net.rng.integers(-9000, 9000, n)) if draw(st.booleans()) else "",
    ]  # fmt: skip
    attrs = {"transA": int(turned), "transB": int(flipped)}
    attrs |= {"alpha": draw(st.sampled_from([1.0, 0.3]))}
    if draw(st.booleans()):
        y = net.op("QGemm", inputs, "f32", (m, n), MS, **attrs)
        check(net, y, layers=1, left=("onnx.Mul",))
        return
    inputs += [net.scale((), 0.05, 2.0), net.zero(x_type)]
    y = net.op("QGemm", inputs, x_type, (m, n), MS, **attrs)
    check(net, y, layers=1)
