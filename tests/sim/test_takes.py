"""Kernels that are alike stored once, in every kind of kernel: outputs are those of the layer as
it was, reads fewer, and the packed engine runs the layer the way it did."""

import numpy as np
import pytest
from cimc.passes.allocate_tiles import AllocateTiles
from cimc.passes.merge_duplicates import MergeDuplicates
from cimc.passes.split_tiles import SplitTiles
from engine_agreement import difference, outcome
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from random_draws import Draw, values

from cimc.backend.lower import lower
from cimc.driver.base import Geometry, PassContext
from cimc.driver.clone import clone
from cimc.frontend.evaluate import Evaluator
from cimc.ir.text import parse_graph
from cimc.ir.types import container, int_range
from cimc.ir.verify import verify
from cimc.isa.check import check
from cimc.isa.printer import print_program
from cimc.isa.text import parse
from cimc.sim import reference
from cimc.sim.counters import static_counts
from cimc.sim.packed.engine import Engine
from cimc.sim.packed.explain import explain

FUNCTIONS = ("and", "nand", "or", "xor")
SIGN = "%y = cim.threshold(%q, %th): bip{out}"
FLIPPED = "%y = cim.threshold(%q, %th, %flip): bip{out}"
LEVELS = '%y = cim.threshold(%q, %ths, %flip) to="u4": u4{out}'
BYTES = "%y = cim.requant(%q, %scale) zero=3: u8{out}"
SUMS = "%y = cim.relu(%q): i32{out}"


def kernels(draw, elem, distinct, group, columns, opposite):
    """Kernels [C, columns], those of a group drawn from `distinct`, some of them negative."""
    low, _ = int_range(elem)
    found = []
    for _ in range(group):
        each = values(draw, elem, (distinct[0], columns)).astype(np.int64)
        each = np.where(each == low, low + 1, each) if elem[0] == "i" and elem != "i1" else each
        picked = draw.arrays.integers(0, len(each), distinct[1])
        signs = draw.arrays.choice([1, -1] if opposite else [1], (distinct[1], 1))
        found.append(each[picked] * signs)
    return np.concatenate(found).astype(container(elem))


