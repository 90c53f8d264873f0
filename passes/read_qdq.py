"""Reads groups of DequantizeLinear, a layer and QuantizeLinear as the integer layers they mean.

What follows is the rule table of this project: which groups are integer sums that round once,
whatever a runtime fuses. Everything else keeps its literal meaning in float32.

DQ is DequantizeLinear, Q is QuantizeLinear:

- Q behind Conv, MatMul or Gemm (alpha = beta = 1) of DQ(x) and DQ(w), the bias absent or DQ(b) in
  steps of s_x s_w: QLinearConv, QLinearMatMul, QGemm.
- Relu or Clip between the layer and Q: the layer in Q's scale, then DQ, Relu or Clip, Q.
- No Q, another bias, or several users of the result: integer sums, plus an integer bias, times
  f32(s_x s_w), plus a float bias.
- GlobalAveragePool, or ReduceMean over all spatial axes, between DQ and Q:
  QLinearGlobalAveragePool.
- AveragePool between DQ and Q whose windows all count n taps: integer sums, requantised with
  f32(f32(s_x / n) / s_y).

Scales and zero points are constants; w has one scale or one for each output channel, x and y have
one. A Q to another type than x has is read as one to the type of x, then DQ, Q literally.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from cimc.driver import Pass, PassContext, Rewriter
from cimc.driver.rewrite import scalar
from cimc.driver.stored import held
from cimc.errors import CompileError, raise_all
from cimc.frontend.windows import window_attrs
from cimc.ir.graph import Graph, Node, Value, layer_name
from cimc.ir.types import TensorType, container, int_range, is_integer, planes

_FLOAT32 = 1  # TensorProto.FLOAT, the `to` of a Cast
_TINY = float(np.finfo(np.float32).tiny)


# -- scales that can't be ---------------------------------------------------------------

# Which operands of an operator are scales.
_SCALES = {
    "onnx.QuantizeLinear": (1,), "onnx.DequantizeLinear": (1,), "onnx.QLinearConv": (1, 4, 6),
    "onnx.QLinearMatMul": (1, 4, 6), "ms.QGemm": (1, 4, 7), "ms.QLinearAdd": (1, 4, 6),
    "ms.QLinearMul": (1, 4, 6), "ms.QLinearGlobalAveragePool": (1, 3),
    "ms.QLinearAveragePool": (1, 3), "ms.QLinearSigmoid": (1, 3), "ms.QLinearLeakyRelu": (1, 3),
    "qonnx.Quant": (1,), "qonnx.IntQuant": (1,), "qonnx.BipolarQuant": (1,),
}  # fmt: skip


def _bad_scales(graph: Graph) -> list[CompileError]:
    """A problem for each constant scale that is no positive normal float32."""
    errors = []
    for node in graph.nodes:
        for index in _SCALES.get(node.op, ()):
            value = node.inputs[index] if index < len(node.inputs) else None
            if value is None or value.const is None or value.const.dtype != np.float32:
                continue
            scales: Any = value.const.astype(np.float64).reshape(-1)
            wrong = scales[~((scales >= _TINY) & (scales < np.inf))]
            if wrong.size:
                errors.append(_bad_scale(node, value, float(wrong[0]), int(wrong.size)))
    return errors


def _bad_scale(node: Node, value: Value, first: float, count: int) -> CompileError:
    kind = "denormal" if 0 < first < _TINY else "zero" if first == 0 else "negative"
    kind = kind if np.isfinite(first) else "not finite"
    size = value.const.size if value.const is not None else 0
    what = f"{count} of {size} scales" if size > 1 else "its scale"
    return CompileError(
        f"{what} in '{value.name}' {'are' if count > 1 else 'is'} {kind}: {first:g}",
        f"node '{layer_name(node)}' ({node.op.split('.')[1]})",
        help="a scale is a positive float32, not below 1.2e-38; quantise the model again",
    )


# -- parts of a group ------------------------------------------------------------------


@dataclass(frozen=True)
class _Quantised:
    """A value as integers q with scale and zero point, all as values of the graph; steps holds
    the scales, flat."""

    q: Value
    scale: Value
    zero: Value | None
    steps: Any
    axis: int


def _dequantised(rw: Rewriter, value: Value | None) -> _Quantised | None:
    """What a DequantizeLinear reads, if its scales and zero points are constants."""
    node = rw.producer(value, "onnx.DequantizeLinear")
    if node is None or node.attrs.get("block_size", 0) or node.output.elem != "f32":
        return None
    q, scale = node.arg(0), node.arg(1)
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if scale.const is None or (zero is not None and zero.const is None):
        return None
    if not is_integer(q.elem) or scale.const.ndim > 1:
        return None
    return _Quantised(q, scale, zero, scale.const.reshape(-1), node.int_attr("axis", 1))


def _single(part: _Quantised | None) -> bool:
    return part is not None and part.steps.size == 1 and planes(part.q.elem) <= 8


@dataclass(frozen=True)
class _End:
    """The QuantizeLinear behind a layer, and Relu or Clip before it."""

    quantise: Node
    between: tuple[Node, ...]


def _end(rw: Rewriter, value: Value) -> _End | None:
    """Where a layer's result is quantised at once, and used for nothing else."""
    between: list[Node] = []
    while True:
        users = rw.users(value)
        if len(users) != 1 or value in rw.graph.outputs:
            return None
        (node,) = users
        if node.op == "onnx.QuantizeLinear" and node.inputs[0] is value:
            known = all(v is None or v.const is not None for v in node.inputs[1:])
            one = scalar(node.arg(1)) is not None and node.arg(1).elem == "f32"
            small = is_integer(node.output.elem) and planes(node.output.elem) <= 8
            plain = known and one and small and not node.attrs.get("block_size", 0)
            zero = node.inputs[2] if len(node.inputs) > 2 else None
            plain = plain and (zero is None or scalar(zero) is not None)
            return _End(node, tuple(between)) if plain else None
        constant = all(v is None or v.const is not None for v in node.inputs[1:])
        if node.op not in ("onnx.Relu", "onnx.Clip") or not constant:
            return None
        between.append(node)
        value = node.output


