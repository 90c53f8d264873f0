"""Each rule of the verifier, on texts that parse and on graphs built in code."""

from __future__ import annotations

import numpy as np
import pytest

from cimc.errors import CompileError, CompileErrors, Span
from cimc.ir.graph import Graph, Node, Place, Value
from cimc.ir.text import parse_graph
from cimc.ir.types import AnyType, OptType, SeqType, TensorType, Type
from cimc.ir.verify import verify

I32 = TensorType("i32", (1, 4))


def errors_of(graph: Graph) -> list[CompileError]:
    with pytest.raises(CompileError) as caught:
        verify(graph)
    error = caught.value
    return error.errors if isinstance(error, CompileErrors) else [error]


def graph_of(*lines: str) -> Graph:
    text = "\n".join(
        ["graph @g(%x: i32[1,4], %f: f32[1,4], %i: bip[1,4,6,6], %q: seq<i32[1,4]>) -> () {"]
        + [f"  {line}" for line in lines]
        + ["}"]
    )
    return parse_graph(text, "t.cimir")


KERNEL = "const %k: bip[8,4,3,3] = random seed=1"

GOOD = [
    ["%y = cim.relu(%x): i32[1,4]"],
    ["%y = cim.relu(%x): i32[N,4]"],
    ["%y = cim.relu(%x): i32[*]"],
    ["%y = cim.sign(%f) zero=1: bip[1,4]"],
    [KERNEL, "%y = cim.conv(%i, %k): i32[1,8,4,4]"],
    ["const %th: i32[4] = [1, 2, 3, 4]", "%y = cim.threshold(%x, %th, _): bip[1,4]"],
    [
        KERNEL,
        "const %b: i32[1,8,4,4] = random seed=2",
        "%y = cim.conv(%i, %k, _, _, %b): i32[1,8,4,4]",
    ],
    ["const %t: u8[5] = [3, 0, 0, 1, 3]", "%y = cim.take(%x, %t): i32[1,5]"],
    ["%y = onnx.Anything(%q, _) a=[1,2]: any"],
    ["%y = cim.host(%x) body=graph @b(%a: i32[1,4]) -> (%a) {", "}: i32[1,4]"],
    [KERNEL, "%y = cim.conv(%i, %k): i32[1,8,4,4]", "place %k[0:8] blocks=0:2 width=18"],
]


@pytest.mark.parametrize("lines", GOOD, ids=[g[-1] for g in GOOD])
def test_good(lines: list[str]) -> None:
    verify(graph_of(*lines))