def layer(
    x="bip[1,16,5,4]", w="bip", out="[1,16,5,4]", taps="3,3", distinct=5, then=SIGN, outs="%y",
    pads="1,1,1,1", group=1, zx="", zw="", bias="i32[{channels}]", opposite=True, seed=5,
):  # fmt: skip
    """A graph of one layer whose channels have `distinct` kernels in each group."""
    draw = Draw(seed)
    channels, inputs = (int(s.strip("]").split(",")[1]) for s in (out, x))
    matrix, each = not taps, inputs // group
    columns = each * int(np.prod([int(t) for t in taps.split(",") if t]))
    rows = kernels(draw, w, (distinct, channels // group), group, columns, opposite)
    shape = f"{each},{channels}" if matrix else f"{channels},{each},{taps}"
    size = bias.format(channels=channels)
    drawn = draw.arrays.integers(-9, 9, int(np.prod([int(d) for d in size[4:-1].split(",")])))
    if "," in size:  # channels differ by the same at each place
        maps = drawn.reshape(channels, -1)
        drawn = (maps[:1] + maps[:, :1]).ravel()
    lines = [
        f"const %b: {size} = {drawn.tolist()}",
        f"const %th: i32[{channels}] = {draw.arrays.integers(-9, 9, channels).tolist()}",
        f"const %ths: i32[{channels},3] = {[-40, 0, 40] * channels}",
        f"const %flip: bip[{channels}] = {draw.arrays.choice([1, -1], channels).tolist()}",
        "const %scale: f32[1] = [0.01]",
        *([f"const %zx: {x[:2]}[1] = [{zx}]"] if zx.isdigit() else []),
        *([f"const %zw: {w}[1] = [{zw}]"] if zw else []),
    ]
    inner = f"%x, %w, {'%zx' if zx else '_'}, {'%zw' if zw else '_'}, %b"
    attrs = "" if matrix else f" pads=[{pads}] group={group}"
    lines.append(f"%q = cim.{'matmul' if matrix else 'conv'}({inner}){attrs}: i32{out}")
    lines.append(then.format(out=out))
    more = f", %zx: {x[:2]}[1]" if zx == "input" else ""
    head = f"graph @g(%x: {x}{more}) -> ({outs}) {{"
    weights = f"const %w: {w}[{shape}] = random seed=1"
    graph = parse_graph("\n".join([head, weights, *lines, "}"]), "t.cimir")
    (value,) = (v for v in graph.consts if v.name == "w")
    value.seed, value.const = None, (rows.T if matrix else rows).reshape(value.const.shape).copy()
    return graph


def program(graph, cols=96, rows=32):
    """The program of a graph, read from its text."""
    graph, _ = clone(graph)
    geometry = Geometry(rows, cols, None, FUNCTIONS, 32)
    for step in (SplitTiles(), AllocateTiles()):
        step.run(graph, PassContext(geometry))
    text = print_program(lower(graph, geometry, "toy", "exact", {"x": 0}))
    found = parse(text)
    assert print_program(found) == text
    check(found)
    return found


def compare(graph, **geometry):
    """Assert that the layer with its kernels stored once is what it was; returns the programs
    before and after, and what the packed engine does in each, planes contracted or not."""
    merged, _ = clone(graph)
    assert MergeDuplicates().run(merged, PassContext(Geometry(32, 96, None, FUNCTIONS, 32)))
    verify(merged)
    feeds = {}
    for value in graph.inputs:
        shape = value.tensor.static
        count = 5 if value.name == "x" else 1
        feeds[value.name] = values(Draw(7), value.elem, (count * shape[0], *shape[1:]))
    programs = [program(g, **geometry) for g in (graph, merged)]
    right = outcome(reference.run, programs[0], feeds)
    assert not right.error
    once = outcome(reference.run, programs[1], feeds)
    for name, array in right.result.outputs.items():
        assert np.array_equal(array, once.result.outputs[name]), name
    one = {k: v[:1] for k, v in feeds.items()}
    for name, array in Evaluator(merged)(one).items():
        assert np.array_equal(array, right.result.outputs[name][: len(array)]), name
    assert not difference(once, outcome(reference.run, programs[1], feeds, lanes=True))
    assert once.result.counts.static() == static_counts(programs[1], 5).static()
    ways = []
    for contract in (True, False):
        for made in programs:
            engine = Engine(made, contract=contract)
            if made is programs[1]:
                assert not difference(once, outcome(engine.run, feeds)), contract
            items = explain(engine.ready().plan).items
            steps = [s for item in items for s in item.steps]
            ways.append(({i.how for i in items},
                         [s.text for s in steps if s.instruction.startswith("st.")]))  # fmt: skip
    return programs, ways


CASES = {
    "signs": ({}, "popcount xor; rows copied as bits; popcount compared"),
    "signs that flip": ({"then": FLIPPED}, "popcount compared"),
    "slid windows": ({"x": "bip[1,1,5,4]"}, "popcount xor"),
    "few channels": ({"out": "[1,5,5,4]", "distinct": 2}, "thresholds by halving"),
    "stored": ({"then": SUMS, "outs": "%q, %y", "bias": "i32[16]", "opposite": False,
                "distinct": 1, "seed": 8}, "stored"),
    "matrix": ({"x": "bip[1,40]", "out": "[1,24]", "taps": ""}, "popcount xor"),
    "levels of bytes": (
        {"x": "u8[1,6,5,4]", "w": "i4", "then": LEVELS, "zx": "7"}, "product of bytes"),
    "run-time zero point": (
        {"x": "u8[1,6,5,4]", "w": "i4", "then": LEVELS, "zx": "input"}, "product of bytes"),
    "zero points of both": (
        {"x": "u8[1,6,5,4]", "w": "i4", "then": LEVELS, "zx": "7", "zw": "1", "opposite": False},
        "product of bytes"),
    "ternary": ({"x": "tern[1,16,5,4]", "w": "tern"}, "popcount and"),
    "groups": ({"x": "bip[1,32,5,4]", "group": 2, "distinct": 3}, "popcount xor"),
    "packs": ({"x": "bip[1,8,5,4]", "group": 4, "distinct": 2}, "popcount xor"),
    "packs of bytes": (
        {"x": "u8[1,6,5,4]", "w": "i4", "group": 3, "out": "[1,12,5,4]", "distinct": 2,
         "then": LEVELS}, "product of bytes"),
    "bias of places": ({"bias": "i32[1,16,5,4]", "opposite": False}, "by position"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_kernels(name):
    case, way = CASES[name]
    graph = layer(**case)
    programs, ways = compare(graph)
    for (runs, before), (runs_once, once) in (ways[:2], ways[2:]):
        assert runs_once == runs
        assert runs_once <= {"packed"}
        assert once == before
    assert way in " ".join(ways[0][1])
    reads = [sum(n for (_, op, c), n in static_counts(p).total().items()
                 if op.startswith("read.") and c == "rows") for p in programs]  # fmt: skip
    assert reads[1] < reads[0]


def test_requantised_kernels():
    """Equal kernels with equal biases keep their place in front of a requantisation."""
    graph = layer(x="u8[1,6,5,4]", w="i8", then=BYTES, opposite=False, bias="i32[16]")
    (b,) = (v for v in graph.consts if v.name == "b")
    b.const[:] = 4
    programs, ways = compare(graph)
    assert "take=" in print_program(programs[1])
    assert "product of bytes" in " ".join(ways[1][1])
    assert ways[0] == ways[1]


def test_groups_in_chunks():
    """A group with more channels than a tile has rows: its sums come in chunks, and are copied."""
    graph = layer(x="bip[1,8,5,4]", group=2, distinct=9, out="[1,40,5,4]")
    programs, _ = compare(graph, rows=4)
    text = print_program(programs[1])
    assert "take=" not in text
    assert "pp.mov" in text


def test_several_segments():
    programs, ways = compare(layer(), cols=40)
    assert "take=" in print_program(programs[1])
    assert ways[0] == ways[1]


@settings(max_examples=30, deadline=None, phases=(Phase.generate,), database=None)
@given(st.data())
def test_random_layers(data):
    draw = data.draw
    group, inputs = draw(st.sampled_from([1, 1, 1, 2, 3])), draw(st.sampled_from([1, 3, 8]))
    x = draw(st.sampled_from(["bip", "tern", "u8", "i8", "u2", "i4"]))
    w = draw(st.sampled_from(["bip", "tern", "i2", "i4", "i8"]))
    rank = draw(st.sampled_from([0, 1, 2])) if group == 1 else 2
    sizes = {0: "", 1: ",6", 2: ",5,4"}[rank]
    taps, pads = {0: ("", ""), 1: ("3", "1,1"), 2: ("3,3", "1,1,1,1")}[rank]
    channels = group * draw(st.sampled_from([2, 5, 8, 16, 24]))
    then = draw(st.sampled_from([SIGN, FLIPPED, LEVELS, SUMS]))
    signed = x[0] in "ui" and draw(st.booleans())
    graph = layer(
        x=f"{x}[1,{inputs * group}{sizes}]", w=w, out=f"[1,{channels}{sizes}]", taps=taps,
        distinct=draw(st.integers(1, max(1, channels // group // 2))), then=then, pads=pads,
        group=group, opposite=draw(st.booleans()), seed=draw(st.integers(0, 1 << 20)),
        zx=draw(st.sampled_from(["1", "input"])) if signed else "",
        zw="1" if w in ("i2", "i4", "i8") and draw(st.booleans()) else "",
        outs=draw(st.sampled_from(["%y", "%y", "%y, %q"])),
    )  # fmt: skip
    merged, _ = clone(graph)
    if MergeDuplicates().run(merged, PassContext(Geometry(32, 96, None, FUNCTIONS, 32))):
        compare(graph, cols=draw(st.sampled_from([9, 40, 96])))
