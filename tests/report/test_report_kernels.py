"""Kernels that are left are found again, and similar ones stand together."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from cimc.ir.graph import Graph
from cimc.ir.text import parse_graph
from cimc.report.kernels import Layer, align, compare_kernels
from cimc.report.similarity import clustered, cosines

TEXT = """graph @g(%x: f32[1,3,8,8]) -> (%y) {{
  const %a: f32[{a},3,3,3] = random seed=1
  const %dw: f32[{a},1,3,3] = random seed=2
  const %b: f32[{b},{a},1,1] = random seed=3
  const %c: f32[{c},3,3,3] = random seed=4
  const %d: f32[{d},{bc},3,3] = random seed=5
  const %fc: f32[{d64},10] = random seed=6
  %ya = onnx.Conv(%x, %a) pads=[1,1,1,1]: f32[1,{a},8,8] from "a"
  %ydw = onnx.Conv(%ya, %dw) group={a} pads=[1,1,1,1]: f32[1,{a},8,8] from "dw"
  %rdw = onnx.Relu(%ydw): f32[1,{a},8,8]
  %yb = onnx.Conv(%rdw, %b): f32[1,{b},8,8] from "b"
  %yc = onnx.Conv(%x, %c) pads=[1,1,1,1]: f32[1,{c},8,8] from "c"
  %cat = onnx.Concat(%yb, %yc) axis=1: f32[1,{bc},8,8]
  %yd = onnx.Conv(%cat, %d) pads=[1,1,1,1]: f32[1,{d},8,8] from "d"
  {flatten}
  %y = onnx.MatMul(%flat, %fc): f32[1,10] from "fc"
}}
"""
FIRST = "%flat = onnx.Flatten(%yd): f32[1,{d64}]"
LAST = """%yt = onnx.Transpose(%yd) perm=[0,2,3,1]: f32[1,8,8,{d}]
  %flat = onnx.Flatten(%yt): f32[1,{d64}]"""
FULL = {"a": 12, "b": 16, "c": 6, "d": 8}


def _graph(sizes: dict[str, int], flatten: str) -> Graph:
    more = {"bc": sizes["b"] + sizes["c"], "d64": sizes["d"] * 64}
    return parse_graph(TEXT.format(**sizes, **more, flatten=flatten.format(**sizes, **more)))


def _pruned(dense: Graph, keep: dict[str, np.ndarray], flatten: str, noise: float) -> Graph:
    """The network with these kernels alone, and weights that were changed a little."""
    made = _graph({name: len(index) for name, index in keep.items()}, flatten)
    whole: dict[str, Any] = {v.name: v.const for v in dense.consts}
    both = np.concatenate([keep["b"], FULL["b"] + keep["c"]])
    fc = whole["fc"].reshape(-1, 64, 10) if flatten is FIRST else whole["fc"].reshape(64, -1, 10)
    parts = {
        "a": whole["a"][keep["a"]],
        "dw": whole["dw"][keep["a"]],
        "b": whole["b"][keep["b"]][:, keep["a"]],
        "c": whole["c"][keep["c"]],
        "d": whole["d"][keep["d"]][:, both],
        "fc": fc[keep["d"]] if flatten is FIRST else fc[:, keep["d"]],
    }
    rng = np.random.default_rng(0)
    for value in made.consts:
        part = parts[value.name].reshape(value.tensor.static)
        value.const = (part + noise * rng.standard_normal(part.shape)).astype(np.float32)
    return made


@pytest.mark.parametrize("flatten", [FIRST, LAST], ids=["channels first", "channels last"])
@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(5))
def test_kernels_are_found_again(seed: int, noise: float, flatten: str) -> None:
    """Through depthwise layers, Concat and Flatten; weights may have been compensated."""
    rng = np.random.default_rng(seed)
    keep = {
        name: np.sort(rng.choice(size, int(rng.integers(2, size + 1)), replace=False))
        for name, size in FULL.items()
    }
    dense = _graph(FULL, flatten)
    found = compare_kernels(dense, _pruned(dense, keep, flatten, noise))
    wanted = {**keep, "dw": keep["a"], "fc": np.arange(10)}
    assert [layer.name for layer in found] == ["a", "dw", "b", "c", "d", "fc"]
    for layer in found:
        assert layer.kept is not None
        assert layer.kept.tolist() == wanted[layer.name].tolist(), layer.name
        gone = set(range(len(layer.before))) - set(wanted[layer.name].tolist())
        assert layer.removed.tolist() == sorted(gone)


def test_alignment_is_the_best_of_all() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        rows, columns = sorted(rng.integers(1, 7, 2))
        cost = rng.random((rows, columns))
        best = min(
            sum(cost[i, j] for i, j in enumerate(choice))
            for choice in itertools.combinations(range(columns), rows)
        )
        found = align(cost)
        assert (np.diff(found) > 0).all()
        assert cost[np.arange(rows), found].sum() == pytest.approx(best)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_kernels_of_one_value_are_gone(value: float) -> None:
    """Zeros, and what the published scripts make of signs; not a kernel that was so before."""
    before = np.sign(np.random.default_rng(1).standard_normal((5, 2, 3, 3))).astype(np.float32)
    before[4] = -1
    after = before.copy()
    after[[1, 2]] = value
    layer = Layer("x", before, after, np.arange(5))
    assert layer.removed.tolist() == [1, 2]


def test_a_layer_that_is_gone() -> None:
    layer = Layer("x", np.ones((3, 2), np.float32), None, None)
    assert layer.matched
    assert layer.removed.tolist() == [0, 1, 2]


def test_inputs_that_are_not_followed_are_no_match() -> None:
    """Slices of channels: which ones are left isn't known."""
    text = (
        "graph @g(%x: f32[1,{n},4,4]) -> (%y) {{\n  const %w: f32[4,{n},1,1] = random seed=1\n"
        '  %y = onnx.Conv(%x, %w): f32[1,4,4,4] from "w"\n}}\n'
    )
    (layer,) = compare_kernels(parse_graph(text.format(n=6)), parse_graph(text.format(n=4)))
    assert layer.kept is None
    assert not layer.matched


# -- similarity ------------------------------------------------------------------------


def test_cosines_of_signs_are_hamming_distances() -> None:
    rng = np.random.default_rng(0)
    rows = np.where(rng.random((6, 2, 3, 3)) < 0.5, 1, -1)
    flat = rows.reshape(6, -1)
    differ = np.array([[(p != q).mean() for q in flat] for p in flat])
    np.testing.assert_allclose(cosines(rows), 1 - 2 * differ, atol=1e-6)


def test_zeros_have_no_direction() -> None:
    found = cosines(np.array([[0.0, 0.0], [1.0, 2.0]]))
    assert np.isnan(found[0]).all()
    assert found[1, 1] == pytest.approx(1)


def test_similar_kernels_stand_together() -> None:
    """Three families of four, complements among them, mixed; then a kernel of zeros."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((3, 50))
    family = rng.permutation(np.repeat(np.arange(3), 4))
    rows = centres[family] + 0.1 * rng.standard_normal((12, 50))
    rows[::3] *= -1
    rows = np.insert(rows, 5, 0, axis=0)
    order = clustered(cosines(rows))
    assert sorted(order.tolist()) == list(range(13))
    assert order[-1] == 5
    met = np.insert(family, 5, -1)[order]
    assert 1 + np.count_nonzero(np.diff(met)) == 4, met


def test_kernels_without_mates_keep_their_order() -> None:
    assert clustered(cosines(np.eye(1))).tolist() == [0]
    assert sorted(clustered(cosines(np.eye(4))).tolist()) == [0, 1, 2, 3]
