"""Text and graph are exact inverses."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimc.errors import CompileError
from cimc.ir import literals
from cimc.ir.graph import Graph, Node, Place, Value, same_graph
from cimc.ir.printer import print_graph
from cimc.ir.text import load_graph, parse_graph, save_graph
from cimc.ir.types import AnyType, OptType, SeqType, TensorType, Type, container, int_range

# -- texts --

COMMENTED = """\
# RUN: cimc opt -p cleanup
# a file comment

# directly above
graph @g(%x: i32[1,4] from "x:0", %c: bool[]) -> (%y from "out") opset={onnx: 13} {  # opens
  # above a constant
  const %w: bip[4,2] = random seed=3  # behind it
  const %th: i32[2] = [1, -2]

  # above an operation
  %a = cim.matmul(%x, %w): i32[1,2]  # 4 -> 2, a "string" and 100 % of the rest

  # two lines
  # of comment
  %y = onnx.If(%c) then_branch=graph @then() -> (%t) {  # opens too
    # inside
    %t = cim.relu(%a): i32[1,2]
    # at the end
  } else_branch=graph @else() -> (%a) {
    # nothing
  }: i32[1,2] from "If # 1"  # closes

  place %w[0:2] blocks=0:1 width=4  # placed
  # the end
}  # behind
# trailing

