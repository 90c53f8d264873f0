"""Reads groups of DequantizeLinear, a layer and QuantizeLinear as the integer layers they mean.

What follows is the rule table of this project: which groups are integer sums that round once,
whatever a runtime fuses. Everything else keeps its literal meaning in float32. DQ is
DequantizeLinear, Q is QuantizeLinear; s_x, z_x are the scale and zero point of x.

| group | is read as |
| --- | --- |
| Q(Conv(DQ(x), DQ(w), b)), b absent or DQ(b) in steps of s_x s_w | QLinearConv |
| Q(MatMul(DQ(x), DQ(w))), weights on either side | QLinearMatMul |
| Q(Gemm(DQ(x), DQ(w), b)), alpha = beta = 1, or MatMul and Add of such a b | QGemm |
| Q(ConvTranspose(DQ(x), DQ(w), b)), stacks of matrices with scales by column, or with such a b | \
integer sums, requantised as by QLinearConv |
| one of these with Relu or Clip before Q | the layer in Q's scale, then Q(Relu(DQ(…))) |
| one of these without Q, with another bias, or of several users | integer sums, with an integer \
bias, times f32(s_x s_w), plus a float bias |
| Q(GlobalAveragePool(DQ(x))), or ReduceMean over all spatial axes | QLinearGlobalAveragePool |
| Q(AveragePool(DQ(x))), all windows of n taps | integer sums, requantised with \
f32(s_x / f32(s_y n)) |

- Scales and zero points are constants. x and y have one, w one or one for each output channel;
  all have at most 8 bits. b has 32 bits and the zero point 0; its steps may differ from s_x s_w by
  a millionth.
- Between DQ, layer and Q there may be layout (Reshape, Flatten, Squeeze, Unsqueeze, Transpose)
  and MaxPool, which do to integers what they do to floats, and before a Conv a Pad with zeros,
  also one that is quantised again as it was.
- "Requantised": f32(sum) times f32(f32(s_x s_w) / s_y), cut to y's range, rounded half to even.
- A Q to another type than x has is read as one to the type of x, then Q(DQ(…)) literally, which
  is the same number: the type of x has room for each step of y.
- Weights of 4 bits are handed on in 8 bits, and inputs too, for the kernels of runtimes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from cimc.driver import Pass, PassContext, Rewriter
from cimc.driver.integer_layers import Operands, convolution, product, requantised, transposed
from cimc.driver.padding import unpadded, unquantised_pad
from cimc.driver.qdq_groups import (
    End,
    Group,
    Quantised,
    dequantised,
    integer_bias,
    per_channel,
    quantised_end,
    single,
)
from cimc.driver.rewrite import scalar
from cimc.driver.stored import held
from cimc.frontend.windows import conv_attrs, window_attrs
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.rules import Misfit
from cimc.ir.types import TensorType, is_small

_FLOAT = "float"  # what `dequantised` says of a value that no DequantizeLinear makes


class _Not(Exception):
    """Why a layer between quantisers is not read; empty for a layer that is not there."""


@dataclass(frozen=True)
class _Layer:
    """A layer's parts: its data, its weights, the step of its sums, its bias as integers or in
    float, and the quantiser behind it."""

    x: Quantised
    w: Quantised
    steps: Any
    bias: Value | None
    rest: Value | None
    end: End | None

    @property
    def once(self) -> End | None:
        """The quantiser, if the sums are rounded by nothing else."""
        return self.end if self.rest is None else None

    def operands(self) -> Operands:
        return Operands(self.x.q, self.w.q, self.x.zero, self.w.zero, self.bias)


def _parts(rw: Rewriter, data: Value, weights: Value, axis: int) -> tuple[Quantised, Quantised]:
    """Data and weights of a layer; `axis` is that of the weights' output channels."""
    x, w = dequantised(rw, data), dequantised(rw, weights)
    if _FLOAT in (x, w):
        raise _Not
    if isinstance(x, str):
        raise _Not(f"its input: {x}")
    if isinstance(w, str):
        raise _Not(f"its weights: {w}")
    if not single(x):
        raise _Not("its input has more than 8 bits, or a scale for each channel")
    if not is_small(w.q.elem) or held(rw, w.q) is None:
        raise _Not("its weights have more than 8 bits, or are known at run time only")
    if not per_channel(w, axis):
        raise _Not("its weights have scales along another axis than that of its outputs")
    if held(rw, x.q) is not None:
        raise _Not
    return x, w


