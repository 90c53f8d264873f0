"""Layout: ONNX operations that only move, repeat or choose elements, as native operations on the
integers in their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cimc.driver.rewrite import Rewriter
from cimc.frontend.windows import Cut, pool_attrs
from cimc.ir.graph import Node, Value
from cimc.ir.types import TensorType

RESHAPES = ("onnx.Reshape", "onnx.Flatten", "onnx.Squeeze", "onnx.Unsqueeze")
"""The operations that give the same elements in another shape."""
LAYOUT = (*RESHAPES, "onnx.Transpose", "onnx.MaxPool")
"""The operations that do to integers what they do to floats in steps of a positive scale."""


def permutation(node: Node) -> tuple[int, ...]:
    """The axes of a Transpose's operand in the order of its result: reversed by default."""
    rank = len(node.arg(0).tensor.shape or ())
    return node.ints_attr("perm") or tuple(reversed(range(rank)))


@dataclass(frozen=True)
class Native:
    """A native operation that does to integers what an operation of ONNX does; its result has the
    shape of that one's."""

    op: str
    attrs: dict[str, Any]
    result: TensorType

    def on(self, rw: Rewriter, q: Value, name: str, before: Node) -> Value:
        """The operation on q."""
        return rw.op(self.op, [q], name, before, self.attrs, self.result)


def native(node: Node) -> Native | None:
    """The native form of one of `LAYOUT`; None where a size that it needs is not known, a window
    may have no tap inside, or indices are asked for too."""
    result = node.outputs[0].type
    if len(node.outputs) > 1 or not isinstance(result, TensorType) or result.shape is None:
        return None
    if node.op == "onnx.MaxPool":
        attrs = pool_attrs(node)
        return None if attrs is None else Native("cim.max_pool", attrs, result)
    if node.op == "onnx.Transpose":
        return Native("cim.transpose", {"perm": permutation(node)}, result)
    if sum(isinstance(d, str) for d in result.shape) > 1:
        return None
    shape = tuple(d if isinstance(d, int) else -1 for d in result.shape)
    return Native("cim.reshape", {"shape": shape}, result)


def joined(rw: Rewriter, parts: Sequence[Value], axis: int, name: str, before: Node) -> Value:
    """cim.concat of any number of values."""
    found, *rest = parts
    for part in rest:
        found = rw.op("cim.concat", [found, part], name, before, {"axis": axis})
    return found


def cut_out(rw: Rewriter, x: Value, cuts: Sequence[Cut], name: str, before: Node) -> Value:
    """cim.slice along each axis of the cuts."""
    for axis, start, stop in cuts:
        attrs = {"start": start, "stop": stop, "axis": axis}
        x = rw.op("cim.slice", [x], name, before, attrs)
    return x
