"""Every mistake in the form of a text: its place, its caret, its words."""

from __future__ import annotations

import base64
import hashlib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isa_texts import HEAD, TEXT, changed, errors, full_text, marked, shown

from cimc.errors import CompileError
from cimc.isa.text import load, parse, save


def errors_of(text: str) -> list[CompileError]:
    with pytest.raises(CompileError) as caught:
        parse(text, "t.cim")
    return errors(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (".mem any host", "«.men» any host", "unknown directive `.men`"),
        ("act0 bip[1,32,28,28]", "act0 «bop»[1,32]", "unknown element type `bop`"),
        ("act0 bip[1,32,28,28]", "act0 «bip»", "the shape is missing"),
        ("any host", "any «host»[1]", "`host` takes no shape"),
        ('output="y"', "output=«y»", "found `y`, expected"),
        ('output="y"', "«output»=1", "`output` must be a text in quotes"),
        ('output="y"', '«out»="y"', "`.mem` has no setting `out`"),
        ('output="y"', 'output=«"\\y"»', "not a valid text in quotes"),
        ('output="y"', 'output=«"\\ud800"»', "not a valid text in quotes"),
        ('output="y"', 'output=«"»y', "the text in quotes has no end"),
        ("pool channels=32", "«pool»", "lacks the setting channels"),
        ("axis=3", "axis=3 «axis»=3", "the setting `axis` stands here twice"),
        ("perm=[0,2,3,1]", "«perm»=[0,b]", "numbers or names, not both"),
        ("view flat bip[1,12544]", "view flat «host»", "can't have the type `host`"),
        (".map t[0]", ".map «u»[0]", "expected `t[tile]`"),
        (".map t[0] 17", ".map t[0] «7777777777777777777»", "19 digits"),
        ("acc.clr %a[0:64]", "acc.clr %a[0:64« »", "found the end of the line, expected `]`"),
        ("acc.clr %a[0:64]", "acc.clr «%a»[0]", "expected a range of the register"),
        ("acc.clr %a[0:64]", "acc.clr «0:64»", "a range alone is no operand"),
        ("acc.clr %a[0:64]", "acc.clr «$»a", "found `$`"),
        ("ld.row %x, t[0][5]", "ld.row %x, «t»[0:1][5]", "expected `t[tile][rows]`"),
        ("ld.row %x, t[0][5]", "ld.row %x, «u»[0][5]", "expected `t[tile][rows]`"),
        ("flat[0],", "«flat»[0:1, 2],", "expected `flat[position]`"),
        ("cols=0:9", "«cols=(a)»", "an option is a number, a range or a name"),
        ("cols=0:9", "cols=0:9, «cols»=0:9", "the option `cols` stands here twice"),
        ("%x, t[0][5], cols=0:9", "cols=0:9, «%x»", "an operand stands after an option"),
        ("xor %d[0:64], t[0][32 + 64*s", "xor %d[0:64], t[0][32 + 64*«s»*s", "must be a number"),
        ("par s in 0:98", "par s «of» 0:98", "found `of`, expected `in`"),
        ("par s in", "par «s.t» in", "a loop variable has no dots"),
        (".load", ".load «x»", "found `x`, expected the end of the line"),
        ("par s in 0:98", "par s in 0«»", "found the end of the line, expected"),
    ],
)
def test_a_line(old: str, new: str, message: str) -> None:
    text, place, under = marked(changed(old, new))
    error = errors_of(text)[0]
    assert shown(error) == (place, under)
    assert message in error.message


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("hello\n", "1:1", "the first line must be `.cim 1`"),
        ("# c\n.mem x host\n", "2:1", "the first line must be `.cim 1`"),
        ("\x00\x01", "1:1", "the first line must be `.cim 1`"),
        (".cim 2\n", "1:1", "this version reads `.cim 1`"),
        (".cim 1\n", "1:1", "the line `.target …` is missing"),
        (".cim 1\n.cim 1\n", "2:1", "this line stands here twice"),
        (HEAD.replace(".pipeline", "#"), "2:1", "the line `.pipeline …` is missing"),
        (HEAD + ".infer\n.mem x host\n", "5:1", "this line stands too late"),
        (HEAD + "l:\n", "4:1", "a label outside a section"),
        (HEAD + "nop\n", "4:1", "an instruction outside a layer"),
        (HEAD + ".infer\nfor i in 0:1\nend\n", "5:1", "an instruction outside a layer"),
        (HEAD + ".infer\nl:\nend\n", "6:1", "`end` without `for` or `par`"),
        (HEAD + ".infer\nl:\n  par i in 0:1\n    nop\n", "6:3", "this `par` has no `end`"),
        (HEAD + ".infer\nl:\n  for i in 0:1\nm:\n", "6:3", "this `for` has no `end`"),
        (HEAD + ".infer\nl:\n" + "for i in 0:1\n" * 33, "38:1", "nested deeper than 32"),
    ],
)
def test_a_file(text: str, place: str, message: str) -> None:
    found = errors_of(text)
    assert shown(found[0])[0] == place
    assert message in found[0].message


