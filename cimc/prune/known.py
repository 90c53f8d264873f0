"""What is known of a network without its input: partial evaluation, element by element.

A kernel of zeros makes its bias at every position; what normalisations, activations and pools
make of that is known as well, and so is a sum over columns of which all that count are known,
position by position at padded borders. Everything is computed by the operations themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cimc.driver.rewrite import RANDOM
from cimc.errors import CompileError
from cimc.frontend.evaluate import Evaluator
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.types import TensorType, container
from cimc.prune.layers import LAYERS, Layer
from cimc.prune.ties import ELEMENTWISE


@dataclass(frozen=True)
class Partial:
    """values: an array, symbolic sizes being 1; unknown: where its elements mean nothing, bool of
    the same shape."""

    values: Any
    unknown: Any


class Known:
    """The elements of a graph's values that do not depend on its inputs.

    partial: by value; a value of which nothing is known is not in it. Along an axis of symbolic
    size all elements are alike, and stand as one.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.partial: dict[Value, Partial] = {}
        for node in graph.nodes:
            try:
                self._node(node)
            except CompileError:
                continue  # an operation that fails on sizes of 1 is not known

    def of(self, value: Value | None) -> Partial | None:
        """What is known of a value, if anything."""
        if value is None:
            return None
        if value.const is not None:
            return Partial(value.const, np.zeros(value.const.shape, np.bool_))
        return self.partial.get(value)

    def _node(self, node: Node) -> None:
        if node.graphs() or node.op in RANDOM or _trains(node):
            return
        if not all(_sized(v) for v in (*node.inputs, *node.outputs)):
            return
        for value, partial in self._results(node).items():
            if partial.values.shape == _shape(value) and not partial.unknown.all():
                self.partial[value] = partial

    def _results(self, node: Node) -> dict[Value, Partial]:
        row = LAYERS.get(node.op)
        layer = None if row is None else row.oriented(node, self._only_left(node, row))
        if layer is not None:
            return self._layer(node, layer)
        data = [v for v in node.inputs if v is not None and v.const is None]
        if not data:
            return self._evaluated(node)
        if node.op in _BY_ELEMENT:
            return self._elementwise(node)
        if not any(v in self.partial for v in data):
            return {}
        if node.op in _BY_TAP:
            return self._by_tap(node)
        if node.op in _LAYOUT:
            return self._moved(node)
        if node.op in _BY_FIRST and data == [node.inputs[0]]:
            return self._evaluated(node, {node.outputs[0]: self._unknown(data[0])})
        whole = all(map(self._whole, data)) and all(map(_static, node.reads()))
        return self._evaluated(node) if whole else {}

    # -- how operations pass on what is known --

    def _evaluated(
        self, node: Node, unknown: Mapping[Value, Any] | None = None
    ) -> dict[Value, Partial]:
        """The results on the values at hand. unknown: where they mean nothing, for those that are
        wanted; without it all are, and are known."""
        arrays = {v: self._values(v) for v in node.inputs if v is not None}
        found = evaluate(self.graph, node, arrays)
        if unknown is None:
            return {v: Partial(a, np.zeros(a.shape, np.bool_)) for v, a in found.items()}
        return {v: Partial(found[v], u) for v, u in unknown.items()}

    def _values(self, value: Value) -> Any:
        partial = self.of(value)
        if partial is not None:
            return partial.values
        return np.zeros(_shape(value), container(value.elem))

    def _only_left(self, node: Node, row: Layer) -> Callable[[Value], bool]:
        """Whether a left side is known as a whole where the right side isn't, which else holds the
        kernels."""
        right = node.operand(row.weights)
        return lambda left: self._whole(left) and (right is None or not self._whole(right))

    def _whole(self, value: Value) -> bool:
        partial = self.of(value)
        return partial is not None and not partial.unknown.any()

    def _unknown(self, value: Value) -> Any:
        partial = self.of(value)
        return np.ones(_shape(value), np.bool_) if partial is None else partial.unknown

    def _elementwise(self, node: Node) -> dict[Value, Partial]:
        """Known where all operands are, and where a factor is zero."""
        inputs, result = [v for v in node.inputs if v is not None], node.outputs[0]
        scale = inputs[1:2] if node.op == "onnx.BatchNormalization" else inputs
        factors = [v for v in scale if self.of(v) is not None and node.op in _PRODUCTS]
        if not factors and any(self.of(v) is None for v in inputs):
            return {}
        shape = _shape(result)
        unknown, zero = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        for value in inputs:
            unknown = unknown | _lying(node, self._unknown(value), len(shape))
        for value in factors:
            nothing = (self._values(value) == 0) & ~self._unknown(value)
            zero = zero | _lying(node, nothing, len(shape))
        unknown = unknown & ~zero
        return {} if unknown.all() else self._evaluated(node, {result: unknown})

    def _by_tap(self, node: Node) -> dict[Value, Partial]:
        """Known where all elements that are summed, averaged or compared are."""
        x, result = node.arg(0), node.outputs[0]
        if _counts(node) and not _static(x):
            return {}
        op, attrs = _BY_TAP[node.op], dict(node.attrs)
        if "kernel" in attrs:
            attrs["kernel_shape"] = attrs.pop("kernel")
        attrs = {k: v for k, v in attrs.items() if k not in ("count_include_pad", "zero")}
        others = [v for v in node.inputs[1:] if v is not None and op.startswith("onnx.Reduce")]
        unknown = self._flagged(op, attrs, x, result, others)
        return {} if unknown.all() else self._evaluated(node, {result: unknown})

    def _moved(self, node: Node) -> dict[Value, Partial]:
        """What is moved stays as known as it is; what is filled in is known."""
        count = _LAYOUT[node.op]
        if any(v is not None and v.const is None for v in node.inputs[count:]):
            return {}
        if node.attrs.get("mode") == "cubic":
            return {}  # its weights may cancel out
        arrays: dict[Value, Any] = {}
        inputs: list[Value | None] = []
        for slot, value in enumerate(node.inputs):
            flag = value
            if value is not None and slot < count:
                flag = Value(f"flag{slot}", TensorType("f32", _shape(value)))
                arrays[flag] = self._unknown(value).astype(np.float32)
            elif value is not None and node.op == "onnx.Pad" and slot == 2:
                flag = None  # what it fills in is flagged 0
            elif value is not None:
                arrays[value] = value.const
            inputs.append(flag)
        outs = [Value(v.name, TensorType("f32", v.tensor.shape)) for v in node.outputs]
        attrs = {k: v for k, v in node.attrs.items() if k != "value"}
        found = evaluate(self.graph, Node(node.op, inputs, outs, attrs), arrays)
        return self._evaluated(node, {v: found[o] != 0 for v, o in zip(node.outputs, outs)})

    def _layer(self, node: Node, layer: Layer) -> dict[Value, Partial]:
        """Known where each product that may not be zero is of known data. Weights are constants or
        known as a whole; so are bias and zero points, but that of the data where all its weights
        are zero."""
        x, w = node.arg(layer.data), self.of(node.arg(layer.weights))
        op = _FLAGGED.get(node.op)
        if w is None or w.unknown.any() or op is None or node.attrs.get("up"):
            return {}
        if not _static(node.arg(layer.weights)):
            return {}
        counts = effective(node, layer, w.values, self)
        if counts is None:
            return {}
        others = tuple(i for i in range(counts.ndim) if i != layer.out_axis % counts.ndim)
        if self.of(x) is None and counts.any(axis=others).all():
            return {}  # no kernel of zeros
        flags = Value("flags", TensorType("f32", counts.shape), const=counts.astype(np.float32))
        attrs = {k: v for k, v in node.attrs.items() if k not in ("alpha", "beta")}
        swap = layer.data > layer.weights and op == "onnx.MatMul"
        if slides_alike(node, layer):
            unknown = self._flagged(op, attrs, x, node.outputs[0], [flags], swap)
        else:  # only kernels of zeros are known
            shape = [1] * len(_shape(node.outputs[0]))
            shape[layer.result_axis] = -1
            live: Any = counts.any(axis=others).reshape(shape)
            unknown = np.broadcast_to(live, _shape(node.outputs[0]))
        rest = [v for i, v in enumerate(node.inputs) if i not in (layer.data, layer.weights)]
        loose: set[Value | None] = {v for v in rest if v is not None and self._unknown(v).any()}
        if layer.shift is not None:
            loose.discard(node.operand(layer.shift))
        if unknown.all() or loose:
            return {}
        return self._evaluated(node, {node.outputs[0]: unknown})

    def _flagged(
        self,
        op: str,
        attrs: Mapping[str, Any],
        x: Value,
        result: Value,
        others: list[Value],
        swap: bool = False,
    ) -> Any:
        """Where an operation on flags gives more than 0, unknown elements of x being flagged 1."""
        unknown = self._unknown(x)
        flag = Value("flag", TensorType("f32", unknown.shape))
        out = Value("out", TensorType("f32", result.tensor.shape))
        inputs: list[Value | None] = [flag, *others]
        made = Node(op, inputs[::-1] if swap else inputs, [out], dict(attrs))
        arrays = {flag: unknown.astype(np.float32)} | {v: v.const for v in others}
        return evaluate(self.graph, made, arrays)[out] > 0