# -- emitting --------------------------------------------------------------------------


class _Group:
    """A layer under translation: makes constants and operations named after it."""

    def __init__(self, rw: Rewriter, node: Node) -> None:
        self.rw = rw
        self.node = node
        self.name = node.output.name

    def const(self, suffix: str, array: Any, elem: str) -> Value:
        return self.rw.const(f"{self.name}.{suffix}", np.asarray(array, container(elem)), elem)

    def op(self, op: str, inputs: list[Value | None], suffix: str, type_: TensorType,
           attrs: dict[str, Any] | None = None) -> Value:  # fmt: skip
        return self.rw.op(op, inputs, f"{self.name}.{suffix}", self.node, attrs, type_)

    def zero(self, part: _Quantised) -> Value:
        """The zero point of a part, which may be left out."""
        if part.zero is not None:
            return part.zero
        return self.const(f"{part.q.name}.zero", np.zeros(part.scale.const.shape), part.q.elem)  # type: ignore[union-attr]

    def weights(self, part: _Quantised, like: str) -> tuple[Value, Value] | None:
        """Constant weights and their zero point in 8 bits, for an input of type `like`: its
        kernels take i8 for i8, u8 or i8 for u8. None if they are not constant."""
        stored = held(self.rw, part.q)
        if stored is None:
            return None
        zero: Any = np.zeros(part.scale.const.shape) if part.zero is None else part.zero.const  # type: ignore[union-attr]
        elem = f"{part.q.elem[0]}8"
        if elem == "u8" and like[0] == "i":  # the same values, 128 lower
            levels, zero, elem = stored.astype(np.int16) - 128, zero.astype(np.int16) - 128, "i8"
        elif part.q.const is not None and part.q.elem == elem and part.zero is not None:
            return part.q, part.zero
        else:
            levels = stored
        name = part.q.name
        found = self.rw.const(f"{name}.{elem}", levels.astype(container(elem)), elem)
        return found, self.rw.const(f"{name}.zero", zero.astype(container(elem)), elem)

    def wide(self, part: _Quantised) -> Value:
        """Data of fewer than 8 bits as bytes, which the integer kernels take."""
        q, elem = part.q, f"{part.q.elem[0]}8"
        if q.elem == elem:
            return q
        code = {"u8": 2, "i8": 3}[elem]
        return self.op("onnx.Cast", [q], "wide", q.tensor.with_elem(elem), {"to": code})

    def wide_zero(self, part: _Quantised) -> Value:
        zero, elem = self.zero(part), f"{part.q.elem[0]}8"
        if zero.elem == elem:
            return zero
        return self.const(f"{part.q.name}.zero", zero.const, elem)

    def requantised(self, end: _End, elem: str, make: Callable[[Value, Value], Value]) -> None:
        """The layer's integers in Q's scale, in the place of Q: `make(scale, zero)` gives them in
        type `elem`; what lies between layer and Q, and another type of Q, follow literally."""
        quantise = end.quantise
        target = quantise.output.elem
        number = scalar(quantise.inputs[2]) if len(quantise.inputs) > 2 else 0.0
        low, _ = int_range(elem)
        least, _ = int_range(target)
        shift = low if least < 0 <= low else 128 if least < 0 else 0
        shift = 128 if least < 0 and low == 0 else -128 if least == 0 and low < 0 else 0
        zero = self.const("q.zero", int(number or 0) + shift, elem)
        made = make(quantise.arg(1), zero)
        if target == elem and not end.between:
            self.rw.replace(quantise.output, made)
            return
        shape = quantise.output.tensor
        scale = quantise.arg(1)
        x = self.rw.op("onnx.DequantizeLinear", [made, scale, zero], f"{self.name}.f", quantise,
                       {}, shape.with_elem("f32"))  # fmt: skip
        for step in end.between:
            x = self.rw.op(step.op, [x, *step.inputs[1:]], f"{step.output.name}.f", quantise,
                           dict(step.attrs), shape.with_elem("f32"))  # fmt: skip
        name = f"{quantise.output.name}.again"
        again = self.rw.op(
            "onnx.QuantizeLinear", [x, *quantise.inputs[1:]], name, quantise,
            dict(quantise.attrs), shape,
        )  # fmt: skip
        self.rw.replace(quantise.output, again)

    def in_float(self, acc: Value, steps: Any, bias: Value | None, along: int) -> None:
        """Integer sums times their step, plus a float bias, in the place of the layer."""
        shape = self.node.output.tensor
        x = self.op("onnx.Cast", [acc], "float", shape, {"to": _FLOAT32})
        rank = len(shape.shape or ())
        dims = [1] * rank
        if steps.size > 1:
            dims[along] = -1
        factor = self.const("step", steps.reshape(dims) if rank else steps.reshape(()), "f32")
        x = self.op("onnx.Mul", [x, factor], "scaled", shape)
        if bias is not None:
            x = self.op("onnx.Add", [x, bias], "biased", shape)
        self.rw.replace(self.node.output, x)


