"""Concrete shapes for symbolic ones, and the count of multiply-accumulates."""

from __future__ import annotations

import pytest

from cimc.errors import CompileError, CompileErrors
from cimc.frontend.bind import bind_shapes
from cimc.frontend.macs import graph_macs
from cimc.ir.text import parse_graph


def text(inputs: str, *lines: str) -> str:
    result = lines[-1].split(" ")[0] if lines else ""
    return "\n".join(
        [f"graph @g({inputs}) -> ({result}) {{", *(f"  {line}" for line in lines), "}", ""]
    )


def bind(inputs: str, *lines: str, **shapes: tuple[int, ...]) -> tuple[dict[str, int], list[str]]:
    """Batch axes, and the types of inputs and results."""
    graph = parse_graph(text(inputs, *lines))
    batch = bind_shapes(graph, shapes, "m.onnx")
    types = [v.type for v in graph.inputs] + [v.type for n in graph.nodes for v in n.outputs]
    return batch, [str(t) for t in types]


@pytest.mark.parametrize(
    ("type_", "sizes", "batched", "bound"),
    [
        ("f32[N,3]", None, True, "f32[1,3]"),
        ("f32[1,3]", None, True, "f32[1,3]"),
        ("f32[2,3]", None, False, "f32[2,3]"),
        ("f32[]", None, False, "f32[]"),
        ("f32[?,3]", (4, 3), True, "f32[4,3]"),
        ("f32[1,3]", (4, 3), True, "f32[4,3]"),
    ],
)
def test_batch(type_: str, sizes: tuple[int, ...] | None, batched: bool, bound: str) -> None:
    shapes = {} if sizes is None else {"x": sizes}
    batch, types = bind(f"%x: {type_}", f"%y = onnx.Relu(%x): {type_}", **shapes)
    assert batch == ({"x": 0} if batched else {})
    assert types == [bound, bound]


def test_one_symbol_has_one_size() -> None:
    sum_ = "%y = onnx.Add(%x, %z): f32[N,K]"
    batch, types = bind("%x: f32[N,K], %z: f32[N,K]", sum_, x=(2, 5))
    assert batch == {"x": 0, "z": 0}
    assert types == ["f32[2,5]"] * 3


def test_results_follow() -> None:
    lines = ["%a = onnx.Relu(%x): f32[N,C,L]", "%s = cim.sign(%a) zero=1: bip[N,C,L]",
             "%t = cim.transpose(%s) perm=[0,2,1]: bip[N,L,C]"]  # fmt: skip
    assert bind("%x: f32[N,C,L]", *lines, x=(1, 2, 3))[1][1:] == [
        "f32[1,2,3]", "bip[1,2,3]", "bip[1,3,2]",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("inputs", "shapes", "words"),
    [
        ("%x: f32[N]", {"z": (1,)}, ["--shape names no input: 'z'"]),
        ("%x: f32[N,3]", {"x": (1,)}, ["--shape x has 1 sizes"]),
        ("%x: f32[N,3]", {"x": (1, 4)}, ["asks for 4 along axis 1, the model fixes 3"]),
        ("%x: f32[2,3]", {"x": (3, 3)}, ["asks for 3 along axis 0, the model fixes 2"]),
        ("%x: f32[N,H,W]", {}, ["unknown dimension 'H'", "unknown dimension 'W'"]),
        ("%x: f32[*]", {}, ["input 'x' is f32[*]"]),
        ("%x: seq<f32[2]>, %z: any", {}, ["input 'x' is seq<f32[2]>", "input 'z' is any"]),
        ("%x: f32[N,K], %z: f32[K,N]", {"x": (1, 2), "z": (3, 1)}, ["can't be both 2 and 3"]),
        ("%x: f32[N]", {"x": (0,)}, ["a size of 0 along axis 0"]),
    ],
)
def test_mistakes(inputs: str, shapes: dict[str, tuple[int, ...]], words: list[str]) -> None:
    with pytest.raises(CompileError) as caught:
        bind_shapes(parse_graph(text(inputs)), shapes, "m.onnx")
    found = caught.value
    errors = found.errors if isinstance(found, CompileErrors) else [found]
    assert len(errors) == len(words)
    for error, word in zip(errors, words):
        assert word in error.message
        assert error.where == "m.onnx"


MACS = [
    ("%x: f32[2,3,8,8]", ["const %w: f32[4,3,3,3] = random seed=1",
                          "%y = onnx.Conv(%x, %w): f32[2,4,6,6]"], 2 * 4 * 36 * 27),
    ("%x: i8[1,4,8]", ["const %w: bip[4,1,3] = random seed=1",
                       "%y = cim.conv(%x, %w) group=4: i32[1,4,6]"], 4 * 6 * 3),
    ("%x: f32[1,2,4]", ["const %w: f32[2,5,3] = random seed=1",
                        "%y = onnx.ConvTranspose(%x, %w): f32[1,5,6]"], 2 * 4 * 5 * 3),
    ("%x: f32[7,2,3], %z: f32[3,5]", ["%y = onnx.MatMul(%x, %z): f32[7,2,5]"], 7 * 2 * 5 * 3),
    ("%x: f32[3,2], %z: f32[3,5]", ["%y = onnx.Gemm(%x, %z) transA=1: f32[2,5]"], 2 * 5 * 3),
    ("%x: f32[N,2], %z: f32[2,5]", ["%y = onnx.MatMul(%x, %z): f32[N,5]"], 0),
    ("%x: f32[2]", ["%y = onnx.Relu(%x): f32[2]"], 0),
]  # fmt: skip


@pytest.mark.parametrize(("inputs", "lines", "count"), MACS)
def test_macs(inputs: str, lines: list[str], count: int) -> None:
    assert graph_macs(parse_graph(text(inputs, *lines))) == count