BAD = [
    # operand kinds
    (["%y = cim.relu(%f): f32[1,4]"], "operand x of cim.relu, %f, must be an integer tensor"),
    (["%y = cim.relu(%q): i32[1,4]"], "must be an integer tensor, not seq<i32[1,4]>"),
    (["%y = cim.sign(%q) zero=1: bip[1,4]"], "must be a tensor of numbers"),
    (["%y = cim.matmul(%x, %x): i32[1,4]"], "operand w of cim.matmul, %x, must be a constant"),
    # the type rule and the stated types
    ([KERNEL, "%y = cim.conv(%i, %k) group=3: i32[1]"], "cim.conv: group=3 must divide"),
    (
        [
            KERNEL,
            "const %b: i32[1,8,6,6] = random seed=2",
            "%y = cim.conv(%i, %k, _, _, %b): i32[1,8,4,4]",
        ],
        "cim.conv: b must have the shape [8] or [1,8,4,4], not i32[1,8,6,6]",
    ),
    (
        [
            "const %w: bip[4,2] = random seed=1",
            "const %b: i32[1,2] = random seed=2",
            "%y = cim.matmul(%x, %w, _, _, %b): i32[1,2]",
        ],
        "cim.matmul: b must have the shape [2], not i32[1,2]",
    ),
    (
        ["const %t: i32[3] = [0, 4, 1]", "%y = cim.take(%x, %t): i32[1,3]"],
        "cim.take: index has entries 0 … 4; axis 1 of i32[1,4] has 4",
    ),
    (
        ["const %t: i32[1,1] = [0]", "%y = cim.take(%x, %t): i32[1,1]"],
        "cim.take: index must be a vector of integers, not i32[1,1]",
    ),
    (
        ["const %t: i32[1] = [0]", "%y = cim.take(%x, %t) axis=2: i32[1,1]"],
        "cim.take: axis=2 is not an axis of i32[1,4]",
    ),
    (["%y = cim.relu(%x): i32[1,5]"], "%y is stated as i32[1,5], the operands make i32[1,4]"),
    (["%y = cim.relu(%x): i8[1,4]"], "%y is stated as i8[1,4]"),
    (["%y = cim.relu(%x): i32[4]"], "%y is stated as i32[4]"),
    # cim.host
    (
        ["%y = cim.host(%x) body=graph @b(%a: i8[1,4]) -> (%a) {", "}: i8[1,4]"],
        "operand %x is i32[1,4], the body takes i8[1,4]",
    ),
    (
        ["%y = cim.host(%x) body=graph @b(%a: i32[1,4]) -> (%a) {", "}: i8[1,4]"],
        "%y is stated as i8[1,4], the body gives i32[1,4]",
    ),
    (
        ["%y = cim.host(%x) body=graph @b(%a: i32[1,4]) -> (%f) {", "}: f32[1,4]"],
        "the body of cim.host uses %f, which is not its own",
    ),
    (
        ["%y = cim.host(_) body=graph @b(%a: i32[1,4]) -> (%a) {", "}: i32[1,4]"],
        "an operand of cim.host can't be missing",
    ),
    # nested graphs are checked
    (
        ["%y = onnx.If(%x) b=graph @b() -> () {", "  %z = cim.relu(%f): f32[1,4]", "}: any"],
        "operand x of cim.relu, %f, must be",
    ),
    (
        [
            "%y = onnx.If(%x) b=graph @b() -> () {",
            f"  {KERNEL}",
            "  place %k[0:1] blocks=0:1 width=1",
            "}: any",
        ],
        "only the outermost graph has places",
    ),
]


@pytest.mark.parametrize(("lines", "words"), BAD, ids=[b[1] for b in BAD])
def test_bad_text(lines: list[str], words: str) -> None:
    error = errors_of(graph_of(*lines))[0]
    assert words in error.message
    assert isinstance(error.where, Span)


PLACES = [
    ("%x[0:1] blocks=0:1 width=1", "%x is not the constant kernel of a layer"),
    ("%k[0:9] blocks=0:1 width=36", "channels 0:9 are not within the kernel's 0:8"),
    ("%k[2:2] blocks=0:1 width=36", "channels 2:2 are not"),
    ("%k[0:8] blocks=0:2 width=36", "blocks 0:2 are not within the kernel's 0:1"),
    ("%k[0:8] blocks=1:1 width=18", "blocks 1:1 are not within the kernel's 0:2"),
    ("%k[0:8] blocks=0:1 width=0", "width and per_tile must be at least 1"),
    ("%k[0:8] blocks=0:1 width=36 per_tile=0", "width and per_tile must be at least 1"),
    ("%k[0:8] blocks=0:1 width=36 -> @t0[-1]", "tile and row must be at least 0"),
    ("%t[0:2] blocks=0:5 width=4", "blocks 0:5 are not within the kernel's 0:2"),
    ("%w[0:5] blocks=0:1 width=4", "channels 0:5 are not within the kernel's 0:2"),
    ("%u[0:1] blocks=0:1 width=4", "%u is not the constant kernel of a layer"),
    ("%d[0:2] blocks=0:1 width=9", "channels 0:2 are not within the kernel's 0:1"),
    ("%d[0:1] blocks=0:5 width=9", "blocks 0:5 are not within the kernel's 0:4"),
]


