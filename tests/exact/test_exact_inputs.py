"""What a first layer may take: u8 and i8 images by bit planes, images behind float work."""

import numpy as np
from exact_check import check_case
from exact_draw import SEEDS, WEIGHTS, binarise, cases, conv, float_work, geometry
from exact_nets import Net
from hypothesis import given
from hypothesis import strategies as st


@cases(40)
@given(st.data())
def test_integer_image_straight_into_a_convolution(data):
    draw, net = data.draw, Net(data.draw(SEEDS))
    x = net.input("x", (1, 2, 4, 4), draw(st.sampled_from(["u8", "i8"])))
    x = net.op("Cast", x, to=1)
    y = conv(draw, net, x, most=6)
    check_case(net, binarise(draw, net, float_work(draw, net, y)), **geometry(draw, net))


@cases(20)
@given(st.data())
def test_integer_image_straight_into_a_product(data):
    draw, net = data.draw, Net(data.draw(SEEDS))
    x = net.input("x", (1, 3, 3, 2), draw(st.sampled_from(["u8", "i8"])))
    x = net.op("Flatten", net.op("Cast", x, to=1), shape=(1, 18))
    w = net.weights((18, 5), draw(st.sampled_from(WEIGHTS)), 1)
    y = net.op("MatMul", x, net.const(w, "w"), shape=(1, 5))
    check_case(net, y, binarise(draw, net, y), **geometry(draw, net))


@cases(40)
@given(st.data())
def test_integer_image_behind_an_affine_map_and_a_sign(data):
    draw, net = data.draw, Net(data.draw(SEEDS))
    x = net.op("Cast", net.input("x", (1, 2, 4, 4), draw(st.sampled_from(["u8", "i8"]))), to=1)
    if draw(st.booleans()):
        x = net.op("Div", net.op("Sub", net.op("Div", x, 255.0), 0.1307), 0.3081)
    else:
        x = net.op("Sub", x, net.per_channel(x, net.rng.integers(0, 128, 2)))
    y = conv(draw, net, binarise(draw, net, x), most=8)
    check_case(net, binarise(draw, net, y), **geometry(draw, net))


@cases(20)
@given(st.data())
def test_bits_and_scales_of_a_layers_input(data):
    """The input's levels are ±a, 0 and a, or three, a a power of two, perhaps negative."""
    draw, net = data.draw, Net(data.draw(SEEDS))
    x = binarise(draw, net, net.input("x", (1, 3, 3, 3)))
    x = net.op("Mul", x, np.float32(draw(st.sampled_from([0.125, -2.0, 1.0, 2.0**-40, 2.0**60]))))
    y = conv(draw, net, x, most=6)
    check_case(net, y, binarise(draw, net, y), **geometry(draw, net))
