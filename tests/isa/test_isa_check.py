"""Each static check, by one change of a valid program: its place, its caret, its words."""

from __future__ import annotations

import re
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isa_texts import DATA, HEAD, TEXT, changed, errors, marked, program, shown

from cimc.errors import CompileError
from cimc.isa.check import check
from cimc.isa.program import Affine, Data, Instr, Layer, Program, Section, TargetLine
from cimc.isa.text import parse


def problems(text: str) -> list[CompileError]:
    with pytest.raises(CompileError) as caught:
        check(program(text))
    return errors(caught.value)


def test_the_valid_program() -> None:
    check(program())


def expect(old: str, new: str, message: str) -> None:
    text, place, under = marked(changed(old, new))
    error = problems(text)[0]
    assert shown(error) == (place, under)
    assert message in str(error)


TARGET = ".target ideal rows=256 cols=128 tiles=2 functions=[and,nand,or,xor] acc_bits=32"
POOL = ".win pool channels=32 kernel=[2,2] out=[14,14] strides=[2,2] pads=[0,0,0,0] dilations=[1,1]"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (TARGET, f"«{TARGET.replace('rows=256', 'rows=0')}»", "`rows` is 0"),
        (TARGET, f"«{TARGET.replace('cols=128', 'cols=70000')}»", "`cols` is 70000"),
        (TARGET, f"«{TARGET.replace('tiles=2', 'tiles=-1')}»", "`tiles` is -1"),
        (TARGET, f"«{TARGET.replace('tiles=2', 'tiles=9999999999')}»", "2**36 cells"),
        (TARGET, f"«{TARGET.replace('acc_bits=32', 'acc_bits=1')}»", "`acc_bits` is 1"),
        (TARGET, f"«{TARGET.replace('nand', 'nor')}»", "unknown function `nor`"),
        (TARGET, f"«{TARGET.replace('nand', 'and')}»", "a function stands twice"),
        (".mem any host", "«.mem act0 host»", "declared twice"),
        (".mem any host", "«.mem any u8[99999,99999]»", "9999800001 elements"),
        (".mem any host", "«.mem any u8[1,2] axis=2»", "axis 2 of `any` is outside its 2 axes"),
        (".mem any host", '«.mem any host input="i" batch=0»', "has no batch axis"),
        (".mem any host", '«.mem any u8[1] input="i" batch=1»', "batch axis 1 is outside"),
        (".mem any host", "«.mem any u8[1] batch=0»", "is no input or output"),
        (".mem any host", '«.mem any host output="y"»', "the output 'y' is declared twice"),
        (".mem any host", '«.mem any host input="image"»', "the input 'image' is declared twice"),
        (
            ".view flat bip[1,12544] = act2",
            "«.view flat bip[1,12544] = logit»",
            "did you mean `logits`?",
        ),
        (
            ".view flat bip[1,12544] = act2",
            "«.view flat bip[1,12544] = act1»",
            "has 12544 elements",
        ),
        (".view flat bip[1,12544] = act2", "«.view flat u8[1,12544] = act2»", "keeps the type"),
        (
            ".view flat bip[1,12544] = act2",
            "«.view flat bip[1,12544] = any»",
            "no buffer with a shape",
        ),
        (".view flat bip[1,12544] = act2", "«.view flat bip[1,12544] = flat»", "a view of itself"),
        (
            ".view last bip[1,14,14,32] = act1 perm=[0,2,3,1] axis=3",
            "«.view last bip[1,14,14,32] = act1 perm=[0,2,3,3] axis=3»",
            "list the 4 axes once each",
        ),
        (
            ".view last bip[1,14,14,32] = act1 perm=[0,2,3,1] axis=3",
            "«.view last bip[1,14,32,14] = act1 perm=[0,2,3,1] axis=3»",
            "makes the shape [1,14,14,32]",
        ),
        (POOL, f"«{POOL.replace('out=[14,14]', 'out=[14]')}»", "`out` needs 2 numbers"),
        (POOL, f"«{POOL.replace('strides=[2,2]', 'strides=[2,0]')}»", "must be positive"),
        (POOL, f"«{POOL.replace('pads=[0,0,0,0]', 'pads=[0,0]')}»", "`pads` needs 4 numbers"),
        (POOL, f"«{POOL.replace('pads=[0,0,0,0]', 'pads=[0,0,0,-1]')}»", "none negative"),
        (POOL, f"«{POOL} groups=5»", "32 channels don't divide into 5 groups"),
        (POOL, f"«{POOL} seg=-1»", "`seg` is negative"),
        (POOL, f"«{POOL.replace('out=[14,14]', 'out=[99999,99999]')}»", "too many to compute"),
        (".map t[0] 17 -> 250", "«.map t[2] 17 -> 250»", "the target has 2 tiles"),
        (".map t[0] 17 -> 250", "«.map t[0] 17 -> 256»", "a tile has 256 rows"),
        (
            ".map t[0] 17 -> 250",
            ".map t[0] 17 -> 250\n«.map t[0] 18 -> 250»",
            "row 250 is mapped twice",
        ),
    ],
)
def test_declarations(old: str, new: str, message: str) -> None:
    expect(old, new, message)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # sections, labels, loops
        (".update\n", "«.load»\n", "the section `.load` stands here twice"),
        ("pool:\n", "«pre:»\n", "the label `pre` stands twice in `.infer`"),
        ("par s in 0:98", "«par s in 0:t»", "unknown loop variable `t`"),
        ("par s in 0:98", "«par s in 0:0»", "this loop never runs"),
        ("par s in 0:98", "«par s in 5:2»", "this loop never runs: -3"),
        ("for s in 0:3\n      ld", "«for s in p:3»\n      ld", "lies below the lower one: -192"),
        ("for s in 0:3\n      ld", "«for p in 0:3»\n      ld", "hides an outer one"),
        ("act0[p]", "«act0[q]»", "unknown loop variable `q`"),
        # instructions and their operands
        (
            "pp.max act1[p], act0[p], pool",
            "«pp.mx act1[p], act0[p], pool»",
            "did you mean `pp.max`?",
        ),
        ("pp.max act1[p], act0[p], pool", "«pp.max act1[p], act0[p]»", "2 operands, expected 3"),
        (
            "ld.row %x, t[0][5], cols=0:9\n",
            "ld.row %x, t[0][5]\n  «host pre.onnx, () -> ()»\n",
            "`host` can't stand in `.update`, only in `.infer`",
        ),
        ("acc.clr %b[0:10]", "«set t[0][0:10], fc.w»", "`set` can't stand in `.infer`"),
        ("act0[p], pool", "«conv.w», pool", "`conv.w` is a data item, expected a buffer"),
        ("act0[p], pool", "«pool», pool", "`pool` is a window, expected a buffer"),
        ("act0[p], pool", "«act9[p]», pool", "unknown name `act9`"),
        ("act0[p], pool", "«any[p]», pool", "`any` is `host`"),
        ("act0[p], pool", "«act0», pool", "which position of `act0`?"),
        ("act0[p], pool", "act0[p], «act1»", "`act1` is a buffer, expected the name of a window"),
        ("act0[p], pool", "act0[p], «pool[0]»", "expected the name of a window"),
        ("act0[p], pool", "act0[p], «%x»", "expected the name of a window"),
        (
            "act1[p], act0[p]",
            "«act1[1 + p]», act0[p]",
            "position 1 … 196 is outside the 196 of `act1`",
        ),
        (
            "st.ge act2[p, 0:64]",
            "st.ge «act2[p, 0:65]»",
            "0:65 is outside the 64 channels of `act2`",
        ),
        ("pre.onnx, (image)", "«conv.w», (image)", "`conv.w` is `cells`, expected an `onnx` item"),
        ("pre.onnx, (image)", "pre.onnx, «(imag)» -> (act0) #", "did you mean `image`?"),
        ("read.xor %d[0:64], t[0]", "read.xor «%d», t[0]", "expected result bits"),
        (
            "read.xor %d[0:64], t[0][32 + 64*s +: 64]",
            "read.xor %d[0:64], «%e[0:64]»",
            "expected rows",
        ),
        (
            "%d[0:64], t[0][32 + 64*s +: 64]",
            "%d[0:64], «t[s][32 + 64*s +: 64]»",
            "tile 0 … 2 is outside the 2 tiles",
        ),
        (
            "%d[0:64], t[0][32 + 64*s +: 64]",
            "%d[0:64], «t[0][100 + 64*s +: 64]»",
            "100:292 is outside the 256 rows",
        ),
        ("%d[0:64], t[0][32 + 64*s +: 64]", "%d[0:64], «t[0][s:2]»", "the range has 0 elements"),
        (
            "%d[0:64], t[0][32 + 64*s +: 64]",
            "%d[0:64], «t[0][32 + 64*s +: 63]»",
            "sizes differ: 63 here, 64 in the first operand",
        ),
        ("ld.row %x, t[0][5]", "ld.row %x, «t[0][5:7]»", "expected one row"),
        ("ld.row %x", "ld.row «%x.valid»", "expected a latch"),
        ("ld.row %x", "ld.row «%x[0:1]»", "expected a latch"),
        ("ld.row %x", "ld.row «%b»", "`%b` is used as latch, and as acc before"),
        ("%a[0:64], %x.valid", "%a[0:64], «%x.size»", "expected counts"),
        ("%a[0:64], %x.valid", "«%a[-1:63]», %x.valid", "-1:63 is outside"),
        ("%b[0:10], fc.bias", "%b[0:10], «pre.onnx»", "`pre.onnx` is `onnx`, expected counts"),
        (
            "%b[0:10], fc.bias",
            "%b[0:10], «fc.bias[0:11]»",
            "0:11 is outside the 10 rows of `fc.bias`",
        ),
        ("%b[0:10], fc.bias", "%b[0:10], «fc.bias[0]»", "expected counts"),
        ("%b[0:10], fc.bias", "%b[0:10], «conv.th»", "sizes differ: 64 here, 10"),
        (
            "set t[1][0:10], fc.w",
            "set t[1][0:10], «fc.bias»",
            "`fc.bias` is `i32`, expected rows of",
        ),
        (
            "%c[0:64], %d[0:64]",
            "%c[0:64], «%c[0:64]»",
            "`%c` is used as bits, and as counts before",
        ),
        # options
        ("shl=1\n    end\n    st", "«plane=1»\n    end\n    st", "`acc.sub` has no option `plane`"),
        ("shl=1\n    end\n    st", "«shl=0:1»\n    end\n    st", "`shl` must be a number"),
        ("shl=1\n    end\n    st", "«shl=62»\n    end\n    st", "`shl` is 62; a shift: 0 … 61"),
        ("shl=1\n    end\n    st", "«shl=s - 1»\n    end\n    st", "`shl` is -1 … 1"),
        ("cols=0:9", "«cols=9»", "`cols` must be a range"),
        ("cols=0:9", "«cols=120:129»", "120:129 is outside the 128 columns of a tile"),
        ("conv.win, seg=s", "conv.win, «seg=1 + s»", "`seg` is 1 … 3; 3 segments: 0 … 2"),
        ("conv.win, seg=s", "conv.win, seg=s, «plane=1»", "bip has 1 bit planes"),
        ("conv.win, seg=s", "conv.win, seg=s, «group=1»", "1 groups"),
        (
            "conv.win, seg=s",
            "conv.win, seg=s, «col=1»",
            "columns 1:129 are outside the 128 columns",
        ),
        ("seg=s, width=128", "seg=s, «width=s»", "`width` must be a constant"),
        ("seg=s, width=128", "seg=s, «width=0»", "`width` must be positive"),
        ("flip=conv.flip", "«flip=conv.th»", "`conv.th` must be a vector of +1 and -1"),
        ("flip=conv.flip", "«flip=act2»", "`act2` is a buffer, expected constants"),
        ("flip=conv.flip", "«flip=conv.flip[0:9]»", "sizes differ: 9 here, 64"),
        # rules of one instruction
        ("act1[p], conv.win", "act0[p], «conv.win»", "gives out=[28,28] on `act0`, not [14,14]"),
        ("act1[p], conv.win", "«act2[p]», conv.win", "`act2` has 64 channels, `conv.win` 32"),
        (
            "act1[p], conv.win",
            "«last[p]», conv.win",
            "must have the shape [batch, channels, 2 sizes]",
        ),
        ("act1[p], conv.win", "«act1[196]», conv.win", "position 196 is outside the 196 windows"),
        ("act1[p], conv.win", "«act1[p, 0:32]», conv.win", "a window takes all channels"),
    ],
)
def test_code(old: str, new: str, message: str) -> None:
    expect(old, new, message)


