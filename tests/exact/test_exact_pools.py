"""MaxPool in every order with the layer, the batch normalisation and the sign."""

import pytest
from exact_check import check_case
from exact_draw import FORMS, PLAIN_FORMS, SEEDS, binarise, cases, conv, float_work, geometry
from exact_draw import max_pool as drawn_pool
from exact_nets import Net
from hypothesis import given
from hypothesis import strategies as st

ORDERS = {
    "layer pool map sign": ("pool", "map", "sign"),
    "layer map pool sign": ("map", "pool", "sign"),
    "layer map sign pool": ("map", "sign", "pool"),
    "layer map pool map sign": ("map", "pool", "map", "sign"),
    "layer map pool map sign pool": ("map", "pool", "map", "sign", "pool"),
    "layer pool sign pool": ("pool", "sign", "pool"),
    "layer pool pool map sign": ("pool", "pool", "map", "sign"),
}


def _step(draw, net, x, step):
    if step == "pool":
        return drawn_pool(draw, net, x)
    if step == "sign":
        return FORMS[draw(st.sampled_from(PLAIN_FORMS))](net, x)
    return float_work(draw, net, x, most=2)


@pytest.mark.parametrize("order", ORDERS)
@cases(18)
@given(data=st.data())
def test_order(order, data):
    draw, net = data.draw, Net(data.draw(SEEDS))
    sizes = draw(st.sampled_from([(6,), (5, 6), (7, 5), (1, 4), (3, 4, 3)]))
    x = binarise(draw, net, net.input("x", (1, draw(st.integers(1, 3)), *sizes)))
    x = conv(draw, net, x, most=6)
    for step in ORDERS[order]:
        x = _step(draw, net, x, step)
    check_case(net, x, **geometry(draw, net))


@cases(20)
@given(st.data())
def test_pool_of_an_image_and_of_bits_before_a_layer(data):
    draw, net = data.draw, Net(data.draw(SEEDS))
    x = net.input("x", (1, 2, 6, 5))
    if draw(st.booleans()):
        x = drawn_pool(draw, net, x)
    # the largest of negated levels is the negated smallest, which no pool on chip gives
    forms = [form for form in PLAIN_FORMS if form != "negated"]
    x = drawn_pool(draw, net, binarise(draw, net, x, forms))
    x = conv(draw, net, x, most=6)
    check_case(net, binarise(draw, net, x), x, **geometry(draw, net))
