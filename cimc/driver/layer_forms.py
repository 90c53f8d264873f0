"""The float layers of a graph in one form: weights as kernels or matrices, where their inputs
come from, and what each output is computed from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cimc.driver.layout import RESHAPES
from cimc.driver.padding import unpadded
from cimc.driver.rewrite import Rewriter
from cimc.driver.stored import held
from cimc.frontend.windows import conv_attrs
from cimc.ir.graph import Node, Value
from cimc.ir.meaning import windows
from cimc.ir.types import Array

_LAYOUT = (*RESHAPES, "onnx.Transpose")
_PLAIN: dict[str, Any] = {"strides": (), "pads": (), "dilations": ()}


@dataclass(frozen=True)
class Layer:
    """A float layer: the operand that its data is, its weights as one convolution kernel or
    matrix, the axes of the channels in weights and result."""

    node: Node
    data: int
    weights: Array
    channels: int
    axis: int


def read_layer(rw: Rewriter, node: Node) -> Layer | str:
    """The form of a float layer, or why it can't be binarised."""
    if node.op == "onnx.ConvTranspose":
        return "transposed convolutions are not binarised"
    others = [v.elem for v in (*node.inputs, *node.outputs) if v is not None and v.elem != "f32"]
    if others:
        return f"it is in {others[0] or 'an unknown type'}: only float32 is binarised"
    values = [held(rw, v) for v in node.inputs[:2] if v is not None]
    if len(values) < 2 or all(w is None for w in values):
        return "its weights are known at run time only"
    if all(w is not None for w in values):
        return "both of its operands are constants"
    data = next(i for i, w in enumerate(values) if w is None)
    found = _form(node, data, values[1 - data])
    if isinstance(found, str):
        return found
    if not found.weights.size or not np.isfinite(found.weights).all():
        return "its weights are empty, infinite or NaN"
    sizes, channels = node.output.tensor.shape, found.weights.shape[found.channels]
    if sizes is None or len(sizes) < 2 or sizes[found.axis] != channels:
        return "its input is a vector, or its shape is not known"
    return found


def _form(node: Node, data: int, w: Any) -> Layer | str:
    if node.op == "onnx.Conv":
        return Layer(node, 0, w, 0, 1) if data == 0 else "its weights are known at run time only"
    turned = [bool(node.int_attr(flag, 0)) for flag in ("transA", "transB")]
    if turned[data]:
        return "it transposes its input"
    while w.ndim > 2 and w.shape[0] == 1:
        w = w[0]  # one matrix for the whole batch
    if w.ndim != 2:
        return f"its weights have the shape {list(w.shape)}: one matrix is expected"
    w = np.ascontiguousarray(w.T if turned[1 - data] else w)
    return Layer(node, data, w, 1, -1) if data == 0 else Layer(node, data, w, 0, -2)


@dataclass(frozen=True)
class Source:
    """Where a layer's input is binarised: below the padding and layout in front of the layer,
    which the levels then pass through. nodes: these, from the value on."""

    value: Value
    nodes: tuple[Node, ...]
    padded: bool


def source_of(rw: Rewriter, layer: Layer) -> Source:
    """Where the data operand of a layer is binarised."""
    value, nodes = layer.node.arg(layer.data), list[Node]()
    padded = layer.node.op == "onnx.Conv" and _pads(layer)
    while (node := rw.producer(value)) is not None:
        inner = unpadded(rw, value)[0]
        if inner is value and (node.op not in _LAYOUT or node.arg(0).elem != "f32"):
            break
        if node.arg(0).const is not None:
            break
        padded |= inner is not value
        nodes.append(node)
        value = node.arg(0)
    return Source(value, tuple(reversed(nodes)), padded)


def _pads(layer: Layer) -> bool:
    """Whether zeros may lie around the input of a convolution."""
    attrs = conv_attrs(layer.node, layer.weights.shape[2:])
    return attrs is None or any(attrs.get("pads", ()))


class Kernels:
    """A layer's weights as matrices, and what they see: [groups, inputs, outputs] and
    [groups, positions, inputs], whatever the operation."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self.groups = layer.node.int_attr("group", 1) if layer.axis == 1 else 1
        self._attrs = conv_attrs(layer.node, layer.weights.shape[2:]) if layer.axis == 1 else {}

    @property
    def known(self) -> bool:
        """Whether the window of a convolution is."""
        return self._attrs is not None

    def matrices(self, q: Array) -> Array:
        """Levels in the form of the weights."""
        if self._layer.axis == 1:
            return q.reshape(self.groups, -1, q[0].size).transpose(0, 2, 1)
        return (q.T if self._layer.channels == 0 else q)[None]

    def back(self, matrices: Array) -> Array:
        """The inverse of `matrices`."""
        shape = self._layer.weights.shape
        if self._layer.axis == 1:
            return matrices.transpose(0, 2, 1).reshape(shape)
        found: Array = matrices[0].T if self._layer.channels == 0 else matrices[0]
        return found

    def inputs(self, x: Array, most: int) -> Array:
        """What each output position of a sample is computed from, up to `most` positions spread
        evenly."""
        if self._layer.axis != 1:
            return _spread(self._rows(x), most)
        kernel = self._layer.weights.shape[2:]
        view = windows(x, kernel, {**_PLAIN, **(self._attrs or {})}, 0.0)
        rank, group = len(kernel), self.groups
        view = view.reshape(len(x), group, -1, *view.shape[2:])
        axes = (1, 0, *range(3, 3 + rank), 2, *range(3 + rank, view.ndim))
        taps = view.shape[2] * int(np.prod(kernel))
        return _spread(view.transpose(axes).reshape(group, -1, taps), most)

    def outputs(self, y: Array, most: int) -> Array:
        """The outputs at the same positions: [groups, positions, outputs]."""
        if self._layer.axis != 1:
            return _spread(self._rows(y), most)
        rows = np.moveaxis(y, 1, -1).reshape(-1, self.groups, y.shape[1] // self.groups)
        return _spread(rows.transpose(1, 0, 2), most)

    def _rows(self, x: Array) -> Array:
        x = np.swapaxes(x, -1, -2) if self._layer.axis == -2 else x
        return x.reshape(1, -1, x.shape[-1])


def _spread(rows: Array, most: int) -> Array:
    count = rows.shape[1]
    return rows[:, np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))]
