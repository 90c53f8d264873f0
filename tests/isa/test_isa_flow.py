"""Static checks across instructions: registers, `par`, programmed cells, row remaps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isa_texts import changed, errors, marked, program, shown

from cimc.errors import CompileError
from cimc.isa.check import check
from cimc.isa.program import Data
from cimc.isa.text import parse

HEAD = """\
.cim 1
.target ideal rows=32 cols=16 tiles=4 functions=[and] acc_bits=32
.pipeline "exact"
.mem x bip[1,16,4,4]
.mem y i32[1,16,4,4]
.mem h host
.view yt i32[1,4,4,16] = y perm=[0,2,3,1] axis=3
.view flat i32[1,256] = y
.win w channels=16 kernel=[1,1] out=[4,4] strides=[1,1] pads=[0,0,0,0] dilations=[1,1]
"""
DATA = [
    Data("d", "cells", np.zeros((32, 40), np.uint8), seg=16),
    Data("e", "cells", np.zeros((32, 8), np.uint8)),
    Data("f", "onnx", np.zeros(1, np.uint8)),
]


def found(text: str) -> list[CompileError]:
    """The problems of `HEAD` and `text`."""
    parsed = parse(text, "t.cim")
    parsed.data.extend(DATA)
    try:
        check(parsed)
    except CompileError as error:
        return errors(error)
    return []


def infer(code: str) -> str:
    """A program of one layer; `code` is a list of statements between `;`."""
    return HEAD + ".infer\nl:\n" + "\n".join(code.split("; ")) + "\n"


def expect(text: str, message: str) -> None:
    """One problem at the marked place, or none."""
    if not message:
        assert found(text) == []
        return
    text, place, under = marked(text)
    problems = found(text)
    assert [(shown(p)) for p in problems] == [(place, under)]
    assert message in problems[0].message


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("popc %c[0:4], «%d[0:4]»", "`%d` is read here before it is written"),
        ("ld.vector %x, x[0]; acc.add «%a[0:4]», %x.valid", "`%a` is read here before"),
        ("acc.clr %a[0:4]; st.acc y[0], «%a[0:16]»", "`%a` is read"),
        ("acc.clr %a[0:8]; acc.clr %a[8:16]; st.acc y[0], %a[0:16]", ""),
        ("acc.clr %a[8:16]; acc.clr %a[0:8]; st.acc y[0], %a[0:16]", ""),
        ("acc.clr %a[8:16]; acc.clr %a[0:7]; st.acc y[0], «%a[0:16]»", "`%a` is read"),
        ("for i in 0:4; acc.clr %a[4*i +: 4]; end; st.acc y[0], %a[0:16]", ""),
        ("for i in 0:4; acc.clr %a[12 - 4*i +: 4]; end; st.acc y[0], %a[0:16]", ""),
        ("for i in 0:3; acc.clr %a[4*i +: 4]; end; st.acc y[0], «%a[0:16]»", "`%a` is read"),
        ("for i in 0:4; acc.clr %a[4*i +: 3]; end; st.acc y[0], «%a[0:16]»", "`%a` is read"),
        (
            "for i in 0:2; for j in 0:2; acc.clr %a[8*i + 4*j +: 4]; end; end; "
            "st.acc y[0], %a[0:16]",
            "",
        ),
        ("for i in 0:15; acc.clr %a[1 + i:16]; st.acc y[0, 1 + i:16], %a[1 + i:16]; end", ""),
        (
            "for i in 0:4; for j in i:3; acc.clr %a[0:16]; end; st.acc y[i], «%a[0:16]»; end",
            "`%a` is read",
        ),
    ],
)
def test_registers_are_written_before_they_are_read(code: str, message: str) -> None:
    expect(infer(code), message)


def test_a_sum_reads_its_accumulators_and_its_latch() -> None:
    problems = found(infer("acc.add %a[0:4], %x.valid"))
    assert [shown(p)[1] for p in problems] == ["%a[0:4]", "%x.valid"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        # registers
        ("par p in 0:16; acc.clr %a[0:16]; st.acc y[p], %a[0:16]; end", ""),
        ("par p in 0:16; acc.clr %a[0:16]; end; st.acc y[0], «%a[0:16]»", "`%a` is read here"),
        (
            "acc.clr %a[0:16]; par p in 0:9; ld.vector %x, x[p]; acc.add %a[0:16], %x.ones; end; "
            "st.acc y[0], %a[0:16]",
            "",
        ),
        (
            "acc.clr %a[0:16]; par p in 0:16; ld.vector %x, x[p]; acc.add %a[0:16], %x.ones; "
            "st.acc y[p], «%a[0:16]»; end",
            "share `%a`",
        ),
        (
            "ld.vector %x, x[0]; par p in 0:16; acc.clr %a[0:16]; acc.add %a[0:16], «%x.ones»; "
            "ld.vector %x, x[p]; end",
            "share `%x`",
        ),
        (
            "ld.vector %x, x[0]; par p in 0:16; acc.clr %a[0:16]; acc.add %a[0:16], %x.ones; "
            "st.acc y[p], %a[0:16]; end",
            "",
        ),
        (
            "acc.clr %a[0:16]; ld.vector %x, x[0]; par p in 0:16; acc.clr %a[0:8]; "
            "acc.add «%a[0:16]», %x.ones; end",
            "both private",
        ),
        ("acc.clr %a[0:16]; par p in 0:1; st.acc y[p], %a[0:16]; acc.clr %a[0:16]; end", ""),
        # buffers
        (
            "acc.clr %a[0:16]; par p in 0:2; st.acc «y[0]», %a[0:16]; end",
            "the same elements of `y`",
        ),
        (
            "acc.clr %a[0:16]; par p in 0:2; for q in 0:4; st.acc «y[p + q]», %a[0:16]; end; end",
            "the same elements of `y`",
        ),
        ("acc.clr %a[0:16]; par p in 0:4; for q in 0:4; st.acc y[4*p + q], %a[0:16]; end; end", ""),
        ("acc.clr %a[0:16]; par p in 0:4; for q in p:1 + p; st.acc y[q], %a[0:16]; end; end", ""),
        ("acc.clr %a[0:8]; par p in 0:2; st.acc y[0, 8*p +: 8], %a[0:8]; end", ""),
        (
            "acc.clr %a[0:9]; par p in 0:2; st.acc «y[0, 7*p +: 9]», %a[0:9]; end",
            "the same elements",
        ),
        (
            "acc.clr %a[0:16]; par p in 0:8; "
            "st.acc y[p], %a[0:16]; st.acc yt[8 + p], %a[0:16]; end",
            "",
        ),
        (
            "acc.clr %a[0:16]; par p in 0:8; "
            "st.acc y[p], %a[0:16]; st.acc «yt[7 + p]», %a[0:16]; end",
            "the same elements of `yt`",
        ),
        ("acc.clr %a[0:1]; par p in 0:16; st.acc flat[0, 16*p +: 1], %a[0:1]; end", ""),
        ("par p in 0:4; host f, () -> «(h)»; end", "the same elements of `h`"),
        ("for p in 0:4; host f, () -> (h); end", ""),
        # reads of what others write
        ("par p in 0:16; pp.relu y[p], y[p]; end", ""),
        ("par p in 0:15; pp.relu y[p], «y[1 + p]»; end", "`y` is read here while"),
        ("par p in 0:16; pp.relu y[p], «yt[p]»; end", "`yt` is read here while"),
        ("par p in 0:16; pp.max y[p], «y[p]», w; end", "`y` is read here while"),
        ("par p in 0:16; pp.max y[p], y[p], w; end".replace("par", "for"), ""),
    ],
)
def test_par(code: str, message: str) -> None:
    expect(infer(code), message)


def load(code: str) -> str:
    return HEAD + ".load\nl:\n" + "\n".join(code.split("; ")) + "\n"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("set t[0][0:32], d, seg=0; reset t[0][0:32], d, seg=0", ""),
        ("set t[0][0:32], e; set t[0][0:32], e, col=8", ""),
        ("set t[0][0:32], e; set «t[0][0:32]», e, col=7", "another `set` (line 12)"),
        ("set t[0][0:16], e[0:16]; set «t[0][15:17]», e[0:2]", "another `set` (line 12)"),
        ("set t[0][0:16], e[0:16]; reset «t[0][0:16]», e[1:17]", "another `set` (line 12)"),
        ("set t[0][0:16], d[0:16]; reset «t[0][0:16]», d[0:16], seg=1", "another `set`"),
        ("set t[0][0:16], e[0:16]; reset t[0][8:32], e[8:32]", ""),
        ("for s in 0:3; set t[s][0:32], d, seg=s; end", ""),
        ("for s in 0:3; set «t[0][8*s +: 9]», d[0:9], seg=s; end", "two iterations"),
        ("for s in 0:2; set «t[0][0:32]», d, seg=s; end", "two iterations"),
        ("for i in 0:4; for j in i:4; set «t[i][j]», e[0:1]; end; end", ""),
        ("for i in 0:4; for j in i:4; set «t[0][i + j]», e[0:1]; end; end", "two iterations"),
    ],
)
def test_cells_are_programmed_once(code: str, message: str) -> None:
    expect(load(code if message else code.replace("«", "").replace("»", "")), message)


def test_updates_may_program_cells_again() -> None:
    text = load("set t[0][0:32], e; set t[0][0:32], e").replace(".load", ".update")
    assert found(text) == []


def test_remapped_rows() -> None:
    map_ = ".map t[0] 3 -> 31\n"
    expect(HEAD + map_ + ".load\nl:\n  set «t[0][0:32]», e\n", "row 31 of tile 0 is where `.map`")
    expect(HEAD + map_ + ".load\nl:\n  set t[0][0:31], e[0:31]\n  set t[1][0:32], e\n", "")
    expect(HEAD + map_ + ".map t[0] 31 -> 3\n.load\nl:\n  set t[0][0:32], e\n", "")


def test_too_many_writes_are_refused_at_once() -> None:
    error = found(load("for i in 0:9999999999; set t[0][0:32], e; end"))[0]
    assert "`.load` makes more than 4194304 writes" in error.message


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_cell_overlaps_agree_with_painting_each_cell(data: st.DataObject) -> None:
    lines: list[str] = []
    painted: dict[tuple[int, int, int, str], tuple[int, int]] = {}
    clash = False
    for _ in range(data.draw(st.integers(1, 4))):
        op = data.draw(st.sampled_from(["set", "reset"]))
        tile, step, rows, jump = (data.draw(st.integers(0, 3)) for _ in range(4))
        start, of_data, col = (data.draw(st.integers(0, 8)) for _ in range(3))
        trips, rows = data.draw(st.integers(1, 3)), rows + 1
        lines += [f"for i in 0:{trips}",
                  f"{op} t[{tile // 2} + 0*i][{start} + {step}*i +: {rows}], "
                  f"e[{of_data} + {jump}*i +: {rows}], col={col}", "end"]  # fmt: skip
        for i in range(trips):
            for r in range(rows):
                for c in range(8):
                    cell = (tile // 2, start + step * i + r, col + c)
                    source = (of_data + jump * i + r, c)
                    other = painted.get((*cell, "reset" if op == "set" else "set"), source)
                    clash |= (*cell, op) in painted or other != source
                    painted[*cell, op] = source
    assert bool(found(load("; ".join(lines)))) == clash


def test_the_valid_program_with_a_reduction_over_tiles() -> None:
    check(program(changed("par s in 0:98", "for s in 0:98")))