def effective(node: Node, layer: Layer, weights: Any, known: Known) -> Any:
    """Which weights count: those that differ from their zero point. None where that is not
    known."""
    zero = None if layer.zero is None else node.operand(layer.zero)
    if zero is None:
        return weights != 0
    found = known.of(zero)
    if found is None or found.unknown.any():
        return None
    vector = found.values.reshape(-1)
    if vector.size != 1:
        shape = [1] * weights.ndim
        shape[layer.out_axis] = -1
        vector = vector.reshape(shape)
    return weights != vector


_LARGE = 4096  # float constants of more elements are not worth writing into a model


def slides_alike(node: Node, layer: Layer) -> bool:
    """Whether equal elements along symbolic axes give equal sums along them: a window that slides
    over such an axis must not meet its ends."""
    dims = node.arg(layer.data).tensor.shape or ()
    if not layer.spatial or all(isinstance(d, int) for d in dims[2:]):
        return True
    taps = node.arg(layer.weights).tensor.shape or ()
    pads = node.ints_attr("pads")
    return node.op != "onnx.ConvTranspose" and set(taps[2:]) == {1} and not any(pads)


def evaluate(graph: Graph, node: Node, arrays: Mapping[Value, Any]) -> dict[Value, Any]:
    """The results of one operation on arrays. Raises CompileError where it refuses them."""
    given: dict[Value, Value] = {}
    consts: list[Value] = []
    for value, array in arrays.items():
        type_ = TensorType(value.elem, array.shape)
        large = value.elem == "f32" and array.size > _LARGE
        if value.const is not None and array is value.const and not large:
            given[value] = value
            consts.append(value)
            continue
        given[value] = Value(f"in{len(given)}", type_)
    outs = [Value(f"out{i}", TensorType(v.elem, None)) for i, v in enumerate(node.outputs)]
    inputs = [None if v is None else given[v] for v in node.inputs]
    part = Graph(
        "known", [v for v in given.values() if v.const is None], outs,
        [Node(node.op, inputs, outs, dict(node.attrs))], consts, opsets=graph.opsets,
    )  # fmt: skip
    if node.op.startswith("cim."):
        for made, value in zip(outs, node.outputs):
            made.type = value.type
    feeds = {given[v].name: a for v, a in arrays.items() if given[v].const is None}
    with np.errstate(all="ignore"):
        found = Evaluator(part)(feeds)
    return {v: found[o.name] for v, o in zip(node.outputs, outs)}


