"""Which instruction a register's value comes from, and what is refused with which reason."""

import pytest

from cimc.isa.text import parse
from cimc.sim.packed.flow import Flow, Refused

HEAD = """.cim 1
.target toy rows=8 cols=16 tiles=1 functions=[and] acc_bits=32
.pipeline "exact"
.mem x u8[1,4] input="x" batch=0
.mem y i32[1,4] output="y" batch=0

.infer
l:
for p in 0:1
"""
LOAD, READ, POPC = "ld.vector %x, x[0]", "read.and %d[0:4], t[0][0:4], %x", "popc %c[0:4], %d[0:4]"
CLEAR, ADD = "acc.clr %a[0:4]", "acc.add %a[0:4], %c[0:4]"
STORE = "st.acc y[0], %a[0:4]"


def _flow(*lines):
    section = parse(HEAD + "\n".join([*lines, "end"]) + "\n").section("infer")
    return Flow.read(section.layers[0].body[0].body)


def _definition(flow, name, use=-1):
    return flow.definition(flow.sites[use], name).at


def _sums(flow, use=-1):
    clear, updates = flow.sums(flow.sites[use], "a")
    return clear.at, [site.at for site in updates]


def _inner(*lines):
    return ["for q in 0:2", *lines, "end"]


def test_the_last_write_before_the_use():
    flow = _flow(LOAD, LOAD, READ, LOAD)
    assert _definition(flow, "x", 2) == 1
    assert [site.op for site in flow.writes["x"]] == ["ld.vector"] * 3


def test_a_write_in_the_loops_around():
    assert _definition(_flow(LOAD, *_inner(READ)), "x") == 0
    assert _definition(_flow(LOAD, *_inner(*_inner(READ))), "x") == 0
    assert _definition(_flow(*_inner(LOAD, *_inner(READ))), "x") == 0


@pytest.mark.parametrize(("lines", "why"), [
    ([READ], "%x holds something from before the loop"),
    ([READ, LOAD], "%x holds something from before the loop"),
    ([*_inner(LOAD), READ], "%x was last written in an inner loop that has ended"),
    ([LOAD, *_inner(LOAD), READ], "%x was last written in an inner loop that has ended"),
    ([LOAD, *_inner(READ, LOAD)], "%x holds something from the iteration before"),
    ([LOAD, *_inner(*_inner(READ), LOAD)], "%x holds something from the iteration before"),
])  # fmt: skip
def test_refused_definitions(lines, why):
    flow = _flow(*lines)
    use = next(site for site in flow.sites if site.op == "read.and")
    with pytest.raises(Refused) as refused:
        flow.definition(use, "x")
    assert str(refused.value) == why


def test_updates_since_the_clear():
    assert _sums(_flow(CLEAR, ADD, CLEAR, ADD, *_inner(ADD, *_inner(ADD)), STORE)) == (2, [3, 4, 5])
    assert _sums(_flow(*_inner(CLEAR, ADD, STORE), CLEAR), use=2) == (0, [1])
    assert _sums(_flow(CLEAR, STORE)) == (0, [])


@pytest.mark.parametrize(("lines", "why"), [
    ([ADD, STORE], "%a isn't cleared in the loop"),
    ([STORE], "%a isn't cleared in the loop"),
    ([*_inner(CLEAR), ADD, STORE], "%a is cleared in an inner loop that has ended"),
    ([CLEAR, *_inner(ADD, STORE)], "%a is summed up over iterations of an outer loop"),
    ([CLEAR, *_inner(STORE)], "%a is summed up over iterations of an outer loop"),
    ([CLEAR, *_inner(ADD), *_inner(STORE)], "%a is summed up over iterations of an outer loop"),
])  # fmt: skip
def test_refused_sums(lines, why):
    flow = _flow(*lines)
    use = next(site for site in flow.sites if site.op == "st.acc")
    with pytest.raises(Refused) as refused:
        flow.sums(use, "a")
    assert str(refused.value) == why
