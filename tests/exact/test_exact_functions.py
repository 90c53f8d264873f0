"""Targets that lack functions give the same bits, with at least as many reads."""

import numpy as np
import pytest
from exact_check import check_case, compiled, row_reads
from exact_draw import SEEDS, binarise, cases, conv
from exact_nets import Net
from hypothesis import given
from hypothesis import strategies as st

ALL = "and,nand,or,xor"


@pytest.mark.parametrize("functions", ["and", "nand", "or", "xor"])
@cases(15)
@given(data=st.data())
def test_one_function(functions, data):
    draw, net = data.draw, Net(data.draw(SEEDS))
    x = net.input("x", (1, 3, 4), draw(st.sampled_from(["f32", "u8"])))
    integers = net.shapes and net.feeds["x"].dtype == np.uint8
    x = net.op("Cast", x, to=1) if integers else binarise(draw, net, x, ["Sign", "Greater"])
    kinds = ["bip", "alphas"] if integers and functions == "xor" else ["bip", "tern"]
    y = conv(draw, net, x, kinds, most=6)
    rows, cols = draw(st.integers(2, 9)), draw(st.integers(1, 9))
    _, one = check_case(net, y, rows=rows, cols=cols, functions=functions)
    _, every = check_case(net, y, rows=rows, cols=cols, functions=ALL)
    np.testing.assert_array_equal(one.outputs[y], every.outputs[y])
    assert row_reads(one) >= row_reads(every)
    # the same cells are written; with all functions, groups may lie side by side in fewer rows
    assert _pulses(one) == _pulses(every)


def _pulses(result):
    table = result.counts.sections["load"]
    return {key: n for key, n in table.items() if key[2] == "pulses"}


@pytest.mark.parametrize("elem", ["u8", "f32"])
def test_ternary_weights_times_bits_need_more_than_xor(elem):
    """The layer stays on the host, and the result is the same."""
    net = Net(3)
    x = net.input("x", (1, 3, 4), elem)
    bits = net.op("Cast", net.op("Greater", x, 0.0) if elem == "f32" else x, to=1)
    y = net.conv(bits, 4, [2], "tern")
    case, _ = check_case(net, y, on_tiles=False, functions="xor")
    assert any("xor" in note.why for note in case.graph.nodes if note.why)
    assert compiled(net.model(y), functions=ALL).graph.places
