"""Which integers a value can take, from the graph alone: the proof behind thresholds,
float32 exactness and accumulator widths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cimc.ir.graph import Node, Value
from cimc.ir.rules import window
from cimc.ir.types import int_range

_CARRIES = ("cim.add", "cim.relu", "cim.reshape", "cim.transpose", "cim.max_pool")


@dataclass(frozen=True)
class Bounds:
    """All values lie in {low, low + step, …, high}; step is 1 or 2 (known parity)."""

    low: int
    high: int
    step: int = 1

    @property
    def reach(self) -> int:
        """Largest absolute value."""
        return max(abs(self.low), abs(self.high))


def bounds(
    value: Value, made: dict[Value, Node], known: dict[Value, Bounds] | None = None
) -> Bounds:
    """The worst case of an integer value. `made` gives producers, `known` results found so far.

    Layer sums are bounded by their actual weights (bip or tern); padding only removes
    terms, so zero is a possible contribution of each padded tap.
    """
    node = made.get(value)
    if value.elem == "bip":
        return Bounds(-1, 1, 2)
    if node is not None and node.op in ("cim.conv", "cim.matmul"):
        return _layer(node, made)
    if node is None or node.op not in _CARRIES:  # an ONNX operation's operands may be floats
        return Bounds(*int_range(value.elem))
    known = {} if known is None else known
    if value not in known:
        inner = [bounds(v, made, known) for v in node.inputs if v is not None]
        known[value] = _carry(node.op, inner)
    return known[value]


def _carry(op: str, inner: list[Bounds]) -> Bounds:
    if op == "cim.add":
        return Bounds(inner[0].low + inner[1].low, inner[0].high + inner[1].high)
    if op == "cim.relu":
        return Bounds(max(0, inner[0].low), max(0, inner[0].high))
    return inner[0]


def _layer(node: Node, made: dict[Value, Node]) -> Bounds:
    x, w = node.arg(0), node.arg(1)
    assert w.const is not None
    axes = 0 if node.op == "cim.matmul" else tuple(range(1, w.const.ndim))
    none = w.const.dtype.type(0)
    positive = np.maximum(w.const, none).sum(axis=axes, dtype=np.int64)
    negative = -np.minimum(w.const, none).sum(axis=axes, dtype=np.int64)
    inside = bounds(x, made)
    if inside.low >= 0:
        return Bounds(
            -int(negative.max(initial=0)) * inside.high, int(positive.max(initial=0)) * inside.high
        )
    high = int((positive + negative).max(initial=0)) * inside.reach
    odd_steps = x.elem == "bip" and w.elem == "bip" and not _padded(node)
    return Bounds(-high, high, 2 if odd_steps and high else 1)


def _padded(node: Node) -> bool:
    if node.op == "cim.matmul":
        return False
    attrs = {"strides": (), "pads": (), "dilations": ()} | dict(node.attrs)
    rank = len(node.arg(1).tensor.shape or ()) - 2
    return any(window(attrs, rank)[1])
