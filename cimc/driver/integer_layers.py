"""Integer layers of ONNX as native ones: weights in few bits, zero points, bias.

Used by the pass that recognises them. Raises `rules.Misfit` where operands do not fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from cimc.driver.padding import unpadded
from cimc.driver.rewrite import Rewriter, scalar
from cimc.driver.stored import held
from cimc.frontend.windows import conv_attrs, gather_attrs, mirrored
from cimc.ir.graph import Node, Value
from cimc.ir.meaning import lying_along
from cimc.ir.types import container, int_range, is_integer, is_small, narrowest, planes

# -- operands of layers ----------------------------------------------------------------


@dataclass(frozen=True)
class Coded:
    """Integers, channels along one axis, and their zero point (none: zero)."""

    levels: Any
    elem: str
    zero: Any


def few_bits(w: Any, zero: Value | None, axis: int) -> Coded | str:
    """The weights in the fewest bit planes: less their zero point where that needs no more."""
    levels = w.astype(np.int64)
    raw = _narrowest(levels)
    if zero is None:
        return Coded(levels.astype(container(raw)), raw, None)
    if zero.const is None:
        return "the zero point of its weights is not constant"
    flat = zero.const.astype(np.int64).reshape(-1)
    if flat.size not in (1, w.shape[axis]):
        return "the zero points of its weights are not one for each channel"
    less = levels - lying_along(flat, w.ndim, axis)
    shifted = _narrowest(less)
    if planes(shifted) <= planes(raw):
        return Coded(less.astype(container(shifted)), shifted, None)
    return Coded(levels.astype(container(raw)), raw, flat)


def _narrowest(levels: Any) -> str:
    """The element type of fewest planes that holds these integers."""
    if levels.size and bool((np.abs(levels) == 1).all()):
        return "bip"
    return narrowest(int(levels.min(initial=0)), int(levels.max(initial=0)))


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


@dataclass(frozen=True)
class Operands:
    """x, w, their zero points and an integer bias of one node, by position."""

    x: Value
    w: Value
    zx: Value | None = None
    zw: Value | None = None
    b: Value | None = None


def layer(
    rw: Rewriter,
    node: Node,
    op: str,
    x: Value,
    w: Coded,
    given: Operands,
    attrs: dict[str, Any],
) -> Value | str:
    """cim.conv or cim.matmul of x with all zero points and the bias."""
    name, x = node.output.name, _narrow(rw, x)
    if not is_small(x.elem):
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
    kernel = rw.shared(f"{given.w.name}.{w.elem}", w.levels, w.elem)
    inputs: list[Value | None] = [x, kernel, zx, zw, bias]
    while inputs[-1] is None:
        inputs.pop()
    return rw.op(op, inputs, f"{name}.acc", node, attrs)


def _narrow(rw: Rewriter, x: Value) -> Value:
    """x before a Cast from an integer type of fewer bits: the same values in fewer planes."""
    node = rw.producer(x, "onnx.Cast")
    if node is None or not is_integer(node.arg(0).elem) or not is_integer(x.elem):
        return x
    (low, high), (least, most) = int_range(node.arg(0).elem), int_range(x.elem)
    return node.arg(0) if least <= low and high <= most else x


def convolution(
    rw: Rewriter, node: Node, given: Operands, margin: tuple[int, ...] = ()
) -> Value | str:
    """The sums of a Conv, ConvInteger or QLinearConv, together with a Pad before it that puts
    zero points around x; margin: more padding around x."""
    stored = held(rw, given.w)
    if stored is None:
        return "its weights are not constant"
    if stored.ndim < 3:
        return f"its weights have the shape {list(stored.shape)}"
    w = few_bits(stored, given.zw, 0)
    if isinstance(w, str):
        return w
    zero = 0.0 if given.zx is None else scalar(given.zx)
    x, outer = (given.x, ()) if zero is None else unpadded(rw, given.x, zero)
    attrs = conv_attrs(node, stored.shape[2:], margin, outer)
    if attrs is None:
        return "its padding depends on a size that is not known"
    return layer(rw, node, "cim.conv", x, w, given, attrs)


def transposed(rw: Rewriter, node: Node, given: Operands) -> Value | str:
    """The sums of a ConvTranspose, as a convolution of x with gaps, the kernels mirrored."""
    stored = held(rw, given.w)
    if stored is None:
        return "its weights are not constant"
    found = gather_attrs(node, stored.shape[2:])
    if found is None:
        return "its padding depends on a size that is not known"
    attrs, cut = found
    if any(cut):
        return "its padding cuts rows of its result off"
    group = node.int_attr("group", 1)
    w = few_bits(mirrored(stored, group), _repeated(rw, given.zw, group), 0)
    if isinstance(w, str):
        return w
    return layer(rw, node, "cim.conv", given.x, w, given, attrs)


def _repeated(rw: Rewriter, zero: Value | None, count: int) -> Value | None:
    """Zero points of channels, once for each group."""
    if zero is None or zero.const is None or zero.const.size == 1 or count == 1:
        return zero
    return rw.const(f"{zero.name}.groups", np.tile(zero.const.reshape(-1), count), zero.elem)


def requantised(
    rw: Rewriter, node: Node, acc: Value, scale: Any, zero: int, to: str, axis: int
) -> Value:
    """cim.requant of sums. scale: float32 [1], or one for each channel along `axis`."""
    attrs: dict[str, Any] = {"to": to} if to != "u8" else {}
    if zero:
        attrs["zero"] = zero
    if axis != 1 and scale.size > 1:
        attrs["axis"] = axis
    name = node.output.name
    table = rw.const(f"{name}.scale", np.ascontiguousarray(scale, np.float32), "f32")
    return rw.op("cim.requant", [acc, table], f"{name}.q", node, attrs)


def product(rw: Rewriter, node: Node, given: Operands) -> Value | str:
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
    if stored.ndim != 2 or rank < 1:
        return "its operands are not matrices"
    w = few_bits(stored, given.zw, 1)
    if isinstance(w, str):
        return w
    if rank > 1:
        return layer(rw, node, "cim.matmul", given.x, w, given, {})
    name, sizes = node.output.name, stored.shape
    row = rw.op("cim.reshape", [given.x], f"{name}.x", node, {"shape": (1, sizes[0])})
    acc = layer(rw, node, "cim.matmul", row, w, given, {})
    if isinstance(acc, str):
        return acc
    return rw.op("cim.reshape", [acc], f"{name}.row", node, {"shape": (sizes[1],)})


def _left(rw: Rewriter, node: Node, given: Operands, stored: Any) -> Value | str:
    """W[M,K] · x[…,K,N]: positions along N, kernels along M, a convolution of one tap."""
    x, dims = given.w, given.w.tensor.static
    if stored.ndim != 2 or dims is None or len(dims) < 2:
        return "a constant left side must be one matrix, and its input of known shape"
    w = few_bits(stored[:, :, None], given.zx, 0)
    if isinstance(w, str):
        return w
    name = node.output.name
    flat = rw.op("cim.reshape", [x], f"{name}.x", node, {"shape": (-1, dims[-2], dims[-1])})
    turned = Operands(x, given.x, given.zw, given.zx, given.b)
    acc = layer(rw, node, "cim.conv", flat, w, turned, {})
    if isinstance(acc, str):
        return acc
    shape = (*dims[:-2], stored.shape[0], dims[-1])
    return rw.op("cim.reshape", [acc], f"{name}.rows", node, {"shape": shape})


def _stack(rw: Rewriter, node: Node, given: Operands, stored: Any) -> Value | str:
    """x[…,M,K] · W[…,K,N], a matrix each: a convolution of one tap with as many groups."""
    dims, stack = given.x.tensor.static, stored.shape[:-2]
    if dims is None or dims[-2 - len(stack) : -2] != stack:
        return f"its weights have the shape {list(stored.shape)}, which its input does not share"
    count, rows, terms, name = prod(stack), dims[-2], dims[-1], node.output.name
    batch = prod(dims[: -2 - len(stack)])
    zero = given.zw
    if zero is not None and zero.const is not None and zero.const.ndim < 2:
        zero = _repeated(rw, zero, count)  # one for each column of every matrix
    kernels = stored.reshape(count, terms, -1).swapaxes(1, 2).reshape(-1, terms, 1)
    w = few_bits(kernels, zero, 0)
    if isinstance(w, str):
        return w
    x = rw.op("cim.reshape", [given.x], f"{name}.x", node, {"shape": (batch * count, rows, terms)})
    x = rw.op("cim.transpose", [x], f"{name}.xt", node, {"perm": (0, 2, 1)})
    x = rw.op("cim.reshape", [x], f"{name}.xg", node, {"shape": (batch, count * terms, rows)})
    acc = layer(rw, node, "cim.conv", x, w, given, {"group": count})
    if isinstance(acc, str):
        return acc
    columns = stored.shape[-1]
    shape: tuple[int, ...] = (batch * count, columns, rows)
    out = rw.op("cim.reshape", [acc], f"{name}.rows", node, {"shape": shape})
    out = rw.op("cim.transpose", [out], f"{name}.turned", node, {"perm": (0, 2, 1)})
    shape = (*dims[:-1], columns)
    return rw.op("cim.reshape", [out], f"{name}.stack", node, {"shape": shape})
