"""Operations by layer against counts written as loops, and both definitions of what pruning
removed."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from cimc.errors import CompileError, CompileErrors
from cimc.frontend.bind import bind_shapes
from cimc.frontend.macs import graph_macs
from cimc.frontend.operations import LayerOps, count
from cimc.frontend.reduction import alone, compare
from cimc.ir.graph import Graph
from cimc.ir.text import parse_graph
from cimc.ir.types import TensorType


def graph(text: str, **weights: Any) -> Graph:
    """A graph with constants put in by name."""
    made = parse_graph(text)
    for name, array in weights.items():
        value = next(v for v in made.consts if v.name == name)
        assert isinstance(value.type, TensorType)
        assert value.type.static == np.shape(array)
        value.const = np.asarray(array, np.float32)
    bind_shapes(made, {}, "m.onnx")
    return made


CONV = """graph @g(%x: f32[N,{cin},6,5]) -> (%y) {{
  const %w: f32[{cout},{cg},3,2] = random seed=1
  %y = onnx.Conv(%x, %w) group={g}: f32[N,{cout},4,4] from "conv"
}}
"""


def _conv(w: Any, group: int) -> LayerOps:
    text = CONV.format(cin=w.shape[1] * group, cout=len(w), cg=w.shape[1], g=group)
    (layer,) = count(graph(text, w=w))
    return layer


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("seed", range(6))
def test_effective_products_of_a_convolution(seed: int, group: int) -> None:
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((8, 3, 3, 2))
    w[rng.random(8) < 0.4] = 0
    for g, c in itertools.product(range(group), range(3)):
        if rng.random() < 0.3:
            w[g * 8 // group : (g + 1) * 8 // group, c] = 0
    done = 0
    for k, c, _, _ in itertools.product(range(8), range(3), range(3), range(2)):
        first = k * group // 8 * 8 // group
        mates = range(first, first + 8 // group)
        done += bool(w[k].any()) and any(w[m, c].any() for m in mates)
    layer = _conv(w, group)
    assert layer.macs == 8 * 3 * 6 * 16
    assert layer.effective == done * 16
    assert (layer.positions, layer.kernels, layer.inputs) == (16, 8, 18)
    assert layer.zeros == np.count_nonzero(w == 0)
    assert layer.live == sum(bool(k.any()) for k in w)


def test_single_zeros_are_work() -> None:
    w = np.ones((2, 2, 3, 2))
    w[:, :, 0] = 0
    assert _conv(w, 1).effective == _conv(w, 1).macs


@pytest.mark.parametrize(
    "line",
    [
        "%y = onnx.MatMul(%x, %w): f32[N,4]",
        "%y = onnx.Gemm(%x, %w): f32[N,4]",
        "%t = onnx.Transpose(%w): f32[4,3]\n  %y = onnx.Gemm(%x, %t) transB=1: f32[N,4]",
        "%t = onnx.Transpose(%w): f32[4,3]\n  %u = onnx.Transpose(%x): f32[3,N]\n"
        "  %y = onnx.MatMul(%t, %u): f32[4,N]",
    ],
    ids=["matmul", "gemm", "transB", "left"],
)
def test_kernels_of_products(line: str) -> None:
    """Each form has 4 kernels of 3 inputs; one kernel and one input are zero. Weights may be
    computed from constants."""
    w = np.ones((3, 4))
    w[:, 1] = 0
    w[2] = 0
    const = "const %w: f32[3,4] = random seed=1"
    made = graph(f"graph @g(%x: f32[N,3]) -> (%y) {{\n  {const}\n  {line}\n}}\n", w=w)
    (layer,) = count(made)
    assert (layer.kernels, layer.inputs, layer.positions) == (4, 3, 1)
    assert (layer.macs, layer.effective, layer.zeros) == (12, 3 * 2, 6)


def test_transposed_convolution() -> None:
    """Its kernels lie on the second axis of the weights."""
    text = (
        "graph @g(%x: f32[N,3,4,4]) -> (%y) {\n  const %w: f32[3,2,2,2] = random seed=1\n"
        "  %y = onnx.ConvTranspose(%x, %w): f32[N,2,5,5]\n}\n"
    )
    w = np.ones((3, 2, 2, 2))
    w[:, 1] = 0
    (layer,) = count(graph(text, w=w))
    assert (layer.kernels, layer.inputs, layer.positions) == (2, 12, 16)
    assert layer.effective == layer.macs / 2 == 16 * 12


def test_zero_is_the_zero_point() -> None:
    """Quantised weights are zero where they are their zero point, one for each kernel."""
    text = (
        "graph @g(%x: u8[N,2,1,1]) -> (%y) {\n"
        "  const %w: i8[2,2,1,1] = [3, 3, 3, 0]\n  const %xz: u8[] = 0\n"
        "  const %wz: i8[2] = [3, 0]\n"
        "  %y = onnx.ConvInteger(%x, %w, %xz, %wz): i32[N,2,1,1]\n}\n"
    )
    (layer,) = count(graph(text))
    assert (layer.live, layer.zeros, layer.effective) == (1, 3, 1)


def test_quantised_weights_are_read_through_their_quantiser() -> None:
    text = (
        "graph @g(%x: f32[N,2]) -> (%y) {\n"
        "  const %q: i8[2,2] = [5, 7, 5, 9]\n  const %s: f32[] = 0.5\n  const %z: i8[] = 5\n"
        "  %w = onnx.DequantizeLinear(%q, %s, %z): f32[2,2]\n"
        "  %y = onnx.MatMul(%x, %w): f32[N,2]\n}\n"
    )
    (layer,) = count(graph(text))
    assert (layer.zeros, layer.live, layer.effective) == (2, 1, 2)


def test_products_of_two_results_are_counted_without_kernels() -> None:
    text = "graph @g(%x: f32[N,3,3]) -> (%y) {\n  %y = onnx.MatMul(%x, %x): f32[N,3,3]\n}\n"
    (layer,) = count(graph(text))
    assert (layer.macs, layer.effective, layer.weights, layer.zeros) == (27, 27, 0, None)


def test_branches_count_once() -> None:
    text = """graph @g(%x: f32[N,3], %c: bool[]) -> (%y) {
  const %w: f32[3,4] = random seed=1
  %y = onnx.If(%c) then_branch=graph @then() -> (%t) {
    %t = onnx.MatMul(%x, %w): f32[1,4] from "left"
  } else_branch=graph @else() -> (%e) {
    %m = onnx.MatMul(%x, %w): f32[1,4] from "right"
    %e = onnx.Neg(%m): f32[1,4]
  }: f32[1,4]
}
"""
    made = graph(text)
    layers = count(made)
    assert [layer.name for layer in layers] == ["left", "right"]
    assert sum(layer.macs for layer in layers) == graph_macs(made) == 24


# -- against a dense original ----------------------------------------------------------


def _layer(name: str, kernels: int, channels: int, taps: int, positions: int, **more: Any) -> Any:
    size = kernels * channels * taps
    given = {"groups": 1, "zeros": 0, "live": kernels, "kind": "Conv"} | more
    macs = positions * size
    return LayerOps(
        name=name, kernels=kernels, inputs=channels * taps, taps=taps, positions=positions,
        macs=macs, effective=macs, weights=size, **given,
    )  # fmt: skip


DENSE = [
    _layer("a", 8, 3, 9, 100),
    _layer("dw", 8, 1, 9, 100, groups=8),
    _layer("b", 16, 8, 9, 50),
    _layer("fc", 10, 16, 1, 1, kind="Gemm"),
]


def test_both_definitions() -> None:
    """Half of a's kernels and a quarter of b's are gone. The scripts skip the depthwise layer,
    know no positions and take 4 input channels for b in both sums."""
    now = [
        _layer("a", 4, 3, 9, 100),
        _layer("dw", 4, 1, 9, 100, groups=4),
        _layer("b", 12, 4, 9, 50),
        _layer("fc", 10, 12, 1, 1, kind="Gemm"),
    ]
    found = compare(now, DENSE, "m.onnx")
    assert found.all_layers.dense == 21600 + 7200 + 57600 + 160
    assert found.all_layers.macs == 10800 + 3600 + 21600 + 120
    assert found.convolutions.removed == 1 - 36000 / 86400
    whole, left = 8 * 3 * 9 + 16 * 4 * 9, 4 * 3 * 9 + 12 * 4 * 9
    assert found.scripted == pytest.approx(1 - left / whole)
    assert found.convolutions.zero_share == 1 - (4 * 27 + 36 + 12 * 36) / (8 * 27 + 72 + 16 * 72)


def test_zeroed_and_cut_kernels_are_the_same_to_the_scripts() -> None:
    cut = [_layer("a", 4, 3, 9, 100), *DENSE[1:]]
    zeroed = [_layer("a", 8, 3, 9, 100, live=4, zeros=108), *DENSE[1:]]
    shares = [compare(now, DENSE, "m.onnx").scripted for now in (cut, zeroed)]
    assert shares[0] == shares[1] == alone(zeroed).scripted
    assert shares[0] not in (None, 0)


def test_layers_that_are_gone_or_new() -> None:
    found = compare([DENSE[0], _layer("other", 1, 1, 1, 7)], DENSE, "m.onnx")
    assert [(p.name, p.now is None, p.dense is None) for p in found.pairs] == [
        ("a", False, False), ("dw", True, False), ("b", True, False), ("fc", True, False),
        ("other", False, True),
    ]  # fmt: skip
    assert found.all_layers.macs == 21600 + 7


def test_equal_names_are_matched_in_their_order() -> None:
    twice = [_layer("a", 4, 1, 1, 1), _layer("a", 2, 1, 1, 1)]
    pairs = compare(twice, twice, "m.onnx").pairs
    assert all(p.now is p.dense for p in pairs)
    assert len(pairs) == 2


def test_program_names_match() -> None:
    """Programs write names without slashes."""
    (pair,) = compare([_layer("net_a", 1, 1, 1, 1)], [_layer("net/a", 1, 1, 1, 1)], "m").pairs
    assert pair.now is not None


def test_no_layer_in_common() -> None:
    with pytest.raises(CompileError, match="no layer of the dense model is in it: it has x, not a"):
        compare([_layer("x", 1, 1, 1, 1)], DENSE, "m.onnx")


def test_layers_that_grew_are_errors() -> None:
    now = [_layer("a", 9, 3, 9, 100), _layer("b", 16, 9, 9, 50), _layer("fc", 10, 16, 1, 2)]
    with pytest.raises(CompileErrors) as error:
        compare(now, DENSE, "m.onnx")
    text = str(error.value)
    assert "layer 'a': error: has 9 kernels, more than the 8 of the dense model" in text
    assert "layer 'b': error: has 81 inputs" in text
    assert "layer 'fc': error: works at 2 positions, not at 1" in text