def test_a_segment_that_is_wider_than_a_tile() -> None:
    old, new = "ld.vector %x, flat[0], seg=s, width=128", "«ld.vector %x, flat[0]»"
    text, place, under = marked(changed(old, new))
    error = problems(text)[0]
    assert shown(error) == (place, under)
    assert "columns 0:12544 are outside the 128 columns" in error.message
    assert "`width=`" in str(error.help)


def small(code: str, decls: str = "", section: str = "infer") -> str:
    """A short program around `code`, one layer `l`."""
    return f"{HEAD}{decls}.{section}\nl:\n{code}"


BUFFERS = """\
.mem b bip[1,4]
.mem u u8[1,4]
.mem n i32[1,4]
.mem f f32[1,4]
.mem s f32[]
.mem t tern[1,4]
.mem u1 u1[1,4]
"""


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("pp.ge «f[0]», n[0], one", "a level of 1 thresholds doesn't fit f32"),
        ("pp.ge b[0], n[0], «two»", "bip needs 1 thresholds a channel, `two` has 2"),
        ("pp.ge t[0], n[0], «one»", "tern needs 2 thresholds a channel, `one` has 1"),
        ("pp.ge «u1[0]», n[0], two", "a level of 2 thresholds doesn't fit u1"),
        ("pp.ge b[0], n[0], «cube»", "must have the shape [C] or [C, T]"),
        ("pp.ge b[0], f[0], «one»", "i32 thresholds can't be compared with f32"),
        ("pp.ge b[0], n[0], «half»", "f32 thresholds can't be compared with i32"),
        ("pp.add «f[0]», n[0], n[0]", "can't add i32 and i32 to f32"),
        ("pp.relu «s[0]», f[0]", "`s` has no channel axis 1"),
        ("pp.mov n[0], «n[0, 1:3]»", "sizes differ: 2 here, 4"),
        ("ld.vector %x, «f[0]»", "a latch takes integers, bip or tern; the buffer is f32"),
        ("ld.vector %x, u[0], «plane=8»", "u8 has 8 bit planes: 0 … 7"),
        ("ld.fill %y, %x, «value=2»", "`value` is 2; a bit: 0 … 1"),
        ("acc.add %a[0:4], «two»", "`two` must be a vector of integers"),
        ("acc.add %a[0:4], «half»", "`half` must be a vector of integers"),
        ("acc.add %a[0:2], «two[4]»", "position 4 is outside the 4 rows of `two`"),
        ("acc.add %a[0:2], «two[0, 1:3]»", "1:3 is outside the 2 columns of `two`"),
        ("acc.add %a[0:4], «two[0]»", "sizes differ: 2 here, 4"),
        ("acc.add %a[0:2], «two[k]»", "unknown loop variable `k`"),
        ("acc.add %a[0:4], «one[0]»", "expected counts `%c[0:32]`"),
        ("acc.add %a[0:2], «pair[0]»", "`pair` must hold integers"),
        ("host code, (), «(u, u)»", "a result stands twice"),
        ("host code, «u», (u)", "expected a list of buffers"),
    ],
)
def test_rules_of_types(code: str, message: str) -> None:
    text, place, under = marked(small(f"  {code}\n", BUFFERS))
    parsed = parse(text, "t.cim")
    parsed.data += [
        Data("one", "i32", np.zeros(4, np.int32)),
        Data("two", "i32", np.zeros((4, 2), np.int32)),
        Data("pair", "f32", np.zeros((4, 2), np.float32)),
        Data("cube", "i32", np.zeros((4, 1, 1), np.int32)),
        Data("half", "f32", np.zeros(4, np.float32)),
        Data("code", "onnx", np.zeros(4, np.uint8)),
    ]
    with pytest.raises(CompileError) as caught:
        check(parsed)
    error = errors(caught.value)[0]
    assert shown(error) == (place, under)
    assert message in error.message


