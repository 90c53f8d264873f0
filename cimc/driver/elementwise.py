"""Float operations that act on each element alone, and which of them never decrease.

One row an operation; used to look through the float work between an integer accumulator
and a sign. Other operands must be constants.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cimc.ir.graph import Node


def data_input(node: Node) -> int | None:
    """The index of the only operand that is not a constant, if the operation is element-wise
    in it; None otherwise."""
    if node.op not in RISING or len(node.outputs) != 1:
        return None
    if node.op == "onnx.BatchNormalization" and not node.int_attr("spatial", 1):
        return None  # its parameters differ at each position
    dynamic = [i for i, v in enumerate(node.inputs) if v is not None and v.const is None]
    if len(dynamic) != 1 or (node.op not in _EITHER_SIDE and dynamic != [0]):
        return None
    return dynamic[0]


def rising(node: Node) -> bool:
    """Whether the operation never decreases along its data operand, for every element."""
    return RISING[node.op](node)


def _const(node: Node, index: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None:
    value = node.operand(index)
    return None if value is None or value.const is None else value.const.astype(np.float64)


def _always(node: Node) -> bool:
    return True


def _never(node: Node) -> bool:
    return False


def _factor(node: Node) -> bool:
    other = _const(node, 1 - (data_input(node) or 0))
    return other is not None and bool(np.all(other >= 0))


def _divisor(node: Node) -> bool:
    other = _const(node, 1)
    return other is not None and bool(np.all(other > 0))


def _minuend(node: Node) -> bool:
    return data_input(node) == 0


def _batch_norm(node: Node) -> bool:
    scale = _const(node, 1)
    return scale is not None and bool(np.all(scale >= 0))


def _scale(node: Node) -> bool:
    return node.float_attr("scale", 1.0) >= 0


def _quant(node: Node) -> bool:
    return _divisor(node) and all(_const(node, i) is not None for i in (2, 3))


def _quantiser(node: Node) -> bool:
    """One scale for all elements, above zero: what else there is is no plain step."""
    scale = _const(node, 1)
    return scale is not None and scale.size == 1 and bool(np.all(scale > 0))


def _steps(node: Node) -> bool:
    return node.float_attr("out_scale", 1.0) >= 0 and _const(node, 1) is not None


def _slope(node: Node) -> bool:
    return node.float_attr("alpha", 0.01) >= 0


def _slopes(node: Node) -> bool:
    return _divisor(node) or _factor(node)


def _quantised_sum(node: Node) -> bool:
    """Of integers: the scales of x, y and the result are above zero."""
    scales = [_const(node, i) for i in (1, 4, 6)]
    return all(s is not None and bool(np.all(s > 0)) for s in scales)


def _quantised_product(node: Node) -> bool:
    """By a factor that is nowhere below its zero point."""
    at = 3 if data_input(node) == 0 else 0
    factor, zero = _const(node, at), _const(node, at + 2)
    if factor is None or not _quantised_sum(node):
        return False
    return bool(np.all(factor >= (0 if zero is None else zero)))


QLINEAR = ("ms.QLinearAdd", "ms.QLinearMul")
"""Of two quantised operands, each with its scale and zero point."""
_EITHER_SIDE = (
    "onnx.Add", "onnx.Mul", "onnx.Sub", "onnx.Max", "onnx.Min", "onnx.Div", *QLINEAR,
)  # fmt: skip

# Approximated functions (Sigmoid, Exp, …) may fall by an ulp: they count as not rising.
RISING: dict[str, Callable[[Node], bool]] = {
    "onnx.Add": _always,
    "onnx.Sub": _minuend,
    "onnx.Mul": _factor,
    "onnx.Div": _divisor,
    "onnx.Max": _always,
    "onnx.Min": _always,
    "onnx.BatchNormalization": _batch_norm,
    "onnx.Relu": _always,
    "onnx.Clip": _always,
    "onnx.LeakyRelu": _slope,
    "onnx.PRelu": _slopes,
    "onnx.Sigmoid": _never,
    "onnx.Tanh": _never,
    "onnx.Softsign": _never,
    "onnx.Softplus": _never,
    "onnx.Erf": _never,
    "onnx.HardSigmoid": _never,
    "onnx.HardSwish": _never,
    "onnx.Elu": _never,
    "onnx.Exp": _never,
    "onnx.Sqrt": _never,
    "onnx.Pow": _never,
    "onnx.Reciprocal": _never,
    "onnx.Abs": _never,
    "onnx.Neg": _never,
    "onnx.Floor": _always,
    "onnx.Ceil": _always,
    "onnx.Round": _always,
    "onnx.Sign": _always,
    "onnx.Identity": _always,
    "cim.dequant": _scale,
    "cim.sign": _always,
    "cim.relu": _always,
    "cim.quantize": _always,
    "onnx.QuantizeLinear": _quantiser,
    "ms.QuantizeLinear": _quantiser,
    "ms.QLinearAdd": _quantised_sum,
    "ms.QLinearMul": _quantised_product,
    "qonnx.Quant": _quant,
    "qonnx.IntQuant": _quant,
    "qonnx.MultiThreshold": _steps,
}
"""Whether an operation never decreases, by name; its keys are the element-wise operations."""
