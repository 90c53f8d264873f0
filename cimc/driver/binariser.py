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
from cimc.driver.layer_forms import Kernels, Layer, Source, source_of
from cimc.driver.refine import Refiner, worth
from cimc.driver.rewrite import Rewriter
from cimc.driver.trace import Trace, check_finite
from cimc.errors import CompileError
from cimc.ir.graph import Graph, Node, Value, layer_name
from cimc.ir.types import Array, TensorType

Nearest = Callable[[Array, int], tuple[Array, Array]]
"""From weights and the axis of their channels to levels and a scale for each channel."""
_FITTED = 1 << 22  # numbers that levels are fitted to


@dataclass(frozen=True)
class Binarised:
    """What became of a layer. Errors are root mean squares of its output, relative to that of the
    float output: `added` by its own levels on float inputs, `total` in the whole network."""

    layer: str
    inputs: str
    added: float
    total: float


@dataclass(frozen=True)
class _Encoded:
    """Bits of a value: what they stand for, and the operations that make them."""

    bits: Value
    levels: TwoLevels
    nodes: list[Node]


class Binariser:
    """One run over a graph, which it changes; keeps a float copy beside it."""

    def __init__(
        self,
        graph: Graph,
        layers: Sequence[Layer],
        samples: Sequence[dict[str, Array]],
        nearest: Nearest,
        levels: tuple[int, ...] = (),
    ) -> None:
        """levels: those that refined weights may have; empty to leave them as `nearest`."""
        self.rw, self._layers = Rewriter(graph), layers
        self._nearest, self._levels = nearest, levels
        twin, original = clone(graph)
        self._floats, self._now = Trace(twin, samples), Trace(graph, samples)
        self._twins = {node: copy for copy, node in original.items()}
        pairs = zip(graph.all_values(), twin.all_values())
        self._float_of: dict[Value, Value] = dict(pairs)
        self._known: dict[tuple[Value, bool], _Encoded] = {}
        self.left: list[str] = []
        """Layers too large to refine."""

    def run(self, progress: Callable[[int, int], None] | None) -> list[Binarised]:
        """Binarise the layers in order; each against its float output, by the inputs that those
        before it give now. Raises CompileError where data makes infinity or NaN."""
        found = []
        for index, layer in enumerate(self._layers):
            found.append(self._binarise(layer, self._layers[index:]))
            if progress is not None:
                progress(index + 1, len(self._layers))
        return found

    def outputs(self) -> tuple[list[Array], list[Array]]:
        """The first output on each sample, of the float network and of the present one."""
        for trace in (self._floats, self._now):
            trace.run_before(None)
        value = self._now.graph.outputs[0]
        return self._floats[self._floats.graph.outputs[0]], self._now[value]

    def _binarise(self, layer: Layer, rest: Sequence[Layer]) -> Binarised:
        rw, node, place = self.rw, layer.node, f"layer '{layer_name(layer.node)}'"
        keep, twin = [source_of(rw, other).value for other in rest], self._twins[layer.node]
        self._now.run_before(node, keep)
        self._floats.run_before(twin, [self._float_of[v] for v in keep])
        source = source_of(rw, layer)
        check_finite(self._now[source.value], "its input", place)
        (expected,) = self._floats.apart([twin], [twin.output])
        check_finite(expected, "its output", place)
        encoded, start = self._encode(source, node), rw.graph.nodes.index(node)
        x = self._through(source.nodes, encoded.bits, node)
        w, alpha = self._weights(layer, [*encoded.nodes, *self._made(start, node)], x, expected)
        sums = self._sums(layer, x, w)
        (given,) = self._now.apart([*encoded.nodes, *self._made(start, node)], [sums])
        line = Line(len(alpha))
        for one, other in zip(given, expected):
            line.take(one, other, layer.axis)
        gain, shift = line.fit(encoded.levels.size * alpha)
        if not (np.isfinite(gain).all() and np.isfinite(shift).all()):
            raise CompileError("its scale leaves float32", place, help="leave it out: skip=…")
        out = self._line(layer, sums, gain, shift)
        made = [*encoded.nodes, *self._made(start, node)]
        (now,) = self._now.apart(made, [out])
        floats = {source.value: self._floats[self._float_of[source.value]]}
        (alone,) = self._now.apart(made, [out], floats)
        self._float_of[out] = self._float_of[node.output]
        rw.replace(node.output, out)
        rw.graph.nodes.remove(node)
        errors = _relative(alone, expected), _relative(now, expected)
        return Binarised(layer_name(node), encoded.levels.text, *errors)

    def _made(self, start: int, before: Node) -> list[Node]:
        return self.rw.graph.nodes[start : self.rw.graph.nodes.index(before)]

    def _encode(self, source: Source, before: Node) -> _Encoded:
        """Bits of a value, made once for all layers that take them alike."""
        key = source.value, source.padded
        if key not in self._known:
            arrays, start = self._now[source.value], self.rw.graph.nodes.index(before)
            part = arrays[:: -(-max(1, sum(a.size for a in arrays)) // _FITTED)]
            found = two_levels(np.concatenate([a.ravel() for a in part]), not source.padded)
            bits = self._bits(source.value, found, before)
            self._known[key] = _Encoded(bits, found, self._made(start, before))
        return self._known[key]

    def _bits(self, x: Value, found: TwoLevels, before: Node) -> Value:
        """`Where(x > threshold, high, low)`"""
        rw, low = self.rw, "zero" if found.low == 0 else "minus_one"
        numbers = {f"{x.name}.th": found.threshold, "one": found.high, low: found.low}
        at, high, least = (
            rw.shared(name, np.asarray(number, np.float32), "f32")
            for name, number in numbers.items()
        )
        type_ = TensorType("bool", x.tensor.shape)
        above = rw.op("onnx.Greater", [x, at], f"{x.name}.above", before, {}, type_)
        return rw.op("onnx.Where", [above, high, least], f"{x.name}.bits", before, {}, x.tensor)

    def _through(self, nodes: Sequence[Node], x: Value, before: Node) -> Value:
        """Padding and layout, again, on the bits."""
        for node in nodes:
            operands = [x, *node.inputs[1:]]
            name = f"{node.output.name}.bits"
            x = self.rw.op(node.op, operands, name, before, dict(node.attrs), node.output.tensor)
        return x

    def _weights(
        self, layer: Layer, made: list[Node], x: Value, expected: Sequence[Array]
    ) -> tuple[Value, Any]:
        """The levels of the weights as a constant, and their scales."""
        levels, alpha = self._nearest(layer.weights, layer.channels)
        if self._levels:
            given = self._now.apart(made, [x])[0] if made else self._now[x]
            levels = self._refined(layer, levels, given, expected)
        name = f"{layer.node.arg(1 - layer.data).name}.levels"
        return self.rw.const(name, levels.astype(np.float32), "f32"), alpha

    def _refined(
        self, layer: Layer, levels: Array, given: Sequence[Array], expected: Sequence[Array]
    ) -> Array:
        kernels = Kernels(layer)
        q = kernels.matrices(levels)
        if not (kernels.known and worth(q)):
            self.left.append(layer_name(layer.node))
            return levels
        tops = np.max([np.abs(kernels.outputs(y, y.size)).max(1) for y in expected], 0)
        refiner = Refiner(len(q), q.shape[1], tops)
        most = max(1, refiner.most // len(given))
        for x, y in zip(given, expected):
            refiner.take(kernels.inputs(x, most), kernels.outputs(y, most))
        return kernels.back(refiner.refine(q, self._levels))

    def _sums(self, layer: Layer, x: Value, w: Value) -> Value:
        """The layer on bits and levels: exact sums."""
        node, y = layer.node, layer.node.output
        conv = node.op == "onnx.Conv"
        operands, attrs = [x, w] if layer.data == 0 else [w, x], dict(node.attrs) if conv else {}
        op = "onnx.Conv" if conv else "onnx.MatMul"
        return self.rw.op(op, operands, f"{y.name}.sum", node, attrs, y.tensor)

    def _line(self, layer: Layer, sums: Value, gain: Array, shift: Array) -> Value:
        """sums * gain + shift"""
        rw, node, y = self.rw, layer.node, layer.node.output
        rank = len(y.tensor.shape or ())
        wide = (-1, *(1,) * (rank - 1 - layer.axis % rank))
        factor = rw.const(f"{y.name}.gain", gain.reshape(wide), "f32")
        term = rw.const(f"{y.name}.shift", shift.reshape(wide), "f32")
        scaled = rw.op("onnx.Mul", [sums, factor], f"{y.name}.scaled", node, {}, y.tensor)
        return rw.op("onnx.Add", [scaled, term], f"{y.name}.shifted", node, {}, y.tensor)


def _relative(found: Sequence[Any], expected: Sequence[Any]) -> float:
    """Root mean square of the difference, relative to what is expected."""
    off = sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in zip(found, expected))
    size = sum(float(np.square(b, dtype=np.float64).sum()) for b in expected)
    return float(np.sqrt(off / size)) if size else 0.0