def test_a_function_that_the_target_lacks() -> None:
    text = TEXT.replace("functions=[and,nand,or,xor]", "functions=[and]")
    error = problems(text)[0]
    assert error.message == "the target has no function `xor`"
    assert error.help == "the target has: and"
    assert shown(error)[1] == "read.xor %d[0:64], t[0][32 + 64*s +: 64], %x"


def test_a_pooling_window_wholly_outside() -> None:
    text = TEXT.replace("out=[14,14] strides=[2,2] pads=[0,0,0,0]",
                        "out=[14,14] strides=[2,2] pads=[2,0,0,0]")  # fmt: skip
    text = text.replace("out=[14,14] strides=[2,2]", "out=[15,14] strides=[2,2]")
    error = problems(text)[0]
    assert shown(error)[1] == "pool"
    assert "lies wholly outside the buffer" in error.message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Data("d", "x", np.zeros(1, np.uint8)), "unknown kind of data `x`"),
        (Data("d", "cells", np.zeros(1, np.uint8)), "`d` must have rank 2"),
        (Data("d", "cells", np.full((1, 1), 2, np.uint8)), "from 2 to 2"),
        (Data("d", "bip", np.zeros(1, np.int8)), "a `bip` value is 0"),
        (Data("d", "i32", np.zeros(1, np.int32), seg=1), "`seg` is a positive number"),
        (Data("d", "i32", np.zeros(1, np.int32), macs=1), "`macs` counts"),
        (Data("d", "i32", np.zeros(1, np.int32), why="x"), "`why` belongs"),
        (Data("9", "i32", np.zeros(1, np.int32)), "`9` is not a name"),
    ],
)
def test_data_that_no_text_can_hold(data: Data, message: str) -> None:
    built = parse(HEAD)
    built.data.append(data)
    with pytest.raises(CompileError) as caught:
        check(built, "built")
    assert message in caught.value.message


