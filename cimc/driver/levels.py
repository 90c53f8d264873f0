"""Which few levels a float value can take, proved from the graph: how bits are found again
below concatenation, padding, selection and rounding, where no sign says what they are.

NaN is left aside, as a sign does. Knows nothing of layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cimc.driver.elementwise import data_input
from cimc.driver.rewrite import scalar
from cimc.frontend.qonnx import int_limits
from cimc.ir.graph import Node, Value

Levels = frozenset[float]
Look = Callable[[Value | None], Levels | None]

_MOST = 3  # levels that a bit or a ternary number holds
_DEPTH = 12  # operations looked through
_SMALL = 4096  # elements: larger constants are weights
_ENCODED = {"bip": (-1, 1), "tern": (-1, 0, 1), "u1": (0, 1)}
_ARITHMETIC = {
    "onnx.Add": np.add, "onnx.Sub": np.subtract, "onnx.Mul": np.multiply, "onnx.Div": np.divide,
}  # fmt: skip


def levels(value: Value | None, made: dict[Value, Node], depth: int = _DEPTH) -> Levels | None:
    """A set of at most three finite numbers that holds every element of a float32 value,
    whatever the inputs; None if none is known. `made` gives producers."""
    if value is None:
        return None
    if value.const is not None:
        return _limited(value.const.ravel()) if value.const.size <= _SMALL else None
    node = made.get(value)
    if node is None or depth == 0 or value.elem != "f32":
        return None
    if node.op == "cim.dequant":
        encoded = _ENCODED.get(node.arg(0).elem)
        scale = np.float32(node.float_attr("scale", 1.0))
        return None if encoded is None else _limited(scale * np.asarray(encoded, np.float32))
    rule = _RULES.get(node.op)
    if rule is not None:
        return rule(node, lambda v: levels(v, made, depth - 1), made)
    if node.op in _ARITHMETIC:
        return _arithmetic(node, lambda v: levels(v, made, depth - 1))
    return None


def encoding(found: Levels | None) -> tuple[dict[str, Any], float] | None:
    """The attributes of the `cim.sign` that encodes values of these levels, and the scale of
    the `cim.dequant` that gives them back; None if they are not ±a, 0 and a, or ±a and 0."""
    largest = max((abs(v) for v in found or ()), default=0.0)
    if not largest or not found or not found <= {-largest, 0.0, largest}:
        return None
    if 0.0 not in found:
        return {"zero": -1}, largest
    if min(found) == 0.0:
        return {"zero": -1, "to": "u1"}, largest
    return {"zero": 0}, largest


def _limited(numbers: Any) -> Levels | None:
    found = frozenset(float(v) for v in numbers)
    return found if len(found) <= _MOST and np.isfinite(list(found)).all() else None


def _union(*sets: Levels | None) -> Levels | None:
    return None if None in sets else _limited(v for found in sets for v in found or ())


def _picked(node: Node, look: Look, made: dict[Value, Node]) -> Levels | None:
    """Results are elements of the first operand."""
    return look(node.arg(0))


def _concat(node: Node, look: Look, made: dict[Value, Node]) -> Levels | None:
    return _union(*(look(v) for v in node.inputs))


def _pad(node: Node, look: Look, made: dict[Value, Node]) -> Levels | None:
    if node.attrs.get("mode", "constant") != "constant":
        return look(node.arg(0))
    fill: float | None = node.float_attr("value", 0.0)
    if node.operand(2) is not None:
        fill = scalar(node.inputs[2])
    return None if fill is None else _union(look(node.arg(0)), frozenset({fill}))


def _resize(node: Node, look: Look, made: dict[Value, Node]) -> Levels | None:
    cropped = node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    nearest = node.attrs.get("mode", "nearest") == "nearest"
    return look(node.arg(0)) if nearest and not cropped else None


def _where(node: Node, look: Look, made: dict[Value, Node]) -> Levels | None:
    """Both branches; `Where(v == k, c, v)` does without k."""
    condition, high, low = node.arg(0), node.arg(1), node.arg(2)
    compare = made.get(condition)
    kept = look(low)
    if compare is not None and compare.op == "onnx.Equal" and kept is not None:
        k = scalar(compare.inputs[1])
        if compare.arg(0) is low and k is not None:
            kept = kept - {k}
    return _union(look(high), kept)


def _cast(node: Node, look: Look, made: dict[Value, Node]) -> Levels | None:
    return frozenset({0.0, 1.0}) if node.arg(0).elem == "bool" else None


def _binarizer(node: Node, look: Look, made: dict[Value, Node]) -> Levels | None:
    return frozenset({0.0, 1.0})


def _arithmetic(node: Node, look: Look) -> Levels | None:
    index = data_input(node)
    if index is None:
        return None
    other, found = scalar(node.inputs[1 - index]), look(node.arg(index))
    if other is None or found is None:
        return None
    x = np.asarray(sorted(found), np.float32)
    return _limited(_applied(node.op, index, x, other))


def _applied(op: str, index: int, x: Any, other: float) -> Any:
    """The operation's float32 results; overflow is left to the caller."""
    operands = (x, np.float32(other)) if index == 0 else (np.float32(other), x)
    with np.errstate(all="ignore"):
        return _ARITHMETIC[op](*operands)


