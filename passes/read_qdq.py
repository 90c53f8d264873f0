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
from cimc.driver.qdq_groups import (
    Group,
    as_scalar,
    dequantised,
    integer_bias,
    one_zero,
    per_channel,
    quantised_end,
    reshaped,
    single,
)
from cimc.driver.rewrite import scalar
from cimc.driver.stored import held
from cimc.frontend.windows import window_attrs
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.types import TensorType, planes

# -- rules -----------------------------------------------------------------------------


def _conv(rw: Rewriter, node: Node) -> None:
    """1, 4 and 5 for convolutions."""
    x, w = dequantised(rw, node.arg(0)), dequantised(rw, node.arg(1))
    if x is None or w is None or not single(x) or not per_channel(w, 0):
        return
    group = Group(rw, node)
    stored = group.weights(w, x.q.elem)
    if stored is None:
        return
    steps = (x.steps * w.steps).astype(np.float32)
    given = node.operand(2)
    bias = integer_bias(rw, given, steps)
    if (
        bias is not None
        and bias.const is not None
        and bias.const.size != node.output.tensor.shape[1]
    ):  # type: ignore[index]
        return
    end = quantised_end(rw, node.output)
    data, zero = group.wide(x), group.wide_zero(x)
    if end is not None and (given is None or bias is not None):

        def make(scale: Value, y_zero: Value) -> Value:
            inputs = [data, x.scale, zero, stored[0], w.scale, stored[1], scale, y_zero]
            type_ = node.output.tensor.with_elem(data.elem)
            more = [] if bias is None else [bias]
            return group.op("onnx.QLinearConv", [*inputs, *more], "int", type_, dict(node.attrs))

        group.requantised(end, data.elem, make)
        return
    kernel = one_zero(group, stored, w)
    if kernel is None:
        return
    type_ = node.output.tensor.with_elem("i32")
    acc = group.op("onnx.ConvInteger", [data, kernel[0], as_scalar(group, zero), kernel[1]], "acc",
                   type_, dict(node.attrs))  # fmt: skip
    rank = len(node.output.tensor.shape or ())
    tail = (-1, *(1,) * (rank - 2))
    if bias is not None and bias.const is not None:
        whole = group.const("bias", bias.const.reshape(tail), "i32")
        acc = group.op("onnx.Add", [acc, whole], "sum", type_)
    rest = given if given is not None and bias is None else None
    if rest is not None:
        rest = reshaped(group, rest, tail)
    group.in_float(acc, steps, rest, 1)


def _matmul(rw: Rewriter, node: Node) -> None:
    """2, 4 and 5 for products."""
    a, b = dequantised(rw, node.arg(0)), dequantised(rw, node.arg(1))
    if a is None or b is None or not single(a):
        return
    rank = len(b.q.tensor.shape or ())
    if not per_channel(b, rank - 1) or rank < 1:
        return
    group = Group(rw, node)
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
    end = quantised_end(rw, node.output)
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
    a, b = dequantised(rw, node.arg(0)), dequantised(rw, node.arg(1))
    turned = int(bool(node.attrs.get("transB", 0)))
    if a is None or b is None or not single(a) or not per_channel(b, 1 - turned):
        return
    if node.float_attr("alpha", 1.0) != 1.0:
        return
    group = Group(rw, node)
    stored = group.weights(b, a.q.elem)
    if stored is None:
        return
    steps = (a.steps * b.steps).astype(np.float32)
    given = node.operand(2)
    if given is not None and node.float_attr("beta", 1.0) != 1.0:
        return
    bias = integer_bias(rw, given, steps)
    channels = (node.output.tensor.shape or (0, 0))[1]
    whole = bias is None or bias.tensor.static in ((channels,), (1, channels))
    end = quantised_end(rw, node.output)
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
        "onnx.MatMulInteger", [data, weights, as_scalar(group, zero), stored[1]], "acc", type_
    )
    if bias is not None:
        acc = group.op("onnx.Add", [acc, bias], "sum", type_)
    group.in_float(acc, steps, given if bias is None else None, 1)


def _global_average(rw: Rewriter, node: Node) -> None:
    """6. The mean over all positions of a channel."""
    x, end = dequantised(rw, node.arg(0)), quantised_end(rw, node.output)
    rank = len(node.arg(0).tensor.shape or ())
    if x is None or end is None or not single(x) or rank < 3:
        return
    if node.op == "onnx.ReduceMean" and not _all_spatial(node, rank):
        return
    group = Group(rw, node)
    data, zero = group.wide(x), group.wide_zero(x)
    dims = (*(data.tensor.shape or ())[:2], *(1,) * (rank - 2))

    def make(scale: Value, y_zero: Value) -> Value:
        inputs: list[Value | None] = [data, x.scale, as_scalar(group, zero), scale, y_zero]
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
    x, end = dequantised(rw, node.arg(0)), quantised_end(rw, node.output)
    if x is None or end is None or not single(x) or node.arg(0).tensor.static is None:
        return
    kernel = node.ints_attr("kernel_shape")
    attrs = window_attrs(node, kernel)
    padded = attrs is None or "pads" in attrs
    if attrs is None or (padded and (not node.attrs.get("count_include_pad", 0)
                                     or node.attrs.get("ceil_mode", 0))):  # fmt: skip
        return
    group = Group(rw, node)
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
    """

    name = "read-qdq"
    summary = "read groups between dequantisers and quantisers as integer layers"
    kind = "reading"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        rw = Rewriter(graph)
        for node in list(graph.nodes):
            if node.op in _RULES and len(node.outputs) == 1 and node.output.elem == "f32":
                _RULES[node.op](rw, node)
        graph.remove_dead()
        return rw.changed
