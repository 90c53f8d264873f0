"""Finds where floats become bits: every way of writing a sign, and integer images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cimc.driver import Pass, PassContext, Rewriter
from cimc.driver.rewrite import scalar
from cimc.frontend.elements import code_of
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.types import TensorType, is_float, is_small


@dataclass(frozen=True)
class _Condition:
    """`positive - negative` is above zero (at_zero: or zero)."""

    positive: Value
    negative: Value
    at_zero: bool

    def negated(self) -> _Condition:
        return _Condition(self.negative, self.positive, not self.at_zero)


_COMPARE = {  # operands swapped, true at equality
    "onnx.Greater": (False, False),
    "onnx.GreaterOrEqual": (False, True),
    "onnx.Less": (True, False),
    "onnx.LessOrEqual": (True, True),
}


def _condition(rw: Rewriter, value: Value) -> _Condition | None:
    """The comparison of floats behind a bool."""
    node = rw.producer(value)
    if node is None:
        return None
    if node.op == "onnx.Not":
        inner = _condition(rw, node.arg(0))
        return None if inner is None else inner.negated()
    if node.op not in _COMPARE:
        return None
    a, b = node.arg(0), node.arg(1)
    if not is_float(a.elem):
        return None
    for side in (a, b):
        if side.const is not None and not np.isfinite(side.const.astype(np.float64)).all():
            return None
    swapped, at_zero = _COMPARE[node.op]
    return _Condition(b, a, at_zero) if swapped else _Condition(a, b, at_zero)


def _sign_of(rw: Rewriter, cond: _Condition, like: Value, node: Node, to: str) -> Value:
    """cim.sign of the difference. x > t holds exactly where x - t > 0 in IEEE arithmetic."""
    fits = cond.positive.type == like.tensor.with_elem(cond.positive.elem)
    if fits and scalar(cond.negative) == 0.0:
        x = cond.positive
    else:
        shape = like.tensor.with_elem(cond.positive.elem)
        x = rw.op("onnx.Sub", [cond.positive, cond.negative], f"{like.name}.diff", node, {}, shape)
    attrs: dict[str, object] = {"zero": 1 if cond.at_zero else -1}
    if to:
        attrs["to"] = to
    return rw.op("cim.sign", [x], f"{like.name}.sign", node, attrs)


def _two_levels(rw: Rewriter, node: Node, cond: _Condition, high: float, low: float) -> None:
    """`cond ? high : low` where the levels are ±a or 0 and a."""
    y = node.output
    if y.elem != "f32" or high == low or not np.isfinite([high, low]).all():
        return
    if high == -low:
        above = cond if high > 0 else cond.negated()  # pools want a positive scale
        q, scale = _sign_of(rw, above, y, node, ""), abs(high)
    elif low == 0.0:
        q, scale = _sign_of(rw, cond, y, node, "u1"), high
    elif high == 0.0:
        q, scale = _sign_of(rw, cond.negated(), y, node, "u1"), low
    else:
        return
    rw.encode(y, q, scale, node)


def _zeros_replaced(rw: Rewriter, node: Node, level: float) -> None:
    """6. A sign whose zeros become one of its other levels."""
    equal, found = rw.producer(node.arg(0), "onnx.Equal"), rw.dequant(node.arg(2))
    sign = rw.producer(found[0], "cim.sign") if found is not None else None
    if equal is None or found is None or sign is None or sign.attrs["zero"] != 0:
        return
    if equal.arg(0) not in (node.arg(2), sign.arg(0)) or scalar(equal.arg(1)) != 0.0:
        return
    if abs(level) != abs(found[1]):
        return
    zero = 1 if level == found[1] else -1
    q = rw.op("cim.sign", [sign.arg(0)], f"{node.output.name}.sign", node, {"zero": zero})
    rw.encode(node.output, q, found[1], node)


def _where(rw: Rewriter, node: Node) -> None:
    cond = _condition(rw, node.arg(0))
    high, low = scalar(node.arg(1)), scalar(node.arg(2))
    if node.arg(0).tensor.shape != node.output.tensor.shape:
        return  # the levels widen the condition
    if high is not None and low is None:
        _zeros_replaced(rw, node, high)
    if cond is not None and high is not None and low is not None:
        _two_levels(rw, node, cond, high, low)


def _cast(rw: Rewriter, node: Node) -> None:
    x = node.arg(0)
    if node.attrs.get("to") != code_of("f32"):
        return
    if x.elem == "bool":
        cond = _condition(rw, x)
        if cond is not None:
            _two_levels(rw, node, cond, 1.0, 0.0)
        return
    # A wider integer has more bit planes than a tile takes as input.
    if is_small(x.elem) and x.const is None:
        rw.encode(node.output, x, 1.0, node)


def _sign(rw: Rewriter, node: Node) -> None:
    if not is_float(node.arg(0).elem) or node.output.elem != "f32":
        return
    q = rw.op("cim.sign", [node.arg(0)], f"{node.output.name}.sign", node, {"zero": 0})
    rw.encode(node.output, q, 1.0, node)


def _bipolar_quant(rw: Rewriter, node: Node) -> None:
    if node.output.tensor.shape != node.arg(0).tensor.shape:
        return  # the scale widens the tensor
    q = rw.op("cim.sign", [node.arg(0)], f"{node.output.name}.sign", node, {"zero": 1})
    _scaled(rw, node, q)


def _one_bit_quant(rw: Rewriter, node: Node) -> None:
    one_bit = scalar(node.inputs[3]) == 1.0 and bool(node.attrs.get("signed", 1))
    if not one_bit or scalar(node.inputs[2]) != 0.0 or node.arg(1).const is None:
        return
    x = node.arg(0)
    if node.output.tensor.shape != x.tensor.shape:
        return  # the scale widens the tensor
    if scalar(node.arg(1)) != 1.0:
        x = rw.op("onnx.Div", [x, node.arg(1)], f"{x.name}.scaled", node, {}, x.tensor)
    q = rw.op("cim.sign", [x], f"{node.output.name}.sign", node, {"zero": 1})
    _scaled(rw, node, q)


def _scaled(rw: Rewriter, node: Node, q: Value) -> None:
    """The sign times the quantiser's scale: a scalar goes into the dequant."""
    y, scale = node.output, scalar(node.arg(1))
    if scale is not None:
        rw.encode(y, q, scale, node)
        return
    ones = rw.op("cim.dequant", [q], f"{y.name}.ones", node)
    rw.replace(y, rw.op("onnx.Mul", [ones, node.arg(1)], f"{y.name}.scaled", node, {}, y.tensor))


