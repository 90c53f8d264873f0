"""Plans in words: what is packed and how, what isn't and why; either way the values are those of
the reference interpreter."""

import base64
import hashlib
from pathlib import Path

import numpy as np
import pytest

import cimc
from cimc.isa.check import check
from cimc.isa.text import parse
from cimc.sim import reference
from cimc.sim.packed import pointwise
from cimc.sim.packed.engine import Engine
from cimc.sim.packed.explain import BETWEEN, explain
from cimc.sim.packed.jit import Kernel

HEAD = """.cim 1
.target toy rows=8 cols=16 tiles=1 functions=[and,nand,or,xor] acc_bits=32
.pipeline "exact"
.mem x u8[1,4,6] input="x" batch=0
.mem s bip[1,4,6] input="s" batch=0
.mem wide i16[1,4,6] input="wide" batch=0
.mem y i32[1,4,6] output="y" batch=0
.mem z u8[1,4,6] output="z" batch=0
.mem long i64[1,4,6] output="long" batch=0
.mem mid bip[1,4,6]
.mem half i16[1,4,6] output="half" batch=0
.mem zero u8[1] axis=0 input="zero"
.win near channels=4 kernel=[3] out=[6] strides=[1] pads=[1,1] dilations=[1]
.win alone channels=4 kernel=[3] out=[6] strides=[1] pads=[1,1] dilations=[1] groups=4

.load
l:
  set t[0][0:4], w[0:4]

.infer
l:
"""
DATA = """
.data w cells[4,12] sha256="{w}" "{w64}"
.data ones i32[4] sha256="{ones}" "{ones64}"
.data scale f32[4] sha256="{scale}" "{scale64}"
"""
SHAPE = 4, 6
READ = "read.and %d[0:4], t[0][0:4], %x\npopc %c[0:4], %d[0:4]\n"
CLEAR, ADD = "acc.clr %a[0:4]\n", "acc.add %a[0:4], %c[0:4]\n"
STORE = "st.acc y[p], %a[0:4]\n"
VECTOR = "ld.vector %x, s[p]\n"


def _data():
    """The three constants, with the digests that the format asks for."""
    bits = np.random.default_rng(1).integers(0, 2, (4, 12))
    found = {
        "w": np.packbits(bits, bitorder="little").tobytes(),
        "ones": np.arange(1, 5, dtype="<i4").tobytes(),
        "scale": np.full(4, 0.5, "<f4").tobytes(),
    }
    texts = {name: hashlib.sha256(value).hexdigest() for name, value in found.items()}
    texts |= {f"{name}64": base64.b64encode(value).decode() for name, value in found.items()}
    return DATA.format(**texts)


def _program(body):
    made = parse(HEAD + body + "\n" + _data())
    check(made, "program")
    return made


def _over_positions(*body):
    return "for p in 0:6\n" + "".join(body) + "end\n"


def _feeds():
    rng = np.random.default_rng(0)
    return {
        "x": rng.integers(0, 256, (3, *SHAPE)).astype(np.uint8),
        "s": rng.choice([-1, 1], (3, *SHAPE)).astype(np.int8),
        "wide": rng.integers(0, 200, (3, *SHAPE)).astype(np.int16),
        "zero": np.array([7], np.uint8),
    }


def _words(body, contract=True):
    """What the plan says, after holding its run against the reference interpreter."""
    program, feeds = _program(body), _feeds()
    engine = Engine(program, contract=contract, threads=1)
    right, found = reference.run(program, feeds), engine.run(feeds)
    for name, value in right.outputs.items():
        np.testing.assert_array_equal(value, found.outputs[name], name)
    assert right.counts.sections == found.counts.sections
    return explain(engine.ready().plan)


