"""Text to program to text: nothing is lost and nothing moves."""

from __future__ import annotations

import string
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isa_texts import HEAD, full_text

from cimc.isa.encoding import byte_count, from_bytes, to_bytes
from cimc.isa.printer import comment, print_affine, print_program, print_range
from cimc.isa.program import (
    Affine,
    Data,
    Instr,
    Layer,
    Loop,
    Mem,
    Program,
    Range,
    Ref,
    Refs,
    Reg,
    Remap,
    Rows,
    Section,
    TargetLine,
    View,
    Win,
)
from cimc.isa.text import load, parse, save


def test_canonical_text_is_kept_byte_for_byte() -> None:
    text = full_text()
    program = parse(text)
    assert print_program(program) == text
    assert parse(print_program(program)) == program


COMMENTED = """\
# what this is

# second block
.cim 1  # version
# about the target
.target a-1.5+x rows=1 cols=1 tiles=0 functions=[] acc_bits=8  # t

.pipeline "a # no comment"  # p
# about x
.mem x f32[] input="a \\" # b \\\\ ü"  # x
.infer
# above the label

l:  # label
  # in the layer
  for i in 0:3  # for
    nop

    # above end
  end  # done
  #no blank
  #
  nop

# the end
"""


def test_comments_and_empty_lines_stay_where_they_are() -> None:
    program = parse(COMMENTED)
    assert print_program(program) == COMMENTED
    assert program.before == ("# what this is", "", "# second block")
    assert program.pipeline == "a # no comment"
    assert program.mems["x"].input == 'a " # b \\ ü'
    layer = program.sections[0].layers[0]
    assert layer.before == ("# above the label", "")
    loop = layer.body[0]
    assert isinstance(loop, Loop)
    assert (loop.after, loop.end_before, loop.end_after) == ("# for", ("", "# above end"), "# done")
    assert layer.body[1].before == ("#no blank", "#")
    assert program.trailing == ("", "# the end")


def test_free_layout_becomes_canonical() -> None:
    text = "\n\n.cim   1\r\n\t.target 'x'\n".replace("'x'", "x tiles=1 rows=2 cols=3 acc_bits=4 "
           "functions=[ and ,or]") + """.pipeline "p"


  .mem a u8[ 1 , 2 ] batch=0   input="i" # c
  .win w groups=1 seg=0 channels=1 kernel=[1] out=[1] strides=[1] pads=[0,0] dilations=[1]
.infer
l :
for i in 0:2*3 -  1
   ld.vector %x , a[i*1 + 0], plane = 0, seg=s - 1*t + 2*3
   ld.row %x, t[1*k][2:3], cols=k:k + 4
   host f,(a,b)->()
end

"""  # fmt: skip
    expected = """\
.cim 1
.target x rows=2 cols=3 tiles=1 functions=[and,or] acc_bits=4
.pipeline "p"

.mem a u8[1,2] input="i" batch=0  # c
.win w channels=1 kernel=[1] out=[1] strides=[1] pads=[0,0] dilations=[1]
.infer
l:
  for i in 0:5
    ld.vector %x, a[i], seg=6 + s - t
    ld.row %x, t[k][2], cols=k +: 4
    host f, (a, b) -> ()
  end
"""
    assert print_program(parse(text)) == expected


INTEGERS = (
    HEAD
    + """\
.mem x u8[1,6,4,4]
.mem zero u8[1,3]
.win w channels=6 kernel=[2,2] out=[8,8] strides=[1,1] pads=[1,1,1,1] dilations=[1,1] groups=6 \
pack=4 up=[2,1]
.infer
l:
  for q in 0:2
    ld.window %x, x[q], w, plane=7, group=q, col=2, pad=zero[0]
    ld.window %x, x[0], w, pad=0
    ld.window %x, x[0], w, pad=128 - q
    ld.window %x, x[0], w, pad=zero[0, 2:3]
    popc %c[0:8], %d[0:2], width=9
    acc.mac %a[0:8], %s[0:1], zw[8*q +: 8]
    acc.mac %a[0:8], zero[0, 1:2], zw[0:8]
    st.rq x[0], %a[0:6], scale[0:6]
    st.rq x[q, 0:4], %a[4*q +: 4], scale[0:4], zero=128
    pp.rq x[0], x[1], scale, zero=-3
    pp.sum x[0], x[0], w, zero=7
    pp.lut x[0], x[0], table
    pp.qadd x[0], x[0], x[0], six
    pp.qadd x[0], x[0], x[0], six, fused=1
  end
"""
)


def test_integer_layers() -> None:
    program = parse(INTEGERS)
    assert print_program(program) == INTEGERS
    win = program.wins["w"]
    assert (win.pack, win.up) == (4, (2, 1))
    loop = program.sections[0].layers[0].body[0]
    assert isinstance(loop, Loop)
    loads = loop.body[:4]
    assert [instr.opts["pad"] for instr in loads if isinstance(instr, Instr)] == [
        Ref("zero", Affine()),
        Affine(),
        Affine(128) - Affine.of("q"),
        Ref("zero", Affine(), Range.of(2, 1)),
    ]


