"""Which integers a value can take, from the graph alone: the proof behind thresholds,
float32 exactness and accumulator widths."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from cimc.ir.graph import Node, Value
from cimc.ir.kernels import by_channel, kernel_rows
from cimc.ir.ops import LAYERS
from cimc.ir.rules import window
from cimc.ir.types import int_range

_CARRIES = (
    "cim.add", "cim.relu", "cim.reshape", "cim.transpose", "cim.max_pool", "cim.concat",
    "cim.sum_pool", "cim.slice", "cim.take",
)  # fmt: skip


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

    Layer sums are bounded by their actual weights less zero points, and their bias; padding only
    removes terms, so zero is a possible contribution of each padded tap.
    """
    node = made.get(value)
    if value.elem == "bip":
        return Bounds(-1, 1, 2)
    if node is not None and node.op in LAYERS:
        return _layer(node, made)
    if node is None or node.op not in _CARRIES:  # an ONNX operation's operands may be floats
        return Bounds(*int_range(value.elem))
    known = {} if known is None else known
    if value not in known:
        inner = [bounds(v, made, known) for v in node.inputs if v is not None and v.const is None]
        known[value] = _carry(node, inner)
    return known[value]


def _carry(node: Node, inner: list[Bounds]) -> Bounds:
    op = node.op
    if op == "cim.sum_pool":
        taps, zero = prod(node.ints_attr("kernel")), node.int_attr("zero", 0)
        return Bounds(*(taps * (end - zero) for end in (min(inner[0].low, zero),
                                                        max(inner[0].high, zero))))  # fmt: skip
    if op == "cim.concat":
        step = inner[0].step if inner[0] == inner[1] else 1
        return Bounds(min(b.low for b in inner), max(b.high for b in inner), step)
    if op == "cim.add":
        return Bounds(inner[0].low + inner[1].low, inner[0].high + inner[1].high)
    if op == "cim.relu":
        return Bounds(max(0, inner[0].low), max(0, inner[0].high))
    return inner[0]


def _layer(node: Node, made: dict[Value, Node]) -> Bounds:
    x = node.arg(0)
    zx, zw, b = (node.operand(i) for i in (2, 3, 4))
    rows = kernel_rows(node).astype(np.int64)
    if zw is not None and zw.const is not None:
        rows = rows - zw.const.astype(np.int64).reshape(-1, 1)
    positive, negative = np.maximum(rows, 0).sum(axis=1), -np.minimum(rows, 0).sum(axis=1)
    low, high = _shifted(bounds(x, made), zx)
    most = positive * high - negative * low
    least = positive * low - negative * high
    if b is not None and b.const is not None:
        given = by_channel(b.const.astype(np.int64))
        most, least = most + given.max(axis=1), least + given.min(axis=1)
    odd_steps = x.elem == "bip" and node.arg(1).elem == "bip" and not _padded(node) and b is None
    ends = int(least.min(initial=0)), int(most.max(initial=0))
    return Bounds(*ends, 2 if odd_steps and ends[1] else 1)


def _shifted(x: Bounds, zero: Value | None) -> tuple[int, int]:
    """The range of x - zx, the zero of a padded tap included."""
    low, high = x.low, x.high
    if zero is not None:
        zeros = zero.const if zero.const is not None else np.array(int_range(zero.elem))
        low, high = low - int(zeros.max()), high - int(zeros.min())
    return min(low, 0), max(high, 0)


def _padded(node: Node) -> bool:
    if node.op == "cim.matmul":
        return False
    attrs = {"strides": (), "pads": (), "dilations": ()} | dict(node.attrs)
    rank = len(node.arg(1).tensor.shape or ()) - 2
    return any(window(attrs, rank)[1])
