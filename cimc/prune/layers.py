"""Layers that sum over channels: which operand holds the kernels, and along which axes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cimc.ir.graph import Node, Value
from cimc.ir.types import TensorType


@dataclass(frozen=True)
class Layer:
    """data, weights: operands. out_axis: the axis of the weights that counts kernels, in_axis
    the one that counts the inputs of a kernel (of a group's). data_axis, result_axis: the axis
    of channels in the data and in the result, counted from the end for products. bias: the operand
    that is added, if there may be one. zero: the operand that is the weights' zero point, shift the
    one that is the data's."""

    data: int
    weights: int
    out_axis: int
    in_axis: int
    data_axis: int
    result_axis: int
    bias: int | None = None
    zero: int | None = None
    shift: int | None = None
    spatial: bool = False

    def oriented(self, node: Node, constant: Callable[[Value], bool]) -> Layer | None:
        """The layer of this operation, its transposed and exchanged operands resolved; None where
        it has no kernels of this form. constant: whether a value follows from constants, and so
        may hold kernels on the left side of a product."""
        if node.op == "onnx.ConvTranspose" and node.int_attr("group", 1) > 1:
            return None
        if self.spatial:
            return self
        if node.op in ("onnx.Gemm", "ms.QGemm"):
            turned = bool(node.int_attr("transB", 0))
            data_axis = 0 if node.int_attr("transA", 0) else 1
            return replace(self, out_axis=1 - turned, in_axis=0 + turned, data_axis=data_axis)
        left, right = node.operand(self.data), node.operand(self.weights)
        if left is None or right is None:
            return None
        if _rank(left) is None or _rank(right) is None:
            return None
        if constant(left):  # kernels are the rows of the left side
            found = Layer(self.weights, self.data, -2, -1, -2, -2, zero=self.shift, shift=self.zero)
            return found if min(_rank(left) or 0, _rank(right) or 0) >= 2 else None
        return self if (_rank(right) or 0) >= 2 and (_rank(left) or 0) >= 1 else None

    def rows(self, array: Any, groups: int = 1) -> Any:
        """Weights, or what lies like them, as [groups, kernels of a group, columns, taps]."""
        found = np.moveaxis(array, self._axes(array.ndim), (0, 1))
        return found.reshape(groups, len(found) // groups, found.shape[1], -1)

    def weights_of(self, rows: Any, shape: tuple[int, ...]) -> Any:
        """The inverse of `rows`, for weights of that shape."""
        order = np.moveaxis(np.empty(shape, np.bool_), self._axes(len(shape)), (0, 1)).shape
        return np.moveaxis(rows.reshape(order), (0, 1), self._axes(len(shape)))

    def _axes(self, rank: int) -> tuple[int, int]:
        return self.out_axis % rank, self.in_axis % rank


def _rank(value: object) -> int | None:
    type_ = getattr(value, "type", None)
    if not isinstance(type_, TensorType) or type_.shape is None:
        return None
    return len(type_.shape)


_CONV = Layer(0, 1, 0, 1, 1, 1, bias=2, spatial=True)
_PRODUCT = Layer(0, 1, -1, -2, -1, -1)

LAYERS: dict[str, Layer] = {
    "onnx.Conv": _CONV,
    "onnx.ConvTranspose": replace(_CONV, out_axis=1, in_axis=0),
    "onnx.ConvInteger": replace(_CONV, bias=None, zero=3, shift=2),
    "onnx.QLinearConv": replace(_CONV, weights=3, bias=8, zero=5, shift=2),
    "cim.conv": replace(_CONV, bias=4, zero=3, shift=2),
    "onnx.Gemm": replace(_PRODUCT, bias=2),
    "ms.QGemm": replace(_PRODUCT, weights=3, bias=6, zero=5, shift=2),
    "onnx.MatMul": _PRODUCT,
    "onnx.MatMulInteger": replace(_PRODUCT, zero=3, shift=2),
    "onnx.QLinearMatMul": replace(_PRODUCT, weights=3, zero=5, shift=2),
    "cim.matmul": replace(_PRODUCT, bias=4, zero=3, shift=2),
}
"""By operation. ConvTranspose has its kernels on the second axis of its weights."""
