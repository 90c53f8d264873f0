"""Finds the layers and steps that a model already computes on integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from cimc.driver import Pass, PassContext, Rewriter
from cimc.driver.integer_layers import (
    Operands,
    convolution,
    few_bits,
    layer,
    product,
    requantised,
)
from cimc.driver.layout import LAYOUT, RESHAPES, cut_out, joined, native
from cimc.driver.repeats import repeated
from cimc.driver.rewrite import FLOAT_LAYERS, scalar
from cimc.driver.stored import held
from cimc.driver.tables import table_of
from cimc.frontend.windows import slices
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.ops import LAYERS
from cimc.ir.rules import Misfit
from cimc.ir.types import TensorType, is_integer, is_small

# -- layers ----------------------------------------------------------------------------


def _plain(made: Callable[[Rewriter, Node, Operands], Value | str]) -> Callable[..., str]:
    """1. ConvInteger and MatMulInteger: the sums are the result."""

    def rule(rw: Rewriter, node: Node) -> str:
        given = Operands(node.arg(0), node.arg(1), node.operand(2), node.operand(3))
        acc = made(rw, node, given)
        if isinstance(acc, str):
            return acc
        rw.replace(node.output, acc)
        return ""

    return rule


def _qlinear(made: Callable[[Rewriter, Node, Operands], Value | str]) -> Callable[..., str]:
    """2. QLinearConv and QLinearMatMul: sums, requantised."""

    def rule(rw: Rewriter, node: Node) -> str:
        x, sx, zx, w, sw, zw, sy, zy = (node.inputs[i] for i in range(8))
        if x is None or w is None:
            return "an operand is missing"
        given = Operands(x, w, zx, zw, node.operand(8))
        return _requantised(rw, node, made(rw, node, given), (sx, sw), sy, zy)

    return rule


def _requantised(
    rw: Rewriter, node: Node, acc: Value | str, scales: Any, sy: Value | None, zy: Value | None,
    alpha: float = 1.0,
) -> str:  # fmt: skip
    """acc · (alpha · s_x · s_w / s_y), rounded, + z_y, in float32 in that order."""
    if isinstance(acc, str):
        return acc
    known = [v for v in (*scales, sy) if v is not None and v.const is not None]
    if len(known) < 3:
        return "its scales are not constant"
    a, b, c = (v.const.astype(np.float32).reshape(-1) for v in known)  # type: ignore[union-attr]
    if a.size != 1 or c.size != 1 or (zy is not None and scalar(zy) is None):
        return "its scales or zero points differ between elements"
    with np.errstate(all="ignore"):
        scale = np.float32(alpha) * a * b / c if alpha != 1.0 else a * b / c
    if not (np.isfinite(scale).all() and (scale != 0).all()):
        return "its scales together leave the range of float32"
    rank, y = len(node.output.tensor.shape or ()), node.output
    axis = 1 if node.op == "onnx.QLinearConv" else rank - 1
    rw.replace(y, requantised(rw, node, acc, scale, int(scalar(zy) or 0), y.elem, axis))
    return ""


def _qgemm(rw: Rewriter, node: Node) -> str:
    """3. QGemm: either operand turned, sums in float or requantised."""
    a, sa, za, b, sb, zb, c, sy, zy = (node.operand(i) for i in range(9))
    if a is None or b is None:
        return "an operand is missing"
    stored = held(rw, b)
    if stored is None:
        return "its weights are not constant"
    if node.attrs.get("transA", 0):
        a = rw.op("cim.transpose", [a], f"{node.output.name}.t", node, {"perm": (1, 0)})
    w = few_bits(stored.T if node.attrs.get("transB", 0) else stored, zb, 1)
    if isinstance(w, str):
        return w
    acc = layer(rw, node, "cim.matmul", a, w, Operands(a, b, za, zb, c), {})
    alpha = node.float_attr("alpha", 1.0)
    if sy is None:
        return _in_float(rw, node, acc, (sa, sb), alpha)
    return _requantised(rw, node, acc, (sa, sb), sy, zy, alpha)


def _in_float(
    rw: Rewriter, node: Node, acc: Value | str, scales: Sequence[Value | None], alpha: float
) -> str:
    """acc · (alpha · s_a · s_b) in float32, in that order."""
    if isinstance(acc, str):
        return acc
    known = [v.const for v in scales if v is not None and v.const is not None]
    if len(known) < 2:
        return "its scales are not constant"
    scale = (np.float32(alpha) * known[0] * known[1]).astype(np.float32).reshape(-1)
    if scale.size == 1:
        rw.encode(node.output, acc, float(scale[0]), node)
        return ""
    y = node.output
    out = rw.op("cim.dequant", [acc], f"{y.name}.f", node)
    factor = rw.const(f"{y.name}.scale", scale, "f32")
    rw.replace(y, rw.op("onnx.Mul", [out, factor], f"{y.name}.scaled", node, {}, y.tensor))
    return ""


def _bias(rw: Rewriter, node: Node) -> str:
    """10. cim.conv or cim.matmul + integers of one channel each ⇒ the layer's bias"""
    if node.output.elem != "i32":
        return ""
    for acc, other in (node.inputs, node.inputs[::-1]):
        made = rw.producer(acc, *LAYERS)
        if made is None or other is None or other.const is None or len(made.inputs) > 4:
            continue
        dims = made.output.tensor.static
        if len(rw.users(made.output)) > 1 or made.output in rw.graph.outputs or not dims:
            continue
        rank, channels = len(dims), dims[1 if made.op == "cim.conv" else -1]
        along = [1] * rank
        along[1 if made.op == "cim.conv" else -1] = channels
        shape = other.const.shape
        padded = (*(1,) * (rank - len(shape)), *shape)
        if padded != tuple(along) and other.const.size != 1:
            continue
        flat = np.broadcast_to(other.const.reshape(-1), channels).astype(np.int32)
        bias = rw.const(f"{node.output.name}.bias", np.ascontiguousarray(flat), "i32")
        inputs = [*made.inputs, *(None,) * (4 - len(made.inputs)), bias]
        name = f"{node.output.name}.acc"
        rw.replace(
            node.output, rw.op(made.op, inputs, name, node, dict(made.attrs), made.output.tensor)
        )
        return ""
    return ""


