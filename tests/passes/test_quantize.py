"""quantize: what the quantised graph holds, what stays, and the errors it states."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from cimc.driver.base import PassContext
from cimc.driver.calibration import calibration_for
from cimc.driver.pipeline import parse_pipeline
from cimc.driver.registry import load_registry
from cimc.driver.runner import run_passes
from cimc.errors import CompileError
from cimc.frontend.evaluate import Evaluator
from cimc.frontend.export import to_onnx
from cimc.frontend.static_quantiser import quantise_static
from cimc.ir.graph import Graph, Node
from cimc.ir.text import parse_graph

RNG = np.random.default_rng(5)


def _floats(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def _graph(inputs: str, outputs: str, consts: dict[str, Any], *lines: str) -> Graph:
    stated = "\n".join(f"  const %{k}: f32{list(np.shape(a))} = 0.0" if np.ndim(a) == 0 else
                       f"  const %{k}: f32{list(np.shape(a))} = random seed=1"
                       for k, a in consts.items()).replace(", ", ",")  # fmt: skip
    body = "\n".join(f"  {line}" for line in lines)
    graph = parse_graph(
        f"graph @g({inputs}) -> ({outputs}) opset={{onnx: 13}} {{\n{stated}\n{body}\n}}\n"
    )
    for value in graph.consts:
        value.const, value.seed = np.asarray(consts[value.name], np.float32), None
    return graph


def _quantised(graph: Graph, spec: str = "quantize", **data: Any) -> list[str]:
    """Run the passes in place; the notes."""
    passes = parse_pipeline(spec, load_registry())
    ctx = PassContext(calibration=calibration_for(passes, data, "here"))
    run_passes(graph, passes, ctx)
    return ctx.notes


def _layer(graph: Graph, name: str) -> Node:
    return next(n for n in graph.nodes if n.source == name)


def _dequantiser(graph: Graph, value: Any) -> tuple[Any, Any]:
    """Levels and scale of a constant behind DequantizeLinear."""
    node = graph.producers()[value]
    assert node.op == "onnx.DequantizeLinear"
    return node.arg(0).const, node.arg(1).const


def _input_scale(graph: Graph, layer: Node) -> Any:
    made = graph.producers()
    return made[made[layer.arg(0)].arg(0)].arg(1).const


def _net(**more: Any) -> tuple[Graph, dict[str, Any]]:
    consts = {"w": _floats(4, 2, 3, 3), "b": _floats(4), "v": _floats(16, 3), "c": _floats(3)}
    graph = _graph(
        "%x: f32[1,2,6,6]", "%y", {**consts, **more},
        '%a = onnx.Conv(%x, %w, %b): f32[1,4,4,4] from "conv"',
        '%r = onnx.Relu(%a): f32[1,4,4,4] from "relu"',
        "%p = onnx.MaxPool(%r) kernel_shape=[2,2] strides=[2,2]: f32[1,4,2,2]",
        "%f = onnx.Flatten(%p): f32[1,16]",
        '%y = onnx.Gemm(%f, %v, %c): f32[1,3] from "fc"',
    )  # fmt: skip
    return graph, consts


X = _floats(20, 2, 6, 6)


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_and_biases(bits: int) -> None:
    graph, consts = _net()
    _quantised(graph, f"quantize{{bits={bits}}}", x=X)
    top = 2 ** (bits - 1) - 1
    for name, w, b, axis in (("conv", "w", "b", 0), ("fc", "v", "c", 1)):
        layer = _layer(graph, name)
        levels, scale = _dequantiser(graph, layer.arg(1))
        wide = np.moveaxis(consts[w], axis, -1)
        largest = np.abs(wide).reshape(-1, len(scale)).max(0)
        np.testing.assert_allclose(scale, largest / np.float32(top), rtol=1e-6)
        assert levels.dtype == np.int8
        assert np.array_equal(np.moveaxis(levels, axis, -1), np.rint(wide / scale))
        assert np.abs(levels).max() == top
        bias, sums = _dequantiser(graph, layer.arg(2))
        assert sums.dtype == np.float32
        assert np.array_equal(sums, _input_scale(graph, layer) * scale)
        assert bias.dtype == np.int32
        assert np.array_equal(bias, np.rint(consts[b].astype(np.float64) / sums))


def test_eight_bits_are_the_library_s(tmp_path: Path) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.samples = iter([{"x": x[None]} for x in X])

        def get_next(self) -> Any:
            return next(self.samples, None)

    for method in ("MinMax", "Entropy", "Percentile"):
        graph, _ = _net()
        source, target = tmp_path / "m.onnx", tmp_path / "q.onnx"
        onnx.save(to_onnx(graph), source)
        quantize_static(
            source, target, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[method],
        )  # fmt: skip
        theirs = {t.name: numpy_helper.to_array(t) for t in onnx.load(target).graph.initializer}
        _quantised(graph, f"quantize{{method={method.lower()}}}", x=X)
        ours = {v.name: v.const for v in graph.consts}
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[k], theirs[k]) for k in ours)


def test_names_stay() -> None:
    graph, _ = _net()
    graph.input_names, graph.output_names = ["the image"], ["the scores"]
    _quantised(graph, x=X)
    assert graph.input_names == ["the image"]
    assert graph.output_names == ["the scores"]
    assert {"conv", "fc"} <= {n.source for n in graph.nodes}
    assert all(n.source for n in graph.nodes)
    assert not [n for n in graph.nodes if n.op == "onnx.Relu"]  # the quantiser stands for it


def test_nothing_is_said_and_logging_is_as_before(capfd: pytest.CaptureFixture[str]) -> None:
    before = list(logging.root.handlers), logging.root.manager.disable
    for method in ("minmax", "entropy", "percentile"):
        graph, _ = _net()
        _quantised(graph, f"quantize{{method={method}}}", x=X)
    assert tuple(capfd.readouterr()) == ("", "")
    assert (list(logging.root.handlers), logging.root.manager.disable) == before


def _table(notes: list[str]) -> dict[str, tuple[int, float, float]]:
    """Bits and errors in percent by layer."""
    rows = [re.fullmatch(r"  (\S+) +(\d) +([\d.]+)% +([\d.]+)%", note) for note in notes]
    return {r[1]: (int(r[2]), float(r[3]), float(r[4])) for r in rows if r is not None}


def test_the_errors_of_a_layer() -> None:
    """Against the same with numpy; of 40 samples, 32 spread evenly are measured."""
    w = _floats(8, 3)
    x = _floats(40, 8)
    graph = _graph(
        "%x: f32[1,8]", "%y", {"w": w},
        '%y = onnx.MatMul(%x, %w): f32[1,3] from "fc"',
    )  # fmt: skip
    (bits, added, total) = _table(_quantised(graph, "quantize{bits=5}", x=x))["fc"]
    x = x[np.linspace(0, 39, 32).astype(int)]
    levels, scale = _dequantiser(graph, _layer(graph, "fc").arg(1))
    quantise = [n for n in graph.nodes if n.op == "onnx.QuantizeLinear"]

    def rounded(a: Any, node: Node) -> Any:
        s, z = node.arg(1).const, int(node.arg(2).const)  # type: ignore[arg-type]
        return (np.clip(np.rint(a / s) + z, 0, 255) - z) * s

    y, alone = x @ w, rounded(x, quantise[0]) @ (levels * scale)
    for stated, other in ((added, alone), (total, rounded(alone, quantise[1]))):
        error = np.sqrt(np.square(other - y).sum() / np.square(y).sum())
        assert stated == pytest.approx(100 * error, abs=0.011)
    assert bits == 5


def test_errors_are_measured_behind_the_activation() -> None:
    graph, _ = _net()
    table = _table(_quantised(graph, x=X))
    assert table.keys() == {"conv", "fc"}
    assert all(0 < added < 3 and 0 < total < 5 for _, added, total in table.values())
    graph, _ = _net()
    low = _table(_quantised(graph, "quantize{bits=2}", x=X))
    assert all(low[name][1] > 5 * table[name][1] for name in low)


def test_layers_to_skip_keep_their_weights() -> None:
    """A layer that shares input and weights with a quantised one reads them in float."""
    w = _floats(8, 8)
    graph = _graph(
        "%x: f32[1,8]", "%y, %z", {"w": w},
        '%y = onnx.MatMul(%x, %w): f32[1,8] from "first"',
        '%z = onnx.MatMul(%x, %w): f32[1,8] from "second"',
    )  # fmt: skip
    x = _floats(9, 8)
    notes = _quantised(graph, "quantize{skip=sec*}", x=x)
    assert "quantize: left in float: second" in notes
    second = _layer(graph, "second")
    assert second.arg(0) is graph.inputs[0]
    assert np.array_equal(second.arg(1).const, w)
    assert second.why == "the option skip names it"
    np.testing.assert_allclose(Evaluator(graph)({"x": x[:1]})["z"], x[:1] @ w, rtol=1e-5)


def test_several_skips() -> None:
    graph, _ = _net()
    notes = _quantised(graph, "quantize{skip=conv|f?}", x=X)
    assert notes == ["quantize: no float layer to quantise"]
    with pytest.raises(CompileError) as caught:
        _quantised(graph, "quantize{skip=cnv+nothing+fc}", x=X)
    assert [e.message for e in caught.value.errors] == ["no layer 'cnv'", "no layer 'nothing'"]  # type: ignore[attr-defined]
    assert "did you mean conv" in str(caught.value)


def test_two_layers_with_the_same_weights() -> None:
    w, b, c = _floats(8, 8), _floats(8), _floats(8)
    graph = _graph(
        "%x: f32[1,8]", "%y", {"w": w, "b": b, "c": c},
        '%a = onnx.Gemm(%x, %w, %b): f32[1,8] from "first"',
        '%y = onnx.Gemm(%a, %w, %c): f32[1,8] from "second"',
    )  # fmt: skip
    _quantised(graph, "quantize{bits=4}", x=_floats(9, 8))
    for name, values in (("first", b), ("second", c)):
        layer = _layer(graph, name)
        _, scale = _dequantiser(graph, layer.arg(1))
        bias, sums = _dequantiser(graph, layer.arg(2))
        assert np.array_equal(sums, _input_scale(graph, layer) * scale)
        assert np.array_equal(bias, np.rint(values.astype(np.float64) / sums))


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_tiny_weights_and_a_large_bias(bits: int) -> None:
    """The steps of a channel grow until sums with the bias fit i32."""
    w, b = _floats(4, 8), np.full(4, 100, np.float32)
    w[1], w[2] = 0, w[2] * np.float32(1e-12)
    graph = _graph(
        "%x: f32[1,8]", "%y", {"w": w, "b": b},
        '%y = onnx.Gemm(%x, %w, %b) transB=1: f32[1,4] from "fc"',
    )  # fmt: skip
    _quantised(graph, f"quantize{{bits={bits}}}", x=_floats(9, 8))
    levels, _ = _dequantiser(graph, _layer(graph, "fc").arg(1))
    bias, scale = _dequantiser(graph, _layer(graph, "fc").arg(2))
    reach = 255 * np.abs(levels.astype(np.int64)).sum(1) + np.abs(bias.astype(np.int64))
    assert (reach < 2**31).all()
    np.testing.assert_allclose(bias * scale.astype(np.float64), 100, rtol=1e-3)


def test_one_scale_where_channels_have_no_axis_of_their_own() -> None:
    left, vector, spread = _floats(4, 6), _floats(5), _floats(4, 2, 2, 2)
    graph = _graph(
        "%x: f32[1,6,5], %z: f32[1,4,3,3]", "%a, %b, %c", {"l": left, "v": vector, "s": spread},
        '%a = onnx.MatMul(%l, %x): f32[1,4,5] from "left"',
        '%b = onnx.MatMul(%x, %v): f32[1,6] from "vector"',
        '%c = onnx.ConvTranspose(%z, %s) group=2: f32[1,4,4,4] from "spread"',
    )  # fmt: skip
    _quantised(graph, "quantize{bits=6}", x=_floats(9, 6, 5), z=_floats(9, 4, 3, 3))
    for name, side, w in (("left", 0, left), ("vector", 1, vector), ("spread", 1, spread)):
        levels, scale = _dequantiser(graph, _layer(graph, name).arg(side))
        assert scale.size == 1
        assert np.array_equal(levels, np.rint(w / scale))
        assert np.abs(levels).max() == 31


def test_stacks_of_matrices_have_scales_along_their_columns() -> None:
    w = _floats(2, 6, 3)
    graph = _graph(
        "%x: f32[2,5,6]", "%y", {"w": w}, '%y = onnx.MatMul(%x, %w): f32[2,5,3] from "fc"'
    )
    _quantised(graph, x=_floats(9, 2, 5, 6))
    _, scale = _dequantiser(graph, _layer(graph, "fc").arg(1))
    np.testing.assert_allclose(scale, np.abs(w).max((0, 1)) / np.float32(127), rtol=1e-6)


def _rms(found: Any, expected: Any) -> float:
    return float(np.sqrt(np.square(found - expected).sum() / np.square(expected).sum()))


@pytest.mark.parametrize(
    "line",
    [
        "%y = onnx.Clip(%a, %low, %high): f32[1,4,4,4]",  # zero is not between
        "%y = onnx.Relu(%a): f32[1,4,4,4]",  # its input is an output
        "%y = onnx.HardSwish(%a): f32[1,4,4,4]",
    ],
)
def test_activations_keep_their_meaning(line: str) -> None:
    consts = {"w": _floats(4, 2, 3, 3), "low": np.float32(0.5), "high": np.float32(2)}
    ends = "%a, %y" if "Relu" in line else "%y"
    graph = _graph(
        "%x: f32[1,2,6,6]", ends, consts,
        '%a = onnx.Conv(%x, %w): f32[1,4,4,4] from "conv"', line,
    )  # fmt: skip
    if "HardSwish" in line:
        graph.opsets["onnx"] = 14
    floats = Evaluator(graph)
    expected = [floats({"x": x[None]}) for x in X]
    _quantised(graph, x=X)
    quantised = Evaluator(graph)
    for x, wanted in zip(X, expected):
        found = quantised({"x": x[None]})
        assert all(_rms(found[name], wanted[name]) < 0.05 for name in wanted)


def test_a_normalisation_that_stands_alone_stays() -> None:
    consts = {"s": _floats(2), "h": _floats(2), "m": _floats(2), "u": np.ones(2),
              "w": _floats(4, 2, 3, 3)}  # fmt: skip
    graph = _graph(
        "%x: f32[1,2,6,6]", "%y", consts,
        '%a = onnx.BatchNormalization(%x, %s, %h, %m, %u): f32[1,2,6,6] from "bn"',
        '%y = onnx.Conv(%a, %w): f32[1,4,4,4] from "conv"',
    )  # fmt: skip
    _quantised(graph, x=X)
    norm = _layer(graph, "bn")
    assert norm.arg(0) is graph.inputs[0]
    assert all(norm.arg(i).const is not None for i in range(1, 5))


def test_layers_that_the_quantiser_can_t_take() -> None:
    consts = {"w": _floats(8, 6), "m": _floats(4, 6)}
    graph = _graph(
        "%x: f32[4,8], %z: f32[8,6]", "%y, %a, %b", consts,
        '%y = onnx.Gemm(%x, %w, %m): f32[4,6] from "matrix"',
        '%a = onnx.Gemm(%x, %z, %m): f32[4,6] from "dynamic"',
        '%b = onnx.MatMul(%x, %w): f32[4,6] from "fc"',
    )  # fmt: skip
    notes = _quantised(graph, x=_floats(9, 4, 8), z=_floats(9, 8, 6))
    assert "quantize: left in float: matrix, dynamic" in notes
    assert _layer(graph, "matrix").why == "its bias has not one element for each channel"
    assert "known at run time" in str(_layer(graph, "dynamic").why)
    assert _table(notes).keys() == {"fc"}


def test_histograms_of_parts_of_the_samples() -> None:
    """Where all activations would take too much memory; the ranges are nearly the same."""
    graph, _ = _net()
    model, samples = to_onnx(graph), [{"x": x[None]} for x in X]
    seen: list[int] = []
    scales = []
    for size in (0, 1 << 26):
        found = quantise_static(
            model, samples, method="percentile", sample_bytes=size,
            progress=lambda done, total: seen.append(done),
        )  # fmt: skip
        arrays = {t.name: numpy_helper.to_array(t) for t in found.graph.initializer}
        scales.append(
            np.array([a for k, a in arrays.items() if k.endswith("_scale") and a.ndim == 0])
        )
    np.testing.assert_allclose(scales[0], scales[1], rtol=0.02)
    assert seen == [*range(1, 21), *range(1, 21)]


def test_an_error_of_the_quantiser() -> None:
    graph, consts = _net()
    _layer(graph, "conv").arg(1).const = consts["w"] * np.float32(1e38)
    with pytest.raises(CompileError, match="onnxruntime's quantiser fails: "):
        _quantised(graph, x=X)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("method=best", "method must be one of minmax, entropy, percentile"),
        ("bits=1", "bits must be 2 to 8"),
        ("bits=9", "bits must be 2 to 8"),
        ("samples=0", "samples must be at least 1"),
        ("samples=7,method=entropy", "samples must be at least 8"),
    ],
)
def test_bad_options(options: str, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        parse_pipeline(f"quantize{{{options}}}", load_registry())
