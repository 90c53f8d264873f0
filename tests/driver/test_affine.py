"""Scales and shifts of channels go into the layer before; the function stays within rounding."""

from __future__ import annotations

import numpy as np
import pytest

from cimc.driver.affine import fold_affine
from cimc.driver.clone import clone
from cimc.frontend.evaluate import Evaluator, random_feeds
from cimc.ir.graph import Graph
from cimc.ir.text import parse_graph
from cimc.ir.verify import verify

BN = """
  const %s: f32[4] = [0.5, -2.0, 1.0, 3.0]
  const %h: f32[4] = [1.0, 0.25, -1.0, 0.0]
  const %m: f32[4] = [0.1, -0.2, 0.3, 0.0]
  const %u: f32[4] = [1.0, 0.5, 2.0, 4.0]
"""


def _graph(x: str, consts: str, *lines: str) -> Graph:
    body = "\n".join(f"  {line}" for line in lines)
    return parse_graph(f"graph @g(%x: {x}) -> (%y) opset={{onnx: 13}} {{\n{consts}\n{body}\n}}\n")


CONV = "%a = onnx.Conv(%x, %w): f32[1,4,3,3]"
W = "const %w: f32[4,2,3,3] = random seed=1"
NORM = "onnx.BatchNormalization(%a, %s, %h, %m, %u) epsilon=0.001: "
FOLDED = {
    "normalised": ("f32[1,2,5,5]", W + BN, (CONV, f"%y = {NORM}f32[1,4,3,3]"), "onnx.Conv"),
    "bias and normalised": (
        "f32[1,2,5,5]", f"{W}\nconst %c: f32[4] = random seed=2{BN}",
        ("%a = onnx.Conv(%x, %w, %c): f32[1,4,3,3]", f"%y = {NORM}f32[1,4,3,3]"), "onnx.Conv",
    ),
    "transposed, in groups": (
        "f32[1,6,3,3]", "const %w: f32[6,2,2,2] = random seed=1" + BN,
        ("%a = onnx.ConvTranspose(%x, %w) group=2: f32[1,4,4,4]", f"%y = {NORM}f32[1,4,4,4]"),
        "onnx.ConvTranspose",
    ),
    "several": (
        "f32[1,2,5,5]",
        W + "\nconst %c: f32[4,1,1] = random seed=2\nconst %d: f32[] = 3.0\n"
        "const %e: f32[1,4,1,1] = random seed=3",
        (CONV, "%b = onnx.Sub(%c, %a): f32[1,4,3,3]", "%f = onnx.Mul(%d, %b): f32[1,4,3,3]",
         "%g = onnx.Div(%f, %e): f32[1,4,3,3]", "%y = onnx.Sub(%g, %c): f32[1,4,3,3]"),
        "onnx.Conv",
    ),
    "matrix and bias": (
        "f32[3,5]", "const %w: f32[5,4] = random seed=1\nconst %c: f32[4] = random seed=2" + BN,
        ("%b = onnx.MatMul(%x, %w): f32[3,4]", "%a = onnx.Add(%c, %b): f32[3,4]",
         f"%y = {NORM}f32[3,4]"), "onnx.Gemm",
    ),
    "factors of Gemm": (
        "f32[3,5]",
        "const %w: f32[4,5] = random seed=1\nconst %c: f32[1,4] = random seed=2\n"
        "const %d: f32[4] = random seed=3",
        ("%a = onnx.Gemm(%x, %w, %c) alpha=0.5 beta=-2.0 transB=1: f32[3,4]",
         "%y = onnx.Mul(%a, %d): f32[3,4]"), "onnx.Gemm",
    ),
    "alpha alone": (
        "f32[3,5]", "const %w: f32[5,4] = random seed=1\nconst %c: f32[4] = random seed=2",
        ("%y = onnx.Gemm(%x, %w, %c) alpha=0.5: f32[3,4]",), "onnx.Gemm",
    ),
    "stack of matrices, scaled": (
        "f32[2,3,5]", "const %w: f32[5,4] = random seed=1\nconst %c: f32[4] = random seed=2",
        ("%a = onnx.MatMul(%x, %w): f32[2,3,4]", "%y = onnx.Mul(%a, %c): f32[2,3,4]"),
        "onnx.MatMul",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDED)
def test_folded(case: str) -> None:
    x, consts, lines, op = FOLDED[case]
    graph = _graph(x, consts, *lines)
    before, _ = clone(graph)
    assert len(fold_affine(graph, [graph.nodes[0]])) == len(lines) - 1
    verify(graph)
    (layer,) = graph.nodes
    assert layer.op == op
    assert not {"alpha", "beta"} & layer.attrs.keys()
    assert layer.arg(1).name == "w"
    feeds = random_feeds(before, 1)
    expected, found = Evaluator(before)(feeds)["y"], Evaluator(graph)(feeds)["y"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


POSITIONS = "const %c: f32[3] = [1.0, 2.0, 3.0]"
KEPT = {
    "used twice": (
        W + BN, (CONV, f"%b = {NORM}f32[1,4,3,3]", "%y = onnx.Mul(%b, %a): f32[1,4,3,3]"),
    ),
    "differs by position": (f"{W}\n{POSITIONS}", (CONV, "%y = onnx.Mul(%a, %c): f32[1,4,3,3]")),
    "widens": (
        f"{W}\nconst %c: f32[2,4,1,1] = random seed=2",
        (CONV, "%y = onnx.Add(%a, %c): f32[2,4,3,3]"),
    ),
    "divided by the result": (
        f"{W}\nconst %c: f32[] = 1.0", (CONV, "%y = onnx.Div(%c, %a): f32[1,4,3,3]"),
    ),
    "divided by zero": (
        f"{W}\nconst %c: f32[] = 0.0", (CONV, "%y = onnx.Div(%a, %c): f32[1,4,3,3]"),
    ),
    "beyond float32": (
        f"{W}\nconst %c: f32[] = 3e38", (CONV, "%b = onnx.Mul(%a, %c): f32[1,4,3,3]",
                                         "%y = onnx.Mul(%b, %c): f32[1,4,3,3]"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_kept(case: str) -> None:
    consts, lines = KEPT[case]
    graph = _graph("f32[1,2,5,5]", consts, *lines)
    fold_affine(graph, [graph.nodes[0]])
    assert len(graph.nodes) > 1
    verify(graph)


def test_weights_of_two_layers_are_scaled_for_one() -> None:
    graph = _graph(
        "f32[3,4]", "const %w: f32[4,4] = random seed=1\nconst %c: f32[4] = random seed=2",
        "%a = onnx.MatMul(%x, %w): f32[3,4]", "%b = onnx.Mul(%a, %c): f32[3,4]",
        "%y = onnx.MatMul(%b, %w): f32[3,4]",
    )  # fmt: skip
    before, _ = clone(graph)
    assert fold_affine(graph, list(graph.nodes)) == ["b"]
    feeds = random_feeds(before, 1)
    np.testing.assert_allclose(
        Evaluator(graph)(feeds)["y"], Evaluator(before)(feeds)["y"], rtol=1e-4, atol=1e-5
    )


def test_what_is_to_be_kept() -> None:
    graph = _graph("f32[1,2,5,5]", W + BN, CONV, f"%y = {NORM}f32[1,4,3,3]")
    assert fold_affine(graph, [graph.nodes[0]], keep={graph.nodes[1]}) == []
    assert len(graph.nodes) == 2