# -- between layers --------------------------------------------------------------------


def _number(value: Value | None) -> int:
    return int(scalar(value) or 0)


def _dequantize(rw: Rewriter, node: Node) -> str:
    """4. DequantizeLinear of one scale ⇒ cim.dequant; of a constant that no float layer uses
    (the product would round otherwise) ⇒ a constant"""
    q, scale, zero = node.arg(0), scalar(node.arg(1)), node.operand(2)
    if q.const is not None and not any(user.op in FLOAT_LAYERS for user in rw.users(node.output)):
        stored = held(rw, node.output)
        if stored is not None and node.output not in rw.graph.outputs:
            value = rw.const(node.output.name, stored, node.output.elem)
            rw.replace(node.output, value, keep_name=False)
        return ""
    fits = is_integer(q.elem) and node.output.elem == "f32" and q.const is None
    if scale is None or not fits or (zero is not None and scalar(zero) is None):
        return ""
    if node.attrs.get("block_size", 0):
        return ""
    rw.encode(node.output, q, scale, node, _number(zero))
    return ""


def _cast(rw: Rewriter, node: Node) -> str:
    """4. Cast of native sums to float32 ⇒ cim.dequant"""
    sums = node.arg(0)
    native = getattr(rw.producer(sums), "domain", "") == "cim"
    if native and sums.elem == "i32" and node.output.elem == "f32":
        rw.encode(node.output, sums, 1.0, node)
    return ""


def _qlinear_add(rw: Rewriter, node: Node) -> str:
    """5. QLinearAdd ⇒ cim.qadd with its own steps"""
    x, sx, zx, y, sy, zy, s, zero = (node.operand(i) for i in range(8))
    scales = [scalar(v) for v in (sx, sy, s)]
    if x is None or y is None or None in scales or x.type != y.type:
        return "its operands differ in shape, or its scales are not constant"
    if x.const is not None or y.const is not None:
        return "one of its operands is constant"
    attrs: dict[str, Any] = dict(zip(("x_scale", "y_scale", "scale"), scales))
    for name, value in (("x_zero", zx), ("y_zero", zy), ("zero", zero)):
        if _number(value):
            attrs[name] = _number(value)
    attrs["fused"] = 1
    if node.output.elem != "u8":
        attrs["to"] = node.output.elem
    rw.replace(node.output, rw.op("cim.qadd", [x, y], f"{node.output.name}.q", node, attrs))
    return ""


