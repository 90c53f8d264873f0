"""Folds the float work behind a layer that scales and shifts its channels into the layer's
weights and bias: approximate, since the products round elsewhere.

A layer is Conv, ConvTranspose, Gemm or MatMul with constant weights; the work is
BatchNormalization or Mul, Div, Add, Sub with a constant that differs along channels only.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cimc.driver.rewrite import Rewriter
from cimc.ir.graph import Graph, Node, Value, layer_name

_CONVS = ("onnx.Conv", "onnx.ConvTranspose")


@dataclass(frozen=True)
class _Affine:
    """y = x * scale + shift, float64 [channels] each."""

    scale: Any
    shift: Any


def fold_affine(graph: Graph, layers: Iterable[Node], keep: Container[Node] = ()) -> list[str]:
    """Fold into each of `layers`, in place, all that follows it, can be folded and is not in
    `keep`; a MatMul of two matrices becomes a Gemm where it gets a bias. alpha and beta
    of a Gemm go into its weights and bias. Returns the names of the operations that are gone."""
    gone: list[str] = []
    rw = Rewriter(graph)
    for node in layers:
        channels = _channels(node)
        if channels is None:
            continue
        if node.op == "onnx.Gemm":
            _plain_gemm(rw, node, channels)
        while (follower := _follower(rw, node)) is not None and follower not in keep:
            affine = _affine_of(follower, node.output, channels, _axis(node))
            if affine is None or not _fold(rw, node, affine):
                break
            gone.append(layer_name(follower))
            rw.replace(follower.output, node.output)
            follower.inputs.clear()
            graph.nodes.remove(follower)
    graph.remove_dead()
    return gone


def _channels(node: Node) -> int | None:
    """How many output channels a layer with constant weights has; None for any other node."""
    w = node.operand(1)
    bias = node.operand(2)
    if w is None or w.const is None or w.elem != "f32" or (bias is not None and bias.const is None):
        return None
    shape: tuple[int, ...] = w.const.shape
    if node.op == "onnx.Conv":
        return shape[0]
    if node.op == "onnx.ConvTranspose":
        return shape[1] * node.int_attr("group", 1)
    if node.op == "onnx.Gemm":
        return shape[0 if node.int_attr("transB", 0) else 1]
    return shape[1] if node.op == "onnx.MatMul" and len(shape) == 2 else None


def _axis(node: Node) -> int:
    """The axis of the channels in the result, counted from the end for products."""
    return 1 if node.op in _CONVS else -1


def _follower(rw: Rewriter, node: Node) -> Node | None:
    """The only user of a layer's result."""
    value = node.output
    users = rw.users(value)
    return users[0] if len(users) == 1 and value not in rw.graph.outputs else None


def _affine_of(node: Node, x: Value, channels: int, axis: int) -> _Affine | None:
    """What a node does to each channel of x; None if it is not of this form."""
    if node.op == "onnx.BatchNormalization":
        return _batch_norm(node, x, axis)
    if node.op not in ("onnx.Mul", "onnx.Div", "onnx.Add", "onnx.Sub") or x.elem != "f32":
        return None
    first = node.arg(0) is x
    other = node.arg(1 if first else 0)
    if other is x or other.const is None or node.output.tensor.shape != x.tensor.shape:
        return None
    c = _by_channel(other.const, len(x.tensor.shape or ()), channels, axis)
    if c is None:
        return None
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op == "onnx.Mul":
        return _Affine(c, zero)
    if node.op == "onnx.Add":
        return _Affine(one, c)
    if node.op == "onnx.Sub":
        return _Affine(one, -c) if first else _Affine(-one, c)
    return _Affine(1 / c, zero) if first and np.all(c != 0) else None