def _layer(
    rw: Rewriter, x: Quantised, w: Quantised, bias: Value | None, last: Value, channels: int | str
) -> _Layer:
    """The parts of a layer whose result, bias included, is `last`."""
    steps = (x.steps * w.steps).astype(np.float32)
    whole = integer_bias(rw, bias, steps)
    if whole is not None and whole.const is not None:
        wide = whole.const.size > 1 and whole.const.shape[-1:] != (whole.const.size,)
        whole = None if wide or whole.const.size not in (1, channels) else whole
    return _Layer(x, w, steps, whole, None if whole is not None else bias, quantised_end(rw, last))


def _native(group: Group, layer: _Layer, acc: Value | str, axis: int, last: Value) -> None:
    """The layer by native sums: requantised, or in float. The axis is that of the channels."""
    if isinstance(acc, str):
        raise _Not(acc)
    end = layer.once
    if end is None:
        _in_float(group, layer, acc, axis, last)
        return
    target = end.quantise.output.elem

    def make(scale: Value, zero: Value) -> Value:
        factor = layer.steps / np.float32(end.scale)
        return requantised(group.rw, group.node, acc, factor, end.zero, target, axis)

    group.requantised(end, target, make)


def _in_float(group: Group, layer: _Layer, acc: Value, axis: int, last: Value) -> None:
    """The sums times their step, plus a float bias, in the place of `last`."""
    rank = len(last.tensor.shape or ())
    rest = layer.rest
    if rest is not None and group.node.op in ("onnx.Conv", "onnx.ConvTranspose"):
        rest = group.bias(rest, (-1, *(1,) * (rank - 2)))
    group.in_float(acc, layer.steps, rest, axis, last)


# -- layers ----------------------------------------------------------------------------


def _conv(rw: Rewriter, node: Node) -> None:
    """1, 4 and 5 for convolutions."""
    image, margin = unpadded(rw, unquantised_pad(rw, node.arg(0)))
    x, w = _parts(rw, image, node.arg(1), 0)
    count = (w.q.tensor.static or (0,))[0]
    layer, group = _layer(rw, x, w, node.operand(2), node.output, count), Group(rw, node)
    one = w.zero is None or scalar(w.zero) is not None
    if layer.once is None and not one:  # ConvInteger takes one zero point
        acc = convolution(rw, node, layer.operands(), margin)
        return _native(group, layer, acc, 1, node.output)
    attrs = _padded(node, margin, w)
    data, zero = group.data(x)
    kernel, point = group.weights(w, data.elem)
    if layer.once is not None:
        sx, sw = group.scale(x), group.scale(w)

        def make(scale: Value, y_zero: Value) -> Value:
            inputs: list[Value | None] = [data, sx, zero, kernel, sw, point, scale, y_zero]
            more = [] if layer.bias is None else [layer.bias]
            type_ = node.output.tensor.with_elem(data.elem)
            return group.op("onnx.QLinearConv", [*inputs, *more], "int", type_, attrs)

        return group.requantised(layer.once, data.elem, make)
    point = group.const("w.zero", int(scalar(point) or 0), kernel.elem)
    type_ = node.output.tensor.with_elem("i32")
    acc = group.op("onnx.ConvInteger", [data, kernel, zero, point], "acc", type_, attrs)
    if layer.bias is not None and layer.bias.const is not None:
        tail = (-1, *(1,) * (len(type_.shape or ()) - 2))
        whole = group.const("bias", layer.bias.const.reshape(tail), "i32")
        acc = group.op("onnx.Add", [acc, whole], "sum", type_)
    _in_float(group, layer, acc, 1, node.output)


