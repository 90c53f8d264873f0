"""The ONNX form of each native operation and each QONNX operator against its numpy meaning,
on random inputs, from the oldest to the newest operator set."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx_cases import run, same

from cimc.errors import CompileError
from cimc.frontend import qonnx
from cimc.frontend.expand_qonnx import EXPAND
from cimc.frontend.export import to_onnx
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.ops import TABLE
from cimc.ir.rules import Misfit
from cimc.ir.types import TensorType, container, int_range, random_array

OPSETS = [8, 9, 11, 13, 18, 24]
CASES = settings(max_examples=25, deadline=None)
opsets = st.sampled_from(OPSETS)
seeds = st.integers(0, 2**32 - 1)
# ONNX has 2- and 4-bit types of its own, for which onnxruntime has hardly any kernels.
elems = st.sampled_from(["bip", "tern", "u1", "u5", "u8", "i3", "i8", "i32"])
small_elems = st.sampled_from(["bip", "tern", "u1", "u5", "u8", "i3", "i8"])
shapes = st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple)


def array(rng: np.random.Generator, elem: str, shape: tuple[int, ...]) -> Any:
    """Values over the full range of the type, its extremes included."""
    if elem in ("bip", "tern", "f32"):
        return random_array(rng, elem, shape)
    low, high = int_range(elem)
    values = rng.integers(low, high, shape, endpoint=True)
    extremes = rng.choice([low, high, 0, 1], shape)
    return np.where(rng.random(shape) < 0.3, extremes, values).astype(container(elem))


def check(
    op: str,
    args: list[tuple[str, Any]],
    attrs: dict[str, Any],
    opset: int,
    consts: int | list[int] = 0,
) -> None:
    """The ONNX form in onnxruntime equals the meaning in numpy. args: element type and array;
    the last `consts` are constants, or those that it lists."""
    row = TABLE[op]
    types = [TensorType(e, a.shape) for e, a in args]
    full = row.full_attrs(attrs)
    try:
        (result,) = row.types(types, full)
    except Misfit:
        assume(False)
    assert isinstance(result, TensorType)
    (expected,) = row.evaluate([a for _, a in args], full, [result])
    values = [Value(f"x{i}", t) for i, t in enumerate(types)]
    listed = range(len(args) - consts, len(args)) if isinstance(consts, int) else consts
    for index in listed:
        values[index].const = args[index][1]
    dynamic = [v for v in values if v.const is None]
    out = Value("y", result)
    graph = Graph("g", dynamic, [out], [Node(op, list(values), [out], attrs)],
                  [v for v in values if v.const is not None], opsets={"onnx": opset})  # fmt: skip
    graph.input_names = [v.name for v in dynamic]
    graph.output_names = ["y"]
    feeds = {v.name: a for v, (_, a) in zip(values, args) if v.const is None}
    found = run(to_onnx(graph), feeds)["y"]
    assert expected.dtype == container(result.elem)
    assert same(found, np.asarray(expected)), (found, expected)


@CASES
@given(opsets, seeds, shapes, elems | st.just("f32"), st.sampled_from([-1, 0, 1]), st.booleans())
def test_sign(opset: int, seed: int, shape: Any, elem: str, zero: int, bits: bool) -> None:
    x = array(np.random.default_rng(seed), elem, shape)
    x[x < x.mean()] = 0 if elem != "bip" else -1
    check("cim.sign", [(elem, x)], {"zero": zero, "to": "u1" if bits else ""}, opset)


@st.composite
def windows(draw: Any, rank: int) -> dict[str, Any]:
    def some(low: int, high: int, count: int) -> Any:
        return tuple(draw(st.integers(low, high)) for _ in range(count))

    return {"strides": some(1, 2, rank), "pads": some(0, 2, 2 * rank),
            "dilations": some(1, 2, rank)}  # fmt: skip


@CASES
@given(st.data(), opsets, seeds, small_elems, st.sampled_from(["bip", "tern", "i5"]))
def test_conv(data: Any, opset: int, seed: int, elem: str, weights: str) -> None:
    rng = np.random.default_rng(seed)
    rank = data.draw(st.integers(0, 2))
    group, per, out = (data.draw(st.integers(1, 3)) for _ in range(3))
    size = tuple(int(n) for n in rng.integers(3, 7, rank))
    kernel = tuple(int(n) for n in rng.integers(1, 4, rank))
    x = array(rng, elem, (2, group * per, *size))
    w = array(rng, weights, (group * out, per, *kernel))
    attrs = {"group": group, **data.draw(windows(rank))}
    check("cim.conv", [(elem, x), (weights, w)], attrs, opset, consts=1)


@CASES
@given(opsets, seeds, st.lists(st.integers(1, 3), max_size=2), small_elems)
def test_matmul(opset: int, seed: int, lead: list[int], elem: str) -> None:
    rng = np.random.default_rng(seed)
    x, w = array(rng, elem, (*lead, 2, 5)), array(rng, "tern", (5, 3))
    check("cim.matmul", [(elem, x), ("tern", w)], {}, opset, consts=1)


def zeros(rng: Any, elem: str, channels: int, shape: Any) -> list[tuple[str, Any]]:
    """zx[1], zw[1] or [C], b[C] for an input of type `elem`."""
    return [
        (elem, array(rng, elem, (1,))),
        ("i8", array(rng, "i8", (channels if shape else 1,))),
        ("i32", rng.integers(-(2**20), 2**20, channels).astype(np.int32)),
    ]


@CASES
@given(st.data(), seeds, st.sampled_from(["u8", "i8", "u5"]), st.sampled_from(["i8", "i3", "u8"]))
def test_conv_zero_points(data: Any, seed: int, elem: str, weights: str) -> None:
    rng = np.random.default_rng(seed)
    rank, group = data.draw(st.integers(0, 2)), data.draw(st.sampled_from([1, 2]))
    per = data.draw(st.sampled_from([1, 80]))  # few channels: float32; many: the integer kernels
    x = array(rng, elem, (1, per * group, *(int(n) for n in rng.integers(4, 6, rank))))
    w = array(rng, weights, (2 * group, per, *(int(n) for n in rng.integers(1, 4, rank))))
    up = data.draw(st.tuples(*[st.integers(1, 3)] * rank))
    attrs = {"group": group, "up": up, **data.draw(windows(rank))}
    args = [(elem, x), (weights, w), *zeros(rng, elem, 2 * group, data.draw(st.booleans()))]
    if data.draw(st.booleans()):
        args[4] = "i32", places(rng, elem, args, attrs)
    check("cim.conv", args, attrs, 13, consts=[1, 3, 4])


def places(rng: Any, elem: str, args: list[tuple[str, Any]], attrs: dict[str, Any]) -> Any:
    """b[1,C,*out]: a number for each place of the result."""
    row = TABLE["cim.conv"]
    types = [TensorType(kind, array.shape) for kind, array in args[:2]]
    (type_,) = row.types(types, row.full_attrs(attrs))
    return rng.integers(-(2**20), 2**20, (1, *type_.static[1:])).astype(np.int32)


@CASES
@given(st.data(), seeds, st.sampled_from(["u8", "i8", "u5"]), st.sampled_from(["i8", "i3", "u8"]))
def test_matmul_zero_points(data: Any, seed: int, elem: str, weights: str) -> None:
    rng = np.random.default_rng(seed)
    terms = data.draw(st.sampled_from([5, 700]))
    x, w = array(rng, elem, (2, 3, terms)), array(rng, weights, (terms, 4))
    args = [(elem, x), (weights, w), *zeros(rng, elem, 4, data.draw(st.booleans()))]
    check("cim.matmul", args, {}, 13, consts=[1, 3, 4])


small_to = st.sampled_from(["u8", "i8", "u5", "i3"])


@CASES
@given(st.data(), st.sampled_from([10, 11, 13]), seeds, shapes, small_to)
def test_requant(data: Any, opset: int, seed: int, shape: Any, to: str) -> None:
    rng = np.random.default_rng(seed)
    axis = data.draw(st.integers(0, len(shape) - 1))
    x = rng.integers(-(2**20), 2**20, shape).astype(np.int32)
    x.ravel()[: x.size // 2] = rng.integers(-200, 200, x.size // 2)  # many of them exact halves
    scale = rng.choice([0.5, 0.25, 0.013, 1e-5], shape[axis]).astype(np.float32)
    low, high = int_range(to)
    attrs = {"axis": axis, "to": to, "zero": int(rng.integers(low, high + 1))}
    check("cim.requant", [("i32", x), ("f32", scale)], attrs, opset, consts=1)


@CASES
@given(st.data(), opsets, seeds, shapes, small_to | st.just("u4"))
def test_quantize(data: Any, opset: int, seed: int, shape: Any, to: str) -> None:
    rng = np.random.default_rng(seed)
    low, high = int_range(to)
    attrs = {
        "scale": data.draw(st.sampled_from([0.5, float(np.float32(0.1))])),
        "zero": data.draw(st.integers(low, high)),
        "narrow": data.draw(st.integers(0, 1)),
        "rounding": data.draw(st.sampled_from(["ROUND", "CEIL", "FLOOR", "ROUND_TO_ZERO"])),
        "to": to,
    }
    x = (rng.integers(-300, 300, shape) / 4).astype(np.float32)
    check("cim.quantize", [("f32", x)], attrs, opset)


@CASES
@given(opsets, seeds, shapes, small_to, small_to)
def test_lut(opset: int, seed: int, shape: Any, elem: str, to: str) -> None:
    rng = np.random.default_rng(seed)
    table = array(rng, to, (2 ** int(elem[1:]),))
    check("cim.lut", [(elem, array(rng, elem, shape)), (to, table)], {}, opset, consts=1)


@CASES
@given(st.data(), opsets, seeds, small_to)
def test_sum_pool(data: Any, opset: int, seed: int, elem: str) -> None:
    rng = np.random.default_rng(seed)
    rank = data.draw(st.integers(1, 2))
    attrs = data.draw(windows(rank))
    kernel = tuple(int(n) for n in rng.integers(1, 4, rank))
    x = array(rng, elem, (1, 3, *(int(n) for n in rng.integers(5, 8, rank))))
    check("cim.sum_pool", [(elem, x)], {"kernel": kernel, "zero": 3, **attrs}, opset)


@CASES
@given(st.data(), st.sampled_from([10, 13]), seeds, shapes, small_to, st.sampled_from([0, 1]))
def test_qadd(data: Any, opset: int, seed: int, shape: Any, to: str, fused: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = array(rng, "u8", shape), array(rng, "i8", shape)
    low, high = int_range(to)
    attrs = {
        **{k: float(np.float32(rng.uniform(0.01, 1))) for k in ("x_scale", "y_scale", "scale")},
        "x_zero": 7, "y_zero": -3, "zero": int(rng.integers(low, high + 1)),
        "fused": fused, "to": to,
    }  # fmt: skip
    check("cim.qadd", [("u8", x), ("i8", y)], attrs, opset)


@CASES
@given(st.data(), opsets, seeds, shapes, elems)
def test_concat(data: Any, opset: int, seed: int, shape: Any, elem: str) -> None:
    rng = np.random.default_rng(seed)
    axis = data.draw(st.integers(0, len(shape) - 1))
    args = [(elem, array(rng, elem, shape)), (elem, array(rng, elem, shape))]
    check("cim.concat", args, {"axis": axis}, opset)


@CASES
@given(st.data(), opsets, seeds, shapes, small_elems)
def test_slice(data: Any, opset: int, seed: int, shape: Any, elem: str) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    start = data.draw(st.integers(0, shape[axis] - 1))
    attrs = {"axis": axis, "start": start, "stop": data.draw(st.integers(start + 1, shape[axis]))}
    check("cim.slice", [(elem, array(np.random.default_rng(seed), elem, shape))], attrs, opset)


@CASES
@given(st.data(), opsets, seeds, shapes, elems)
def test_take(data: Any, opset: int, seed: int, shape: Any, elem: str) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    rng = np.random.default_rng(seed)
    index = rng.integers(0, shape[axis], data.draw(st.integers(1, 6))).astype(np.int32)
    check("cim.take", [(elem, array(rng, elem, shape)), ("i32", index)], {"axis": axis}, opset, 1)


@CASES
@given(st.data(), opsets, seeds, shapes, elems, st.booleans())
def test_threshold(data: Any, opset: int, seed: int, shape: Any, elem: str, flip: bool) -> None:
    rng = np.random.default_rng(seed)
    axis = data.draw(st.integers(0, len(shape) - 1))
    to, steps = data.draw(
        st.sampled_from(
            [("bip", 1), ("tern", 2), ("u1", 1), ("u3", 3), ("u3", 7), ("i3", 6), ("i8", 2)]
        )
    )
    x = array(rng, elem, shape)
    channels = shape[axis]
    th = np.sort(rng.choice(x.ravel(), (channels, steps)), axis=1).astype(np.int32)
    args: list[tuple[str, Any]] = [(elem, x), ("i32", th if steps > 1 else th[:, 0])]
    if flip:
        args.append(("bip", array(rng, "bip", (channels,))))
    check("cim.threshold", args, {"axis": axis, "to": to}, opset, consts=len(args) - 1)


@CASES
@given(st.data(), opsets, seeds, elems)
def test_max_pool(data: Any, opset: int, seed: int, elem: str) -> None:
    rng = np.random.default_rng(seed)
    rank = data.draw(st.integers(1, 2))
    attrs = data.draw(windows(rank))
    kernel = tuple(int(n) for n in rng.integers(1, 4, rank))
    assume(all(p < k for p, k in zip(attrs["pads"], kernel * 2)))  # else a window may be empty
    if opset < 10:
        attrs["dilations"] = (1,) * rank
    assume(all(p == 0 or d == 1 for p, d in zip(attrs["pads"], attrs["dilations"] * 2)))
    x = array(rng, elem, (1, 2, *(int(n) for n in rng.integers(3, 7, rank))))
    check("cim.max_pool", [(elem, x)], {"kernel": kernel, **attrs}, opset)


@CASES
@given(opsets, seeds, shapes, small_elems, small_elems)
def test_add(opset: int, seed: int, shape: Any, a: str, b: str) -> None:
    rng = np.random.default_rng(seed)
    check("cim.add", [(a, array(rng, a, shape)), (b, array(rng, b, shape))], {}, opset)


@CASES
@given(opsets, seeds, shapes, elems)
def test_relu(opset: int, seed: int, shape: Any, elem: str) -> None:
    assume(elem != "bip")
    check("cim.relu", [(elem, array(np.random.default_rng(seed), elem, shape))], {}, opset)


@CASES
@given(opsets, seeds, shapes, elems, st.sampled_from([1.0, 0.5, -0.3, 0.1, 1e-30]))
def test_dequant(opset: int, seed: int, shape: Any, elem: str, scale: float) -> None:
    x = array(np.random.default_rng(seed), elem, shape)
    check("cim.dequant", [(elem, x)], {"scale": scale, "zero": seed % 3}, opset)


@CASES
@given(st.data(), opsets, seeds, shapes, elems)
def test_layout(data: Any, opset: int, seed: int, shape: Any, elem: str) -> None:
    x = array(np.random.default_rng(seed), elem, shape)
    order = data.draw(st.permutations(range(len(shape))))
    check("cim.transpose", [(elem, x)], {"perm": tuple(order)}, opset)
    check("cim.reshape", [(elem, x)], {"shape": (shape[0], -1)}, opset)


@CASES
@given(opsets, seeds, st.sampled_from(["bip", "tern", "u2", "i3", "u8", "i8"]),
       shapes, st.integers(0, 3), st.sampled_from(["intent", "literal"]))  # fmt: skip
def test_similar(opset, seed, elem, shape, axis, mode):
    """Of constant kernels, equal ones among them; numbers under which some are similar."""
    assume(axis < len(shape))
    rng = np.random.default_rng(seed)
    w = np.take(array(rng, elem, shape), rng.integers(0, shape[axis], 6), axis)
    attrs = {"of": elem, "mode": mode, "b": "0.01", "c": "1/5", "axis": axis}
    check("cim.similar", [(elem, w)], attrs, opset, consts=1)


def test_every_operation_is_here() -> None:
    here = {n.removeprefix("test_") for n in globals()} | {"reshape", "transpose"}
    assert {n.removeprefix("cim.") for n in TABLE} <= here


# -- QONNX --

bit_widths = st.sampled_from([1.0, 2.0, 3.0, 4.0, 8.0, 16.0])


def check_qonnx(op: str, args: list[Any], attrs: dict[str, Any], opset: int) -> None:
    """The ONNX form equals the definition in every bit; all operands but x are constants."""
    expected = qonnx.EVALUATE[op](args, attrs)
    values = [Value(f"x{i}", TensorType("f32", a.shape)) for i, a in enumerate(args)]
    for value, a in zip(values[1:], args[1:]):
        value.const = a
    out = Value("y", TensorType("f32", args[0].shape))
    graph = Graph("g", values[:1], [out], [Node(f"qonnx.{op}", list(values), [out], attrs)],
                  values[1:], opsets={"onnx": opset})  # fmt: skip
    graph.input_names, graph.output_names = ["x0"], ["y"]
    found = run(to_onnx(graph), {"x0": args[0]})["y"]
    assert same(found, expected), (found[found != expected], expected[found != expected])


def floats(rng: np.random.Generator, scale: Any) -> Any:
    """[2, 3, 4]: ordinary values, and ties of the rounding."""
    x = rng.standard_normal((2, 3, 4)).astype(np.float32) * np.float32(4)
    ties = ((rng.integers(-9, 9, x.shape) + 0.5) * scale).astype(np.float32)
    return np.where(rng.random(x.shape) < 0.4, ties, x)


def parameter(rng: np.random.Generator, channels: bool, low: float, high: float) -> Any:
    shape = (3, 1) if channels else ()
    return np.asarray(rng.uniform(low, high, shape), np.float32)


@settings(max_examples=80, deadline=None)
@given(opsets, seeds, bit_widths, st.sampled_from([*qonnx.ROUNDING, "round"]), st.booleans(),
       st.booleans(), st.booleans(), st.booleans(),
       st.sampled_from(["Quant", "IntQuant"]))  # fmt: skip
def test_quant(
    opset: int, seed: int, bits: float, mode: str, signed: bool, narrow: bool, channels: bool,
    shifted: bool, op: str,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    scale = parameter(rng, channels, 0.05, 1.5)
    zero = np.asarray(rng.integers(-3, 4) if shifted else 0, np.float32)
    attrs = {"signed": int(signed), "narrow": int(narrow), "rounding_mode": mode}
    args = [floats(rng, scale), scale, zero, np.asarray(bits, np.float32)]
    check_qonnx(op, args, attrs, opset)


@CASES
@given(opsets, seeds, st.booleans())
def test_bipolar_quant(opset: int, seed: int, channels: bool) -> None:
    rng = np.random.default_rng(seed)
    x = floats(rng, 1.0)
    x[0, 0] = [0.0, -0.0, 1e-40, -1e-40]
    check_qonnx("BipolarQuant", [x, parameter(rng, channels, 0.1, 2.0)], {}, opset)


@CASES
@given(opsets, seeds, st.sampled_from(["FLOOR", "CEIL", "ROUND", "ROUND_TO_ZERO"]), st.booleans(),
       st.integers(2, 8), st.integers(1, 8))  # fmt: skip
def test_trunc(
    opset: int, seed: int, mode: str, channels: bool, in_bits: int, out_bits: int
) -> None:
    assume(out_bits <= in_bits)
    rng = np.random.default_rng(seed)
    scale = parameter(rng, channels, 0.05, 1.5)
    zero = np.asarray(rng.integers(-3, 4), np.float32)
    bits = [np.asarray(b, np.float32) for b in (in_bits, out_bits)]
    check_qonnx("Trunc", [floats(rng, scale), scale, zero, *bits], {"rounding_mode": mode}, opset)


@CASES
@given(opsets, seeds, st.integers(1, 7), st.sampled_from(["NCHW", "NHWC"]), st.booleans())
def test_multi_threshold(opset: int, seed: int, steps: int, layout: str, scaled: bool) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(-8, 8, (2, 3, 4, 5) if layout == "NCHW" else (2, 4, 5, 3)).astype(np.float32)
    thresholds = np.sort(rng.integers(-8, 8, (3, steps)), axis=1).astype(np.float32)
    attrs: dict[str, Any] = {"data_layout": layout}
    if scaled:
        attrs |= {"out_scale": 0.3, "out_bias": -1.7}
        attrs = {k: float(np.float32(v)) if isinstance(v, float) else v for k, v in attrs.items()}
    check_qonnx("MultiThreshold", [x, thresholds], attrs, opset)


def test_every_qonnx_operator_has_both_forms() -> None:
    assert {f"qonnx.{op}" for op in qonnx.EVALUATE} == set(EXPAND)


def test_unknown_rounding_mode() -> None:
    args = [np.ones((1, 2), np.float32), *(np.asarray(v, np.float32) for v in (1, 0, 4))]
    values = [Value(f"x{i}", TensorType("f32", a.shape), const=a if i else None)
              for i, a in enumerate(args)]  # fmt: skip
    out = Value("y", TensorType("f32", (1, 2)))
    quant = Node("qonnx.Quant", list(values), [out], {"rounding_mode": "UP"}, source="act")
    graph = Graph("g", values[:1], [out], [quant], values[1:], opsets={"onnx": 13})
    with pytest.raises(CompileError, match="unknown rounding_mode 'UP'") as caught:
        to_onnx(graph)
    assert "node 'act'" in str(caught.value)
    assert caught.value.help is not None


def test_the_runtime_is_one_that_keeps_these_opsets() -> None:
    """The list above is tried, not assumed."""
    assert tuple(map(int, ort.__version__.split(".")[:2])) >= (1, 20)


def test_sums_over_windows_of_unknown_channels_are_refused():
    x = Value("x", TensorType("u8", (1, "c", 2, 2)))
    y = Value("y", TensorType("i32", (1, "c", 1, 1)))
    graph = Graph("g", [x], [y], [Node("cim.sum_pool", [x], [y], {"kernel": (2, 2)})])
    graph.opsets = {"onnx": 13}
    with pytest.raises(CompileError, match="how many channels") as caught:
        to_onnx(graph)
    assert caught.value.where == "node 'y' (cim.sum_pool)"
