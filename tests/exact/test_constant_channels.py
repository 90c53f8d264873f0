"""A layer whose input lost channels that are constant: at padded borders they leave a sum that
differs from place to place. It goes into the layer's bias, bit for bit, and thresholds behind it
stay at the accumulators."""

import numpy as np
import pytest
from exact_check import check_case
from exact_nets import Net

from cimc.frontend.session import call, open_session
from cimc.ir.ops import HOST
from cimc.isa.program import Ref, walk

KEPT, GONE, OUT, SIZE = 6, 3, 8, 5


def bits(net, x, low):
    """1 above zero, `low` elsewhere."""
    return net.op("Where", net.op("Greater", x, 0.0), 1.0, low, shape=net.shapes[x])


INPUTS = {
    "signs": (lambda net: bits(net, net.input("x", (1, KEPT, SIZE, SIZE)), -1.0), (-1, 1)),
    "bits": (lambda net: bits(net, net.input("x", (1, KEPT, SIZE, SIZE)), 0.0), (0, 1)),
    "bytes": (
        lambda net: net.op("Cast", net.input("x", (1, KEPT, SIZE, SIZE), "u8"), to=1), (0, 3, 255),
    ),
}  # fmt: skip


def networks(kind, weights="bip", pool=True, **attrs):
    """The same layer with all channels of its input, and with a constant for those that are
    gone; names of both results, in nets of equal seeds."""
    make, levels = INPUTS[kind]
    found = []
    for whole in (True, False):
        net = Net(11)
        x = make(net)
        w = net.weights((OUT, KEPT + GONE, 3, 3), weights)
        gone = net.rng.choice(np.array(levels, np.float32), GONE).reshape(1, GONE, 1, 1)
        gone[0, 0] = levels[-1]
        attrs = {"pads": [1, 1, 1, 1]} | attrs
        if whole:
            size = np.array([1, GONE, SIZE, SIZE])
            there = net.op("Expand", gone, size, shape=tuple(size))
            x = net.op("Concat", x, there, shape=(1, KEPT + GONE, SIZE, SIZE), axis=1)
            y = net.conv(x, OUT, [3, 3], w=net.const(w), **attrs)
        else:
            given = np.broadcast_to(gone, (1, GONE, SIZE, SIZE)).astype(np.float32)
            y = net.conv(x, OUT, [3, 3], w=net.const(w[:, :KEPT]), **attrs)
            y = net.op("Add", y, rest(given, w[:, KEPT:], attrs))
        y = net.op("Add", y, net.per_channel(y, net.rng.standard_normal(OUT)))
        scale, bias, mean = net.rng.standard_normal((3, OUT))
        y = net.batch_norm(y, scale, bias * 3, mean * 3, net.rng.random(OUT) + 0.5)
        y = net.max_pool(y, [2, 2], strides=[2, 2]) if pool else y
        found.append((net, bits(net, y, -1.0)))
    return found


def rest(x, w, attrs):
    """What constant channels add, by onnxruntime."""
    net = Net()
    net.input("x", x.shape)
    model = net.model(net.conv("x", len(w), [3, 3], w=net.const(w), **attrs))
    return run(model, x)


def run(model, x):
    (found,) = call(open_session(model.SerializeToString(), "rest", threads=1), {"x": x}, "rest")
    return found


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize(
    ("weights", "attrs"),
    [
        ("bip", {}), ("tern", {}), ("alphas", {}), ("alpha", {"pads": [2, 0, 1, 1]}),
        ("bip", {"strides": [2, 1]}), ("bip", {"pool": False}),
    ],
    ids=str,
)  # fmt: skip
def test_what_constant_channels_leave(kind, weights, attrs):
    (whole, right), (net, y) = networks(kind, weights, **attrs)
    case, result = check_case(net, y)
    sample = {name: array[:1] for name, array in net.feeds.items()}
    expected = run(whole.model(right), sample["x"])
    assert np.array_equal(expected, result.outputs[y][:1])

    layers = case.program.section("infer").layers
    (layer,) = [la for la in layers if any(i.op.startswith("read.") for i in walk(la.body))]
    ops = [i.op for i in walk(layer.body)]
    assert "st.ge" in ops
    assert "st.acc" not in ops
    starts = [i.args[1] for i in walk(layer.body) if i.op == "acc.add"]
    assert any(isinstance(s, Ref) and s.index is not None for s in starts)
    hosts = [n for n in case.graph.nodes if n.op == HOST]
    left = {n.op for host in hosts for body in host.graphs() for n in body.nodes}
    assert not left & {"onnx.Conv", "onnx.BatchNormalization", "onnx.MaxPool"}


def test_a_sum_that_is_not_whole_stays_behind_the_layer():
    """Half a unit of the weights can't be in an integer bias."""
    net = Net(3)
    x = bits(net, net.input("x", (1, 2, 3, 3)), -1.0)
    y = net.conv(x, 4, [3, 3], pads=[1, 1, 1, 1])
    y = net.op("Add", y, net.rng.integers(-5, 5, (1, 4, 3, 3)) / 2)
    case, _ = check_case(net, y)
    assert "acc.add %a[0:4], " not in str(case.program.section("infer"))
