"""The accumulator bound: exact where it says so, never too small."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimc.errors import CompileError, Span
from cimc.isa.check import check
from cimc.isa.program import Data
from cimc.isa.text import parse

HEAD = """\
.cim 1
.target ideal rows=32 cols=16 tiles=1 functions=[and,xor] acc_bits={bits}
.pipeline "exact"
.mem x u8[1,40]
.mem b bip[1,40]
.mem y i64[1,8]
.infer
l:
"""


def reach(code: str) -> tuple[int, int]:
    """The interval that the check states, by a target with too narrow accumulators."""
    text = HEAD.format(bits=2) + "\n".join(code.split("; ")) + "\n"
    parsed = parse(text, "t.cim")
    parsed.data.append(Data("k", "i32", np.array([-7, 3, 5, 100], np.int32)))
    places = np.array([[-7, 3, 5, 100], [1, -9, 2, 3], [400, 0, 0, -300]], np.int32)
    parsed.data.append(Data("places", "i32", places))
    with pytest.raises(CompileError) as caught:
        check(parsed)
    words = caught.value.message.split("can reach ")[1].split(",")[0].split(" … ")
    return int(words[0]), int(words[1])


READ = "read.and %d[0:4], t[0][0:4], %x; popc %c[0:4], %d[0:4]"
ADD = "acc.add %a[0:4], %c[0:4]"


@pytest.mark.parametrize(
    ("code", "low", "high"),
    [
        # valid - 2 * ones of XOR
        (
            f"acc.clr %a[0:4]; ld.vector %x, b[0], width=10; {READ}; "
            "acc.add %a[0:4], %x.valid; acc.sub %a[0:4], %c[0:4], shl=1",
            -10,
            10,
        ),
        # the rows and columns of a table that are reached, whichever comes
        (
            "acc.clr %a[0:4]; for p in 0:2; acc.clr %a[0:4]; acc.add %a[0:4], places[p]; end",
            -9,
            100,
        ),
        ("acc.clr %a[0:3]; acc.sub %a[0:3], places[2, 0:3], shl=1", -800, 0),
        ("acc.clr %a[0:2]; acc.sub %a[0:2], places[2, 2:4], shl=1", 0, 600),
        # 40 columns in segments of 16, 16 and 8
        (
            "acc.clr %a[0:4]; for s in 0:3; ld.vector %x, b[0], width=16, seg=s; "
            f"{READ}; {ADD}; end",
            0,
            40,
        ),
        # planes, the sign plane peeled: 16 * (127 - 128) and 16 * 127
        (
            "acc.clr %a[0:4]; for i in 0:7; ld.vector %x, x[0], width=16, plane=i; "
            "acc.add %a[0:4], %x.ones, shl=i; end; ld.vector %x, x[0], width=16, plane=7; "
            "acc.sub %a[0:4], %x.ones, shl=7",
            -2048,
            2032,
        ),
        (
            "acc.clr %a[0:4]; for i in 0:3; ld.vector %x, x[0], width=16, plane=i; for j in 0:3; "
            f"{READ}; acc.add %a[0:4], %c[0:4], shl=i + j; end; end",
            0,
            16 * 49,
        ),
        # cleared in each iteration; added up over all
        (
            f"for p in 0:1000; acc.clr %a[0:4]; ld.vector %x, b[0], width=9; {READ}; {ADD}; end",
            0,
            9,
        ),
        (
            f"acc.clr %a[0:4]; for p in 0:1000; ld.vector %x, b[0], width=9; {READ}; {ADD}; end",
            0,
            9000,
        ),
        (
            "acc.clr %a[0:4]; for p in 0:1000; for q in p:1000; ld.vector %x, b[0], width=9; "
            f"{READ}; {ADD}; end; end",
            0,
            4_504_500,
        ),
        # halves of the register
        (
            f"acc.clr %a[0:4]; ld.vector %x, b[0], width=9; {READ}; acc.add %a[0:2], %c[0:2]; "
            "acc.add %a[2:4], %c[2:4]; acc.add %a[3:4], %c[3:4]",
            0,
            18,
        ),
        (
            f"acc.clr %a[0:4]; for p in 0:9; ld.vector %x, b[0], width=9; {READ}; for q in 0:2; "
            "acc.add %a[2*q +: 2], %c[2*q +: 2]; end; end",
            0,
            81,
        ),
        # constants of the range only
        ("acc.clr %a[0:2]; acc.add %a[0:2], k[0:2], shl=1", -14, 6),
        ("acc.clr %a[0:2]; acc.sub %a[0:2], k[2:4]", -100, -5),
        # a prefix counts, not only the end
        (
            "acc.clr %a[0:4]; ld.vector %x, b[0], width=9; acc.add %a[0:4], %x.valid; "
            "acc.sub %a[0:4], %x.valid",
            0,
            9,
        ),
        # fewer columns read than loaded
        (
            "acc.clr %a[0:4]; ld.vector %x, b[0], width=9; "
            f"read.and %d[0:4], t[0][0:4], %x, cols=2:5; popc %c[0:4], %d[0:4]; {ADD}",
            0,
            3,
        ),
        # a filled latch counts the valid columns of its source
        (
            "acc.clr %a[0:4]; ld.vector %x, b[0], width=9; ld.fill %y, %x, value=1; "
            "acc.add %a[0:4], %x.valid; acc.add %a[0:4], %y.ones; acc.sub %a[0:4], %x.ones",
            0,
            18,
        ),
        # counts of column ranges: each of a range's columns, whatever range
        (
            "acc.clr %a[0:8]; ld.vector %x, b[0], width=10; read.and %d[0:4], t[0][0:4], %x; "
            "popc %c[0:8], %d[0:4], width=5; acc.add %a[0:8], %c[0:8], shl=1; "
            "acc.sub %a[0:8], %c[0:8]",
            -5,
            10,
        ),
        (
            "acc.clr %a[0:4]; ld.vector %x, b[0], width=10; read.and %d[0:4], t[0][0:4], %x; "
            "popc %c[0:4], %d[0:4], width=2; acc.add %a[0:4], %c[0:4]; "
            "popc %c[0:4], %d[0:4], width=8; acc.add %a[0:4], %c[0:4]; acc.add %a[0:4], %x.valid",
            0,
            26,
        ),
        # a byte times constants of the range
        ("acc.clr %a[0:2]; acc.mac %a[0:2], x[0, 3:4], k[0:2]", -7 * 255, 3 * 255),
        (
            "acc.clr %a[0:2]; for i in 0:9; acc.mac %a[0:2], x[0, 3:4], k[2:4]; end",
            0,
            9 * 100 * 255,
        ),
        # a sum times constants
        (
            "acc.clr %a[0:4]; acc.clr %s[0:1]; ld.vector %x, b[0], width=10; "
            "acc.sub %s[0:1], %x.ones, shl=1; acc.mac %a[0:4], %s[0:1], k",
            -2000,
            140,
        ),
        (
            "for p in 0:9; acc.clr %a[0:4]; acc.clr %s[0:1]; for q in 0:4; "
            "ld.vector %x, b[0], width=10; acc.add %s[0:1], %x.ones; end; "
            "acc.mac %a[0:4], %s[0:1], k; end",
            -280,
            4000,
        ),
        # known from outside the loop, which doesn't change it
        (
            "acc.clr %a[0:4]; acc.clr %s[0:2]; ld.vector %x, b[0], width=10; "
            "acc.add %s[1:2], %x.ones; for p in 0:3; for q in p:4; "
            "acc.mac %a[0:4], %s[1:2], k; end; end",
            -630,
            9000,
        ),
        # not known: one iteration adds to what the one before left
        (
            "acc.clr %a[0:4]; acc.clr %s[0:1]; for p in 0:1000; "
            "acc.mac %a[0:1], %s[0:1], k[0:1]; acc.add %s[0:1], k[1:2]; end",
            -28_000,
            28_000,
        ),
    ],
)
def test_bounds(code: str, low: int, high: int) -> None:
    assert reach(code) == (min(low, 0), high)


def test_the_message() -> None:
    text = HEAD.format(bits=7) + (
        "  acc.clr %a[0:4]\n  for s in 0:4\n    ld.vector %x, b[0], width=16\n"
        "    acc.add %a[0:4], %x.ones\n  end\n"
    )
    with pytest.raises(CompileError) as caught:
        check(parse(text, "t.cim"))
    assert str(caught.value) == (
        "t.cim:12:13: error: layer l: `%a` can reach 0 … 64, which takes 8 bits; "
        "the target has acc_bits=7\n"
        "      acc.add %a[0:4], %x.ones\n"
        "              ^^^^^^^\n"
        "help: compile for wider accumulators"
    )
    assert isinstance(caught.value.where, Span)
    check(parse(text.replace("acc_bits=7", "acc_bits=8"), "t.cim"))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_bound_is_exact_for_sums_over_latch_loads(data: st.DataObject) -> None:
    """All corners: each load has 0 or all columns valid, each count is 0 or all of those."""
    code = ["acc.clr %a[0:4]"]
    loads: list[tuple[int, list[tuple[str, int]]]] = []
    for _ in range(data.draw(st.integers(1, 3))):
        width = data.draw(st.integers(1, 16))
        code += [f"ld.vector %x, x[0], width={width}", READ.replace("; ", "\n")]
        terms: list[tuple[str, int]] = []
        for _ in range(data.draw(st.integers(1, 3))):
            what = data.draw(st.sampled_from(["%x.valid", "%x.ones", "%c[0:4]"]))
            op, shl = data.draw(st.sampled_from(["add", "sub"])), data.draw(st.integers(0, 2))
            code.append(f"acc.{op} %a[0:4], {what}, shl={shl}")
            terms.append((what, (1 if op == "add" else -1) << shl))
        loads.append((width, terms))
    # a count that is used twice takes one value; the bound lets each use have its own
    single = all(len({w for w, _ in terms}) == len(terms) for _, terms in loads)
    low, high = _corners(loads)
    if max(high, ~low) < 2:
        return
    found = reach("; ".join(code))
    assert found[0] <= low
    assert found[1] >= high
    if single:
        assert found == (low, high)


def _corners(loads: list[tuple[int, list[tuple[str, int]]]]) -> tuple[int, int]:
    """Smallest and largest prefix sum over all corner values."""
    low = high = 0
    choices = [list(product((0, 1), repeat=3)) for _ in loads]
    for picks in product(*choices):
        total = 0
        for (width, terms), (valid, ones, count) in zip(loads, picks, strict=True):
            factor = {"%x.valid": valid, "%x.ones": valid * ones, "%c[0:4]": valid * count}
            for what, coef in terms:
                total += coef * width * factor[what]
                low, high = min(low, total), max(high, total)
    return low, high