def test_a_program_without_text_names_layer_and_instruction() -> None:
    instr = Instr("acc.clr", (Affine(3),))
    target = TargetLine("x", 1, 1, 1, (), 8)
    built = Program(target, "p", [], [Section("infer", [Layer("conv1", [instr])])], [])
    with pytest.raises(CompileError) as caught:
        check(built, "out.cim")
    assert str(caught.value).startswith(
        "out.cim: layer 'conv1': `acc.clr 3`: error: expected accumulators"
    )


def test_all_problems_of_a_part_are_listed_at_once() -> None:
    text = TEXT.replace("act0[p], pool", "act9[p], pool").replace("logits[0]", "logit[0]")
    assert [error.message for error in problems(text)] == [
        "unknown name `act9`",
        "unknown name `logit`",
    ]


def test_the_data_of_the_tests_is_used() -> None:
    assert all(data.name in TEXT for data in DATA)


WORDS = re.findall(r"[A-Za-z_%][\w.]*|\d+|\S", TEXT)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(WORDS) - 1), st.sampled_from(sorted(set(WORDS))))
def test_any_word_in_place_of_another_is_an_error_or_a_program(at: int, word: str) -> None:
    place = list(re.finditer(r"[A-Za-z_%][\w.]*|\d+|\S", TEXT))[at]
    with suppress(CompileError):
        check(program(TEXT[: place.start()] + word + TEXT[place.end() :]))