def _trains(node: Node) -> bool:
    """A Dropout that may drop elements, at random."""
    mode = node.operand(2) if node.op == "onnx.Dropout" else None
    return mode is not None and (mode.const is None or bool(mode.const))


def _sized(value: Value | None) -> bool:
    return value is None or (isinstance(value.type, TensorType) and value.type.shape is not None)


def _static(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.static is not None


def _counts(node: Node) -> bool:
    """Whether the result hangs on how many equal elements there are."""
    summed = node.op in ("onnx.ReduceSum", "cim.sum_pool")
    return summed or (node.op == "onnx.AveragePool" and bool(node.attrs.get("count_include_pad")))


def _shape(value: Value) -> tuple[int, ...]:
    return tuple(d if isinstance(d, int) else 1 for d in value.tensor.shape or ())


def _lying(node: Node, array: Any, rank: int) -> Any:
    """An operand as it lies on the result: the vectors of a BatchNormalization on axis 1."""
    vector = node.op == "onnx.BatchNormalization" and array.ndim == 1
    return array.reshape(-1, *(1,) * (rank - 2)) if vector else array


_BY_ELEMENT = {
    *(f"onnx.{name}" for name in ELEMENTWISE), "onnx.BatchNormalization", "cim.sign",
    "cim.dequant", "cim.quantize", "cim.relu", "cim.add", "cim.qadd", "ms.QLinearAdd",
    "ms.QLinearMul",
}  # fmt: skip
_PRODUCTS = ("onnx.Mul", "onnx.BatchNormalization")
_BY_FIRST = {
    "onnx.QuantizeLinear", "onnx.DequantizeLinear", "ms.QuantizeLinear", "ms.DequantizeLinear",
    "cim.threshold", "cim.requant", "cim.lut", "qonnx.Quant", "qonnx.IntQuant",
    "qonnx.BipolarQuant", "qonnx.MultiThreshold", "ms.QLinearLeakyRelu", "ms.QLinearSigmoid",
}  # fmt: skip
"""Element by element, with constants that lie on it in ways of their own."""
_BY_TAP = {
    "onnx.MaxPool": "onnx.MaxPool", "onnx.AveragePool": "onnx.AveragePool",
    "onnx.GlobalAveragePool": "onnx.GlobalMaxPool", "onnx.GlobalMaxPool": "onnx.GlobalMaxPool",
    "cim.max_pool": "onnx.MaxPool", "cim.sum_pool": "onnx.MaxPool",
    "onnx.ReduceMean": "onnx.ReduceMean", "onnx.ReduceSum": "onnx.ReduceSum",
    "onnx.ReduceMax": "onnx.ReduceMax", "onnx.ReduceMin": "onnx.ReduceMax",
}  # fmt: skip
"""An operation of which the result on flags says whether an element that counts is flagged."""
_LAYOUT = {
    "onnx.Reshape": 1, "onnx.Flatten": 1, "onnx.Squeeze": 1, "onnx.Unsqueeze": 1,
    "onnx.Transpose": 1, "onnx.Concat": 1 << 30, "onnx.Slice": 1, "onnx.Split": 1,
    "onnx.Gather": 1, "onnx.Pad": 1, "onnx.Resize": 1, "onnx.Upsample": 1,
    "cim.reshape": 1, "cim.transpose": 1, "cim.slice": 1, "cim.take": 1,
    "cim.concat": 2,
}  # fmt: skip
"""How many operands hold the elements that are moved."""
_FLAGGED = {
    "onnx.Conv": "onnx.Conv", "onnx.ConvInteger": "onnx.Conv", "onnx.QLinearConv": "onnx.Conv",
    "cim.conv": "onnx.Conv", "onnx.ConvTranspose": "onnx.ConvTranspose",
    "onnx.Gemm": "onnx.Gemm", "ms.QGemm": "onnx.Gemm", "onnx.MatMul": "onnx.MatMul",
    "onnx.MatMulInteger": "onnx.MatMul", "onnx.QLinearMatMul": "onnx.MatMul",
    "cim.matmul": "onnx.MatMul",
}  # fmt: skip
"""The operation of a layer on flags of data and weights."""