def _integer_bias(rw: Rewriter, value: Value | None, steps: Any) -> Value | None:
    """The integers of a bias in the steps of the sums; None if it is none of that kind."""
    part = _dequantised(rw, value)
    if part is None or part.q.elem != "i32" or part.q.const is None:
        return None
    if part.zero is not None and np.any(part.zero.const != 0):  # type: ignore[operator]
        return None
    same = part.steps.size in (1, steps.size) and np.array_equal(
        np.broadcast_to(part.steps, steps.shape), steps
    )
    return part.q if same else None


def _per_channel(part: _Quantised, axis: int) -> bool:
    """One scale, or one for each channel along `axis`."""
    rank = len(part.q.tensor.shape or ())
    return part.steps.size == 1 or (part.axis % max(1, rank)) == axis


# -- rules -----------------------------------------------------------------------------


def _conv(rw: Rewriter, node: Node) -> None:
    """1, 4 and 5 for convolutions."""
    x, w = _dequantised(rw, node.arg(0)), _dequantised(rw, node.arg(1))
    if x is None or w is None or not _single(x) or not _per_channel(w, 0):
        return
    group = _Group(rw, node)
    stored = group.weights(w, x.q.elem)
    if stored is None:
        return
    steps = (x.steps * w.steps).astype(np.float32)
    given = node.inputs[2] if len(node.inputs) > 2 else None
    bias = _integer_bias(rw, given, steps)
    if (
        bias is not None
        and bias.const is not None
        and bias.const.size != node.output.tensor.shape[1]
    ):  # type: ignore[index]
        return
    end = _end(rw, node.output)
    data, zero = group.wide(x), group.wide_zero(x)
    if end is not None and (given is None or bias is not None):

        def make(scale: Value, y_zero: Value) -> Value:
            inputs = [data, x.scale, zero, stored[0], w.scale, stored[1], scale, y_zero]
            type_ = node.output.tensor.with_elem(data.elem)
            more = [] if bias is None else [bias]
            return group.op("onnx.QLinearConv", [*inputs, *more], "int", type_, dict(node.attrs))

        group.requantised(end, data.elem, make)
        return
    kernel = _one_zero(group, stored, w)
    if kernel is None:
        return
    type_ = node.output.tensor.with_elem("i32")
    acc = group.op("onnx.ConvInteger", [data, kernel[0], _flat(group, zero), kernel[1]], "acc",
                   type_, dict(node.attrs))  # fmt: skip
    rank = len(node.output.tensor.shape or ())
    tail = (-1, *(1,) * (rank - 2))
    if bias is not None and bias.const is not None:
        whole = group.const("bias", bias.const.reshape(tail), "i32")
        acc = group.op("onnx.Add", [acc, whole], "sum", type_)
    rest = given if given is not None and bias is None else None
    if rest is not None:
        rest = _reshaped(group, rest, tail)
    group.in_float(acc, steps, rest, 1)


