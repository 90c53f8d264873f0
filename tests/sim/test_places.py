"""A bias for each place in every kind of kernel: values and counts are those of the reference
interpreter, outputs those of the graph's own meaning."""

import numpy as np
import pytest
from cimc.passes.allocate_tiles import AllocateTiles
from cimc.passes.split_tiles import SplitTiles
from engine_agreement import difference, outcome
from random_draws import Draw, values

from cimc.backend.lower import lower
from cimc.driver.base import Geometry, PassContext
from cimc.frontend.evaluate import Evaluator
from cimc.ir.text import parse_graph
from cimc.isa.check import check
from cimc.isa.printer import print_program
from cimc.isa.program import Data
from cimc.isa.text import parse
from cimc.sim import reference
from cimc.sim.counters import static_counts
from cimc.sim.packed.engine import Engine
from cimc.sim.packed.explain import explain

FUNCTIONS = ("and", "nand", "or", "xor")
SIGN = "%y = cim.threshold(%q, %th): bip{out}"
LEVELS = '%y = cim.threshold(%q, %ths) to="u4": u4{out}'
FLIPPED = "%y = cim.threshold(%q, %th, %flip): bip{out}"
BYTES = "%y = cim.requant(%q, %scale) zero=3: u8{out}"
SUMS = "%y = cim.relu(%q): i32{out}"


def program(
    x="bip[1,16,5,4]", w="bip[16,16,3,3]", out="[1,16,5,4]", then=SIGN, most=60, pads="1,1,1,1",
    group=1, zero=None, functions=FUNCTIONS, cols=96,
):  # fmt: skip
    """A layer with a bias for each place, as a graph and a program that was read from its text."""
    channels = int(w[w.index("[") + 1 :].split(",")[0])
    draw = Draw(5)
    lines = [
        f"const %w: {w} = random seed=1",
        f"const %b: i32[1,{out[3:]} = {draw.arrays.integers(-most, most, _size(out)).tolist()}",
        f"const %th: i32[{channels}] = {draw.arrays.integers(-9, 9, channels).tolist()}",
        f"const %ths: i32[{channels},3] = {[-40, 0, 40] * channels}",
        f"const %flip: bip[{channels}] = random seed=3",
        "const %scale: f32[1] = [0.01]",
        *([f"const %zx: {x[:2]}[1] = [{zero}]"] if zero else []),
        f"%q = cim.conv(%x, %w, {'%zx' if zero else '_'}, _, %b) "
        f"pads=[{pads}] group={group}: i32{out}",
        then.format(out=out),
    ]
    text = "\n".join([f"graph @g(%x: {x}) -> (%q, %y) {{", *lines, "}"])
    graph = parse_graph(text, "t.cimir")
    geometry = Geometry(32, cols, None, functions, 32)
    for step in (SplitTiles(), AllocateTiles()):
        step.run(graph, PassContext(geometry))
    text = print_program(lower(graph, geometry, "toy", "exact", {"x": 0}))
    found = parse(text)
    assert print_program(found) == text
    check(found)
    return graph, found


def _size(shape):
    """Elements of one image of `[N,C,…]`."""
    return int(np.prod([int(n) for n in shape[3:-1].split(",")]))


