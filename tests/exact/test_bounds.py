"""Worst cases of integer values (cimc/driver/bounds.py): no run leaves them, and the
parity that they claim holds."""

import numpy as np
from exact_check import compiled
from exact_draw import FORMS, SEEDS, binarise, cases, conv, max_pool
from exact_nets import Net
from hypothesis import given
from hypothesis import strategies as st

from cimc.driver.bounds import Bounds, bounds
from cimc.frontend.evaluate import Evaluator
from cimc.ir.graph import Graph
from cimc.ir.ops import HOST
from cimc.ir.types import TensorType, is_integer


def _integers(graph):
    return [
        v
        for n in graph.nodes
        if n.op != HOST
        for v in n.outputs
        if isinstance(v.type, TensorType) and is_integer(v.elem)
    ]


def _extremes(net, x, samples):
    """Inputs that make a layer's sums as large as they get are among many random ones."""
    return {name: a[:1].repeat(samples, 0) for name, a in net.feeds.items()} | {
        x: net.rng.choice(net.feeds[x].ravel(), (samples, *net.feeds[x].shape[1:]))
    }


@cases(60)
@given(st.data())
def test_no_value_leaves_its_bounds(data):
    draw, net = data.draw, Net(data.draw(SEEDS))
    x = net.input("x", (1, 2, 3, 4), draw(st.sampled_from(["f32", "u8", "i8"])))
    y = binarise(draw, net, x) if net.feeds["x"].dtype == np.float32 else net.op("Cast", x, to=1)
    y = max_pool(draw, net, y)
    y = conv(draw, net, y, bias=False, kinds=("bip", "tern"), most=4)
    if draw(st.booleans()):
        y = net.op("Add", net.op("Relu", y), y)
    graph = compiled(net.model(y)).graph
    values = _integers(graph)
    made = graph.producers()
    inner = Graph("all", graph.inputs, values, graph.nodes, graph.consts, opsets=graph.opsets,
                  input_names=graph.input_names)  # fmt: skip
    run = Evaluator(inner)
    for sample in _extremes(net, x, 30)[x]:
        found = run({"x": sample[None]})
        for value in values:
            reach, array = bounds(value, made), found[value.name].astype(np.int64)
            assert reach.low <= array.min(initial=reach.high), value
            assert array.max(initial=reach.low) <= reach.high, value
            assert not ((array - reach.low) % reach.step).any(), value


def _layer_bounds(x, w, **attrs):
    net = Net(0)
    image = net.input("x", (1, w.shape[1], 4), "f32" if x == "bip" else x)
    image = FORMS["Greater"](net, image) if x == "bip" else net.op("Cast", image, to=1)
    y = net.conv(image, w.shape[0], [w.shape[2]], w=net.const(w, "w"), **attrs)
    graph = compiled(net.model(y)).graph
    layer = next(n for n in graph.nodes if n.op == "cim.conv")
    return bounds(layer.output, graph.producers())


def test_bounds_are_as_tight_as_the_weights():
    ones = np.ones((2, 3, 2), np.float32)
    assert _layer_bounds("bip", ones) == Bounds(-6, 6, 2)
    assert _layer_bounds("bip", ones, pads=[1, 0]) == Bounds(-6, 6, 1)
    assert _layer_bounds("u8", ones) == Bounds(0, 6 * 255)
    assert _layer_bounds("i8", ones) == Bounds(-6 * 128, 6 * 127)
    mixed = ones.copy()
    mixed[0, 0] = -1
    assert _layer_bounds("u8", mixed) == Bounds(-2 * 255, 6 * 255)
    mixed[1] = 0
    mixed[0, 1] = 0
    assert _layer_bounds("bip", mixed) == Bounds(-4, 4, 1)