PLANES = "for i in 0:8\nld.window %x, x[p], near, plane=i\n"
SHIFTED = READ + "acc.add %a[0:4], %c[0:4], shl=i\nend\n"
PACKED = {  # loop: what its first step says
    "bits": (_over_positions(VECTOR, READ, CLEAR, ADD, STORE),
             ("st.acc", "popcount and", "stored", "bit")),
    "signs": (_over_positions(VECTOR, READ.replace("and", "xor"), CLEAR,
                              "acc.add %a[0:4], %x.valid\n",
                              "acc.sub %a[0:4], %c[0:4], shl=1\n", STORE),
              ("st.acc", "popcount xor", "stored", "bit")),
    "bytes": (_over_positions(CLEAR, PLANES, SHIFTED, STORE),
              ("st.acc", "product of bytes", "stored", "byte")),
    "depthwise": (_over_positions(
        CLEAR, "for g in 0:4\nfor i in 0:8\nld.window %x, x[p], alone, plane=i, group=g\n",
        "read.and %d[0:1], t[0][g], %x\npopc %c[0:1], %d[0:1]\n",
        "acc.add %a[g +: 1], %c[0:1], shl=i\nend\nend\n", STORE),
                  ("st.acc", "depthwise product of bytes", "stored", "byte")),
    "requantised": (_over_positions(CLEAR, PLANES, SHIFTED, "st.rq z[p], %a[0:4], scale[0:4]\n"),
                    ("st.rq", "product of bytes", "requantised", "byte")),
    "levels": (_over_positions(CLEAR, PLANES, SHIFTED, "st.ge z[p], %a[0:4], ones[0:4]\n"),
               ("st.ge", "product of bytes", "thresholds by halving", "byte")),
    "constants": (_over_positions(CLEAR, "acc.add %a[0:4], ones[0:4]\n", STORE),
                  ("st.acc", "constants", "stored", "bit")),
    "pool": (_over_positions("pp.max z[p], x[p], near\n"), ("pp.max", "pool", "", "element")),
    "window sums": (_over_positions("pp.sum y[p], x[p], near\n"),
                    ("pp.sum", "sums of windows", "stored", "element")),
    "copy": (_over_positions("pp.mov y[p], x[p]\n"), ("pp.mov", "copy", "", "element")),
    "wide": (_over_positions("pp.rq z[p], wide[p], scale[0:4]\n"),
             ("pp.rq", "requantised", "", "element")),
}  # fmt: skip


@pytest.mark.parametrize("name", PACKED)
def test_packed_loops(name):
    body, (instruction, way, result, unit) = PACKED[name]
    (item,) = _words(body).items
    assert (item.how, item.why) == ("packed", "")
    assert (item.layer, item.item) == ("l", "for p in 0:6")
    first = item.steps[0]
    assert first.instruction == instruction
    assert first.way.startswith(way)
    assert (first.result, first.unit) == (result, unit)
    assert first.work > 0 or way == "constants"
    reads = [step for step in item.steps[1:] if step.instruction.startswith("ones of read")]
    assert bool(reads) == ("read." in body)


def test_contraction_is_told():
    body = PACKED["bytes"][0]
    bytes_, bits = _words(body).items[0].steps[0], _words(body, contract=False).items[0].steps[0]
    assert bytes_.way == "product of bytes"
    assert bits.way == "8 x popcount and"
    assert bits.rows == "taken apart into bit planes"
    assert bits.work == 8 * bytes_.work


def test_steps_that_differ_in_work_only_are_one():
    body = _over_positions(
        CLEAR, "for g in 0:4\nld.window %x, s[p], alone, group=g\n",
        "read.and %d[0:1], t[0][g], %x\npopc %c[0:1], %d[0:1]\n",
        "acc.add %a[g +: 1], %c[0:1]\nend\n", STORE,
    )  # fmt: skip
    (item,) = _words(body).items
    stores = [step for step in item.steps if step.instruction == "st.acc"]
    assert [step.way for step in stores] == ["popcount and"]
    assert stores[0].work == 4 * 6 * 3  # groups, positions, taps