def same(graph, found, elem, shape, samples=5):
    """Assert that all engines agree, and with the graph; returns what the packed one does."""
    x = values(Draw(7), elem, (samples, *shape))
    images = graph.inputs[0].tensor.static[0]
    x = x[: samples // images * images]
    feeds = {"x": x}
    right = outcome(reference.run, found, feeds)
    assert not right.error
    meaning = Evaluator(graph)
    parts = [meaning({"x": x[i : i + images]}) for i in range(0, len(x), images)]
    for name, array in right.result.outputs.items():
        assert np.array_equal(array, np.concatenate([part[name] for part in parts])), name
    assert not difference(right, outcome(reference.run, found, feeds, lanes=True))
    assert right.result.counts.static() == static_counts(found, right.result.samples).static()
    ways = []
    for contract in (True, False):
        engine = Engine(found, contract=contract)
        assert not difference(right, outcome(engine.run, feeds)), contract
        steps = [s for item in explain(engine.ready().plan).items for s in item.steps]
        ways.append({s.text for s in steps if s.instruction.startswith("st.")})
    return ways


CASES = {
    "signs": ({}, "popcount xor on constants by position", "popcount compared"),
    "signs that flip": ({"then": FLIPPED}, "popcount xor on constants by position", "compared"),
    "signs without padding": (
        {"pads": "0,0,0,0", "out": "[1,16,3,2]"}, "popcount xor on constants by position",
        "popcount compared",
    ),
    "few channels": (
        {"w": "bip[5,16,3,3]", "out": "[1,5,5,4]"}, "popcount xor on constants by position",
        "thresholds by halving",
    ),
    "large numbers": ({"most": 1 << 20}, "popcount xor on constants by position", "compared"),
    "two images": (
        {"x": "bip[2,16,5,4]", "out": "[2,16,5,4]"}, "popcount xor on constants by position",
        "popcount compared",
    ),
    "one axis": (
        {"x": "bip[1,16,7]", "w": "bip[16,16,3]", "out": "[1,16,7]", "pads": "1,1"},
        "popcount xor on constants by position", "popcount compared",
    ),
    "levels": ({"then": LEVELS}, "popcount xor on constants by position", "by a table"),
    "bits with integers": ({"w": "i3[16,16,3,3]"}, "x popcount and on constants by", "halving"),
    "ternary": (
        {"x": "tern[1,16,5,4]", "w": "tern[16,16,3,3]"}, "x popcount and on constants by",
        "thresholds",
    ),
    "ones of and": ({"x": "u1[1,16,5,4]"}, "popcount xor on constants by position", "compared"),
    "without xor": (
        {"functions": ("nand",)}, "popcount xor on constants by position", "popcount compared",
    ),
    "bytes": (
        {"x": "u8[1,16,5,4]", "w": "i8[16,16,3,3]", "then": BYTES},
        "product of bytes on constants by position", "requantised",
    ),
    "bytes and signs": ({"x": "u8[1,16,5,4]"}, "product of bytes on constants by", "halving"),
    "a zero point": (
        {"x": "i8[1,16,5,4]", "w": "i4[16,16,3,3]", "zero": 7, "then": SUMS},
        "product of bytes on constants by position", "stored",
    ),
    "depthwise": (
        {"x": "u8[1,16,5,4]", "w": "i8[16,1,3,3]", "group": 16, "then": SUMS},
        "depthwise product of bytes on constants by position", "stored",
    ),
    "groups of bits": (
        {"w": "bip[16,4,3,3]", "group": 4}, "popcount xor on constants by position", "thresholds",
    ),
    "wide groups": (
        {"w": "bip[16,8,3,3]", "group": 2, "cols": 40}, "popcount xor on constants by position",
        "thresholds",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_kinds_of_kernels(name):
    options, way, result = CASES[name]
    graph, found = program(**options)
    x = graph.inputs[0].tensor
    contracted, planes = same(graph, found, x.elem, x.static[1:])
    assert any(way in text and result in text for text in contracted), contracted
    assert all("on constants by position" in text for text in contracted | planes)
    if "bytes" in way:
        assert any("popcount and" in text for text in planes), planes


def test_the_program_reads_a_row_of_the_table_for_each_position():
    text = print_program(program(most=60)[1])
    assert "    acc.add %a[0:16], q.start[p, 0:16]\n" in text
    assert ".data q.start i8[20,16] " in text
    assert ".data q.start u8[" in print_program(_with(200))
    assert ".data q.start i16[" in print_program(_with(-200))
    assert ".data q.start u16[" in print_program(_with(40_000))
    assert ".data q.start i32[" in print_program(_with(-40_000))


def _with(number):
    """A program whose bias is 0 but at one place."""
    graph, _ = program()
    (b,) = [v for v in graph.consts if v.name == "b"]
    b.const[...] = 0
    b.const[0, 3, 2, 1] = number
    return lower(graph, Geometry(32, 96, None, FUNCTIONS, 32), "toy", "exact", {"x": 0})


def test_a_bias_that_is_the_same_at_all_places_is_one_for_each_channel():
    graph, _ = program()
    (b,) = [v for v in graph.consts if v.name == "b"]
    b.const[...] = np.arange(16).reshape(1, 16, 1, 1)
    found = lower(graph, Geometry(32, 96, None, FUNCTIONS, 32), "toy", "exact", {"x": 0})
    assert ".data q.start i32[16] " in print_program(found)
    assert "acc.add %a[0:16], q.start[0:16]\n" in print_program(found)


MOVES = """.cim 1
.target toy rows=4 cols=16 tiles=1 functions=[and] acc_bits=16
.pipeline "exact"

.mem x u4[1,4,6] input="x" batch=0
.mem y i32[1,4,6] output="y" batch=0
.mem z i32[1,4,6] output="z" batch=0

.load
l:
  set t[0][0:4], w

.infer
l:
  for p in 0:6
    acc.clr %a[0:4]
    acc.add %a[0:4], rows[5 - p, 1:5]
    for k in 0:2
      acc.sub %a[1:3], rows[k + p, 2:4], shl=k
    end
    acc.add %a[0:4], rows[2, 0:4]
    st.acc z[p], %a[0:4]
    ld.vector %x, x[p]
    read.and %d[0:4], t[0][0:4], %x
    popc %c[0:4], %d[0:4]
    acc.add %a[0:4], %c[0:4]
    st.acc y[p], %a[0:4]
  end
"""


def test_rows_at_any_place():
    """Places that move backwards, with an inner loop, or not at all; parts of the accumulators."""
    rng, found = np.random.default_rng(0), parse(MOVES)
    rows = rng.integers(-99, 99, (7, 5)).astype(np.int8)
    found.data += [
        Data("w", "cells", rng.integers(0, 2, (4, 4), dtype=np.uint8)), Data("rows", "i8", rows),
    ]  # fmt: skip
    check(found)
    x = rng.integers(0, 16, (3, 4, 6), dtype=np.uint8)
    right = outcome(reference.run, found, {"x": x})
    z, wide = right.result.outputs["z"][0].T, rows.astype(int)
    for p in range(6):
        sums = wide[5 - p, 1:5] + wide[2, :4]
        sums[1:3] -= wide[p, 2:4] + 2 * wide[p + 1, 2:4]
        assert z[p].tolist() == sums.tolist()
    for run in (lambda: reference.run(found, {"x": x}, lanes=True),
                lambda: Engine(found).run({"x": x})):  # fmt: skip
        assert not difference(right, outcome(run))
    steps = explain(Engine(found).ready().plan).items[0].steps
    assert {s.way for s in steps if s.instruction == "st.acc"} == {
        "constants by position", "popcount and on constants by position",
    }  # fmt: skip
