"""Static checks of the control unit's instructions, and of outputs that `.update` writes."""

from __future__ import annotations

import pytest
from isa_texts import errors, marked, shown

from cimc.errors import CompileError
from cimc.isa.check import check
from cimc.isa.printer import print_program
from cimc.isa.text import parse

TEXT = """\
.cim 1
.target ideal rows=8 cols=8 tiles=1 functions=[xor] acc_bits=16
.pipeline "exact"
.mem x i32[1,4]
.mem b bool[1,4]
.mem wide i64[1,4]
.mem f f32[1,4]
.mem bip bip[1,4]
.mem y u8[1,4] output="y"
.update
l:
ctl.set %s, value=7
ctl.sum %s, x[0], mask=b[0]
ctl.squares %s, x[0, 0:2], mask=b[0, 2:4]
ctl.mul %t, %s, %s
ctl.sub %t, %t, %s
ctl.div %t, %t, %s
ctl.lt y[0], x[0], %t, mask=b[0]
ctl.gt b[0], y[0], %t
ctl.st y[0, 1:2], %t
"""


def problems(text: str) -> list[CompileError]:
    try:
        check(parse(text, "t.cim"))
    except CompileError as error:
        return errors(error)
    return []


def test_the_text_is_valid() -> None:
    assert problems(TEXT) == []
    program = parse(TEXT, "t.cim")
    assert parse(print_program(program), "t.cim") == program


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ctl.sum %s, x", "ctl.sum «%u», x", "`%u` is read here before it is written"),
        ("ctl.sub %t, %t, %s", "ctl.sub %t, «%u», %s", "`%u` is read here before it is written"),
        ("ctl.mul %t, %s, %s", "ctl.mul %t, %s, «%s[0:1]»", "expected a scalar such as `%s`"),
        ("x[0], mask=b[0]\nctl.sq", "«wide[0]», mask=b[0]\nctl.sq", "at most 32 bits, or bool"),
        ("x[0], mask=b[0]\nctl.sq", "«f[0]», mask=b[0]\nctl.sq", "at most 32 bits, or bool"),
        ("x[0], mask=b[0]\nctl.sq", "x[0], «mask=f[0]»\nctl.sq", "at most 32 bits, or bool"),
        ("mask=b[0, 2:4]", "«mask=b[0]»", "sizes differ: 4 here, 2 in the first operand"),
        ("mask=b[0, 2:4]", "«mask=b»", "which position of `b`?"),
        ("mask=b[0, 2:4]", "«mask=nix[0]»", "unknown name `nix`"),
        ("ctl.lt y[0]", "ctl.lt «f[0]»", "0 and 1 can't be stored as f32"),
        ("ctl.lt y[0]", "ctl.lt «bip[0]»", "0 and 1 can't be stored as bip"),
        ("ctl.gt b[0], y[0]", "ctl.gt b[0], «y[0, 0:3]»", "sizes differ"),
        ("ctl.st y[0, 1:2]", "ctl.st «y[0]»", "a scalar is stored in one element"),
        ("ctl.st y[0, 1:2]", "ctl.st «f[0, 1:2]»", "a scalar can't be stored as f32"),
        ("value=7", "«value=0:7»", "`value` must be a number"),
    ],
)
def test_a_mistake_is_shown_where_it_is(old: str, new: str, message: str) -> None:
    assert old in TEXT
    text, place, under = marked(TEXT.replace(old, new, 1))
    found = problems(text)
    assert [shown(problem) for problem in found] == [(place, under)]
    assert message in found[0].message


def test_only_update_decides() -> None:
    found = problems(TEXT.replace(".update", ".infer"))
    assert len(found) == 9
    assert all("can't stand in `.infer`, only in `.update`" in one.message for one in found)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('output="y"', 'output="y" batch=0', "once a call: it has no samples"),
        (".update", ".infer\ni:\n  pp.relu y[0], y[0]\n.update", "by `.infer` and by `.update`"),
    ],
)
def test_an_output_of_update_is_of_the_call(old: str, new: str, message: str) -> None:
    (found,) = problems(TEXT.replace(old, new))
    assert message in found.message


# -- accumulators whose range moves with a loop --------------------------------------------

HEAD = """\
.cim 1
.target ideal rows=9 cols=8 tiles=1 functions=[xor] acc_bits={bits}
.pipeline "exact"
.mem near i32[9,9]
.update
l:
"""
PAIRS = """\
for i in 0:8
  acc.clr %a[1 + i:9]
  for w in 0:2
    ld.row %x, t[0][i]
    read.xor %d[1 + i:9], t[0][1 + i:9], %x
    popc %c[1 + i:9], %d[1 + i:9]
    acc.add %a[1 + i:9], %c[1 + i:9], shl=w
  end
  st.acc near[i, 1 + i:9], %a[1 + i:9]
end
"""


def reach(code: str) -> tuple[int, int]:
    """The interval that the check states, by a target with too narrow accumulators."""
    (found,) = problems(HEAD.format(bits=2) + code)
    low, high = found.message.split("can reach ")[1].split(",")[0].split(" … ")
    return int(low), int(high)


def test_a_cleared_range_is_followed_once_for_all_iterations() -> None:
    assert reach(PAIRS) == (0, 24)
    assert problems(HEAD.format(bits=6) + PAIRS) == []


def test_what_is_left_of_a_moving_range_is_not_relied_on() -> None:
    """After the loop, an element holds the sum of its last iteration, or what was before."""
    more = "acc.clr %b[0:1]\nld.row %x, t[0][0]\nacc.add %a[8:9], %x.ones\n"
    code = HEAD.format(bits=6) + "acc.clr %a[0:9]\n" + PAIRS
    assert problems(code) == []
    (found,) = problems(code + more)  # 24 + 8 takes seven bits
    assert "`%a` can reach" in found.message


def test_a_range_that_is_not_cleared_adds_up() -> None:
    code = PAIRS.replace("  acc.clr %a[1 + i:9]\n", "")
    assert reach("acc.clr %a[0:9]\n" + code)[1] >= 8 * 24
