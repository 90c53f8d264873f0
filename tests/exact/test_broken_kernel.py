"""A kernel broken on purpose must be caught: the comparison of these tests sees one wrong
cell, one wrong instruction and one wrong threshold."""

from dataclasses import replace

import numpy as np
import pytest
from exact_check import assert_equal, compiled, joined, oracle
from exact_nets import Net

from cimc.isa.program import walk
from cimc.sim.reference import run


def _case():
    """A layer whose accumulators are an output, so that every cell shows."""
    net = Net(11)
    x = net.op("Sign", net.input("x", (1, 3, 4, 4), samples=3))
    y = net.conv(x, 5, [2, 2])
    z = net.op("Where", net.op("Greater", y, 0.0), 1.0, -1.0, shape=net.shapes[y])
    model = net.model(y, z)
    program = compiled(model).program
    return program, net.feeds, joined(program, oracle(model), net.feeds)


def _differs(program, feeds, expected):
    with pytest.raises(AssertionError, match="broken"):
        assert_equal(expected, run(program, feeds).outputs, "broken")


def test_the_whole_kernel_passes():
    program, feeds, expected = _case()
    assert_equal(expected, run(program, feeds).outputs, "whole")


def test_any_flipped_cell_is_caught():
    program, feeds, expected = _case()
    (image,) = (d for d in program.data if d.kind == "cells")
    for position in np.ndindex(image.shape):
        cells = image.array.copy()
        cells[position] ^= 1
        data = [replace(d, content=cells) if d is image else d for d in program.data]
        _differs(replace(program, data=data), feeds, expected)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("read.xor", "read.and"),
        ("read.xor", "read.or"),
        ("acc.sub", "acc.add"),
        ("acc.add", "acc.sub"),
    ],
)
def test_a_wrong_instruction_is_caught(old, new):
    program, feeds, expected = _case()
    layer = next(la for la in program.section("infer").layers if "conv" in la.name)
    instr = next(i for i in walk(layer.body) if i.op == old)
    instr.op = new
    _differs(program, feeds, expected)


def test_a_wrong_threshold_is_caught():
    program, feeds, expected = _case()
    (table,) = (d for d in program.data if d.kind == "i32")
    data = [replace(d, content=d.array + 2) if d is table else d for d in program.data]
    _differs(replace(program, data=data), feeds, expected)