def _flat(group: _Group, zero: Value) -> Value:
    """A zero point as a scalar."""
    if zero.tensor.static == ():
        return zero
    return group.const("x.zero", zero.const.reshape(()), zero.elem)  # type: ignore[union-attr]


def _one_zero(
    group: _Group, stored: tuple[Value, Value], w: _Quantised
) -> tuple[Value, Value] | None:
    """Weights with a single zero point: ConvInteger takes no other."""
    kernel, zero = stored
    number = scalar(zero)
    if number is not None:
        return kernel, group.const("w.zero", int(number), kernel.elem)
    less: Any = kernel.const.astype(np.int32) - zero.const.astype(np.int32).reshape(  # type: ignore[union-attr]
        -1,
        *(1,) * (kernel.const.ndim - 1),  # type: ignore[union-attr]
    )
    if less.min(initial=0) < -128 or less.max(initial=0) > 127:
        return None
    return group.const("w.int8", less, "i8"), group.const("w.zero", 0, "i8")


def _reshaped(group: _Group, value: Value, shape: tuple[int, ...]) -> Value:
    if value.const is not None:
        return group.const("bias", value.const.reshape(shape), "f32")
    sizes = group.const("bias.shape", list(shape), "i64")
    dims = tuple(d if d > 0 else "?" for d in shape)
    return group.op("onnx.Reshape", [value, sizes], "bias", TensorType("f32", dims))


def _matmul(rw: Rewriter, node: Node) -> None:
    """2, 4 and 5 for products."""
    a, b = _dequantised(rw, node.arg(0)), _dequantised(rw, node.arg(1))
    if a is None or b is None or not _single(a):
        return
    rank = len(b.q.tensor.shape or ())
    if not _per_channel(b, rank - 1) or rank < 1:
        return
    group = _Group(rw, node)
    left, right = held(rw, a.q), held(rw, b.q)
    if left is None and right is None:
        return
    if planes(b.q.elem) > 8:
        return
    data = a if left is None else b
    stored = group.weights(b if left is None else a, data.q.elem)
    assert stored is not None
    wide, zero = group.wide(data), group.wide_zero(data)
    qa, qb = ((wide, zero), stored) if left is None else (stored, (wide, zero))
    if left is not None and qa[0].elem != qb[0].elem and qa[0].elem == "i8":
        return  # no runtime has i8 times u8
    end = _end(rw, node.output)
    if end is not None:

        def make(scale: Value, y_zero: Value) -> Value:
            inputs = [qa[0], a.scale, qa[1], qb[0], b.scale, qb[1], scale, y_zero]
            type_ = node.output.tensor.with_elem(qa[0].elem)
            return group.op("onnx.QLinearMatMul", list(inputs), "int", type_)

        group.requantised(end, qa[0].elem, make)
        return
    acc = group.op("onnx.MatMulInteger", [qa[0], qb[0], qa[1], qb[1]], "acc",
                   node.output.tensor.with_elem("i32"))  # fmt: skip
    steps = (a.steps * b.steps).astype(np.float32)
    group.in_float(acc, steps, None, len(node.output.tensor.shape or (1,)) - 1)