def test_defaults_of_integer_layers_are_left_out() -> None:
    text = INTEGERS.replace("pack=4 up=[2,1]", "pack=1 up=[1,1]")
    text = text.replace("width=9", "width=0").replace("scale[0:6]", "scale[0:6], zero=0")
    text = text.replace("x[0], six\n", "x[0], six, fused=0\n")
    expected = INTEGERS.replace(" pack=4 up=[2,1]", "").replace(", width=9", "")
    assert print_program(parse(text)) == expected


def test_words_that_look_like_keywords_are_names() -> None:
    text = HEAD + ".mem for u8[1,1]\n.mem t u8[1,1]\n.infer\nfor:\n  for in in 0:1\n    pp.mov " \
        "t[in], for[in]\n  end\nend:\npar:\nin:\n  pp.mov end, in\n"  # fmt: skip
    assert print_program(parse(text)) == text


@pytest.mark.parametrize(
    ("kind", "array"),
    [
        ("cells", np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]], np.uint8)),
        ("bip", np.array([1, -1, -1], np.int8)),
        ("tern", np.array([[1, 0], [-1, 0]], np.int8)),
        ("u4", np.array([15, 0], np.uint8)),
        ("i12", np.array([-2048, 2047], np.int16)),
        ("i32", np.array([[-1], [258]], np.int32)),
        ("u64", np.array([2**64 - 1], np.uint64)),
        ("bool", np.array([True, False])),
        ("f32", np.array(np.nan, np.float32)),
        ("bf16", np.array([1.5], ml_dtypes.bfloat16)),
        ("f64", np.zeros((0, 3))),
        ("onnx", np.frombuffer(b"\x08\x01", np.uint8)),
    ],
)
def test_data_round_trip(kind: str, array: np.ndarray) -> None:
    data = Data("d", kind, array)
    raw = to_bytes(data)
    assert len(raw) == byte_count(kind, array.shape)
    assert Data("d", kind, from_bytes(kind, array.shape, raw)) == data
    text = HEAD + print_program(_program([], [], [data])).split("\n", 3)[3]
    assert parse(text).data == [data]


def test_bits_are_one_stream_least_significant_first() -> None:
    cells = np.zeros((3, 5), np.uint8)
    cells[1, 4] = 1  # bit 9
    assert to_bytes(Data("d", "cells", cells)) == b"\x00\x02"
    assert to_bytes(Data("d", "i16", np.array([258], np.int16))) == b"\x02\x01"


def test_expressions_and_ranges() -> None:
    i, j = Affine.of("i"), Affine.of("j")
    assert print_affine(i * 64 + 32) == "32 + 64*i"
    assert print_affine(j * -1 + i * -2) == "-2*i - j"
    assert print_affine(Affine()) == "0"
    assert print_range(Range(i + 1, Affine(31) - i)) == "1 + i:32"
    assert print_range(Range(i, Affine(4))) == "i +: 4"
    assert print_range(Range(Affine(4), i)) == "4:4 + i"


def test_comment_is_one_line() -> None:
    assert comment("a\n  b") == "# a b"
    assert comment("") == "#"


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.cim"
    program = parse(full_text())
    save(program, path)
    save(program, path)
    assert load(path) == program
    assert [p.name for p in tmp_path.iterdir()] == ["a.cim"]


def test_a_large_file_takes_no_time_for_each_character() -> None:
    rng = np.random.default_rng(0)
    data = Data("big", "i32", rng.integers(-9, 9, 4_000_000).astype(np.int32))
    loops = [Loop("for", "i", Affine(), Affine(2), [Instr("nop", ()), Instr("nop", ())])]
    text = print_program(_program([], [Section("infer", [Layer("l", loops * 100)])], [data]))
    begin = time.perf_counter()
    program = parse(text)
    # generous: a second here, an hour if each character were looked at in Python
    assert time.perf_counter() - begin < 60
    assert program.data == [data]


# -- random programs -------------------------------------------------------------------------

_first = st.sampled_from(string.ascii_letters + "_")
_rest = st.text(string.ascii_letters + string.digits + "_", max_size=5)
variables = st.builds(str.__add__, _first, _rest)
names = st.lists(variables, min_size=1, max_size=3).map(".".join)
numbers = st.integers(0, 10**6)
signed = st.integers(-(10**6), 10**6)


@st.composite
def affines(draw: st.DrawFn) -> Affine:
    value = Affine(draw(signed))
    for name in draw(st.lists(variables, max_size=3)):
        value += Affine.of(name) * draw(signed)
    return value