REFUSED = {  # loop: how it runs, and why
    "outside of loops": ("pp.mov y[0], x[0]\n", "reference", "an instruction outside of loops"),
    "reads what it writes": (
        _over_positions("pp.relu z[p], x[p]\npp.mov y[p], z[p]\n"), "reference",
        "it reads a buffer that it writes"),
    "type": (_over_positions("pp.mov long[p], x[p]\n"), "lanes",
             "long holds i64: only integers of up to 32 bits are packed"),
    "written twice": (
        _over_positions("pp.mov y[p], x[p]\npp.mov y[p], s[p]\n"), "lanes",
        "it writes elements of y more than once"),
    "sum goes on": (
        CLEAR + _over_positions(VECTOR, READ, ADD) + STORE.replace("p", "0"), "reference",
        "later instructions read its registers"),
    "from before": (
        "ld.vector %x, s[0]\n" + _over_positions(READ, CLEAR, ADD, STORE), "reference",
        "%x holds something from before the loop"),
    "two inputs": (
        _over_positions(VECTOR, READ, CLEAR, ADD, "ld.vector %x, x[p], plane=1\n", READ, ADD,
                        STORE), "lanes", "a sum over two inputs"),
    "moving input": (
        _over_positions(CLEAR, "for q in 0:2\nld.vector %x, s[q]\n", READ, ADD, "end\n", STORE),
        "lanes", "the input moves within a sum"),
    "inner bounds": (
        _over_positions(CLEAR, VECTOR, "for q in 0:1 + p\n", READ, ADD, "end\n", STORE),
        "reference", "the bounds of an inner loop change with the outer loop"),
    "shift": (
        _over_positions(CLEAR, VECTOR, READ, "acc.add %a[0:4], %c[0:4], shl=p\n", STORE),
        "reference", "more than positions changes with the outer loop"),
    "not all written": (
        "for q in 0:3\npp.ge mid[q], x[q], ones[0:4]\nend\n"
        + _over_positions("pp.mov y[p], mid[p]\n"), "lanes", "not all of mid has been written"),
    "halves": (
        _over_positions(CLEAR, VECTOR, READ, ADD, "st.rq half[p], %a[0:4], scale[0:4]\n"),
        "lanes", "requantised to more than a byte"),
    "halves between": (_over_positions("pp.rq half[p], wide[p], scale[0:4]\n"), "lanes",
                       "requantised to more than a byte"),
    "wide windows": (_over_positions("pp.sum y[p], wide[p], near\n"), "lanes",
                     "sums over windows of other than bytes that lie together"),
    "moving channels": ("for p in 0:4\npp.mov y[0, p +: 1], x[0, p +: 1]\nend\n", "reference",
                        "channels that change with the outer loop"),
    "two counts": (
        _over_positions(VECTOR, READ, "popc %c[0:2], %d[0:2]\npopc %c[2:4], %d[2:4]\n", CLEAR, ADD,
                        STORE), "lanes", "%c comes from more than one instruction"),
    "two clears": (
        _over_positions(VECTOR, READ, "acc.clr %a[2:4]\nacc.clr %a[0:2]\n", ADD, STORE), "lanes",
        "only a part of %a is cleared"),
    "inner load": (
        _over_positions(CLEAR, "for q in 0:2\n", VECTOR, "end\n", READ, ADD, STORE), "lanes",
        "%x was last written in an inner loop that has ended"),
    "iteration before": (
        _over_positions(CLEAR, VECTOR, "for q in 0:2\n", READ, ADD, "ld.vector %x, s[p]\nend\n",
                        STORE), "lanes", "%x holds something from the iteration before"),
    "inner stores": (
        _over_positions(CLEAR, VECTOR, "for q in 0:2\n", READ, ADD, STORE, "end\n"), "lanes",
        "%a is summed up over iterations of an outer loop"),
    "filled": (
        _over_positions(CLEAR, VECTOR, "for q in 0:2\nld.fill %y, %x, value=q\n",
                        READ.replace("%x", "%y"), ADD, "end\n", STORE), "lanes",
        "ld.fill with a value that changes"),
    "inner products": (
        _over_positions(CLEAR, "for q in 0:2\nacc.mac %a[0:4], zero[0], ones[0:4]\nend\n", STORE),
        "lanes", "acc.mac in an inner loop"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_ways_and_their_reasons(name):
    body, how, why = REFUSED[name]
    items = [item for item in _words(body).items if item.how != "packed"]
    assert (how, why) in {(item.how, item.why) for item in items}
    assert all(item.steps == () for item in items)


def test_host_fragments():
    digits = Path(__file__).parents[3] / "examples" / "digits" / "digits_bnn.onnx"
    compiled = cimc.compile(digits)
    items = explain(compiled.engine(threads=1).ready().plan).items
    (host,) = [item for item in items if item.how != "packed"]
    assert (host.layer, host.how, host.why) == ("host1", "host", "a host fragment")
    assert host.item.startswith("host host1.onnx, (")


def test_conversions_come_in_order():
    found = _words(_over_positions("pp.mov y[p], x[p]\n"))
    assert found.conversions == (("x", "packed"), ("y", "flat"))
    shown = found.to_json()
    assert shown["conversions"][0] == {"buffer": "x", "to": "packed"}
    assert shown["items"][0]["steps"][0]["instruction"] == "pp.mov"


def test_every_kernel_between_buffers_has_words():
    kernels = {value for value in vars(pointwise).values() if isinstance(value, Kernel)}
    assert set(BETWEEN) == kernels