def _padded(node: Node, margin: Sequence[int], w: Quantised) -> dict[str, Any]:
    """The attributes of a Conv without the Pad before it."""
    if not any(margin):
        return dict(node.attrs)
    found = conv_attrs(node, (w.q.tensor.static or ())[2:], margin)
    if found is None:
        raise _Not("its padding depends on a size that is not known")
    kept = {k: v for k, v in node.attrs.items() if k in ("group", "kernel_shape")}
    return kept | found


def _conv_transpose(rw: Rewriter, node: Node) -> None:
    """8. Transposed convolutions."""
    x, w = _parts(rw, node.arg(0), node.arg(1), 1)
    group, groups = Group(rw, node), node.int_attr("group", 1)
    count = (w.q.tensor.static or (0, 0))[1] * groups
    if w.axis is not None and groups > 1:
        raise _Not("its weights have scales for the channels of a group")
    layer = _layer(rw, x, w, node.operand(2), node.output, count)
    _native(group, layer, transposed(rw, node, layer.operands()), 1, node.output)


def _matmul(rw: Rewriter, node: Node) -> None:
    """2, 3, 4, 5 and 8 for products."""
    if held(rw, _behind(rw, node.arg(0))) is not None:
        return _matmul_left(rw, node)
    a, b = node.arg(0), node.arg(1)
    rank = len(b.tensor.shape or ())
    x, w = _parts(rw, a, b, rank - 1)
    channels = (w.q.tensor.static or (0,))[-1] if rank > 1 else 1
    last, bias = _added(rw, node, (x.steps * w.steps).astype(np.float32))
    layer, group = _layer(rw, x, w, bias, last, channels), Group(rw, node)
    axis = len(node.output.tensor.shape or (1,)) - 1
    flat = rank == 2 and len(a.tensor.shape or ()) == 2
    if layer.bias is not None and layer.once is not None and flat:
        return _qgemm(group, layer, {}, last)
    if layer.bias is not None or (w.axis is not None and rank != 2):
        acc = product(rw, node, layer.operands())
        return _native(group, layer, acc, axis, last)
    data, zero = group.data(x)
    _products(group, layer, (data, zero), group.weights(w, data.elem), last)


def _behind(rw: Rewriter, value: Value) -> Value:
    """The integers that a value stands for, or the value."""
    part = dequantised(rw, value)
    return value if isinstance(part, str) else part.q


def _matmul_left(rw: Rewriter, node: Node) -> None:
    """The same with the weights on the left side, which then have one scale."""
    w, x = dequantised(rw, node.arg(0)), dequantised(rw, node.arg(1))
    if isinstance(w, str) or isinstance(x, str) or held(rw, x.q) is not None:
        raise _Not
    if not single(w) or not single(x):
        raise _Not("one of its operands has more than 8 bits, or several scales")
    layer, group = _layer(rw, x, w, None, node.output, 0), Group(rw, node)
    data = group.data(x)
    _products(group, layer, data, group.weights(w, data[0].elem, left=True), node.output, True)


def _products(
    group: Group, layer: _Layer, x: tuple[Value, Value], w: tuple[Value, Value], last: Value,
    left: bool = False,
) -> None:  # fmt: skip
    """QLinearMatMul, or MatMulInteger and what follows it."""
    (a, za), (b, zb) = (w, x) if left else (x, w)
    sa, sb = group.scale(layer.x), group.scale(layer.w)
    sa, sb = (sb, sa) if left else (sa, sb)
    type_ = group.node.output.tensor
    if layer.once is not None:

        def make(scale: Value, y_zero: Value) -> Value:
            inputs: list[Value | None] = [a, sa, za, b, sb, zb, scale, y_zero]
            return group.op("onnx.QLinearMatMul", inputs, "int", type_.with_elem(a.elem))

        return group.requantised(layer.once, a.elem, make)
    acc = group.op("onnx.MatMulInteger", [a, b, za, zb], "acc", type_.with_elem("i32"))
    _in_float(group, layer, acc, len(type_.shape or (1,)) - 1, last)


