"""A larger random search over whole networks; `--hypothesis-profile=explore` draws new ones."""

import pytest
from exact_check import check_case
from exact_draw import (
    FORMS,
    PLAIN_FORMS,
    SEEDS,
    binarise,
    conv,
    float_work,
    geometry,
    max_pool,
)
from exact_nets import Net
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

SEARCH = settings(
    max_examples=1500,
    deadline=None,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


@pytest.mark.slow
@SEARCH
@given(st.data())
def test_networks(data):
    draw, net = data.draw, Net(data.draw(SEEDS))
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))
    sizes = [draw(st.integers(1, 5)) for _ in range(rank)]
    elem = draw(st.sampled_from(["f32", "u8", "i8"]))
    x = net.input("x", (1, draw(st.integers(1, 5)), *sizes), elem, samples=draw(st.integers(2, 4)))
    integers = elem != "f32"
    x = net.op("Cast", x, to=1) if integers else x
    if not integers or draw(st.booleans()):
        x = binarise(draw, net, x, tuple(FORMS))
    outputs = []
    for _ in range(draw(st.integers(1, 3))):
        x = conv(draw, net, x)
        if draw(st.booleans()):
            outputs.append(x)
        for step in draw(st.lists(st.sampled_from(["pool", "map", "map"]), max_size=3)):
            x = max_pool(draw, net, x) if step == "pool" else float_work(draw, net, x, most=2)
        x = FORMS[draw(st.sampled_from(PLAIN_FORMS))](net, x)
    check_case(net, *dict.fromkeys([*outputs, x]), **geometry(draw, net))
