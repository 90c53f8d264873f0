"""Counts known from the text equal those of the run."""

import numpy as np
import pytest
from build_program import (
    cells,
    data,
    i,
    image,
    ints,
    loop,
    program,
    reg,
    result,
    rows,
    vec,
    write,
    x,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from cimc.ir.types import container
from cimc.isa.program import Affine, Win
from cimc.sim.counters import expected_counts, static_counts
from cimc.sim.reference import run

CHANNELS, COLS = 10, 12
WIN = Win("w", CHANNELS, (2,), (5,), (1,), (0, 1), (1,), 2, 3)  # 4 segments: 3, 3, 3, 1
PACKS = Win("packs", CHANNELS, (1,), (5,), (1,), (0, 0), (1,), 10, pack=3)  # 3, 3, 3 and 1
A = Affine.of


@st.composite
def instructions(draw, variables):
    """An instruction whose ranges may use the loop variables, each in 0:4."""
    var = A(draw(st.sampled_from(variables))) if variables and draw(st.booleans()) else A(0)
    size = draw(st.sampled_from([A(2), A(4) - var, var]))
    lo = draw(st.sampled_from([A(0), var]))
    seg = draw(st.sampled_from([A(0), A(1), var]))
    pack = draw(st.sampled_from([A(0), A(2), var]))
    latch = x(draw(st.sampled_from("xy")))
    opts = draw(st.sampled_from([{}, {"cols": (1, 5)}]))
    return draw(
        st.sampled_from(
            [
                i("ld.window", latch, vec("v", var), data("w"), seg=seg),
                i("ld.window", latch, vec("v", var), data("packs"), group=pack, pad=vec("k")),
                i("ld.vector", latch, vec("v", var), seg=seg, width=3),
                i("ld.vector", latch, vec("v", var, lo, 3)),
                i("ld.fill", latch, x("x"), value=1),
                i("read.xor", reg("d", size, lo), rows(size, var), latch, **opts),
                i("read.and", reg("d", size), rows(size, 4), latch),
                i("popc", reg("c", size), reg("d", size, lo)),
                i("popc", reg("c", 6), reg("d", 2), width=4),
                i("acc.clr", reg("a", size, lo)),
                i("acc.add", reg("a", size, lo), reg("c", size)),
                i("acc.sub", reg("a", size), x(latch.name, "ones"), shl=2),
                i("acc.mac", reg("a", size, lo), vec("k"), data("t", size, lo)),
                i("acc.mac", reg("a", 3), reg("s", 1), data("t", 3)),
                i("st.acc", vec("y", var, lo, size), reg("a", size)),
                i("st.rq", vec("v", var, lo, size), reg("a", size), data("scale", size, lo)),
                i("pp.max", vec("y", var, 0, CHANNELS), vec("z", var), data("w")),
                i("pp.relu", vec("z", var, lo, 2), vec("y", var, lo, 2)),
                i("pp.sum", vec("y", var, 0, CHANNELS), vec("v", var), data("w"), zero=1),
                i("pp.rq", vec("v", var, lo, 2), vec("z", var, lo, 2), data("scale", 2), zero=-3),
                i("pp.lut", vec("v", var, lo, 2), vec("v", var, lo, 2), data("table")),
                i("pp.qadd", *(vec("v", var, lo, 2) for _ in range(3)), data("six"), fused=1),
            ]
        )
    )


def bodies(depth=0):
    """Instructions and loops up to three deep, with bounds that use outer variables."""
    variables = ["p", "q", "r"][:depth]

    @st.composite
    def loops(draw):
        outer = A(variables[-1]) if variables and draw(st.booleans()) else A(0)
        bounds = draw(st.sampled_from([(A(0), A(4)), (outer, A(3)), (A(2), A(2)), (A(0), outer)]))
        made = loop("pqr"[depth], bounds[1], *draw(bodies(depth + 1)), start=bounds[0])
        made.kind = draw(st.sampled_from(["for", "par"]))
        return made

    items = instructions(variables) | loops() if depth < 3 else instructions(variables)
    return st.lists(items, min_size=1, max_size=4)


@settings(deadline=None, max_examples=80)
@given(infer=bodies(), update=bodies(), samples=st.integers(0, 3), seed=st.integers(0, 99))
def test_static_counts_equal_the_counts_of_the_run(infer, update, samples, seed):
    rng = np.random.default_rng(seed)
    mems = [image("v", "i8", (1, CHANNELS, 5)), WIN, PACKS, result("y", "i64", (1, CHANNELS, 5)),
            result("z", "i64", (1, CHANNELS, 5)), image("k", "i8", (1, 1))]  # fmt: skip
    load = [
        i("ld.row", x("x"), rows(1)),
        loop("s", 2, *write("img", 4, A("s") * 4, seg="s", col="s")),
        i("reset", rows(4), data("img", 4), seg=1),
    ]
    items = [
        cells("img", rng.integers(0, 2, (4, 15)), 8),
        ints("t", rng.integers(-5, 5, 8).astype(np.int32)),
        ints("scale", np.linspace(0.1, 2, 8, dtype=np.float32), "f32"),
        ints("table", np.arange(-128, 128).astype(np.int8), "i8"),
        ints("six", np.array([0.5, 1, 0.25, -2, 0.3, 3], np.float32), "f32"),
    ]
    p = program(mems, infer, load, [*update, *write("img", 2)], items, cols=COLS, acc_bits=60)
    tiles = rng.integers(0, 2, (1, 8, COLS)).astype(np.uint8)
    values = rng.integers(-128, 128, (samples, CHANNELS, 5)).astype(np.int8)
    zeros = rng.integers(-128, 128, (samples, 1)).astype(np.int8)
    outcome = run(p, {"v": values, "k": zeros}, tiles=tiles)
    known = static_counts(p, samples, tiles)
    expected = expected_counts(p, samples, tiles)
    assert expected.static() == known.static()
    assert {key for key in expected.total() if key[2] == "ones"} == expected.expected
    without_ones = {
        section: {key: n for key, n in table.items() if key[2] != "ones"}
        for section, table in outcome.counts.sections.items()
    }
    assert known.sections == without_ones
    assert known.static() == outcome.counts.static()


def test_a_large_loop_is_multiplied_not_walked():
    body = [
        loop("p", 10**9, loop("s", 2,
            i("ld.vector", x(), vec("v"), seg="s", width=7),
            i("read.xor", reg("d", 4), rows(4), x()),
            i("popc", reg("c", 4), reg("d", 4)),
        )),
    ]  # fmt: skip
    p = program([image("v", "bip", (1, CHANNELS))], body)
    counts = static_counts(p, samples=2)
    assert counts.sections["infer"] == {
        ("l", "ld.vector", "bits"): 2 * 10**9 * 10,
        ("l", "read.xor", "rows"): 2 * 10**9 * 8,
        ("l", "read.xor", "bits"): 2 * 10**9 * 40,
        ("l", "popc", "bits"): 2 * 10**9 * 40,
    }


def test_totals_and_json():
    p = program(
        [image("v", "bip", (1, CHANNELS))],
        [i("ld.vector", x(), vec("v"))],
        write("w", 1),
        [i("ld.vector", x(), vec("v"))],
        [cells("w", [[1, 0, 1]])],
    )
    counts = static_counts(p, samples=3)
    assert counts.total()[("l", "ld.vector", "bits")] == 3 * CHANNELS + CHANNELS
    assert counts.to_json() == {
        "samples": 3,
        "load": {
            "l.reset.rows": 1, "l.reset.verify": 3, "l.set.rows": 1, "l.set.verify": 3,
            "l.set.pulses": 2,
        },
        "infer": {"l.ld.vector.bits": 30},
        "update": {"l.ld.vector.bits": 10},
    }  # fmt: skip


def test_a_popcount_counts_the_columns_of_the_reads_it_finds():
    """Rows 0 and 1 were read with 3 columns, rows 2 and 3 with 5."""
    body = [
        i("ld.vector", x(), vec("v", 0, 0, 3)),
        i("read.xor", reg("d", 2), rows(2), x()),
        i("ld.vector", x(), vec("v", 0, 0, 5)),
        i("read.xor", reg("d", 2, 2), rows(2), x()),
        loop("p", 3, i("popc", reg("c", 2), reg("d", 2, "p"))),
    ]
    p = program([image("v", "bip", (1, CHANNELS))], body)
    expected = (3 + 3) + (3 + 5) + (5 + 5)
    assert static_counts(p).sections["infer"][("l", "popc", "bits")] == expected
    outcome = run(p, {"v": np.ones((1, CHANNELS), np.int8)})
    assert outcome.counts.sections["infer"][("l", "popc", "bits")] == expected


# -- expected values -------------------------------------------------------------------


@pytest.mark.parametrize("op", ["and", "nand", "or", "xor"])
@pytest.mark.parametrize("elem", ["bip", "tern", "u2"])
def test_expected_ones_are_those_of_random_cells_and_inputs(op, elem):
    """Over padded windows with gaps in segments, and vectors of which some columns are read."""
    rng = np.random.default_rng(0)
    win = Win("w", 8, (3, 2), (4, 6), (2, 1), (1, 2, 2, 1), (1, 2), seg=20, up=(1, 2))
    read = f"read.{op}"
    body = [
        loop("p", 24, loop("s", 3,
            i("ld.window", x(), vec("v", "p"), data("w"), seg="s"),
            i(read, reg("a", 64), rows(64), x()),
        )),
        loop("q", 24,
            i("ld.vector", x("y"), vec("v", "q")),
            i(read, reg("b", 64), rows(64), x("y"), cols=(2, 7)),
        ),
    ]  # fmt: skip
    p = program([image("v", elem, (1, 8, 6, 4)), win], body, rows=64, cols=20)
    low, high = {"bip": (0, 2), "tern": (-1, 2), "u2": (0, 4)}[elem]
    values = rng.integers(low, high, (100, 8, 6, 4))
    feeds = {"v": (values * 2 - 1 if elem == "bip" else values).astype(container(elem))}
    half = np.repeat(np.arange(64, dtype=np.uint8) % 2, 20).reshape(1, 64, 20)
    tiles = rng.permuted(half, axis=1)
    key = "l", read, "ones"
    found = run(p, feeds, tiles=tiles).counts.sections["infer"][key]
    assert expected_counts(p, 100).sections["infer"][key] == pytest.approx(found, rel=0.02)


@pytest.mark.parametrize(
    ("op", "value", "share"),
    [("and", 0, 0), ("and", 1, 0.5), ("nand", 0, 1), ("nand", 1, 0.5), ("or", 0, 0.5),
     ("or", 1, 1), ("xor", 0, 0.5), ("xor", 1, 0.5)],
)  # fmt: skip
def test_expected_ones_of_a_filled_latch(op, value, share):
    body = [
        i("ld.vector", x(), vec("v")),
        i("ld.fill", x("f"), x(), value=value),
        i(f"read.{op}", reg("d", 4), rows(4), x("f")),
    ]
    p = program([image("v", "bip", (1, CHANNELS))], body)
    counts = expected_counts(p, samples=3)
    key = "l", f"read.{op}", "ones"
    assert counts.sections["infer"].get(key, 0) == 3 * 4 * CHANNELS * share
    assert counts.expected == ({key} if share else set())


def test_expected_values_are_named_in_json():
    body = [i("ld.vector", x(), vec("v")), i("read.xor", reg("d", 4), rows(4), x())]
    counts = expected_counts(program([image("v", "bip", (1, CHANNELS))], body), samples=2)
    assert counts.to_json() == {
        "samples": 2,
        "load": {},
        "infer": {"l.ld.vector.bits": 20, "l.read.xor.rows": 8, "l.read.xor.bits": 80,
                  "l.read.xor.ones": 40},
        "update": {},
        "expected": ["l.read.xor.ones"],
    }  # fmt: skip
