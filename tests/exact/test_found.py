"""Cases that the random search found, kept small."""

import numpy as np
import pytest
from exact_check import assert_equal, check_case, compiled
from exact_nets import Net
from integer_nets import Quant, runtime

from cimc.frontend.evaluate import Evaluator
from cimc.frontend.export import to_onnx
from cimc.frontend.importer import import_model
from cimc.ir.ops import HOST
from cimc.ir.text import parse_graph
from cimc.ir.types import container


def test_a_layer_of_several_float_operations_at_the_output():
    """Scale and bias by channel are two host operations from one ONNX node."""
    net = Net(1)
    x = net.op("Sign", net.input("x", (1, 2, 4)))
    check_case(net, net.conv(x, 4, [2], "alphas", [0.3, -3.0, 0.0, 1.0]))


def test_groups_of_several_segments_on_one_tile():
    """The loop over groups and the one over segments have different variables."""
    net = Net(2)
    x = net.op("Sign", net.input("x", (1, 6, 3, 3)))
    check_case(net, net.conv(x, 4, [3, 1], group=2), rows=16, cols=5)


def test_relu_of_a_sign_that_is_never_zero():
    """The sign became ±1, which has no zero for the Relu to give."""
    net = Net(3)
    x = net.op("Sign", net.input("x", (1, 2, 4)))
    y = net.conv(x, 3, [1], bias=[0.3, 0.3, -0.3])
    check_case(net, net.op("Relu", net.op("Sign", y)))


@pytest.mark.parametrize("low_first", [False, True])
def test_a_sign_with_negated_levels_goes_through_a_pool(low_first):
    """Where(x < 0, -1, 1) has a positive scale, as Where(x >= 0, 1, -1) has."""
    net = Net(4)
    x = net.input("x", (1, 2, 6))
    levels = (-1.0, 1.0) if low_first else (1.0, -1.0)
    condition = net.op("Less" if low_first else "GreaterOrEqual", x, 0.0)
    bits = net.op("Where", condition, *levels, shape=net.shapes[x])
    check_case(net, net.conv(net.max_pool(bits, [2]), 3, [2]))


@pytest.mark.parametrize("between", [False, True])
@pytest.mark.parametrize("two", [False, True])
def test_ceil_mode_leaves_out_a_window_beyond_the_input(between, two):
    """ONNX shape inference counts it before operator set 22; onnxruntime does not."""
    net = Net(5)
    x = net.op("Sign", net.input("x", (1, 2, 4)))
    y = net.max_pool(net.conv(x, 3, [2]), [2], strides=[2], pads=[1, 1], ceil_mode=1)
    assert net.shapes[y] == (1, 3, 2)
    if between:  # falls and rises, so that the pool stays on the host
        y = net.op("Abs", y)
    if two:
        y = net.max_pool(y, [1], strides=[2], ceil_mode=1)
        assert net.shapes[y] == (1, 3, 1)
    graph = import_model(net.model(y), "case")
    made = graph.producers()
    assert made[graph.outputs[0]].output.tensor.shape == ("N", *net.shapes[y][1:])
    check_case(net, net.op("Sign", y), y)


def test_two_of_three_levels_become_bits():
    """A map that sends the middle level of a ternary value to an end is a sign."""
    net = Net(6)
    x = net.op("Sign", net.input("x", (1, 2, 4)))
    y = net.op("Clip", net.op("Sign", net.conv(x, 3, [1])), 0.0, 1.0)
    z = net.op("Sign", net.op("Add", net.op("Sign", net.conv(y, 2, [2])), 0.5))
    check_case(net, net.conv(z, 2, [1]))
    graph = compiled(net.model(z)).graph
    thresholds = [n for n in graph.nodes if n.op == "cim.threshold"]
    assert [n.attrs.get("to", "bip") for n in thresholds] == ["u1", "bip"]


@pytest.mark.parametrize("groups", [(1, 2), (2, 1), (2, 4), (4, 2), (4, 1)])
def test_weights_shared_by_convolutions_of_other_groups(groups):
    """The rows of the kernels lie differently, so each layer has its own."""
    net = Quant(7)
    w = net.weights("i8", (4, 1, 3))
    found = [_integer(net, net.input("u8", (1, g, 6)), w, g) for g in groups]
    check_case(net, *found, rows=16, cols=10, on_tiles=False)


def test_weights_shared_by_grouped_convolutions_with_other_zero_points():
    """Only groups in rows of their own have sums of inputs of their own."""
    net = Quant(8)
    w, x = net.weights("i8", (10, 1, 1)), net.input("u8", (1, 5, 4))
    plain = _integer(net, x, w, 5)
    shifted = _integer(net, x, w, 5, net.const("i8", 127))
    check_case(net, plain, shifted, rows=16, cols=10, on_tiles=False)


def _integer(net, x, w, groups, zero=None):
    inputs = [x, w, net.const("u8", 3)] + ([zero] if zero else [])
    return net.op("ConvInteger", inputs, "i32", (), group=groups)


@pytest.mark.parametrize("batch", [0, 1])
def test_an_empty_batch(batch):
    """A program for no images runs and gives none."""
    net = Quant(9)
    x, w = net.input("u8", (batch, 2, 4)), net.weights("i8", (3, 2, 3))
    check_case(net, net.op("ConvInteger", [x, w], "i32", (batch, 3, 2)), on_tiles=False)


@pytest.mark.parametrize("elem", ["u4", "i4", "u2"])
@pytest.mark.parametrize("layer", ["conv", "matmul"])
def test_a_zero_point_of_four_bits_leaves_for_onnx(elem, layer):
    """Cast takes 4-bit types from operator set 21 on only."""
    x, w = ("[1,2,3]", "[2,2,2]") if layer == "conv" else ("[3,2]", "[2,2]")
    graph = parse_graph(
        f"graph @g(%x: {elem}{x}) -> (%y) {{\n"
        f"  const %w: bip{w} = random seed=1\n"
        f"  const %z: {elem}[1] = [1]\n"
        f"  %y = cim.{layer}(%x, %w, %z): i32{'[1,2,2]' if layer == 'conv' else '[3,2]'}\n"
        "}\n"
    )
    graph.opsets["onnx"] = 13
    shape = graph.inputs[0].tensor.static
    feeds = {"x": np.arange(6).reshape(shape).astype(container(elem)) % 2}
    assert_equal(Evaluator(graph)(feeds), runtime(to_onnx(graph), feeds), layer)


@pytest.mark.parametrize("shape", [(2, 0, 1), (0, 2, 1)])
def test_layers_without_weights_stay_on_the_host(shape):
    """onnxruntime's sums of nothing are what the memory held before, so no values are compared."""
    net = Quant(10)
    x, w = net.input("u8", (1, shape[1], 3)), net.const("i8", np.zeros(shape))
    graph = compiled(net.model(net.op("ConvInteger", [x, w], "i32", (1, shape[0], 3)))).graph
    assert [n.why for n in graph.nodes if n.op == HOST] == ["its weights are empty: convinteger0"]
