"""Every mistake in a text: its place, its caret, its words."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimc.errors import CompileError, CompileErrors, Span
from cimc.ir import literals
from cimc.ir.graph import Graph
from cimc.ir.printer import print_graph
from cimc.ir.text import parse_graph
from cimc.ir.types import TensorType


def errors_of(text: str) -> list[CompileError]:
    with pytest.raises(CompileError) as caught:
        parse_graph(text, "t.cimir")
    error = caught.value
    return error.errors if isinstance(error, CompileErrors) else [error]


def at(error: CompileError) -> str:
    """`line:column` and the text under the carets."""
    where = error.where
    assert isinstance(where, Span)
    assert where.file == "t.cimir"
    under = where.source[where.column - 1 : where.column - 1 + where.width]
    return f"{where.line}:{where.column} {under}"


def body(*lines: str) -> str:
    """A graph whose statements start at line 2, column 3."""
    return "\n".join(["graph @g(%x: i32[1,4]) -> () {", *(f"  {line}" for line in lines), "}", ""])


STATEMENTS = [
    # names
    ("%y = cim.relu(%z): i32[1,4]", "2:17 %z", "%z is not defined"),
    ("%x = cim.relu(%x): i32[1,4]", "2:3 %x", "%x is already defined in line 1"),
    ("const %x: i8[] = 1", "2:9 %x", "%x is already defined in line 1"),
    (
        "%y = onnx.If() b=graph @b(%x: any) -> () {\n  }: any",
        "2:29 %x",
        "already defined in line 1",
    ),
    ("place %z[0:1] blocks=0:1 width=1", "2:9 %z", "%z is not defined"),
    # operations
    ("%y = cim.cnv(%x): i32[1]", "2:8 cim.cnv", "there is no operation cim.cnv"),
    ("%y = cim.relu(%x, %x): i32[1]", "2:8 cim.relu", "takes 1 operand (x), not 2"),
    ("%y = cim.conv(%x): i32[1]", "2:8 cim.conv", "takes 2 to 5 operands (x, w, zx, zw, b), not 1"),
    ("%y = cim.threshold(): i32[1]", "2:8 cim.threshold", "2 to 3 operands (x, th, flip), not 0"),
    ("%y = cim.add(%x, _): i32[1]", "2:8 cim.add", "operand y of cim.add can't be missing"),
    ("%y = cim.relu(%x): i32[1], i8[1]", "2:3 %y", "1 results but 2 types"),
    ("%y, %z = cim.relu(%x): i32[1], i8[1]", "2:12 cim.relu", "has 1 result, not 2"),
    # attributes
    ("%y = cim.relu(%x) slope=1: i32[1]", "2:21 slope", "cim.relu has no attribute `slope`"),
    ("%y = cim.sign(%x) zero=1.0: bip[1]", "2:21 zero", "`zero` of cim.sign must be an integer"),
    ("%y = cim.sign(%x) zero=2: bip[1]", "2:21 zero", "is one of -1, 0, 1, not 2"),
    ("%y = cim.sign(%x): bip[1]", "2:8 cim.sign", "needs the attribute `zero`"),
    ("%y = cim.dequant(%x) scale=1: f32[1]", "2:24 scale", "must be a float, such as 1.0"),
    ("%y = cim.reshape(%x) shape=4: i32[4]", "2:24 shape", "must be a list of integers"),
    ("%y = cim.reshape(%x) shape=[1.5]: i32[4]", "2:24 shape", "must be a list of integers"),
    ("%y = onnx.F() a=1 a=2: any", "2:21 a", "attribute `a` appears twice"),
    ("%y = onnx.F() a=[1, 2.0]: any", "2:17 a", "a list holds values of one kind"),
    ("%y = onnx.F() a=true: any", "2:17 a", "an attribute is not a bool"),
    ("%y = onnx.F() a=tensor<any>[]: any", "2:17 a", "any is not a tensor's type"),
    ("%y = onnx.F() a=tensor<u4[1]>[1]: any", "2:17 a", "has no type u4: write u8"),
    ("%y = onnx.F() a=tensor<u8[1]>[256]: any", "2:17 a", "256 is out of range for u8"),
    ("%y = cim.host(%x): any", "2:8 cim.host", "needs the attribute `body`, a graph"),
    ("%y = cim.host() a=1 body=graph @b() -> (%x) {\n  }: any", "2:19 a", "has no attribute `a`"),
    ("%y = cim.host() body=graph @b(%i: any) -> (%i) {\n  }: any", "2:8 cim.host", "0 operands"),
    ("%y = cim.host() body=graph @b() -> () {\n  }: any", "2:8 cim.host", "has 1 results, its"),
    ('%y = onnx.F() a="\\q": any', '2:19 "\\q"', "a wrong escape in a string"),
    # types
    ("%y = cim.relu(%x): f33[1]", "2:22 f33[1]", "`f33` is not an element type"),
    ("%y = cim.relu(%x): i32[1,,2]", "2:22 i32[1,,2]", "`` is not a dimension"),
    ("%y = cim.relu(%x): i32[-1]", "2:22 i32[-1]", "`-1` is not a dimension"),
    # constants
    ("const %c: any = [1]", "2:9 %c", "a constant is a tensor, not any"),
    ("const %c: i8[N] = [1]", "2:9 %c", "needs a known shape, not i8[N]"),
    ("const %c: i8[2] = [1]", "2:9 %c", "i8[2] has 2 elements, 1 are given"),
    ("const %c: i8[2] = 1", "2:9 %c", "i8[2] takes a list"),
    ("const %c: i8[] = [1]", "2:9 %c", "i8[] takes one value, not a list"),
    ("const %c: i8[1] = [128]", "2:9 %c", "128 is out of range for i8 (-128 to 127)"),
    ("const %c: bip[2] = [1, 0]", "2:9 %c", "0 is out of range for bip (-1 and 1)"),
    ("const %c: i8[1] = [1.0]", "2:9 %c", "1.0 is not an element of type i8"),
    ("const %c: i8[1] = [true]", "2:9 %c", "true is not an element of type i8"),
    ("const %c: f32[1] = [true]", "2:9 %c", "true is not an element of type f32"),
    ('const %c: f32[1] = ["a"]', "2:9 %c", '"a" is not an element of type f32'),
    ("const %c: str[1] = [1]", "2:9 %c", "1 is not an element of type str"),
    ("const %c: bool[1] = [1]", "2:9 %c", "1 is not an element of type bool"),
    ("const %c: f32[1] = [graph @g() -> () {\n  }]", "2:9 %c", "a graph is not an element"),
    ("const %c: i8[65536,65536] = random seed=1", "2:9 %c", "i8[65536,65536] is too large"),
    ("const %c: str[2] = random seed=1", "2:9 %c", "no random constants of type str"),
    ("const %c: i8[2] = random seed=-1", "2:9 %c", "a seed is at least 0"),
    ('const %c: i8[] = "abc"', "2:9 %c", "a string here is a content hash"),
    ('const %c: i8[] = "sha256:00"', "2:9 %c", '"sha256:00" is not among the resources'),
    # syntax
    ("%y = cim.relu(%x)", "2:20 ", "unexpected end of line, expected"),
    ("%y = cim.relu(%x) axis 1: i32[1]", "2:26 1", "unexpected `1`, expected `=`"),
    ("%y = relu(%x): i32[1]", "2:8 relu", "expected an operation such as `cim.conv`"),
    ("const %c: i8[1] = seed=1", "2:21 seed", "`random seed=…`"),
    (f"place %x[0:{'9' * 5000}] blocks=0:1 width=1", "2:34 " + "9" * 20, "unexpected"),
    ("frobnicate", "2:3 frobnicate", "unexpected `frobnicate`, expected"),
]


@pytest.mark.parametrize(
    ("line", "place", "words"), STATEMENTS, ids=[s[0][:60] for s in STATEMENTS]
)
def test_statement(line: str, place: str, words: str) -> None:
    (error,) = errors_of(body(line))
    assert at(error) == place
    assert words in error.message


HEADERS = [
    ("graph @g(%x: i8[1], %x: i8[1]) -> () {\n}", "1:21 %x", "already defined in line 1"),
    ("graph @g() -> (%y) {\n}", "1:16 %y", "%y is not defined"),
    ("graph @g() -> () opset={onnx: 1, onnx: 2} {\n}", "1:34 onnx", "domain `onnx` appears twice"),
    ("graph @g() -> () {\n", "1:19 ", "unexpected end of file, expected"),
    ("graph g() -> () {\n}", "1:7 g", "expected a graph's name `@name`"),
    ("", "1:1 ", "unexpected end of file, expected `graph`"),
    ("graph @g() -> () {\n}\n}", "3:1 }", "unexpected `}`"),
]


@pytest.mark.parametrize(("text", "place", "words"), HEADERS)
def test_header(text: str, place: str, words: str) -> None:
    (error,) = errors_of(text)
    assert at(error) == place
    assert words in error.message


def test_nested_graph_has_no_interface_names_or_opset() -> None:
    errors = errors_of(
        body('%y = cim.host() body=graph @b() -> (%x from "o") opset={onnx: 1} {', "}: any")
    )
    assert [e.message for e in errors] == [
        "a nested graph has no `opset`",
        "only the outermost graph has ONNX names",
    ]


def test_whole_message() -> None:
    (error,) = errors_of(body("%y = cim.relu(%X): i32[1,4]"))
    assert str(error) == (
        "t.cimir:2:17: error: %X is not defined\n"
        "    %y = cim.relu(%X): i32[1,4]\n"
        "                  ^^"
    )


def test_help_names_the_later_definition() -> None:
    (error,) = errors_of(body("%y = cim.relu(%z): i32[1,4]", "%z = cim.relu(%x): i32[1,4]"))
    assert error.help == "line 3 defines it; a definition comes before its uses"


def test_help_names_a_similar_value() -> None:
    text = body("%conv1 = cim.relu(%x): i32[1,4]", "%y = cim.relu(%conv2): i32[1,4]")
    (error,) = errors_of(text)
    assert error.help == "did you mean %conv1?"


def test_all_errors_in_order() -> None:
    errors = errors_of(
        body(
            "%a = cim.relu(%q): i32[1,4]",
            "%b = cim.sign(%a) zero=3: bip[1,4]",
            "const %c: bip[1] = [0]",
            "%a = cim.relu(%r): i32[1,4]",
        )
    )
    assert [at(e) for e in errors] == ["2:17 %q", "3:21 zero", "4:9 %c", "5:3 %a", "5:17 %r"]


def test_all_syntax_errors() -> None:
    errors = errors_of(body("%a = : i8[1]", "%b = cim.relu(%x): i32[1,4]", "const: i8[1] = 1"))
    assert [at(e) for e in errors] == ["2:8 :", "4:8 :"]


def test_errors_inside_nested_graphs() -> None:
    errors = errors_of(
        body(
            "%y = onnx.If(%x) then=graph @t() -> (%none) {",
            "  %t = cim.relu(%nothing): i32[1,4]",
            "}: any",
        )
    )
    assert [at(e) for e in errors] == ["2:40 %none", "3:19 %nothing"]


# -- resources --


def with_resource(*resources: str, use: str = "sha256:b4b9e6b2e63d5e2e") -> str:
    lines = [f'  const %c: u8[3] = "{use}"', "}", "resources {", *resources, "}"]
    return "\n".join(["graph @g() -> () {", *lines])


DATA = b"abc"
NAME = literals.content_hash(TensorType("u8", (3,)), DATA)
GOOD = f'  "{NAME}" "{base64.b64encode(DATA).decode()}"'


def test_good_resource() -> None:
    graph = parse_graph(with_resource(GOOD, use=NAME))
    assert graph.consts[0].const is not None
    assert graph.consts[0].const.tolist() == [97, 98, 99]


@pytest.mark.parametrize(
    ("resources", "place", "words"),
    [
        (
            [f'  "{NAME}" "YWJk"'],
            "2:9 %c",
            f'%c: the resource "{NAME}" holds the bytes of "sha256:',
        ),
        ([f'  "{NAME}" "YWI="'], "2:9 %c", "%c: u8[3] takes 3 bytes, 2 are given"),
        ([f'  "{NAME}" "YW.j"'], "2:9 %c", "is not base64"),
        ([GOOD, GOOD], f'6:3 "{NAME}"', "appears twice"),
        ([GOOD, '  "sha256:0" ""'], '6:3 "sha256:0"', 'no constant uses "sha256:0"'),
        ([GOOD + "  # x"], "5:37 #", "a comment in `resources` would be lost"),
        (["  # x", GOOD], "5:3 #", "a comment in `resources` would be lost"),
    ],
)
def test_bad_resource(resources: list[str], place: str, words: str) -> None:
    (error,) = errors_of(with_resource(*resources, use=NAME))
    assert at(error) == place
    assert words in error.message


@pytest.mark.parametrize(
    ("data", "words"),
    [("[", "not a JSON list"), ('{"a": 1}', "not a JSON list"), ('["a"]', "has 2 elements, not 1")],
)
def test_bad_strings(data: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        literals.unpack(data.encode(), TensorType("str", (2,)))


def test_long_lines_are_not_printed() -> None:
    (error,) = errors_of(with_resource(GOOD, f'  "sha256:0" "{"A" * 100000}"', use=NAME))
    assert len(str(error)) < 2000


BITS = literals.pack(np.ones(65, np.int8), "bip")
BITS_NAME = literals.content_hash(TensorType("bip", (65,)), BITS)
SEED_TEXT = f"""\
graph @g(%x: i32[1,4] from "x:0") -> (%y) opset={{onnx: 13}} {{  # c
  const %c: bip[65] = "{BITS_NAME}"
  const %w: bip[4,2] = random seed=3
  const %f: f32[2] = [1.5, nan]

  %y = onnx.If(%x, _) a=[1,2] b=tensor<i8[1]>[1] c=type<seq<any>> d=graph @b() -> (%t) {{
    %t = cim.matmul(%x, %w): i32[1,2]
  }}: opt<f32[N,?]> from "If" why "\\n"

  place %w[0:2] blocks=0:1 width=4 -> @t0[3] per_tile=2
}}
resources {{
  "{BITS_NAME}" "{base64.b64encode(BITS).decode()}"
}}
"""


def outcome(text: str) -> tuple[Graph | None, CompileError | None]:
    try:
        return parse_graph(text, "t.cimir"), None
    except CompileError as error:
        return None, error


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(SEED_TEXT)), st.integers(0, 12), st.text('%@[]{}():=,.#"\\ \n_-19aé'))
def test_broken_text_gives_a_placed_error(start: int, drop: int, insert: str) -> None:
    """Whatever is cut out and put in: a graph, or errors with a place."""
    text = SEED_TEXT[:start] + insert + SEED_TEXT[start + drop :]
    graph, error = outcome(text)
    if graph is None:
        assert error is not None
        assert isinstance(error.where, Span)
        assert str(error)
        return
    printed = print_graph(graph)
    assert print_graph(parse_graph(printed)) == printed


def test_the_seed_text_is_canonical() -> None:
    assert print_graph(parse_graph(SEED_TEXT)) == SEED_TEXT
