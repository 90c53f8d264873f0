"""Puts a Clip of a quantiser's integers before it, where other passes look for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cimc.driver import Pass, PassContext, Rewriter
from cimc.driver.rewrite import scalar
from cimc.frontend.quantisers import QUANTIZE, Scale, scale_of
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.types import int_range, is_small

_CUTS = ("onnx.Clip", "onnx.Max", "onnx.Min")


def _limits(node: Node) -> tuple[Value, int, int] | None:
    """What a Clip, Max or Min of small integers cuts, and the range; None if it is not known."""
    x, *others = node.inputs
    if x is not None and x.const is not None and node.op != "onnx.Clip" and len(others) == 1:
        x, others = others[0], [x]
    if x is None or not is_small(x.elem) or x.elem in ("bip", "tern"):
        return None
    low, high = int_range(x.elem)
    ends = [None if v is None else scalar(v) for v in others]
    if any(v is not None and end is None for v, end in zip(others, ends)):
        return None
    lows = ends[:1] if node.op == "onnx.Clip" else ends * (node.op == "onnx.Max")
    highs = ends[1:] if node.op == "onnx.Clip" else ends * (node.op == "onnx.Min")
    low = max([low, *(int(e) for e in lows if e is not None)])
    high = min([high, *(int(e) for e in highs if e is not None)])
    return (x, low, high) if low <= high else None


def _floats(node: Node, found: Scale, low: int, high: int) -> tuple[Any, Any] | None:
    """The floats that the ends stand for, along the axis of the scales, if they round to them."""
    rank = len(node.arg(0).tensor.shape or ())
    along = () if found.axis is None else tuple(-1 if i == found.axis else 1 for i in range(rank))
    ends = []
    for end in (low, high):
        exact = (end - found.zero).astype(np.float32) * found.scale
        if not np.array_equal(np.rint(exact / found.scale) + found.zero, exact * 0 + end):
            return None
        ends.append(exact.reshape(along))
    return ends[0], ends[1]


def _joined(rw: Rewriter, x: Value, ends: tuple[Any, Any]) -> tuple[Value, tuple[Any, Any]]:
    """One Clip for that of x and another behind it."""
    made = rw.producer(x, "onnx.Clip")
    inner = [] if made is None else [scalar(made.operand(i)) for i in (1, 2)]
    if made is None or None in inner:
        return x, ends
    low, high = (np.clip(np.float32(e), *ends) for e in inner if e is not None)
    return made.arg(0), (low, high)


def _lifted(rw: Rewriter, node: Node) -> Value | None:
    """The integers of the quantiser behind a Clip on floats, in the place of the node's."""
    cut = _limits(node)
    made = None if cut is None else rw.producer(cut[0], *QUANTIZE)
    found = None if made is None else scale_of(made)
    if cut is None or made is None or not isinstance(found, Scale):
        return None
    q, low, high = cut
    x = made.arg(0)
    if x.elem != "f32" or node.output.tensor.shape != q.tensor.shape:
        return None
    ends = _floats(made, found, low, high)
    if ends is None or (x.const is None and found.axis is not None):
        return None
    if x.const is not None:
        clipped = rw.const(f"{x.name}.clip", np.clip(x.const, *ends), "f32")
    else:
        x, ends = _joined(rw, x, ends)
        held = [rw.const(f"{q.name}.{n}", e, "f32") for n, e in zip(("low", "high"), ends)]
        clipped = rw.op("onnx.Clip", [x, *held], f"{x.name}.clip", node, {}, x.tensor)
    attrs = dict(made.attrs)
    return rw.op(made.op, [clipped, *made.inputs[1:]], f"{q.name}.cut", node, attrs, q.tensor)


@dataclass(frozen=True)
class LiftClip(Pass):
    """Rules (Q is QuantizeLinear of float32 with one scale):
    1. `Clip(Q(x), low, high)` on integers, as exporters write fewer than 8 bits ⇒
       `Q(Clip(x, d(low), d(high)))`, d the floats that the integers stand for
    2. `Max(Q(x), low)`, `Min(Q(x), high)` ⇒ the same
    3. the same of a constant, with one scale or one for each channel ⇒ Q of the cut constant
    """

    name = "lift-clip"
    summary = "put a clip of a quantiser's integers before it"
    kind = "exact"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        rw = Rewriter(graph)
        for node in [n for n in graph.nodes if n.op in _CUTS]:
            q = _lifted(rw, node)
            if q is not None:
                rw.replace(node.output, q)
        graph.remove_dead()
        return rw.changed