@pytest.mark.parametrize(("place", "words"), PLACES, ids=[p[0] for p in PLACES])
def test_places(place: str, words: str) -> None:
    graph = graph_of(
        KERNEL,
        "const %d: bip[4,1,3,3] = random seed=1",
        "const %w: i4[4,2] = random seed=1",
        "const %t: tern[4,2] = random seed=1",
        "const %u: bip[4,2] = random seed=1",
        "%y = cim.conv(%i, %k): i32[1,8,4,4]",
        "%yd = cim.conv(%i, %d) group=4: i32[1,4,4,4]",
        "%yw = cim.matmul(%x, %w): i32[1,2]",
        "%yt = cim.matmul(%x, %t): i32[1,2]",
        f"place {place}",
    )
    (error,) = errors_of(graph)
    assert words in error.message
    assert isinstance(error.where, Span)
    assert error.where.line == 11


# -- graphs built in code --


def relu(x: Value, name: str, type_: Type = I32) -> Node:
    return Node("cim.relu", [x], [Value(name, type_)])


def test_place_without_text() -> None:
    x = Value("x", TensorType("f32", (1, 4)))
    graph = Graph("g", [x], [], [relu(x, "y")])
    (error,) = errors_of(graph)
    assert str(error) == (
        "%y = cim.relu: error: operand x of cim.relu, %x, must be an integer tensor, not f32[1,4]"
    )


def test_use_before_definition() -> None:
    x = Value("x", I32)
    first = relu(x, "a")
    second = relu(first.output, "b")
    (error,) = errors_of(Graph("g", [x], [second.output], [second, first]))
    assert error.message == "operand %a is not defined before"


def test_another_value_of_the_same_name() -> None:
    graph = Graph("g", [Value("x", I32)], [], [relu(Value("x", I32), "a")])
    assert errors_of(graph)[0].message == "operand %x is not defined before"


def test_undefined_output() -> None:
    (error,) = errors_of(Graph("g", [], [Value("y", I32)]))
    assert str(error) == "graph @g: error: output %y is not defined before"


def test_names_are_unique_around_nested_graphs_too() -> None:
    x = Value("x", I32)
    inner = Graph("b", nodes=[relu(x, "x")])
    node = Node("onnx.If", [x], [Value("y", I32)], {"then_branch": inner})
    assert [e.message for e in errors_of(Graph("g", [x], [], [node]))] == ["%x is defined twice"]


def test_two_results_of_one_name() -> None:
    x = Value("x", I32)
    graph = Graph("g", [x], [], [relu(x, "y"), relu(x, "y")])
    assert [e.message for e in errors_of(graph)] == ["%y is defined twice"]


@pytest.mark.parametrize(
    ("type_", "words"),
    [
        (TensorType("f33", ()), "`f33` is not an element type"),
        (TensorType("i8", (-1,)), "a size can't be negative"),
        (TensorType("i8", ("a b",)), "`a b` is not a dimension's name"),
        (SeqType(OptType(TensorType("x", ()))), "`x` is not an element type"),
    ],
)
def test_types(type_: Type, words: str) -> None:
    (error,) = errors_of(Graph("g", [Value("x", type_)]))
    assert words in error.message
    assert error.where == "%x"


def test_illegal_names() -> None:
    x = Value("a b", I32)
    node = Node("no domain", [x], [Value("y", I32)], {"a-b": 1})
    messages = [e.message for e in errors_of(Graph("é", [x], [], [node]))]
    assert messages == [
        "`é` is not a graph's name",
        "`a b` is not a value's name",
        "`no domain` is not an operation's name",
        "`a-b` is not an attribute's name",
    ]


@pytest.mark.parametrize("attr", [None, 1j, True, [1], (1, 2.0), (1, (2,)), np.float32(1), b"x"])
def test_attributes_the_text_cannot_hold(attr: object) -> None:
    node = Node("onnx.F", [], [Value("y", AnyType())], {"a": attr})  # type: ignore[dict-item]
    (error,) = errors_of(Graph("g", nodes=[node]))
    assert error.message.startswith("`a` of onnx.F can't be a")


