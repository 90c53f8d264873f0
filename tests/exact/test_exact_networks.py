"""Several layers: residual sums, layout, shared weights, several outputs, compiled batches."""

import numpy as np
import pytest
from exact_check import check_case
from exact_draw import (
    FORMS,
    PLAIN_FORMS,
    SEEDS,
    binarise,
    cases,
    conv,
    float_work,
    geometry,
    max_pool,
)
from exact_nets import Net
from hypothesis import given
from hypothesis import strategies as st


def _block(draw, net, x):
    """Layer, work between, sign."""
    x = conv(draw, net, x, most=6)
    if draw(st.booleans()):
        x = max_pool(draw, net, x)
    x = float_work(draw, net, x, most=2)
    return FORMS[draw(st.sampled_from(PLAIN_FORMS))](net, x)


def _dense(draw, net, x, out, kind="bip"):
    """Gemm on a flattened x."""
    size = int(np.prod(net.shapes[x]))
    x = net.op("Flatten", x, shape=(1, size))
    w = net.const(net.weights((out, size), kind), "w")
    return net.op("Gemm", x, w, shape=(1, out), transB=1)


@cases(50)
@given(st.data())
def test_layers_in_a_row(data):
    draw, net = data.draw, Net(data.draw(SEEDS))
    x = binarise(draw, net, net.input("x", (1, 2, 6, 6)))
    for _ in range(draw(st.integers(1, 3))):
        x = _block(draw, net, x)
    x = _dense(draw, net, x, 7, draw(st.sampled_from(["bip", "tern"])))
    x = float_work(draw, net, x, most=2)
    check_case(net, x, **geometry(draw, net))


@cases(30)
@given(st.data())
def test_residual_sums(data):
    """The sum of two layers' integers, or of a layer's and its own bits, then more of both."""
    draw, net = data.draw, Net(data.draw(SEEDS))
    x = binarise(draw, net, net.input("x", (1, 4, 5, 4)), ["Sign", "Greater", "LessOrEqual"])
    y = net.conv(x, 4, [3, 3], "bip", pads=[1, 1, 1, 1])
    other = x if draw(st.booleans()) else net.conv(x, 4, [1, 1], "tern")
    y = net.op("Add", y, other)
    if draw(st.booleans()):
        y = net.op("Relu", y)
    bits = binarise(draw, net, float_work(draw, net, y, most=2))
    z = net.op("Add", net.conv(bits, 4, [3, 3], "bip", pads=[1, 1, 1, 1]), y)
    check_case(net, binarise(draw, net, z), z, **geometry(draw, net))


@cases(30)
@given(st.data())
def test_layout_between_layers(data):
    draw, net = data.draw, Net(data.draw(SEEDS))
    x = binarise(draw, net, net.input("x", (1, 3, 4, 2)))
    x = net.conv(x, 6, [2, 1])
    y = net.op("Sign", x)  # [1, 6, 3, 2]
    way = draw(st.sampled_from(["reshape", "transpose", "both", "squeeze"]))
    if way in ("reshape", "both"):
        y = net.op("Reshape", y, np.asarray([1, 4, 9]), shape=(1, 4, 9))
    if way == "both":
        y = net.op("Transpose", y, shape=(1, 9, 4), perm=[0, 2, 1])
    if way == "transpose":
        y = net.op("Transpose", y, shape=(1, 3, 6, 2), perm=[0, 2, 1, 3])
    if way == "squeeze":
        y = net.op("Reshape", y, np.asarray([1, 36, 1]), shape=(1, 36, 1))
        y = net.op("Squeeze", y, np.asarray([2]), shape=(1, 36))
        w = net.const(net.weights((36, 5), "tern"), "w")
        y = net.op("MatMul", y, w, shape=(1, 5))
    else:
        y = net.conv(y, 5, [2] * (len(net.shapes[y]) - 2))
    check_case(net, binarise(draw, net, y), **geometry(draw, net))


@cases(20)
@given(st.data())
def test_shared_weights_and_several_outputs(data):
    draw, net = data.draw, Net(data.draw(SEEDS))
    x = binarise(draw, net, net.input("x", (1, 4, 5)))
    w = net.const(net.weights((4, 4, 3), draw(st.sampled_from(["bip", "tern"]))), "w")
    first = net.conv(x, 4, [3], w=w, pads=[1, 1])
    bits = binarise(draw, net, first)
    second = net.conv(bits, 4, [3], w=w, pads=[1, 1])
    more = [first, bits, net.op("Relu", second), net.op("Sign", second)]
    outputs = [second, *(v for v in more if draw(st.booleans()))]
    check_case(net, *outputs, **geometry(draw, net))


@cases(20)
@given(st.data())
def test_a_batch_compiled_in(data):
    draw, net = data.draw, Net(data.draw(SEEDS))
    size = draw(st.integers(2, 3))
    x = net.input("x", (1, 2, 5, 4), samples=2 * size)
    x = _block(draw, net, binarise(draw, net, x))
    if draw(st.booleans()):
        flat = int(np.prod(net.shapes[x]))
        x = net.op("Flatten", x, shape=(1, flat))
        x = net.op("MatMul", x, net.const(net.weights((flat, 3), "bip"), "w"), shape=(1, 3))
    check_case(net, x, shapes={"x": (size, 2, 5, 4)}, **geometry(draw, net))


@pytest.mark.parametrize("kind", ["bip", "tern"])
def test_two_inputs(kind):
    net = Net(1)
    a, b = net.op("Sign", net.input("a", (1, 3, 4))), net.op("Sign", net.input("b", (1, 3, 4)))
    y = net.op("Add", net.conv(a, 2, [3], kind), net.conv(b, 2, [3], kind))
    check_case(net, net.op("Sign", y), y)
