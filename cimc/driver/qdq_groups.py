"""Groups of dequantisers, a layer and a quantiser: their parts, and how they are put together anew.

Used by the pass that reads them; which groups are read as what is written there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cimc.driver.layout import LAYOUT, permutation
from cimc.driver.rewrite import Rewriter, scalar
from cimc.driver.stored import held
from cimc.frontend.elements import code_of
from cimc.frontend.quantisers import DEQUANTIZE, QUANTIZE, scale_of
from cimc.ir.graph import Node, Value
from cimc.ir.meaning import lying_along
from cimc.ir.types import TensorType, container, int_range, is_integer, is_small

_BYTES = ("u8", "i8")
_POOLS_BYTES = 12  # the first operator set whose MaxPool takes them
_SAME = 2.0**-20  # steps that differ by less, relatively, are one step written in two ways


# -- parts of a group ------------------------------------------------------------------


@dataclass(frozen=True)
class Quantised:
    """A value as integers q, and their zero point, as values of the graph; steps holds the
    scales, flat, `axis` says along which they lie."""

    q: Value
    zero: Value | None
    steps: Any
    axis: int | None

    @property
    def number(self) -> int:
        """The zero point of a tensor that has one."""
        return int(scalar(self.zero) or 0)


def dequantised(rw: Rewriter, value: Value | None) -> Quantised | str:
    """What a DequantizeLinear reads, with layout and MaxPool behind it moved before it; else why
    it is not known."""
    behind: list[Node] = []
    node = rw.producer(value)
    while node is not None and node.op in LAYOUT and _moves(rw, node):
        behind.append(node)
        node = rw.producer(node.arg(0))
    if node is None or node.op not in DEQUANTIZE or node.output.elem != "f32":
        return "float"
    found = scale_of(node)
    if isinstance(found, str):
        return found
    q, axis = node.arg(0), found.axis
    if not is_integer(q.elem):
        return q.elem
    if behind and (q.const is None and q.elem not in _BYTES):
        return f"of {q.elem} behind {behind[0].op}"
    for step in reversed(behind):
        if axis is not None and step.op != "onnx.Transpose":
            return f"quantised by channel behind {step.op}"
        if axis is not None:
            axis = permutation(step).index(axis)
        q = _moved(rw, step, q)
    return Quantised(q, node.operand(2), found.scale, axis)


def _moves(rw: Rewriter, node: Node) -> bool:
    """Whether an operation does to integers what it does to the floats they stand for."""
    constant = all(v is None or v.const is not None for v in node.inputs[1:])
    pools = node.op == "onnx.MaxPool"
    old = pools and rw.graph.opsets.get("onnx", 13) < _POOLS_BYTES
    return constant and len(node.outputs) == 1 and not old


def _moved(rw: Rewriter, step: Node, q: Value) -> Value:
    """The operation on integers, made once."""
    for node in rw.users(q):
        same = node.op == step.op and node.attrs == step.attrs and node.source == step.source
        if (
            same
            and node.inputs[1:] == step.inputs[1:]
            and node.output.name.startswith(f"{step.output.name}.q")
        ):
            return node.output
    type_ = step.output.tensor.with_elem(q.elem)
    inputs = [q, *step.inputs[1:]]
    return rw.op(step.op, inputs, f"{step.output.name}.q", step, dict(step.attrs), type_)


def single(part: Quantised) -> bool:
    """One scale, and at most 8 bits."""
    return part.axis is None and is_small(part.q.elem)


def per_channel(part: Quantised, axis: int) -> bool:
    """One scale, or one for each channel along `axis`."""
    return part.axis in (None, axis)


@dataclass(frozen=True)
class End:
    """The QuantizeLinear behind a layer; Relu, Clip, MaxPool and layout before it."""

    quantise: Node
    between: tuple[Node, ...]

    @property
    def scale(self) -> Any:
        """float32, without axes."""
        held = self.quantise.arg(1).const
        assert held is not None
        return held.reshape(-1)[0]

    @property
    def zero(self) -> int:
        return int(scalar(self.quantise.operand(2)) or 0)


def quantised_end(rw: Rewriter, value: Value) -> End | None:
    """Where a layer's result is quantised at once, and used for nothing else."""
    between: list[Node] = []
    while True:
        users = rw.users(value)
        if len(users) != 1 or value in rw.graph.outputs:
            return None
        (node,) = users
        if node.inputs[0] is not value:
            return None
        if node.op in QUANTIZE:
            return End(node, tuple(between)) if _plain(node) else None
        constant = all(v is None or v.const is not None for v in node.inputs[1:])
        cuts = node.op in ("onnx.Relu", "onnx.Clip") and constant
        if not cuts and not (node.op in LAYOUT and _moves(rw, node)):
            return None
        between.append(node)
        value = node.output


def _plain(node: Node) -> bool:
    """Whether a quantiser has one scale and makes integers of at most 8 bits."""
    found = scale_of(node)
    one = not isinstance(found, str) and found.axis is None
    return one and is_small(node.output.elem)


def integer_bias(rw: Rewriter, value: Value | None, steps: Any) -> Value | None:
    """The integers of a bias in the steps of the sums; None if it is none of that kind."""
    part = dequantised(rw, value) if value is not None else "none"
    if isinstance(part, str) or part.q.elem != "i32" or part.q.const is None:
        return None
    if part.steps.size not in (1, steps.size):
        return None
    apart = np.abs(part.steps.astype(np.float64) - steps)
    return part.q if bool(np.all(apart <= _SAME * steps)) else None