_RULES = {
    "onnx.Sign": _sign,
    "onnx.Where": _where,
    "onnx.Cast": _cast,
    "qonnx.BipolarQuant": _bipolar_quant,
    "qonnx.Quant": _one_bit_quant,
    "qonnx.IntQuant": _one_bit_quant,
}


@dataclass(frozen=True)
class RecogniseSign(Pass):
    """Rules (d = cim.dequant):
    1. `Sign(x)` ⇒ `d(cim.sign(x) zero=0)`
    2. `Where(x > t, a, -a)` ⇒ `d(cim.sign(x - t) zero=-1) scale=a`; likewise >=, <, <=, Not
    3. `Where(x > t, a, 0)` and `Cast(x > t)` ⇒ `d(cim.sign(x - t) zero=-1 to="u1") scale=a`
    4. `BipolarQuant(x, a)` ⇒ `d(cim.sign(x) zero=1) scale=a`; one-bit signed `Quant(x, a)`
       likewise, of x / a
    5. `Cast(x: at most 8 bits)` to float32 ⇒ `d(x)`
    6. `Where(x == 0, a, Sign(x))`, a = ±1 ⇒ `d(cim.sign(x) zero=a)`; likewise `Sign(x) == 0`
    """

    name = "recognise-sign"
    summary = "turn every form of binarisation into cim.sign and cim.dequant"
    kind = "exact"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        rw = Rewriter(graph)
        for node in list(graph.nodes):
            rule = _RULES.get(node.op)
            if rule is not None and isinstance(node.output.type, TensorType):
                rule(rw, node)
        graph.remove_dead()
        return rw.changed