ranges = st.builds(Range, affines(), affines())
regs = st.one_of(
    st.builds(Reg, variables),
    st.builds(Reg, variables, ranges),
    st.builds(Reg, variables, st.none(), variables.filter(str.isalpha)),
)
rows = st.builds(Rows, affines(), ranges)
refs = st.builds(Ref, names, st.none() | affines(), st.none() | ranges)
lists = st.lists(names, max_size=3).map(tuple).map(Refs)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
lines = st.text("abc #\"'\\%", max_size=6).map(lambda t: f"# {t}".rstrip())
tails = st.just("") | lines


@st.composite
def befores(draw: st.DrawFn) -> tuple[str, ...]:
    """Comments with single empty lines between."""
    found: list[str] = []
    for line in draw(st.lists(lines | st.just(""), max_size=3)):
        if line or not found or found[-1]:
            found.append(line)
    return tuple(found)


@st.composite
def instrs(draw: st.DrawFn) -> Instr:
    args = tuple(draw(st.lists(st.one_of(regs, rows, refs, lists), max_size=4)))
    # the name of no instruction: the table would read some options in its own way
    opts = draw(st.dictionaries(variables, affines() | ranges, max_size=3))
    sliced = refs.filter(lambda ref: bool(ref.index or ref.range))
    opts |= draw(st.dictionaries(variables, sliced, max_size=1))
    op = f"x.{draw(variables)}"
    return Instr(op, args, opts, before=draw(befores()), after=draw(tails))


@st.composite
def loops(draw: st.DrawFn, body: st.SearchStrategy[list[object]]) -> Loop:
    return Loop(
        draw(st.sampled_from(["for", "par"])), draw(variables), draw(affines()), draw(affines()),
        draw(body), before=draw(befores()), after=draw(tails), end_before=draw(befores()),
        end_after=draw(tails),
    )  # fmt: skip


bodies = st.recursive(
    st.lists(instrs(), max_size=2),
    lambda body: st.lists(instrs() | loops(body), max_size=2),
    max_leaves=6,
)
layers = st.builds(Layer, names, bodies, before=befores(), after=tails)
sections = st.builds(
    Section, st.sampled_from(["load", "infer", "update"]), st.lists(layers, max_size=2),
    before=befores(), after=tails,
)  # fmt: skip
shapes = st.lists(numbers, max_size=3).map(tuple)
elems = st.sampled_from(["bip", "tern", "u8", "i3", "f32", "bf16", "bool", "str"])
mems = st.one_of(
    st.builds(
        Mem, names, elems, shapes, signed, st.none() | texts, st.none() | texts,
        st.none() | signed, before=befores(), after=tails,
    ),
    st.builds(Mem, names, st.just("host"), st.none(), before=befores(), after=tails),
)  # fmt: skip
views = st.builds(
    View, names, elems, shapes, names, signed, st.none() | shapes, before=befores(), after=tails
)
wins = st.builds(
    Win, names, numbers, shapes, shapes, shapes, shapes, shapes, numbers, numbers, numbers, shapes,
    before=befores(), after=tails,
)  # fmt: skip
remaps = st.builds(Remap, numbers, numbers, numbers, before=befores(), after=tails)
decls = st.one_of(mems, views, wins, remaps)
targets = st.builds(
    TargetLine, texts, numbers, numbers, numbers, st.lists(variables, max_size=3).map(tuple),
    numbers, before=befores(), after=tails,
)  # fmt: skip


@st.composite
def datas(draw: st.DrawFn) -> Data:
    kind = draw(st.sampled_from(["cells", "i32", "u5", "onnx", "bip"]))
    sizes = st.lists(st.integers(0, 4), min_size=1, max_size=3)
    shape = tuple(draw(sizes)) if kind not in ("cells", "onnx") else (3,) * (1 + (kind == "cells"))
    seed = draw(st.integers(0, 99))
    array = np.random.default_rng(seed).integers(0, 2, shape)
    dtype = {"i32": np.int32, "bip": np.int8}.get(kind, np.uint8)
    values = 2 * array - 1 if kind == "bip" else array
    return Data(draw(names), kind, values.astype(dtype), draw(numbers), draw(numbers),
                before=draw(befores()), after=draw(tails))  # fmt: skip


@st.composite
def programs(draw: st.DrawFn) -> Program:
    before, trailing = draw(befores()), draw(befores())
    return Program(
        draw(targets), draw(texts), draw(st.lists(decls, max_size=3)),
        draw(st.lists(sections, max_size=2)), draw(st.lists(datas(), max_size=2)),
        before=before[1:] if before[:1] == ("",) else before,
        trailing=trailing[:-1] if trailing[-1:] == ("",) else trailing,
        cim_after=draw(tails), pipeline_before=draw(befores()), pipeline_after=draw(tails),
    )  # fmt: skip


def _program(decls: list[object], parts: list[Section], data: list[Data]) -> Program:
    target = TargetLine("x", 1, 1, 1, (), 8)
    return Program(target, "p", decls, parts, data)  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(programs())
def test_random_programs_round_trip(program: Program) -> None:
    text = print_program(program)
    again = parse(text)
    assert again == program
    assert print_program(again) == text