# -- emitting --------------------------------------------------------------------------


class Group:
    """A layer under translation: makes constants and operations named after it."""

    def __init__(self, rw: Rewriter, node: Node) -> None:
        self.rw = rw
        self.node = node
        self.name = node.output.name

    def const(self, suffix: str, array: Any, elem: str) -> Value:
        return self.rw.const(f"{self.name}.{suffix}", np.asarray(array, container(elem)), elem)

    def op(self, op: str, inputs: list[Value | None], suffix: str, type_: TensorType,
           attrs: dict[str, Any] | None = None) -> Value:  # fmt: skip
        return self.rw.op(op, inputs, f"{self.name}.{suffix}", self.node, attrs, type_)

    def scale(self, part: Quantised) -> Value:
        """The scale of a part: without axes, or one for each channel."""
        numbers = part.steps.reshape(() if part.axis is None else -1)
        return self.const(f"{part.q.name}.scale", numbers, "f32")

    def weights(self, part: Quantised, like: str, left: bool = False) -> tuple[Value, Value]:
        """Constant weights and their zero point in 8 bits, for an input of type `like`: its
        kernels take i8 for i8, u8 or i8 for u8; on the left side, only the type of the input."""
        levels: Any = held(self.rw, part.q)
        points = np.zeros(part.steps.shape) if part.zero is None else part.zero.const
        zero: Any = np.asarray(points).reshape(() if part.axis is None else -1)
        elem, name = f"{part.q.elem[0]}8", part.q.name
        wanted = f"{like[0]}8" if left or like[0] == "i" else elem
        if wanted != elem:  # the same values, 128 higher or lower
            shift = 128 if wanted == "u8" else -128
            levels, zero = levels.astype(np.int16) + shift, zero.astype(np.int16) + shift
        elif part.q.const is not None and part.q.elem == elem:
            return part.q, self.rw.const(f"{name}.zero", zero.astype(container(elem)), elem)
        found = self.rw.const(f"{name}.{wanted}", levels.astype(container(wanted)), wanted)
        return found, self.rw.const(f"{name}.zero", zero.astype(container(wanted)), wanted)

    def data(self, part: Quantised) -> tuple[Value, Value]:
        """The input of a layer as bytes, which integer kernels take, and its zero point."""
        q, elem = part.q, f"{part.q.elem[0]}8"
        zero = self.const(f"{q.name}.zero", part.number, elem)
        if q.elem != elem:
            type_ = q.tensor.with_elem(elem)
            q = self.op("onnx.Cast", [q], "bytes", type_, {"to": code_of(elem)})
        return q, zero

    def requantised(self, end: End, elem: str, make: Callable[[Value, Value], Value]) -> None:
        """The layer's integers in Q's scale, in the place of Q: `make(scale, zero)` gives them in
        type `elem`; what lies between layer and Q, and another type of Q, follow literally."""
        rw, quantise, target = self.rw, end.quantise, end.quantise.output.elem
        low, least = int_range(elem)[0], int_range(target)[0]
        shift = 128 if least < 0 and low == 0 else -128 if least == 0 and low < 0 else 0
        zero = self.const("y.zero", end.zero + shift, elem)
        scale = self.const("y.scale", end.scale, "f32")
        made = make(scale, zero)
        if target == elem and not end.between:
            rw.replace(quantise.output, made)
            return
        float_ = made.tensor.with_elem("f32")
        x = rw.op("onnx.DequantizeLinear", [made, scale, zero], f"{self.name}.f", quantise, {},
                  float_)  # fmt: skip
        for step in end.between:
            x = rw.op(step.op, [x, *step.inputs[1:]], f"{step.output.name}.f", quantise,
                      dict(step.attrs), step.output.tensor)  # fmt: skip
        name, type_ = f"{quantise.output.name}.again", quantise.output.tensor
        inputs = [x, *quantise.inputs[1:]]
        rw.replace(
            quantise.output, rw.op(quantise.op, inputs, name, quantise, dict(quantise.attrs), type_)
        )

    def in_float(self, acc: Value, steps: Any, bias: Value | None, along: int, last: Value) -> None:
        """Integer sums times their step, plus a float bias, in the place of `last`."""
        shape = self.node.output.tensor
        x = self.op("onnx.Cast", [acc], "float", shape, {"to": code_of("f32")})
        steps = lying_along(steps, len(shape.shape or ()), along)
        factor = self.const("step", steps, "f32")
        x = self.op("onnx.Mul", [x, factor], "scaled", shape)
        if bias is not None:
            x = self.op("onnx.Add", [x, bias], "biased", shape)
        self.rw.replace(last, x)

    def bias(self, value: Value, shape: tuple[int, ...]) -> Value:
        """A float bias in another shape."""
        if value.const is not None:
            return self.const("bias", value.const.reshape(shape), "f32")
        sizes = self.const("bias.shape", list(shape), "i64")
        dims = tuple(d if d > 0 else "?" for d in shape)
        return self.op("onnx.Reshape", [value, sizes], "bias", TensorType("f32", dims))
