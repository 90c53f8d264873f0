"""Finds the layers and steps that a model already computes on integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from cimc.driver import Pass, PassContext, Rewriter
from cimc.driver.rewrite import scalar
from cimc.driver.stored import held
from cimc.driver.tables import table_of
from cimc.frontend.windows import covered, window_attrs
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.rules import Misfit
from cimc.ir.types import TensorType, container, is_integer, narrowest, planes

_BYTE = 8  # bit planes that a tile takes as input


# -- operands of layers ----------------------------------------------------------------


@dataclass(frozen=True)
class _Weights:
    """Integers, channels along one axis, and their zero point (none: zero)."""

    levels: Any
    elem: str
    zero: Any


def _weights(w: Any, zero: Value | None, axis: int) -> _Weights | str:
    """The weights in the fewest bit planes: less their zero point where that needs no more."""
    levels = w.astype(np.int64)
    raw = narrowest(int(levels.min(initial=0)), int(levels.max(initial=0)))
    if zero is None:
        return _Weights(levels.astype(container(raw)), raw, None)
    if zero.const is None:
        return "the zero point of its weights is not constant"
    flat = zero.const.astype(np.int64).reshape(-1)
    if flat.size not in (1, w.shape[axis]):
        return "the zero points of its weights are not one for each channel"
    along = [1] * w.ndim
    along[axis] = -1
    less = levels - flat.reshape(along)
    shifted = narrowest(int(less.min(initial=0)), int(less.max(initial=0)))
    if planes(shifted) <= planes(raw):
        return _Weights(less.astype(container(shifted)), shifted, None)
    return _Weights(levels.astype(container(raw)), raw, flat)


def _zero_of(rw: Rewriter, zero: Value | None, node: Node, name: str) -> Value | str | None:
    """The zero point of a layer's input as one integer: a constant, or known at run time only;
    None where it is 0."""
    if zero is None or scalar(zero) == 0:
        return None
    shape = zero.tensor.static
    if shape is None or prod(shape) != 1:
        return "its zero point isn't one number"
    if zero.const is not None:
        return rw.const(f"{name}.zero", zero.const.reshape(1), zero.elem)
    return rw.op("cim.reshape", [zero], f"{name}.zero", node, {"shape": (1,)})


def _constant(rw: Rewriter, name: str, array: Any, elem: str) -> Value:
    """A constant, shared by layers that share it, and so their rows."""
    for value in rw.graph.consts:
        if value.name == name and value.elem == elem and np.array_equal(value.const, array):  # type: ignore[arg-type]
            return value
    return rw.const(name, array, elem)


@dataclass(frozen=True)
class _Operands:
    """x, w, their zero points and an integer bias of one node, by position."""

    x: Value
    w: Value
    zx: Value | None = None
    zw: Value | None = None
    b: Value | None = None


def _input(node: Node, index: int) -> Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _layer(
    rw: Rewriter,
    node: Node,
    op: str,
    x: Value,
    w: _Weights,
    given: _Operands,
    attrs: dict[str, Any],
) -> Value | str:
    """cim.conv or cim.matmul of x with all zero points and the bias."""
    name = node.output.name
    if not is_integer(x.elem) or planes(x.elem) > _BYTE:
        return f"its input is {x.elem}"
    zx = _zero_of(rw, given.zx, node, name)
    if isinstance(zx, str):
        return zx
    channels = w.levels.shape[0 if op == "cim.conv" else 1]
    zw = None if w.zero is None else rw.const(f"{name}.w.zero", w.zero.astype(np.int32), "i32")
    bias = None
    if given.b is not None:
        if given.b.const is None:
            return "its bias is not constant"
        if given.b.const.size not in (1, channels):
            return "its bias is not one for each channel"
        flat = np.ascontiguousarray(np.broadcast_to(given.b.const.reshape(-1), channels))
        bias = rw.const(f"{name}.bias", flat.astype(np.int32), "i32")
    kernel = _constant(rw, f"{given.w.name}.{w.elem}", w.levels, w.elem)
    inputs: list[Value | None] = [x, kernel, zx, zw, bias]
    while inputs[-1] is None:
        inputs.pop()
    return rw.op(op, inputs, f"{name}.acc", node, attrs)


def _convolution(rw: Rewriter, node: Node, given: _Operands) -> Value | str:
    stored = held(rw, given.w)
    if stored is None:
        return "its weights are not constant"
    if stored.ndim < 3:
        return f"its weights have the shape {list(stored.shape)}"
    w = _weights(stored, given.zw, 0)
    if isinstance(w, str):
        return w
    attrs = window_attrs(node, stored.shape[2:])
    if attrs is None:
        return "its padding depends on a size that is not known"
    if node.attrs.get("group", 1) != 1:
        attrs["group"] = node.attrs["group"]
    return _layer(rw, node, "cim.conv", given.x, w, given, attrs)


def _product(rw: Rewriter, node: Node, given: _Operands) -> Value | str:
    """x · w with constant weights on either side, one matrix or one for each of a stack."""
    stored = held(rw, given.w)
    if stored is None:
        left = held(rw, given.x)
        return "its weights are not constant" if left is None else _left(rw, node, given, left)
    rank = len(given.x.tensor.shape or ())
    while stored.ndim > 2 and stored.shape[0] == 1 and rank >= stored.ndim:
        stored = stored[0]  # one matrix for the whole batch
    if stored.ndim > 2:
        return _stack(rw, node, given, stored)
    if stored.ndim != 2 or rank < 2:
        return "its operands are not matrices"
    w = _weights(stored, given.zw, 1)
    if isinstance(w, str):
        return w
    return _layer(rw, node, "cim.matmul", given.x, w, given, {})


def _left(rw: Rewriter, node: Node, given: _Operands, stored: Any) -> Value | str:
    """W[M,K] · x[…,K,N]: positions along N, kernels along M, a convolution of one tap."""
    x, dims = given.w, given.w.tensor.static
    if stored.ndim != 2 or dims is None or len(dims) < 2:
        return "a constant left side must be one matrix, and its input of known shape"
    w = _weights(stored[:, :, None], given.zx, 0)
    if isinstance(w, str):
        return w
    name = node.output.name
    flat = rw.op("cim.reshape", [x], f"{name}.x", node, {"shape": (-1, dims[-2], dims[-1])})
    turned = _Operands(x, given.x, given.zw, given.zx, given.b)
    acc = _layer(rw, node, "cim.conv", flat, w, turned, {})
    if isinstance(acc, str):
        return acc
    shape = (*dims[:-2], stored.shape[0], dims[-1])
    return rw.op("cim.reshape", [acc], f"{name}.rows", node, {"shape": shape})


def _stack(rw: Rewriter, node: Node, given: _Operands, stored: Any) -> Value | str:
    """x[…,M,K] · W[…,K,N], a matrix each: a convolution of one tap with as many groups."""
    dims, stack = given.x.tensor.static, stored.shape[:-2]
    if dims is None or dims[-2 - len(stack) : -2] != stack:
        return f"its weights have the shape {list(stored.shape)}, which its input does not share"
    count, rows, terms, name = prod(stack), dims[-2], dims[-1], node.output.name
    batch = prod(dims[: -2 - len(stack)])
    if given.zw is not None and given.zw.tensor.static not in ((), (1,)):
        return "its weights have a zero point for each column of each matrix"
    kernels = stored.reshape(count, terms, -1).swapaxes(1, 2).reshape(-1, terms, 1)
    w = _weights(kernels, given.zw, 0)
    if isinstance(w, str):
        return w
    x = rw.op("cim.reshape", [given.x], f"{name}.x", node, {"shape": (batch * count, rows, terms)})
    x = rw.op("cim.transpose", [x], f"{name}.xt", node, {"perm": (0, 2, 1)})
    x = rw.op("cim.reshape", [x], f"{name}.xg", node, {"shape": (batch, count * terms, rows)})
    acc = _layer(rw, node, "cim.conv", x, w, given, {"group": count})
    if isinstance(acc, str):
        return acc
    columns = stored.shape[-1]
    shape: tuple[int, ...] = (batch * count, columns, rows)
    out = rw.op("cim.reshape", [acc], f"{name}.rows", node, {"shape": shape})
    out = rw.op("cim.transpose", [out], f"{name}.turned", node, {"perm": (0, 2, 1)})
    shape = (*dims[:-1], columns)
    return rw.op("cim.reshape", [out], f"{name}.stack", node, {"shape": shape})


# -- layers ----------------------------------------------------------------------------


def _plain(made: Callable[[Rewriter, Node, _Operands], Value | str]) -> Callable[..., str]:
    """1. ConvInteger and MatMulInteger: the sums are the result."""

    def rule(rw: Rewriter, node: Node) -> str:
        given = _Operands(node.arg(0), node.arg(1), _input(node, 2), _input(node, 3))
        acc = made(rw, node, given)
        if isinstance(acc, str):
            return acc
        rw.replace(node.output, acc)
        return ""

    return rule


def _qlinear(made: Callable[[Rewriter, Node, _Operands], Value | str]) -> Callable[..., str]:
    """2. QLinearConv and QLinearMatMul: sums, requantised."""

    def rule(rw: Rewriter, node: Node) -> str:
        x, sx, zx, w, sw, zw, sy, zy = (node.inputs[i] for i in range(8))
        if x is None or w is None:
            return "an operand is missing"
        given = _Operands(x, w, zx, zw, _input(node, 8))
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
    scale = np.float32(alpha) * a * b / c if alpha != 1.0 else a * b / c
    name, rank = node.output.name, len(node.output.tensor.shape or ())
    axis = 1 if node.op == "onnx.QLinearConv" else rank - 1
    attrs: dict[str, Any] = {"to": node.output.elem} if node.output.elem != "u8" else {}
    if scalar(zy):
        attrs["zero"] = int(scalar(zy) or 0)
    if axis != 1:
        attrs["axis"] = axis
    table = rw.const(f"{name}.scale", scale.astype(np.float32), "f32")
    rw.replace(node.output, rw.op("cim.requant", [acc, table], f"{name}.q", node, attrs))
    return ""


def _qgemm(rw: Rewriter, node: Node) -> str:
    """3. QGemm: either operand turned, sums in float or requantised."""
    a, sa, za, b, sb, zb, c, sy, zy = (_input(node, i) for i in range(9))
    if a is None or b is None:
        return "an operand is missing"
    stored = held(rw, b)
    if stored is None:
        return "its weights are not constant"
    if node.attrs.get("transA", 0):
        a = rw.op("cim.transpose", [a], f"{node.output.name}.t", node, {"perm": (1, 0)})
    w = _weights(stored.T if node.attrs.get("transB", 0) else stored, zb, 1)
    if isinstance(w, str):
        return w
    acc = _layer(rw, node, "cim.matmul", a, w, _Operands(a, b, za, zb, c), {})
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
        made = rw.producer(acc, "cim.conv", "cim.matmul")
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
    """4. DequantizeLinear of one scale ⇒ cim.dequant"""
    q, scale, zero = node.arg(0), scalar(node.arg(1)), _input(node, 2)
    fits = is_integer(q.elem) and node.output.elem == "f32" and q.const is None
    if scale is None or not fits or (zero is not None and scalar(zero) is None):
        return ""
    if node.attrs.get("block_size", 0):
        return ""
    rw.encode(node.output, q, scale, node, _number(zero))
    return ""


def _qlinear_add(rw: Rewriter, node: Node) -> str:
    """5. QLinearAdd ⇒ cim.qadd with its own steps"""
    x, sx, zx, y, sy, zy, s, zero = (_input(node, i) for i in range(8))
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
    x, sx, zx, sy, zy = (_input(node, i) for i in range(5))
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
    table = rw.const(f"{name}.scale", np.array([scale], np.float32), "f32")
    to: dict[str, Any] = {"to": node.output.elem} if node.output.elem != "u8" else {}
    if _number(zy):
        to["zero"] = _number(zy)
    rw.replace(node.output, rw.op("cim.requant", [total, table], f"{name}.q", node, to))
    return ""


def _table(rw: Rewriter, node: Node) -> str:
    """7. QLinearSigmoid, QLinearLeakyRelu ⇒ cim.lut, the table made by running them"""
    x = node.arg(0)
    if not is_integer(x.elem) or planes(x.elem) > _BYTE or x.const is not None:
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
    rw.replace(node.output, _joined(rw, node, parts, axis % rank))
    return ""


def _joined(rw: Rewriter, node: Node, parts: list[Value], axis: int) -> Value:
    """cim.concat of any number of values."""
    joined = parts[0]
    attrs = {"axis": axis} if axis != 1 else {}
    for part in parts[1:]:
        joined = rw.op("cim.concat", [joined, part], f"{node.output.name}.q", node, attrs)
    return joined


def _small(value: Value) -> bool:
    """Whether a value is an integer tensor of at most 8 bits, no constant: data of a network, not
    of its shapes."""
    known = isinstance(value.type, TensorType) and is_integer(value.elem)
    return known and planes(value.elem) <= _BYTE and value.const is None


def _concat(rw: Rewriter, node: Node) -> str:
    """9. Concat of integers of at most 8 bits ⇒ cim.concat"""
    parts = [v for v in node.inputs if v is not None]
    rank = len(node.output.tensor.shape or ())
    if rank and len(parts) > 1 and all(map(_small, parts)):
        axis = node.int_attr("axis", 1) % rank
        rw.replace(node.output, _joined(rw, node, parts, axis))
    return ""


def _layout(rw: Rewriter, node: Node) -> str:
    """9. Reshape, Flatten, Squeeze, Unsqueeze of them ⇒ cim.reshape"""
    shape = node.output.tensor.static
    if _small(node.arg(0)) and shape is not None:
        q = rw.op("cim.reshape", [node.arg(0)], f"{node.output.name}.q", node, {"shape": shape})
        rw.replace(node.output, q)
    return ""


def _transpose(rw: Rewriter, node: Node) -> str:
    """9. Transpose of them ⇒ cim.transpose"""
    x = node.arg(0)
    if _small(x) and x.tensor.shape is not None:
        perm = node.ints_attr("perm") or tuple(reversed(range(len(x.tensor.shape))))
        q = rw.op("cim.transpose", [x], f"{node.output.name}.q", node, {"perm": perm})
        rw.replace(node.output, q)
    return ""


def _max_pool(rw: Rewriter, node: Node) -> str:
    """9. MaxPool of them ⇒ cim.max_pool"""
    if not _small(node.arg(0)) or len(node.outputs) > 1:
        return ""
    kernel = node.ints_attr("kernel_shape")
    attrs = window_attrs(node, kernel)
    if attrs is None or not covered(node.arg(0), kernel, attrs):
        return ""
    attrs = {"kernel": kernel} | attrs
    name, type_ = node.output.name, node.output.tensor
    rw.replace(node.output, rw.op("cim.max_pool", [node.arg(0)], f"{name}.q", node, attrs, type_))
    return ""


_RULES: dict[str, Callable[[Rewriter, Node], str]] = {
    "onnx.ConvInteger": _plain(_convolution),
    "onnx.MatMulInteger": _plain(_product),
    "onnx.QLinearConv": _qlinear(_convolution),
    "onnx.QLinearMatMul": _qlinear(_product),
    "ms.QGemm": _qgemm,
    "onnx.DequantizeLinear": _dequantize,
    "ms.QLinearAdd": _qlinear_add,
    "ms.QLinearGlobalAveragePool": _global_average,
    "ms.QLinearSigmoid": _table,
    "ms.QLinearLeakyRelu": _table,
    "ms.QLinearConcat": _qlinear_concat,
    "onnx.Concat": _concat,
    "onnx.Add": _bias,
    **dict.fromkeys(("onnx.Reshape", "onnx.Flatten", "onnx.Squeeze", "onnx.Unsqueeze"), _layout),
    "onnx.Transpose": _transpose,
    "onnx.MaxPool": _max_pool,
}


@dataclass(frozen=True)
class RecogniseIntegers(Pass):
    """Rules (weights in the narrowest integer type, less their zero point where that helps):
    1. `ConvInteger`, `MatMulInteger` ⇒ `cim.conv`, `cim.matmul`, zero points of x known now or at
       run time; weights on either side, one matrix or a stack of them
    2. `QLinearConv`, `QLinearMatMul` ⇒ the same, then `cim.requant`
    3. `QGemm` ⇒ `cim.matmul`, then `cim.requant`, or a scale for results in float
    4. `DequantizeLinear` of one scale ⇒ `cim.dequant`
    5. `QLinearAdd` ⇒ `cim.qadd` fused=1
    6. `QLinearGlobalAveragePool` ⇒ `cim.sum_pool`, then `cim.requant`
    7. `QLinearSigmoid`, `QLinearLeakyRelu` ⇒ `cim.lut`, its table made by running them
    8. `QLinearConcat` ⇒ `cim.lut` where scales differ, and `cim.concat`
    9. `Reshape`, `Flatten`, `Squeeze`, `Unsqueeze`, `Transpose`, `Concat`, `MaxPool` of integers
       of at most 8 bits ⇒ the native operation
    10. `cim.conv(…) + b`, `cim.matmul(…) + b`, b integers of one channel each ⇒ the layer's bias
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