def _batch_norm(node: Node, x: Value, axis: int) -> _Affine | None:
    rank = len(x.tensor.shape or ())
    known = all(v is not None and v.const is not None for v in node.inputs[1:5])
    training = node.int_attr("training_mode", 0) or len(node.outputs) > 1
    by_position = not node.int_attr("spatial", 1)  # its parameters differ at each position
    if not known or training or by_position or axis % max(rank, 1) != 1 or node.arg(0) is not x:
        return None
    gamma, beta, mean, var = (np.asarray(node.arg(i).const, np.float64) for i in range(1, 5))
    scale = gamma / np.sqrt(var + node.float_attr("epsilon", 1e-5))
    if not np.isfinite(scale).all():
        return None
    return _Affine(scale, beta - mean * scale)


def _by_channel(array: Any, rank: int, channels: int, axis: int) -> Any | None:
    """A constant that broadcasts over x and differs along the channels only, float64
    [channels]; None for any other."""
    if array.ndim > rank or array.dtype.kind != "f":
        return None
    wide = np.asarray(array, np.float64).reshape((1,) * (rank - array.ndim) + array.shape)
    sizes = list(wide.shape)
    if not rank or sizes.pop(axis) not in (1, channels) or any(s != 1 for s in sizes):
        return None
    return np.broadcast_to(wide.reshape(-1), channels).astype(np.float64)


def _plain_gemm(rw: Rewriter, node: Node, channels: int) -> None:
    """alpha * x · w + beta * c as x · w + c with one c for each channel, if it is of that form."""
    alpha, beta = node.float_attr("alpha", 1.0), node.float_attr("beta", 1.0)
    old = node.operand(2)
    bias: Any = None if old is None else _by_channel(old.const, 2, channels, -1)
    if old is not None and bias is None:
        return
    node.attrs = {k: v for k, v in node.attrs.items() if k not in ("alpha", "beta")}
    w: Any = node.arg(1).const
    if alpha != 1.0:
        _set_const(rw, node, 1, np.asarray(w, np.float64) * alpha, node.arg(1).name)
    if bias is not None and old is not None and (beta != 1.0 or old.tensor.shape != bias.shape):
        _set_const(rw, node, 2, bias * beta, old.name)


def _set_const(rw: Rewriter, node: Node, index: int, array: Any, name: str) -> None:
    """A new float32 constant as operand."""
    rw.set_const(node, index, array.astype(np.float32), "f32", name)


def _fold(rw: Rewriter, node: Node, affine: _Affine) -> bool:
    """The layer with the affine map in its weights and bias; False where it takes none."""
    rank = len(node.arg(0).tensor.shape or ())
    if node.op == "onnx.MatMul" and rank != 2 and np.any(affine.shift != 0):
        return False
    channels = len(affine.scale)
    old = node.operand(2)
    bias = np.zeros(channels)
    if old is not None:
        found = _by_channel(old.const, 2, channels, -1)
        if found is None:
            return False
        bias = found
    w = node.arg(1)
    with np.errstate(over="ignore"):
        weights = _scaled(node, np.asarray(w.const, np.float64), affine.scale).astype(np.float32)
        shifted = (bias * affine.scale + affine.shift).astype(np.float32)
    if not (np.isfinite(weights).all() and np.isfinite(shifted).all()):
        return False
    if np.any(affine.scale != 1):
        _set_const(rw, node, 1, weights, w.name)
    if old is None and not shifted.any():
        return True
    if node.op == "onnx.MatMul":
        node.op = "onnx.Gemm"
    _set_const(rw, node, 2, shifted, old.name if old else f"{node.output.name}.b")
    return True


def _scaled(node: Node, w: Any, scale: Any) -> Any:
    """Weights with each output channel multiplied."""
    if node.op == "onnx.Conv":
        return w * scale.reshape(-1, *(1,) * (w.ndim - 1))
    if node.op == "onnx.ConvTranspose":
        group = node.int_attr("group", 1)
        parts = w.reshape(group, -1, *w.shape[1:])
        factors = scale.reshape(group, 1, w.shape[1], *(1,) * (w.ndim - 2))
        return (parts * factors).reshape(w.shape)
    return w * (scale[:, None] if node.int_attr("transB", 0) else scale)