def _global_average(rw: Rewriter, node: Node) -> str:
    """6. QLinearGlobalAveragePool ⇒ cim.sum_pool, requantised with s_x / (s_y · n)"""
    x, sx, zx, sy, zy = (node.operand(i) for i in range(5))
    dims = None if x is None else x.tensor.static
    if x is None or dims is None or len(dims) < 3 or node.int_attr("channels_last", 0):
        return "its input has the channels last, or an unknown size"
    a, c = scalar(sx), scalar(sy)
    if a is None or c is None:
        return "its scales are not constant"
    name = node.output.name
    attrs: dict[str, Any] = {"kernel": dims[2:]}
    if _number(zx):
        attrs["zero"] = _number(zx)
    total = rw.op("cim.sum_pool", [x], f"{name}.sum", node, attrs)
    scale = np.float32(a) / (np.float32(c) * np.float32(prod(dims[2:])))
    y, zero = node.output, _number(zy)
    rw.replace(y, requantised(rw, node, total, np.array([scale]), zero, y.elem, 1))
    return ""


def _table(rw: Rewriter, node: Node) -> str:
    """7. QLinearSigmoid, QLinearLeakyRelu ⇒ cim.lut, the table made by running them"""
    x = node.arg(0)
    if not is_small(x.elem) or x.const is not None:
        return ""
    if any(v is not None and v.const is None for v in node.inputs[1:]):
        return "its scales are not constant"
    name = node.output.name
    table = rw.const(f"{name}.table", table_of(rw.graph, [node], x, node.output), node.output.elem)
    rw.replace(node.output, rw.op("cim.lut", [x, table], f"{name}.q", node))
    return ""


def _qlinear_concat(rw: Rewriter, node: Node) -> str:
    """8. QLinearConcat ⇒ a table for each operand of another scale, and cim.concat"""
    sy, zy, axis = node.arg(0), node.arg(1), node.int_attr("axis", 1)
    rank, name = len(node.output.tensor.shape or ()), node.output.name
    parts: list[Value] = []
    for i in range(2, len(node.inputs), 3):
        x, s, z = node.arg(i), node.arg(i + 1), node.arg(i + 2)
        if x.const is not None or not is_integer(x.elem) or x.elem != node.output.elem:
            return "one of its operands is constant, or of another type"
        if scalar(s) is None or scalar(sy) is None or rank == 0:
            return "its scales are not constant"
        if scalar(s) != scalar(sy) or scalar(z) != scalar(zy):
            out = Value("out", x.tensor.with_elem(node.output.elem))
            alone = Node(node.op, [sy, zy, x, s, z], [out], {"axis": 0})
            array = table_of(rw.graph, [alone], x, out)
            table = rw.const(f"{name}.table", array, node.output.elem)
            x = rw.op("cim.lut", [x, table], f"{x.name}.{name}", node)
        parts.append(x)
    rw.replace(node.output, joined(rw, parts, axis % rank, f"{name}.q", node))
    return ""


def _small(value: Value) -> bool:
    """Whether a value is an integer tensor of at most 8 bits, no constant: data of a network, not
    of its shapes."""
    known = isinstance(value.type, TensorType) and is_small(value.elem)
    return known and value.const is None


def _concat(rw: Rewriter, node: Node) -> str:
    """9. Concat of integers of at most 8 bits ⇒ cim.concat"""
    parts = [v for v in node.inputs if v is not None]
    rank = len(node.output.tensor.shape or ())
    if rank and len(parts) > 1 and all(map(_small, parts)):
        axis = node.int_attr("axis", 1) % rank
        rw.replace(node.output, joined(rw, parts, axis, f"{node.output.name}.q", node))
    return ""


def _layout(rw: Rewriter, node: Node) -> str:
    """9. Reshape, Transpose, MaxPool, … of them ⇒ cim.reshape, …"""
    form = native(node) if _small(node.arg(0)) else None
    open_ = node.op in RESHAPES and node.output.tensor.static is None
    if form is not None and not open_:
        rw.replace(node.output, form.on(rw, node.arg(0), f"{node.output.name}.q", node))
    return ""


