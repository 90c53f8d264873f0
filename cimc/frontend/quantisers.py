"""The numbers of quantisers: scales and zero points of ONNX operators, read and checked.

Knows the operand lists of the operators; nothing of passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cimc.errors import CompileError, Span, raise_all
from cimc.ir.graph import Graph, Node, Value, layer_name
from cimc.ir.types import Array, TensorType, int_range, is_float, is_integer

QUANTIZE = ("onnx.QuantizeLinear", "ms.QuantizeLinear")
DEQUANTIZE = ("onnx.DequantizeLinear", "ms.DequantizeLinear")


@dataclass(frozen=True)
class Scale:
    """How integers stand for floats: (q - zero) * scale.

    scale: float32 [1] or [C]; zero: int64 [1] or [C]; axis: along which they lie, None where
    there is one for all elements."""

    scale: Array
    zero: Array
    axis: int | None = None

    @property
    def one(self) -> tuple[float, int]:
        """Scale and zero point of a tensor that has one of each."""
        assert self.axis is None, "one for each channel"
        return float(self.scale[0]), int(self.zero[0])


def scale_of(node: Node) -> Scale | str:
    """Scale and zero point of a QuantizeLinear or DequantizeLinear; else why they are no plain
    numbers."""
    scale, zero = node.arg(1), node.operand(2)
    if scale.const is None or (zero is not None and zero.const is None):
        return "a scale known at run time only"
    if node.attrs.get("block_size", 0):
        return "quantised in blocks"
    if scale.elem != "f32":
        return f"a scale in {scale.elem}"
    held = None if zero is None else zero.const
    numbers = scale.const.reshape(-1)
    points = np.zeros(1, np.int64) if held is None else held.astype(np.int64).reshape(-1)
    rank = len(node.arg(0).tensor.shape or ())
    axis = node.int_attr("axis", 1)
    if numbers.size == 1:
        return Scale(numbers, points[:1])
    if not -rank <= axis < rank:
        return "of unknown rank"
    return Scale(numbers, points, axis % rank)


# -- what can be wrong -----------------------------------------------------------------

_PAIRS: dict[str, tuple[tuple[str, int | None, int, int | None], ...]] = {
    **dict.fromkeys(QUANTIZE, (("its", 1, 2, None),)),
    **dict.fromkeys(DEQUANTIZE, (("its", 1, 2, 0),)),
    **dict.fromkeys(
        ("qonnx.Quant", "qonnx.IntQuant", "qonnx.BipolarQuant"), (("its", 1, 2, None),)
    ),
    "onnx.ConvInteger": (("x's", None, 2, 0), ("w's", None, 3, 1)),
    "onnx.MatMulInteger": (("a's", None, 2, 0), ("b's", None, 3, 1)),
    "onnx.QLinearConv": (("x's", 1, 2, 0), ("w's", 4, 5, 3), ("y's", 6, 7, None)),
    "onnx.QLinearMatMul": (("a's", 1, 2, 0), ("b's", 4, 5, 3), ("y's", 6, 7, None)),
    "ms.QGemm": (("a's", 1, 2, 0), ("b's", 4, 5, 3), ("y's", 7, 8, None)),
    **dict.fromkeys(
        ("ms.QLinearAdd", "ms.QLinearMul"),
        (("a's", 1, 2, 0), ("b's", 4, 5, 3), ("c's", 6, 7, None)),
    ),
    **dict.fromkeys(
        (
            "ms.QLinearGlobalAveragePool", "ms.QLinearAveragePool", "ms.QLinearSigmoid",
            "ms.QLinearLeakyRelu",
        ),
        (("x's", 1, 2, 0), ("y's", 3, 4, None)),
    ),
}  # fmt: skip
"""Whose, operand index of scale (None: it has none), of zero point, and of the data."""


def check_quantisers(graph: Graph, where: str) -> None:
    """Raise all that is wrong with the constant scales and zero points of quantisers and
    quantised operators, those of nested graphs included. `where` is how errors name the graph."""
    errors: list[CompileError] = []
    pending = [graph]
    while pending:
        inner = pending.pop()
        for node in inner.nodes:
            pending += node.graphs()
            errors += [
                CompileError(message, _place(node, where), help)
                for message, help in _problems(node)
            ]
    raise_all(errors)


def _place(node: Node, where: str) -> Span | str:
    if node.span is not None:
        return node.span
    return f"{where}: node '{layer_name(node)}' ({node.op.split('.')[-1]})"


def _problems(node: Node) -> Iterator[tuple[str, str]]:
    for whose, scale, zero, data in _pairs(node):
        yield from _scale_problems(whose, _at(node, scale))
        yield from _zero_problems(whose, _at(node, zero), _at(node, data))
        numbers, points = _at(node, scale), _at(node, zero)
        if node.op not in (*QUANTIZE, *DEQUANTIZE) or numbers is None:
            continue
        yield from _axis_problems(node, numbers)
        if points is None:
            continue
        if numbers.const is not None and points.const is not None:
            have, want = points.const.size, numbers.const.size
            if have != want:
                yield (
                    f"there are {want} scales and {have} zero points",
                    "one zero point belongs to each scale",
                )


def _axis_problems(node: Node, scale: Value) -> Iterator[tuple[str, str]]:
    data = node.arg(0).type
    dims = data.shape if isinstance(data, TensorType) else None
    axis = node.int_attr("axis", 1)
    count = 1 if scale.const is None else scale.const.size
    if dims is None or not -len(dims) <= axis < len(dims) or node.attrs.get("block_size", 0):
        return
    size = dims[axis]
    if count > 1 and isinstance(size, int) and size != count:
        yield (
            f"there are {count} scales, but its data has the size {size} along axis {axis}",
            "one scale belongs to each channel; is `axis` that of the channels?",
        )


def _pairs(node: Node) -> Iterator[tuple[str, int | None, int, int | None]]:
    yield from _PAIRS.get(node.op, ())
    if node.op == "ms.QLinearConcat":
        yield "y's", 0, 1, None
        for k in range(2, len(node.inputs) - 2, 3):
            yield f"input {(k - 2) // 3}'s", k + 1, k + 2, k


def _at(node: Node, index: int | None) -> Value | None:
    return None if index is None else node.operand(index)


def _scale_problems(whose: str, value: Value | None) -> Iterator[tuple[str, str]]:
    if value is None or value.const is None or not is_float(value.elem) or value.elem[0] == "c":
        return
    with np.errstate(all="ignore"):
        numbers: Any = value.const.astype(np.float64).reshape(-1)
    least = float(np.finfo(np.float16 if value.elem == "f16" else np.float32).tiny)
    bad = np.flatnonzero(~(np.isfinite(numbers) & (numbers >= least)))
    if not bad.size:
        return
    which = f" ({bad.size} of {numbers.size} are bad)" if bad.size > 1 else ""
    at = f"[{bad[0]}]" if numbers.size > 1 else ""
    yield (
        f"{whose} scale{at} is {_named(numbers[bad[0]], least)}: expected a positive normal "
        f"{value.elem} number{which}",
        "quantise the model again; a scale is the step between two integers",
    )


def _named(number: float, least: float) -> str:
    return f"{number:g} (denormal)" if 0 < number < least else f"{number:g}"


def _zero_problems(
    whose: str, value: Value | None, data: Value | None
) -> Iterator[tuple[str, str]]:
    if value is None or value.const is None or not is_integer(value.elem):
        return
    wanted = "" if data is None else data.elem
    if wanted and is_integer(wanted) and wanted != value.elem:
        low, high = int_range(wanted)
        shown = ", ".join(str(z) for z in value.const.reshape(-1)[:3])
        yield (
            f"{whose} zero point {shown} is {value.elem}, but the data is {wanted}: expected "
            f"a value of {wanted}, {low} to {high}",
            "zero points have the type of the data",
        )
    elif value.elem == "i32" and value.const.any():
        first = value.const.reshape(-1)[np.flatnonzero(value.const)[0]]
        yield f"{whose} zero point is {first}: int32 data has the zero point 0", "leave it out"