def _gemm(rw: Rewriter, node: Node) -> None:
    """3, 4 and 5 for Gemm."""
    a, b = _dequantised(rw, node.arg(0)), _dequantised(rw, node.arg(1))
    turned = int(bool(node.attrs.get("transB", 0)))
    if a is None or b is None or not _single(a) or not _per_channel(b, 1 - turned):
        return
    if node.float_attr("alpha", 1.0) != 1.0:
        return
    group = _Group(rw, node)
    stored = group.weights(b, a.q.elem)
    if stored is None:
        return
    steps = (a.steps * b.steps).astype(np.float32)
    given = node.inputs[2] if len(node.inputs) > 2 else None
    if given is not None and node.float_attr("beta", 1.0) != 1.0:
        return
    bias = _integer_bias(rw, given, steps)
    channels = (node.output.tensor.shape or (0, 0))[1]
    whole = bias is None or bias.tensor.static in ((channels,), (1, channels))
    end = _end(rw, node.output)
    data, zero = group.wide(a), group.wide_zero(a)
    if end is not None and (given is None or (bias is not None and whole)):

        def make(scale: Value, y_zero: Value) -> Value:
            inputs = [data, a.scale, zero, stored[0], b.scale, stored[1], bias, scale, y_zero]
            kept = {k: v for k, v in node.attrs.items() if k in ("transA", "transB")}
            type_ = node.output.tensor.with_elem(data.elem)
            return group.op("ms.QGemm", inputs, "int", type_, kept)

        rw.graph.opsets.setdefault("ms", 1)
        group.requantised(end, data.elem, make)
        return
    weights, levels = stored[0], stored[0].const
    if turned and levels is not None:
        weights = group.const("w.turned", np.ascontiguousarray(levels.T), stored[0].elem)
    if node.attrs.get("transA", 0):
        dims = tuple(reversed(data.tensor.shape or ()))
        data = group.op("onnx.Transpose", [data], "turned", TensorType(data.elem, dims),
                        {"perm": (1, 0)})  # fmt: skip
    type_ = node.output.tensor.with_elem("i32")
    acc = group.op(
        "onnx.MatMulInteger", [data, weights, _flat(group, zero), stored[1]], "acc", type_
    )
    if bias is not None:
        acc = group.op("onnx.Add", [acc, bias], "sum", type_)
    group.in_float(acc, steps, given if bias is None else None, 1)


def _global_average(rw: Rewriter, node: Node) -> None:
    """6. The mean over all positions of a channel."""
    x, end = _dequantised(rw, node.arg(0)), _end(rw, node.output)
    rank = len(node.arg(0).tensor.shape or ())
    if x is None or end is None or not _single(x) or rank < 3:
        return
    if node.op == "onnx.ReduceMean" and not _all_spatial(node, rank):
        return
    group = _Group(rw, node)
    data, zero = group.wide(x), group.wide_zero(x)
    dims = (*(data.tensor.shape or ())[:2], *(1,) * (rank - 2))

    def make(scale: Value, y_zero: Value) -> Value:
        inputs: list[Value | None] = [data, x.scale, _flat(group, zero), scale, y_zero]
        mean = group.op("ms.QLinearGlobalAveragePool", inputs, "int", TensorType(data.elem, dims),
                        {"channels_last": 0})  # fmt: skip
        if len(node.output.tensor.shape or ()) == rank:
            return mean
        sizes = group.const("shape", [0, -1], "i64")
        type_ = node.output.tensor.with_elem(data.elem)
        return group.op("onnx.Reshape", [mean, sizes], "flat", type_)

    rw.graph.opsets.setdefault("ms", 1)
    group.requantised(end, data.elem, make)