def _slice(rw: Rewriter, node: Node) -> str:
    """9. Slice with steps of one, and Split, of them ⇒ cim.slice"""
    parts = slices(node)
    if not _small(node.arg(0)) or parts is None:
        return ""
    for out, cuts in zip(node.outputs, parts):
        x = cut_out(rw, node.arg(0), cuts, f"{out.name}.q", node)
        rw.replace(out, x, keep_name=bool(cuts))
    return ""


def _resize(rw: Rewriter, node: Node) -> str:
    """11. Resize of them that repeats elements ⇒ cim.concat between cim.reshape"""
    q = repeated(rw, node, node.arg(0)) if _small(node.arg(0)) else None
    if q is not None:
        rw.replace(node.output, q, keep_name=q is not node.arg(0))
    return ""


_RULES: dict[str, Callable[[Rewriter, Node], str]] = {
    "onnx.ConvInteger": _plain(convolution),
    "onnx.MatMulInteger": _plain(product),
    "onnx.QLinearConv": _qlinear(convolution),
    "onnx.QLinearMatMul": _qlinear(product),
    "ms.QGemm": _qgemm,
    "onnx.DequantizeLinear": _dequantize,
    "ms.DequantizeLinear": _dequantize,
    "onnx.Cast": _cast,
    "ms.QLinearAdd": _qlinear_add,
    "ms.QLinearGlobalAveragePool": _global_average,
    "ms.QLinearSigmoid": _table,
    "ms.QLinearLeakyRelu": _table,
    "ms.QLinearConcat": _qlinear_concat,
    "onnx.Concat": _concat,
    "onnx.Add": _bias,
    "onnx.Slice": _slice,
    "onnx.Split": _slice,
    **dict.fromkeys(LAYOUT, _layout),
    "onnx.Resize": _resize,
    "onnx.Upsample": _resize,
}


@dataclass(frozen=True)
class RecogniseIntegers(Pass):
    """Rules (weights in the narrowest integer type, less their zero point where that helps):
    1. `ConvInteger`, `MatMulInteger` ⇒ `cim.conv`, `cim.matmul`, zero points of x known now or at
       run time; weights on either side, one matrix or a stack of them; a `Pad` with zero points
       before a convolution is padding of it
    2. `QLinearConv`, `QLinearMatMul` ⇒ the same, then `cim.requant`
    3. `QGemm` ⇒ `cim.matmul`, then `cim.requant`, or a scale for results in float
    4. `DequantizeLinear` of one scale ⇒ `cim.dequant`; of a constant, but for the weights of a
       float layer ⇒ a constant
    5. `QLinearAdd` ⇒ `cim.qadd` fused=1
    6. `QLinearGlobalAveragePool` ⇒ `cim.sum_pool`, then `cim.requant`
    7. `QLinearSigmoid`, `QLinearLeakyRelu` ⇒ `cim.lut`, its table made by running them
    8. `QLinearConcat` ⇒ `cim.lut` where scales differ, and `cim.concat`
    9. `Reshape`, `Flatten`, `Squeeze`, `Unsqueeze`, `Transpose`, `Concat`, `Slice`, `Split`,
       `MaxPool` of integers of at most 8 bits ⇒ the native operation
    10. `cim.conv(…) + b`, `cim.matmul(…) + b`, b integers of one channel each ⇒ the layer's bias
    11. `Resize`, `Upsample` of such integers that give each element a whole number of times ⇒
       `cim.concat(q, q)` between `cim.reshape`
    A layer that stays says why.
    """

    name = "recognise-integers"
    summary = "turn integer layers, requantisation and dequantisation into cim operations"
    kind = "exact"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        rw = Rewriter(graph)
        for node in list(graph.nodes):
            if node.op not in _RULES or len(node.outputs) < 1:
                continue
            if not isinstance(node.outputs[0].type, TensorType):
                continue
            try:
                why = _RULES[node.op](rw, node)
            except Misfit as misfit:
                why = str(misfit)
            if why and node.why is None:
                node.why = why
                rw.changed = True
        graph.remove_dead()
        return rw.changed