def _added(rw: Rewriter, node: Node, steps: Any) -> tuple[Value, Value | None]:
    """What a MatMul becomes with an integer bias, one number for each column, added, and that
    bias."""
    users, y = rw.users(node.output), node.output
    if len(users) != 1 or y in rw.graph.outputs or users[0].op != "onnx.Add":
        return y, None
    (add,) = users
    other = add.arg(1) if add.arg(0) is y else add.arg(0)
    dims, shape = other.tensor.static, y.tensor.shape
    if not dims or not shape or add.output.tensor.shape != shape:
        return y, None
    if prod(dims) != dims[-1] or dims[-1] != shape[-1] or integer_bias(rw, other, steps) is None:
        return y, None
    return add.output, other


def _gemm(rw: Rewriter, node: Node) -> None:
    """3, 4 and 5 for Gemm."""
    turned = bool(node.attrs.get("transB", 0))
    x, w = _parts(rw, node.arg(0), node.arg(1), 0 if turned else 1)
    bias = node.operand(2)
    if node.float_attr("alpha", 1.0) != 1.0 or (bias and node.float_attr("beta", 1.0) != 1.0):
        raise _Not("its alpha or beta is not 1")
    channels = (node.output.tensor.shape or (0, 0))[1]
    layer, group = _layer(rw, x, w, bias, node.output, channels), Group(rw, node)
    flags = {k: v for k, v in node.attrs.items() if k in ("transA", "transB")}
    if layer.once is not None:
        return _qgemm(group, layer, flags, node.output)
    data, zero = group.data(x)
    kernel, point = group.weights(w, data.elem)
    if turned:
        levels: Any = kernel.const
        kernel = group.const("w.turned", np.ascontiguousarray(levels.T), kernel.elem)
    if node.attrs.get("transA", 0):
        dims = tuple(reversed(data.tensor.shape or ()))
        data = group.op("onnx.Transpose", [data], "turned", TensorType(data.elem, dims),
                        {"perm": (1, 0)})  # fmt: skip
    type_ = node.output.tensor.with_elem("i32")
    acc = group.op("onnx.MatMulInteger", [data, kernel, zero, point], "acc", type_)
    if layer.bias is not None:
        acc = group.op("onnx.Add", [acc, layer.bias], "sum", type_)
    _in_float(group, layer, acc, 1, node.output)


def _qgemm(group: Group, layer: _Layer, flags: dict[str, Any], last: Value) -> None:
    x, w = layer.x, layer.w
    data, zero = group.data(x)
    kernel, point = group.weights(w, data.elem)
    sx, sw, bias = group.scale(x), group.scale(w), layer.bias
    if bias is not None and bias.const is not None:
        columns = last.tensor.shape or (1,)
        wide = np.broadcast_to(bias.const.reshape(-1), (int(columns[-1]),))
        bias = group.const("bias", np.ascontiguousarray(wide), "i32")

    def make(scale: Value, y_zero: Value) -> Value:
        inputs = [data, sx, zero, kernel, sw, point, bias, scale, y_zero]
        type_ = last.tensor.with_elem(data.elem)
        return group.op("ms.QGemm", inputs, "int", type_, flags)

    assert layer.once is not None
    group.rw.graph.opsets.setdefault("ms", 1)
    group.requantised(layer.once, data.elem, make)


# -- means -----------------------------------------------------------------------------


def _averaged(rw: Rewriter, node: Node) -> tuple[Quantised, End]:
    x, end = dequantised(rw, node.arg(0)), quantised_end(rw, node.output)
    if isinstance(x, str) or end is None or not single(x) or x.q.const is not None:
        raise _Not
    return x, end