def _round(node: Node, look: Look, made: dict[Value, Node]) -> Levels | None:
    """The integers between the rounded ends of the operand's range."""
    ends = _range(node.arg(0), made, _DEPTH)
    if ends is None or not np.isfinite(ends).all() or ends[1] - ends[0] > _MOST:
        return None
    return _limited(range(int(np.rint(ends[0])), int(np.rint(ends[1])) + 1))


def _range(value: Value, made: dict[Value, Node], depth: int) -> tuple[float, float] | None:
    """Between which numbers a clipped value lies."""
    node = made.get(value)
    if node is None or depth == 0:
        return None
    if node.op == "onnx.Clip":
        return _clip(node)
    index = data_input(node)
    if node.op not in _ARITHMETIC or index is None:
        return None
    ends, other = _range(node.arg(index), made, depth - 1), scalar(node.inputs[1 - index])
    if ends is None or other is None or (node.op == "onnx.Div" and index == 1):
        return None
    low, high = sorted(_applied(node.op, index, np.asarray(ends, np.float32), other).tolist())
    return low, high


def _clip(node: Node) -> tuple[float, float] | None:
    ends = [scalar(v) for v in node.inputs[1:3]]
    if len(node.inputs) == 1:  # before operator set 11
        ends = [node.float_attr(name, np.nan) for name in ("min", "max")]
    low, high = [*ends, None, None][:2]
    return None if low is None or high is None else (low, max(low, high))


def _quant(node: Node, look: Look, made: dict[Value, Node]) -> Levels | None:
    scale, zero, bits = (scalar(v) for v in node.inputs[1:4])
    signed = bool(node.attrs.get("signed", 1))
    # One signed bit has a definition of its own: see recognise-sign.
    if scale is None or zero is None or bits is None or bits > 2 or (signed and bits <= 1):
        return None
    ends = int_limits(signed, bool(node.attrs.get("narrow", 0)), bits)
    low, high = (int(np.rint(end)) for end in ends)
    steps = np.arange(low, high + 1, dtype=np.float32)
    return _limited((steps - np.float32(zero)) * np.float32(scale))


def _multi_threshold(node: Node, look: Look, made: dict[Value, Node]) -> Levels | None:
    table = node.arg(1).const
    if table is None or table.shape[1] >= _MOST:
        return None
    steps = np.arange(table.shape[1] + 1, dtype=np.float32)
    scale, bias = node.float_attr("out_scale", 1.0), node.float_attr("out_bias", 0.0)
    return _limited(np.float32(scale) * steps + np.float32(bias))


_RULES: dict[str, Callable[[Node, Look, dict[Value, Node]], Levels | None]] = {
    **dict.fromkeys(
        (
            "onnx.Identity", "onnx.Split", "onnx.Slice", "onnx.Gather", "onnx.Expand",
            "onnx.Tile", "onnx.SpaceToDepth", "onnx.DepthToSpace", "onnx.Reshape",
            "onnx.Flatten", "onnx.Squeeze", "onnx.Unsqueeze", "onnx.Transpose",
            "onnx.GlobalMaxPool", "onnx.ReduceMax", "onnx.ReduceMin",
        ),
        _picked,
    ),
    "onnx.Concat": _concat,
    "onnx.Pad": _pad,
    "onnx.Resize": _resize,
    "onnx.Upsample": _resize,
    "onnx.Where": _where,
    "onnx.Cast": _cast,
    "onnx.Round": _round,
    "ml.Binarizer": _binarizer,
    "qonnx.Quant": _quant,
    "qonnx.IntQuant": _quant,
    "qonnx.MultiThreshold": _multi_threshold,
}  # fmt: skip
