"""Writes fitted weights, gains and offsets back into a graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from cimc.driver.rewrite import Rewriter
from cimc.ir.graph import Node, Value
from cimc.ir.types import container
from cimc.prune.activations import View, as_weights
from cimc.prune.fit import Floats
from cimc.prune.spaces import Kernels

_NORM, _THRESHOLD = "onnx.BatchNormalization", "cim.threshold"


def set_operand(rw: Rewriter, node: Node, slot: int, array: Any) -> None:
    """Give an operation a constant of its own, of the same element type as the one before, whose
    name it takes."""
    old = node.arg(slot)
    node.inputs[slot] = rw.renewed(old, np.ascontiguousarray(array, container(old.elem)))


def set_weights(rw: Rewriter, node: Node, layer: Kernels, view: View, weights: Floats) -> None:
    """weights: [groups, kernels of a group, columns]."""
    slot = layer.layer.weights
    set_operand(rw, node, slot, as_weights(weights, node.arg(slot).const, view))


def bias_of(node: Node, layer: Kernels) -> Floats | None:
    """The bias of a layer, [N] or [1]; zero if it has none, None if it isn't constant."""
    value = None if layer.layer.bias is None else node.operand(layer.layer.bias)
    if value is None:
        return np.zeros(1)
    return None if value.const is None else value.const.astype(np.float64).reshape(-1)


def set_offset(rw: Rewriter, node: Node, layer: Kernels, offset: Floats) -> None:
    """Let a float layer add `offset` [N] to its products, in place of its bias."""
    slot, result = layer.layer.bias, node.outputs[0]
    if slot is None:
        _append(rw, node, "onnx.Add", "offset", offset, layer.layer.result_axis)
        return
    if node.operand(slot) is not None:
        set_operand(rw, node, slot, offset)
        return
    bias = offset.astype(container(result.elem))
    rw.set_const(node, slot, bias, result.elem, f"{result.name}.b")


def follower(rw: Rewriter, node: Node) -> Node | None:
    """The normalisation or threshold with constants that alone uses a layer's result: it can take
    in a gain and an offset for each kernel."""
    result = node.outputs[0]
    users = rw.users(result)
    if len(users) != 1 or result in rw.graph.outputs or users[0].arg(0) is not result:
        return None
    (user,) = users
    if user.op not in (_NORM, _THRESHOLD) or len(user.outputs) != 1:
        return None
    return user if all(v is None or v.const is not None for v in user.inputs[1:]) else None


def set_affine(rw: Rewriter, node: Node, layer: Kernels, gain: Floats, offset: Floats) -> None:
    """Let what follows a layer see gain·y + offset (both [N]) in place of its result y."""
    user = follower(rw, node)
    if user is None:
        axis = layer.layer.result_axis
        scaled = _append(rw, node, "onnx.Mul", "gain", gain, axis)
        _append(rw, scaled, "onnx.Add", "offset", offset, axis)
        return
    if user.op == _NORM:
        scale, bias, mean, var = (user.arg(k).const.astype(np.float64) for k in range(1, 5))  # type: ignore[union-attr]
        slope = scale / np.sqrt(var + user.float_attr("epsilon", 1e-5))
        set_operand(rw, user, 1, scale * gain)
        set_operand(rw, user, 2, bias + slope * (offset - mean))
        set_operand(rw, user, 3, np.zeros_like(mean))
        return
    old: Any = user.arg(1).const
    levels = old.reshape(len(old), -1).astype(np.float64)
    limits = np.iinfo(old.dtype)
    moved = np.ceil((levels - offset[:, None]) / gain[:, None]).clip(limits.min, limits.max)
    set_operand(rw, user, 1, moved.reshape(old.shape))


def _append(rw: Rewriter, node: Node, op: str, what: str, vector: Floats, axis: int) -> Node:
    """An operation of a layer's result with a vector along its channels, behind it."""
    result = node.outputs[0]
    shape = [1] * len(result.tensor.shape or ())
    shape[axis] = -1
    array = vector.astype(container(result.elem)).reshape(shape)
    constant = rw.const(f"{result.name}.{what}", array, result.elem)
    made = Value(rw.fresh(f"{result.name}.with_{what}"), result.type)
    rw.replace(result, made)
    new = Node(op, [result, constant], [made])
    nodes = rw.graph.nodes
    at = nodes.index(node) + 1
    if at < len(nodes):
        rw.insert(new, nodes[at])
        return new
    nodes.append(new)
    rw.made[made] = new
    return new
