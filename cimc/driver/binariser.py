"""Gives float layers weights of two or three levels and inputs of two, layer by layer, by
calibration data.

Works on the float layers that it is given; which, and what is said of it, is for passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cimc.driver.clone import clone
from cimc.driver.few_levels import Line, TwoLevels, two_levels
from cimc.driver.layout import RESHAPES
from cimc.driver.padding import unpadded
from cimc.driver.rewrite import Rewriter
from cimc.driver.stored import held
from cimc.driver.trace import Trace, check_finite
from cimc.errors import CompileError
from cimc.frontend.windows import conv_attrs
from cimc.ir.graph import Graph, Node, Value, layer_name
from cimc.ir.types import Array, TensorType

Nearest = Callable[[Array, int], tuple[Array, Array]]
"""From weights and the axis of their channels to levels and a scale for each channel."""
_LAYOUT = (*RESHAPES, "onnx.Transpose")
_FITTED = 1 << 22  # numbers that levels are fitted to


@dataclass(frozen=True)
class Layer:
    """A float layer: the operand that its data is, its weights as one convolution kernel or
    matrix, the axes of the channels in weights and result."""

    node: Node
    data: int
    weights: Array
    channels: int
    axis: int


@dataclass(frozen=True)
class Binarised:
    """What became of a layer. Errors are root mean squares of its output, relative to that of the
    float output: `added` by its own levels on float inputs, `total` in the whole network."""

    layer: str
    inputs: str
    added: float
    total: float


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
class _Source:
    """Where a layer's input is binarised: below the padding and layout in front of the layer,
    which the levels then pass through. nodes: these, from the value on."""

    value: Value
    nodes: tuple[Node, ...]
    padded: bool


def _source(rw: Rewriter, layer: Layer) -> _Source:
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
    return _Source(value, tuple(reversed(nodes)), padded)


def _pads(layer: Layer) -> bool:
    """Whether zeros may lie around the input of a convolution."""
    attrs = conv_attrs(layer.node, layer.weights.shape[2:])
    return attrs is None or any(attrs.get("pads", ()))


class Binariser:
    """One run over a graph, which it changes; keeps a float copy beside it."""

    def __init__(
        self, graph: Graph, layers: Sequence[Layer], samples: Sequence[dict[str, Array]]
    ) -> None:
        self.rw, self._layers = Rewriter(graph), layers
        twin, original = clone(graph)
        self._floats, self._now = Trace(twin, samples), Trace(graph, samples)
        self._twins = {node: copy for copy, node in original.items()}
        pairs = zip(graph.all_values(), twin.all_values())
        self._float_of: dict[Value, Value] = dict(pairs)
        self._encoded: dict[tuple[Value, bool], tuple[Value, list[Node], TwoLevels]] = {}

    def run(self, nearest: Nearest, progress: Callable[[int, int], None] | None) -> list[Binarised]:
        """Binarise the layers in order; each against its float output, by the inputs that those
        before it give now. Raises CompileError where data makes infinity or NaN."""
        found = []
        for index, layer in enumerate(self._layers):
            found.append(self._binarise(layer, self._layers[index:], nearest))
            if progress is not None:
                progress(index + 1, len(self._layers))
        return found

    def outputs(self) -> tuple[list[Array], list[Array]]:
        """The first output on each sample, of the float network and of the present one."""
        for trace in (self._floats, self._now):
            trace.run_before(None)
        value = self._now.graph.outputs[0]
        return self._floats[self._floats.graph.outputs[0]], self._now[value]

    def _binarise(self, layer: Layer, rest: Sequence[Layer], nearest: Nearest) -> Binarised:
        rw, node, twin = self.rw, layer.node, self._twins[layer.node]
        keep = [_source(rw, other).value for other in rest]
        self._now.run_before(node, keep)
        self._floats.run_before(twin, [self._float_of[v] for v in keep])
        source, name = _source(rw, layer), layer_name(node)
        check_finite(self._now[source.value], "its input", f"layer '{name}'")
        bits, encoders, levels = self._encode(source, node)
        start = rw.graph.nodes.index(node)
        x = self._through(source.nodes, bits, node)
        q, alpha = nearest(layer.weights, layer.channels)
        w = rw.const(f"{node.arg(1 - layer.data).name}.levels", q.astype(np.float32), "f32")
        operands = [x, w] if layer.data == 0 else [w, x]
        op = "onnx.Conv" if node.op == "onnx.Conv" else "onnx.MatMul"
        attrs = dict(node.attrs) if op == "onnx.Conv" else {}
        y, shape = node.output, node.output.tensor
        sums = rw.op(op, operands, f"{y.name}.sum", node, attrs, shape)
        made = [*encoders, *rw.graph.nodes[start : rw.graph.nodes.index(node)]]
        (expected,) = self._floats.apart([twin], [twin.output])
        check_finite(expected, "its output", f"layer '{name}'")
        (given,) = self._now.apart(made, [sums])
        line = Line(len(alpha))
        for one, other in zip(given, expected):
            line.take(one, other, layer.axis)
        rank = len(shape.shape or ())
        wide = (-1, *(1,) * (rank - 1 - layer.axis % rank))
        gain, shift = (a.reshape(wide) for a in line.fit(alpha * levels.size))
        if not (np.isfinite(gain).all() and np.isfinite(shift).all()):
            raise CompileError("its scale leaves float32", f"layer '{name}'", help="skip it")
        factor, term = (
            rw.const(f"{y.name}.gain", gain, "f32"),
            rw.const(f"{y.name}.shift", shift, "f32"),
        )
        out = rw.op("onnx.Mul", [sums, factor], f"{y.name}.scaled", node, {}, shape)
        out = rw.op("onnx.Add", [out, term], f"{y.name}.shifted", node, {}, shape)
        inputs = {source.value: self._floats[self._float_of[source.value]]}
        end = rw.graph.nodes.index(node)
        made += rw.graph.nodes[end - 2 : end]
        (alone,) = self._now.apart(made, [out], inputs)
        total = _relative([a * gain + shift for a in given], expected)
        self._float_of[out] = self._float_of[y]
        rw.replace(y, out)
        rw.graph.nodes.remove(node)
        return Binarised(name, levels.text, _relative(alone, expected), total)

    def _encode(self, source: _Source, before: Node) -> tuple[Value, list[Node], TwoLevels]:
        """Rule 2: bits of a value, made once, and the operations that make them."""
        key = source.value, source.padded
        if key not in self._encoded:
            arrays = self._now[source.value]
            size = max(1, sum(a.size for a in arrays))
            part = arrays[:: -(-size // _FITTED)]
            found = two_levels(np.concatenate([a.ravel() for a in part]), not source.padded)
            self._encoded[key] = self._bits(source.value, found, before)
        return self._encoded[key]

    def _bits(
        self, x: Value, found: TwoLevels, before: Node
    ) -> tuple[Value, list[Node], TwoLevels]:
        rw, none = self.rw, TensorType("bool", x.tensor.shape)
        at, high, low = (
            rw.shared(name, np.asarray(number, np.float32), "f32")
            for name, number in (
                (f"{x.name}.th", found.threshold),
                ("one", found.high),
                ("zero" if found.low == 0 else "minus_one", found.low),
            )
        )
        above = rw.op("onnx.Greater", [x, at], f"{x.name}.above", before, {}, none)
        bits = rw.op("onnx.Where", [above, high, low], f"{x.name}.bits", before, {}, x.tensor)
        end = rw.graph.nodes.index(before)
        return bits, rw.graph.nodes[end - 2 : end], found

    def _through(self, nodes: Sequence[Node], x: Value, before: Node) -> Value:
        """Padding and layout, again, on the bits."""
        for node in nodes:
            operands = [x, *node.inputs[1:]]
            name = f"{node.output.name}.bits"
            x = self.rw.op(node.op, operands, name, before, dict(node.attrs), node.output.tensor)
        return x


def _relative(found: Sequence[Any], expected: Sequence[Any]) -> float:
    """Root mean square of the difference, relative to what is expected."""
    off = sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in zip(found, expected))
    size = sum(float(np.square(b, dtype=np.float64).sum()) for b in expected)
    return float(np.sqrt(off / size)) if size else 0.0