# more
"""


def test_comments_and_blank_lines_stay() -> None:
    assert print_graph(parse_graph(COMMENTED)) == COMMENTED


def test_comments_left_out() -> None:
    text = print_graph(parse_graph(COMMENTED), comments=False)
    assert "# " not in text.replace("If # 1", "")
    assert text.count("\n\n") == 2  # between constants, operations and places
    assert same_graph(parse_graph(text), parse_graph(COMMENTED))


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("graph @g(%x:f32[ 2 , N ])->(%x){\n}", "graph @g(%x: f32[2,N]) -> (%x) {\n}\n"),
        ("\n\n# a\n\n\n\n# b\ngraph @g() -> () {\n}", "# a\n\n# b\ngraph @g() -> () {\n}\n"),
        ("graph @g() -> () {\r\n\r\n}\r\n\r\n", "graph @g() -> () {\n}\n"),
        ("graph @g() -> () {\n\n  # a\n\n\n}", "graph @g() -> () {\n  # a\n}\n"),
        ("graph @g() -> () { #a\t\n} #b", "graph @g() -> () {  #a\n}  #b\n"),
        ("graph @g() -> () opset={} {\n}", "graph @g() -> () {\n}\n"),
    ],
)
def test_becomes_canonical(given: str, canonical: str) -> None:
    text = print_graph(parse_graph(given))
    assert text == canonical
    assert print_graph(parse_graph(text)) == text


def test_groups_are_sorted_and_divided() -> None:
    text = (
        "graph @g(%x: i8[2]) -> (%z) {\n"
        "  const %a: i8[2] = [1, 2]\n  %y = cim.add(%x, %a): i32[2]\n"
        "  const %b: i8[2] = [3, 4]\n  %z = cim.add(%y, %b): i32[2]\n}\n"
    )
    assert print_graph(parse_graph(text)) == (
        "graph @g(%x: i8[2]) -> (%z) {\n"
        "  const %a: i8[2] = [1, 2]\n  const %b: i8[2] = [3, 4]\n\n"
        "  %y = cim.add(%x, %a): i32[2]\n  %z = cim.add(%y, %b): i32[2]\n}\n"
    )


def test_native_attributes_in_table_order_without_defaults() -> None:
    text = (
        "graph @g(%x: bip[1,2,3,3]) -> (%y) {\n  const %w: bip[2,2,1,1] = random seed=0\n\n"
        "  %y = cim.conv(%x, %w) group=1 pads=[1,1,1,1] strides=[2,2]: i32[1,2,3,3]\n}\n"
    )
    graph = parse_graph(text)
    assert "conv(%x, %w) strides=[2,2] pads=[1,1,1,1]: i32" in print_graph(graph)
    assert same_graph(parse_graph(print_graph(graph)), graph)


def test_interface_names() -> None:
    graph = parse_graph('graph @g(%x: f32[1] from "x:0", %y: f32[1]) -> (%y from "o", %x) {\n}\n')
    assert graph.input_names == ["x:0", "y"]
    assert graph.output_names == ["o", "x"]


def test_siblings_share_names() -> None:
    branch = "graph @b() -> (%t) {\n    %t = onnx.Relu(%x): f32[1]\n  }"
    text = (
        "graph @g(%x: f32[1], %c: bool[]) -> (%y) {\n"
        f"  %y = onnx.If(%c) then_branch={branch} else_branch={branch}: f32[1]\n}}\n"
    )
    assert print_graph(parse_graph(text)) == text


# -- constants --

FLOATS = ["f16", "f32", "f64", "bf16", "c64", "c128"]
SMALL_FLOATS = ["f8e4m3fn", "f8e4m3fnuz", "f8e5m2", "f8e5m2fnuz", "f4e2m1", "f8e8m0"]
INTEGERS = ["u1", "i2", "u4", "i7", "u8", "i8", "u13", "i16", "i32", "u32", "i64", "u64"]
ELEMS = ["bip", "tern", "bool", "str", *FLOATS, *SMALL_FLOATS, *INTEGERS]


def random_const(elem: str, shape: tuple[int, ...], seed: int) -> np.ndarray[Any, Any]:
    """Elements of every legal bit pattern where there is one."""
    rng = np.random.default_rng(seed)
    size = math.prod(shape)
    dtype = container(elem)
    if elem == "str":
        flat = np.empty(size, object)
        flat[:] = [f'a"\\\n#{k}\udc80é\u2028' for k in range(size)]
    elif elem == "bip":
        flat = (rng.integers(0, 2, size) * 2 - 1).astype(np.int8)
    elif elem == "bool":
        flat = rng.integers(0, 2, size).astype(bool)
    elif dtype.kind in "iu":
        low, high = int_range(elem)
        flat = rng.integers(low, high, size, dtype=dtype, endpoint=True)
    elif elem == "f4e2m1":
        flat = rng.integers(0, 16, size).astype(np.uint8).view(dtype)
    else:
        flat = np.frombuffer(rng.bytes(size * dtype.itemsize), dtype)
    return flat.reshape(shape)


@pytest.mark.parametrize("elem", ELEMS)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4), (65,)])
def test_constants(elem: str, shape: tuple[int, ...]) -> None:
    for seed in range(3):
        graph = Graph("g")
        graph.const("c", random_const(elem, shape, seed), TensorType(elem, shape))
        text = print_graph(graph)
        again = parse_graph(text)
        assert same_graph(again, graph), text
        assert print_graph(again) == text


def test_inline_up_to_64() -> None:
    graph = Graph("g")
    graph.const("a", np.arange(64, dtype=np.int32), TensorType("i32", (8, 8)))
    graph.const("b", np.arange(65, dtype=np.int32), TensorType("i32", (65,)))
    graph.const("c", np.arange(65, dtype=np.int32), TensorType("i32", (65,)))
    lines = print_graph(graph).split("\n")
    assert lines[1].startswith("  const %a: i32[8,8] = [0, 1, 2, ")
    assert lines[2].startswith('  const %b: i32[65] = "sha256:')
    assert lines[2].removeprefix("  const %b") == lines[3].removeprefix("  const %c")
    assert sum(line.startswith('  "sha256:') for line in lines) == 1


def test_shortest_floats() -> None:
    graph = Graph("g")
    for elem, value in [("f32", 0.1), ("f16", 0.1), ("bf16", 0.1), ("f64", 0.1), ("f8e5m2", 0.1)]:
        array = np.array(value, np.float64).astype(container(elem))
        graph.const(elem, array, TensorType(elem, ()))
    shown = [line.split(" = ")[1] for line in print_graph(graph).split("\n")[1:-2]]
    assert shown == ["0.1", "0.1", "0.1", "0.1", "0.09"]


@pytest.mark.parametrize(
    ("type_", "low", "high"),
    [("bip", -1, 1), ("tern", -1, 1), ("u4", 0, 15), ("i8", -128, 127), ("i32", -100, 100)],
)
def test_random_range(type_: str, low: int, high: int) -> None:
    array = literals.draw(TensorType(type_, (20000,)), 1)
    assert (array.min(), array.max()) == (low, high)
    assert array.dtype == container(type_)
    assert type_ != "bip" or array.all()


def test_random_prints_back() -> None:
    text = "graph @g() -> () {\n  const %w: f32[3,3] = random seed=7\n}\n"
    graph = parse_graph(text)
    want = np.random.default_rng(7).standard_normal((3, 3)).astype(np.float32)
    assert np.array_equal(graph.consts[0].const, want)
    assert print_graph(graph) == text


def test_content_is_as_specified() -> None:
    """The encoding of SPEC.md by hand: bits, least significant first; the hash of both."""
    import hashlib

    bits = np.array([1, -1, -1, 1, 1, 1, 1, 1, -1, 1], np.int8)
    data = literals.pack(bits, "bip")
    assert data == bytes([0b11111001, 0b10])
    name = literals.content_hash(TensorType("bip", (10,)), data)
    assert name == "sha256:" + hashlib.sha256(b"bip[10]\n" + data).hexdigest()[:16]
    assert literals.pack(np.array([1, -2], np.int16), "i16") == b"\x01\x00\xfe\xff"


# -- attribute literals --


@given(st.floats(allow_nan=False))
def test_any_double(x: float) -> None:
    assert math.copysign(1, literals.read_float(literals.float_text(x))) == math.copysign(1, x)
    assert literals.read_float(literals.float_text(x)) == x


@given(st.floats(width=32, allow_nan=False))
def test_float32_is_short(x: float) -> None:
    assert literals.float_text(x) == str(np.float32(x))
    assert literals.read_float(literals.float_text(x)) == x


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1", float(np.float32(0.1))),
        ("0.10", float(np.float32(0.1))),
        ("1.0000000000000001e-01", 0.1),
        ("1e300", 1e300),
        ("-0.0", -0.0),
    ],
)
def test_reading_floats(text: str, value: float) -> None:
    assert literals.read_float(text) == value


# -- random graphs --

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]{0,6}", fullmatch=True)
byte_strings = st.binary(max_size=8).map(lambda b: b.decode("utf-8", "surrogateescape"))
strings = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | byte_strings
dims = st.integers(0, 4) | names | st.just("?")
floats = st.floats(allow_nan=False) | st.floats(width=32) | st.just(math.nan)
elems = st.sampled_from(ELEMS)
tensor_types = st.builds(
    TensorType, elems, st.none() | st.lists(dims, max_size=4).map(lambda d: tuple(d))
)
types: st.SearchStrategy[Type] = st.recursive(
    tensor_types | st.just(AnyType()),
    lambda inner: st.builds(SeqType, inner) | st.builds(OptType, inner),
    max_leaves=3,
)
ints = st.integers(-(2**63), 2**63 - 1)
PLAIN = ("bool", "i8", "i64", "u16", "f32", "f64", "bf16", "str", "c64")
shapes = st.lists(st.integers(0, 3), max_size=3).map(lambda s: tuple(s))
arrays = st.builds(random_const, st.sampled_from(PLAIN), shapes, st.integers(0, 99))
attrs = (
    ints
    | floats
    | strings
    | st.lists(ints, max_size=4).map(tuple)
    | st.lists(floats, max_size=4).map(tuple)
    | st.lists(strings, max_size=4).map(tuple)
    | arrays
    | types
)


@st.composite
def graphs(draw: st.DrawFn, outer: tuple[Value, ...] | None = None) -> Graph:
    """A graph with free names; nested ones inside, one level deep. outer: the values around
    a nested graph."""
    graph = Graph(draw(names))
    taken = {v.name for v in outer or ()}

    def fresh(type_: Type) -> Value:
        name = draw(names)
        while name in taken:
            name += "_"
        taken.add(name)
        return Value(name, type_)

    graph.inputs = [fresh(draw(types)) for _ in range(draw(st.integers(0, 2)))]
    for _ in range(draw(st.integers(0, 3))):
        elem, shape = draw(elems), draw(shapes)
        value = fresh(TensorType(elem, shape))
        value.const = random_const(elem, shape, draw(st.integers(0, 99)))
        graph.consts.append(value)
    known = [*(outer or ()), *graph.inputs, *graph.consts]
    for _ in range(draw(st.integers(0, 3))):
        inputs = [draw(st.sampled_from([None, *known])) for _ in range(draw(st.integers(0, 3)))]
        node = Node(f"onnx.{draw(st.sampled_from(['If', 'Relu', 'X_1']))}", inputs, [])
        node.attrs = draw(st.dictionaries(names, attrs, max_size=3))
        if outer is None:
            inner = graphs(tuple(known))
            node.attrs |= draw(st.dictionaries(names, inner | st.tuples(inner, inner), max_size=1))
        node.outputs = [fresh(draw(types)) for _ in range(draw(st.integers(1, 2)))]
        node.source, node.why = draw(st.none() | strings), draw(st.none() | strings)
        graph.nodes.append(node)
        known += node.outputs
    if known:
        graph.outputs = draw(st.lists(st.sampled_from(known), max_size=2))
    if outer is not None:
        return graph
    graph.opsets = draw(
        st.dictionaries(st.sampled_from(["onnx", "ms", "ai.x"]), st.integers(1, 99))
    )
    graph.input_names = [draw(strings) for _ in graph.inputs]
    graph.output_names = [draw(strings) for _ in graph.outputs]
    for value in graph.consts:
        tile = draw(st.none() | st.integers(0, 9))
        row = 0 if tile is None else draw(st.integers(0, 9))
        graph.places.append(Place(value, (0, 4), 1, 2, 128, tile, row, draw(st.integers(1, 3))))
    return graph


@settings(deadline=None)
@given(graphs())
def test_random_graphs(graph: Graph) -> None:
    text = print_graph(graph)
    again = parse_graph(text)
    assert same_graph(again, graph), text
    assert print_graph(again) == text
    bare = print_graph(again, comments=False)
    assert bare == text


# -- files --


def test_file_round_trip(tmp_path: Any) -> None:
    graph = parse_graph(COMMENTED)
    path = tmp_path / "g.cimir"
    save_graph(graph, path)
    assert path.read_text(encoding="utf-8") == COMMENTED
    assert same_graph(load_graph(path), graph)
    assert list(tmp_path.iterdir()) == [path]


def test_file_errors(tmp_path: Any) -> None:
    with pytest.raises(CompileError, match="can't read the file: No such file"):
        load_graph(tmp_path / "none.cimir")
    (tmp_path / "binary").write_bytes(b"\x08\xff")
    with pytest.raises(CompileError, match="not a text file"):
        load_graph(tmp_path / "binary")
    with pytest.raises(CompileError, match="can't write the file"):
        save_graph(Graph("g"), tmp_path / "no folder" / "g.cimir")


def test_dtype_of_attribute_tensors() -> None:
    graph = Graph("g")
    node = Node("onnx.C", [], [Value("y", AnyType())])
    node.attrs["value"] = np.array([1.5], ml_dtypes.bfloat16)
    graph.nodes.append(node)
    assert "value=tensor<bf16[1]>[1.5]: any" in print_graph(graph)