def test_operation_without_results() -> None:
    errors = errors_of(Graph("g", nodes=[Node("onnx.F", [], [])]))
    assert errors[0].message == "an operation has at least one result"


def test_form_is_checked() -> None:
    x = Value("x", I32)
    node = Node("cim.sign", [x], [Value("y", I32)], {"zero": np.int64(1)})  # type: ignore[dict-item]
    (error,) = errors_of(Graph("g", [x], [], [node]))
    assert error.message == "`zero` of cim.sign must be an integer"


@pytest.mark.parametrize(
    ("elem", "array", "words"),
    [
        ("bip", np.array([0, 1], np.int8), "bip has no 0, only -1 and 1"),
        ("tern", np.array([2, 0], np.int8), "values 0 to 2 are out of range for tern (-1 to 1)"),
        ("u4", np.array([0, 16], np.uint8), "out of range for u4 (0 to 15)"),
        ("i8", np.array([1, 2], np.int32), "i8[2] is held as int8[2], not int32[2]"),
        ("i8", np.array([1], np.int8), "i8[2] is held as int8[2], not int8[1]"),
    ],
)
def test_constants(elem: str, array: np.ndarray, words: str) -> None:
    graph = Graph("g", consts=[Value("c", TensorType(elem, (2,)), const=array)])
    (error,) = errors_of(graph)
    assert words in error.message
    assert error.where == "const %c"


def test_constants_have_elements_and_a_shape() -> None:
    graph = Graph("g", consts=[Value("a", TensorType("i8", (2,)))])
    assert errors_of(graph)[0].message == "constant %a has no elements"
    zero = np.zeros(1, np.int8)
    graph = Graph("g", consts=[Value("a", TensorType("i8", ("N",)), const=zero)])
    assert errors_of(graph)[0].message == "a constant needs a known shape, not i8[N]"


def test_only_constants_have_elements() -> None:
    array = np.zeros((1, 4), np.int32)
    x = Value("x", I32, const=array)
    node = relu(x, "y")
    node.output.const = array
    messages = [e.message for e in errors_of(Graph("g", [x], [], [node]))]
    assert messages == [
        "%x is an input and can't have elements",
        "%y is a result and can't have elements",
    ]


def test_stale_seed() -> None:
    array = np.ones(4, np.int8)
    graph = Graph("g", consts=[Value("a", TensorType("bip", (4,)), const=array, seed=1)])
    (error,) = errors_of(graph)
    assert error.message == "constant %a differs from its seed's elements"


def test_interface_names() -> None:
    x = Value("x", I32)
    graph = Graph("g", [x], [x, x], input_names=["a", "b"], output_names=["o", "o"])
    messages = [e.message for e in errors_of(graph)]
    assert messages == ["2 input names for 1 inputs", "two outputs have one ONNX name"]


def test_nested_opset() -> None:
    node = Node("onnx.If", [], [Value("y", I32)], {"b": Graph("b", opsets={"onnx": 13})})
    (error,) = errors_of(Graph("g", nodes=[node]))
    assert str(error) == "graph @b: error: only the outermost graph has `opset`"


def test_row_without_tile() -> None:
    graph = graph_of(KERNEL, "%y = cim.conv(%i, %k): i32[1,8,4,4]")
    graph.places.append(Place(graph.consts[0], (0, 8), 0, 1, 36, row=3))
    (error,) = errors_of(graph)
    assert str(error) == "place %k: error: a place with a row needs a tile"


def test_all_problems_at_once() -> None:
    graph = graph_of(
        "%a = cim.relu(%f): i32[1,4]", "%b = cim.relu(%x): i8[1,4]", "%c = cim.add(%a, %b): i8[1]"
    )
    assert [e.where.line for e in errors_of(graph) if isinstance(e.where, Span)] == [2, 3, 4]