def _all_spatial(node: Node, rank: int) -> bool:
    """Whether a ReduceMean goes over all axes but the first two."""
    axes = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        stated = node.inputs[1].const
        axes = None if stated is None else tuple(stated.reshape(-1).tolist())
    if not isinstance(axes, tuple):
        return False
    return sorted(int(a) % rank for a in axes) == list(range(2, rank))  # type: ignore[arg-type]


def _average(rw: Rewriter, node: Node) -> None:
    """7. Means of windows that all have the same number of taps."""
    x, end = _dequantised(rw, node.arg(0)), _end(rw, node.output)
    if x is None or end is None or not _single(x) or node.arg(0).tensor.static is None:
        return
    kernel = node.ints_attr("kernel_shape")
    attrs = window_attrs(node, kernel)
    padded = attrs is None or "pads" in attrs
    if attrs is None or (padded and (not node.attrs.get("count_include_pad", 0)
                                     or node.attrs.get("ceil_mode", 0))):  # fmt: skip
        return
    group = _Group(rw, node)
    taps: dict[str, Any] = {"kernel": kernel} | attrs
    number = 0 if x.zero is None else int(scalar(x.zero) or 0)
    if number:
        taps["zero"] = number
    total = rw.op("cim.sum_pool", [x.q], f"{group.name}.sum", node, taps, node.output.tensor)
    target = end.quantise.output.elem

    def make(scale: Value, y_zero: Value) -> Value:
        assert scale.const is not None
        step = (
            np.float32(x.steps[0])
            / np.float32(prod(kernel))
            / np.float32(scale.const.reshape(-1)[0])
        )
        table = group.const("scale", [step], "f32")
        to: dict[str, Any] = {"zero": int(scalar(y_zero) or 0), "to": target}
        return rw.op("cim.requant", [total, table], f"{group.name}.int", node, to)

    group.requantised(end, target, make)


_RULES: dict[str, Callable[[Rewriter, Node], None]] = {
    "onnx.Conv": _conv,
    "onnx.MatMul": _matmul,
    "onnx.Gemm": _gemm,
    "onnx.GlobalAveragePool": _global_average,
    "onnx.ReduceMean": _global_average,
    "onnx.AveragePool": _average,
}


@dataclass(frozen=True)
class ReadQdq(Pass):
    """Rules, in the words of the table above (DQ = DequantizeLinear, Q = QuantizeLinear):
    1. `Q(Conv(DQ(x), DQ(w), DQ(b)))` ⇒ `QLinearConv`
    2. `Q(MatMul(DQ(x), DQ(w)))` ⇒ `QLinearMatMul`
    3. `Q(Gemm(DQ(x), DQ(w), DQ(b)))` ⇒ `QGemm`
    4. Relu or Clip before Q ⇒ the layer in Q's scale, then `Q(Relu(DQ(…)))`
    5. no Q, or a float bias, or several users ⇒ `ConvInteger` or `MatMulInteger`, `Cast`, `Mul`
    6. `Q(GlobalAveragePool(DQ(x)))`, ReduceMean likewise ⇒ `QLinearGlobalAveragePool`
    7. `Q(AveragePool(DQ(x)))` ⇒ `cim.requant(cim.sum_pool(x))`
    Refuses scales that are no positive normal numbers, all of a model at once.
    """

    name = "read-qdq"
    summary = "read groups between dequantisers and quantisers as integer layers"
    kind = "reading"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        raise_all(_bad_scales(graph))
        rw = Rewriter(graph)
        for node in list(graph.nodes):
            if node.op in _RULES and len(node.outputs) == 1 and node.output.elem == "f32":
                _RULES[node.op](rw, node)
        graph.remove_dead()
        return rw.changed