def _global_average(rw: Rewriter, node: Node) -> None:
    """6. The mean over all positions of a channel."""
    x, end = _averaged(rw, node)
    rank = len(node.arg(0).tensor.shape or ())
    if rank < 3 or (node.op == "onnx.ReduceMean" and not _all_spatial(node, rank)):
        raise _Not
    group = Group(rw, node)
    data, zero = group.data(x)
    sx = group.scale(x)
    dims = (*(data.tensor.shape or ())[:2], *(1,) * (rank - 2))

    def make(scale: Value, y_zero: Value) -> Value:
        inputs: list[Value | None] = [data, sx, zero, scale, y_zero]
        type_ = TensorType(data.elem, dims)
        mean = group.op("ms.QLinearGlobalAveragePool", inputs, "int", type_, {"channels_last": 0})
        if len(node.output.tensor.shape or ()) == rank:
            return mean
        sizes = group.const("shape", [0, dims[1] if isinstance(dims[1], int) else -1], "i64")
        type_ = node.output.tensor.with_elem(data.elem)
        return group.op("onnx.Reshape", [mean, sizes], "flat", type_)

    rw.graph.opsets.setdefault("ms", 1)
    group.requantised(end, data.elem, make)


def _all_spatial(node: Node, rank: int) -> bool:
    """Whether a ReduceMean goes over all axes but the first two."""
    axes: Any = node.attrs.get("axes")
    if axes is None and node.operand(1) is not None:
        stated = node.arg(1).const
        axes = None if stated is None else tuple(stated.reshape(-1).tolist())
    return isinstance(axes, tuple) and sorted(a % rank for a in axes) == list(range(2, rank))


def _average(rw: Rewriter, node: Node) -> None:
    """7. Means of windows that all have the same number of taps."""
    x, end = _averaged(rw, node)
    kernel = node.ints_attr("kernel_shape")
    attrs = window_attrs(node, kernel)
    counted = node.attrs.get("count_include_pad", 0) and not node.attrs.get("ceil_mode", 0)
    if attrs is None or ("pads" in attrs and not counted):
        raise _Not("its windows have different numbers of taps")
    group, taps = Group(rw, node), {"kernel": kernel} | attrs
    if x.number:
        taps["zero"] = x.number
    total = rw.op("cim.sum_pool", [x.q], f"{group.name}.sum", node, taps, node.output.tensor)
    target = end.quantise.output.elem

    def make(scale: Value, y_zero: Value) -> Value:
        factor = x.steps / (np.float32(end.scale) * np.float32(prod(kernel)))
        return requantised(rw, node, total, factor.astype(np.float32), end.zero, target, 1)

    group.requantised(end, target, make)


_RULES: dict[str, Callable[[Rewriter, Node], None]] = {
    "onnx.Conv": _conv,
    "onnx.ConvTranspose": _conv_transpose,
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
    3. `Q(Gemm(DQ(x), DQ(w), DQ(b)))`, `Q(MatMul(DQ(x), DQ(w)) + DQ(b))` ⇒ `QGemm`
    4. Relu or Clip before Q ⇒ the layer in Q's scale, then `Q(Relu(DQ(…)))`
    5. no Q, or a float bias, or several users ⇒ `ConvInteger` or `MatMulInteger`, `Cast`, `Mul`
    6. `Q(GlobalAveragePool(DQ(x)))`, ReduceMean likewise ⇒ `QLinearGlobalAveragePool`
    7. `Q(AveragePool(DQ(x)))` ⇒ `cim.requant(cim.sum_pool(x))`
    8. `Q(ConvTranspose(DQ(x), DQ(w), DQ(b)))`, and what else no runtime has an operator for ⇒
       `cim.requant(cim.conv(x, w))`, `cim.requant(cim.matmul(x, w))`
    Between DQ, layer and Q there may be layout and MaxPool; a Conv may have a Pad before it.
    A layer between quantisers that stays says why.
    """

    name = "read-qdq"
    summary = "read groups between dequantisers and quantisers as integer layers"
    kind = "reading"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        rw, changed = Rewriter(graph), False
        for node in list(graph.nodes):
            if node.op not in _RULES or len(node.outputs) != 1 or node.output.elem != "f32":
                continue
            try:
                _RULES[node.op](rw, node)
                changed = True
            except (_Not, Misfit) as reason:
                if str(reason) and node.why is None:
                    node.why, changed = str(reason), True
        graph.remove_dead()
        return changed
