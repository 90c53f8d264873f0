"""Refined levels, against all there are; what layers see, against their convolutions."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from cimc.driver.layer_forms import Kernels, Layer, read_layer
from cimc.driver.refine import Refiner, worth
from cimc.driver.rewrite import Rewriter
from cimc.frontend.evaluate import Evaluator
from cimc.ir.text import parse_graph


def _case(seed: int) -> tuple[Any, Any]:
    """40 rows of five bits, and what float weights make of hidden numbers behind them."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((40, 5)) + rng.standard_normal((40, 1))
    return (np.where(hidden > 0, 1, -1)[None], (hidden @ rng.standard_normal((5, 2)))[None])


def _left(x: Any, y: Any, q: Any) -> float:
    """Of y, what the best rising line from x · q leaves."""
    s = x @ q
    s, y = s - s.mean(), y - y.mean()
    gain = max(0.0, (s * y).sum()) / max(1e-9, (s * s).sum())
    return float(np.square(y - gain * s).sum())


@pytest.mark.parametrize("levels", [(-1, 1), (-1, 0, 1)])
@pytest.mark.parametrize("seed", range(10))
def test_no_single_change_is_better(levels: tuple[int, ...], seed: int) -> None:
    """Nothing is left to gain by one weight, the ridge aside; the start is never better, and most
    results are the best of all."""
    x, y = _case(seed)
    start = np.random.default_rng(seed).choice(levels, (1, 5, 2)).astype(np.int8)
    refiner = Refiner(1, 5, np.abs(y).max(1))
    refiner.take(x[:, :15], y[:, :15])
    refiner.take(x[:, 15:], y[:, 15:])
    found = refiner.refine(start, levels)[0]
    for c in range(2):
        now = _left(x[0], y[0, :, c], found[:, c])
        every = [_left(x[0], y[0, :, c], np.array(q)) for q in itertools.product(levels, repeat=5)]
        assert now <= 1.05 * _left(x[0], y[0, :, c], start[0, :, c])
        assert sorted(every).index(now) < 0.3 * len(every)
        for i, level in itertools.product(range(5), levels):
            other = found[:, c].copy()
            other[i] = level
            assert now <= 1.1 * _left(x[0], y[0, :, c], other)


def test_inputs_that_never_vary_change_nothing() -> None:
    start = np.array([[[1], [-1], [1]]], np.int8)
    refiner = Refiner(1, 3, np.ones((1, 1)))
    refiner.take(np.ones((1, 9, 3)), np.ones((1, 9, 1)))
    assert np.array_equal(refiner.refine(start, (-1, 1)), start)


def test_a_layer_too_large() -> None:
    assert worth(np.ones((1, 8, 4), np.int8))
    assert not worth(np.broadcast_to(np.int8(1), (2, 64, 1 << 21)))
    assert not worth(np.broadcast_to(np.int8(1), (1, 1 << 13, 1)))


def _layer(line: str, x: str, w: str) -> tuple[Layer, Evaluator]:
    graph = parse_graph(
        f"graph @g(%x: f32{x}) -> (%y) opset={{onnx: 13}} {{\n  const %w: f32{w} = random seed=3\n"
        f"  {line}\n}}\n"
    )
    found = read_layer(Rewriter(graph), graph.nodes[0])
    assert isinstance(found, Layer)
    return found, Evaluator(graph)


@pytest.mark.parametrize(
    ("line", "x", "w"),
    [
        ("%y = onnx.Conv(%x, %w) pads=[1,0,1,2]: f32[1,4,5,6]", "[1,3,5,6]", "[4,3,3,3]"),
        ("%y = onnx.Conv(%x, %w) group=2 strides=[2,1]: f32[1,6,3,5]", "[1,4,6,6]", "[6,2,2,2]"),
        ("%y = onnx.Conv(%x, %w) group=3 dilations=[2]: f32[1,3,4]", "[1,3,8]", "[3,1,3]"),
        ('%y = onnx.Conv(%x, %w) auto_pad="SAME_LOWER": f32[1,2,5]', "[1,3,5]", "[2,3,2]"),
        ("%y = onnx.MatMul(%x, %w): f32[2,5,3]", "[2,5,4]", "[4,3]"),
        ("%y = onnx.Gemm(%x, %w) transB=1: f32[2,3]", "[2,4]", "[3,4]"),
        ("%y = onnx.MatMul(%w, %x): f32[2,3,5]", "[2,4,5]", "[3,4]"),
    ],
)
def test_outputs_are_inputs_times_weights(line: str, x: str, w: str) -> None:
    layer, evaluate = _layer(line, x, w)
    sizes = [int(n) for n in x[1:-1].split(",")]
    given = np.random.default_rng(2).standard_normal(sizes).astype(np.float32)
    (y,) = evaluate({"x": given}).values()
    kernels = Kernels(layer)
    assert kernels.known
    q = kernels.matrices(layer.weights)
    for most in (1000, 3):
        seen, out = kernels.inputs(given, most), kernels.outputs(y, most)
        assert seen.shape[1] == out.shape[1] == min(most, out.shape[1])
        np.testing.assert_allclose(seen @ q, out, atol=1e-5)
    assert kernels.outputs(y, 1000).size == y.size
    assert np.array_equal(kernels.back(q), layer.weights)