def test_an_empty_file() -> None:
    assert "the file is empty" in errors_of("")[0].message
    assert "the file is empty" in errors_of("# only a comment")[0].message


def test_all_mistakes_are_listed_at_once() -> None:
    text = changed("acc.clr %a[0:64]", "acc.clr %a[0:64").replace("par s in", "par s")
    found = errors_of(text)
    assert [shown(error)[0] for error in found] == ["35:20", "47:9"]


def test_the_message_as_a_whole() -> None:
    text = changed("      popc %c[0:64],", "      popc %c[0:64]; ")
    assert str(errors_of(text)[0]) == (
        "t.cim:39:20: error: found `;`, expected `,`\n"
        "        popc %c[0:64];  %d[0:64]\n"
        "                     ^"
    )


def data_line(
    kind: str, raw: bytes, settings: str = "", digest: str | None = None, text: str | None = None
) -> str:
    digest = hashlib.sha256(raw).hexdigest() if digest is None else digest
    text = base64.b64encode(raw).decode() if text is None else text
    return HEAD + f'.data d {kind}{settings} sha256="{digest}" "{text}"\n'


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        (data_line("i32[1]", b"1234", digest="00"), "4:7", "don't have the sha256"),
        (data_line("i32[2]", b"1234"), "4:7", "takes 8 bytes"),
        (data_line("cells[1000000,1000000]", b"1234"), "4:7", "takes 125000000000 bytes"),
        (data_line("i32[1]", b"123"), "4:7", "takes 4 bytes, the base64 text holds about 3"),
        (data_line("u8[2]", b"123"), "4:7", "takes 2 bytes, the base64 text holds 3"),
        (data_line("u8[3]", b"123", text="!!!!"), "4:7", "isn't base64"),
        (data_line("u8[3]", b"123", text="üüüü"), "4:7", "isn't base64"),
        (data_line("cells[1,3]", b"\x08"), "4:7", "fill the last byte"),
        (data_line("u4[1]", b"\x10"), "4:7", "values run from 16 to 16, a `u4` from 0 to 15"),
        (data_line("tern[1]", b"\x02"), "4:7", "values run from 2 to 2"),
        (data_line("bool[1]", b"\x02"), "4:7", "neither 0 nor 1"),
        (data_line("x9[1]", b"1"), "4:9", "unknown kind of data"),
        (data_line("str[1]", b"1"), "4:9", "unknown kind of data"),
        (data_line("u8", b"1"), "4:9", "the shape is missing"),
        (data_line("onnx[1,1]", b"1"), "4:9", "expected `onnx[bytes]`"),
        (data_line("cells[8]", b"1"), "4:9", "expected `cells[rows,columns]`"),
        (data_line("u8[1]", b"1", " seg=[]"), "4:15", "`seg` must be a number"),
        (HEAD + '.data d u8[1] "MQ=="\n', "4:7", "lacks the setting sha256"),
    ],
)
def test_data(text: str, place: str, message: str) -> None:
    found = errors_of(text)
    assert shown(found[0])[0] == place
    assert message in found[0].message


def test_a_long_line_is_not_shown_whole() -> None:
    text = data_line("u8[90000]", bytes(90000), digest="00")
    assert len(str(errors_of(text)[0])) < 1000
    text = text[:-3] + '" 7\n'
    assert len(str(errors_of(text)[0])) < 1000


def test_files(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="can't read the program: No such file"):
        load(tmp_path / "none.cim")
    (tmp_path / "bin.cim").write_bytes(b"\xff\xfe.cim")
    with pytest.raises(CompileError, match="the file isn't text"):
        load(tmp_path / "bin.cim")
    with pytest.raises(CompileError, match="can't write the program: No such file"):
        save(parse(HEAD), tmp_path / "none" / "a.cim")
    with pytest.raises(CompileError, match="can't write the program"):
        save(parse(HEAD), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["bin.cim"]


def test_windows_line_ends() -> None:
    assert parse(TEXT.replace("\n", "\r\n")) == parse(TEXT)


@settings(max_examples=1500, deadline=None)
@given(st.data())
def test_a_damaged_text_is_an_error_or_a_program(data: st.DataObject) -> None:
    text = full_text()
    at = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(at, min(len(text), at + 20)))
    part = data.draw(st.text('ab09 .,:+*-[]()"#%=\n\\\x00é', max_size=4))
    with suppress(CompileError):
        parse(text[:at] + part + text[end:])
    with suppress(CompileError):
        parse(text[:at])
