"""Binary and ternary convolutions: graph, program and onnxruntime give the same bits."""

from exact_check import check_case
from exact_draw import (
    FORMS,
    SEEDS,
    binarise,
    cases,
    conv,
    float_work,
    geometry,
    plain,
)
from exact_nets import Net
from hypothesis import given
from hypothesis import strategies as st


def _image(draw, net):
    """A float image with 1 to 3 spatial axes (3 seldom) and 1 to 6 channels."""
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))
    most = 4 if rank == 3 else 6
    sizes = [draw(st.integers(1, most)) for _ in range(rank)]
    return net.input("x", (1, draw(st.integers(1, 6)), *sizes))


def convolutions(draw):
    """sign, convolution, float work, sign."""
    net = Net(draw(SEEDS))
    x = binarise(draw, net, _image(draw, net))
    x = conv(draw, net, x)
    x = float_work(draw, net, x)
    return net, binarise(draw, net, x), geometry(draw, net)


@cases(150)
@given(st.data())
def test_convolution_between_signs(data):
    net, y, options = convolutions(data.draw)
    check_case(net, y, **options)


@cases(40)
@given(st.data())
def test_sums_of_a_convolution_as_floats(data):
    """The graph's output comes straight from the accumulators, and from a threshold too."""
    draw, net = data.draw, Net(data.draw(SEEDS))
    x = binarise(draw, net, _image(draw, net))
    y = conv(draw, net, x)
    outputs = [y, binarise(draw, net, y)] if draw(st.booleans()) else [y]
    check_case(net, *outputs, **geometry(draw, net))


@cases(40)
@given(st.data())
def test_every_way_to_write_a_sign(data):
    draw, net = data.draw, Net(data.draw(SEEDS))
    x = net.input("x", (1, 3, 4, 4))
    x = FORMS[draw(plain(tuple(FORMS)))](net, x)
    x = net.conv(x, 7, [2, 2], bias=net.rng.choice([0.0, 1.0, -2.0, 0.5], 7))
    y = FORMS[draw(plain(tuple(FORMS)))](net, x)
    check_case(net, y, **geometry(draw, net))


@cases(30)
@given(st.data())
def test_depthwise(data):
    draw, net = data.draw, Net(data.draw(SEEDS))
    channels, times = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    x = binarise(draw, net, net.input("x", (1, channels, 5, 4)))
    x = net.conv(x, channels * times, [3, 2], "tern", None, channels, pads=[1, 0, 1, 1])
    check_case(net, binarise(draw, net, float_work(draw, net, x)), **geometry(draw, net))
