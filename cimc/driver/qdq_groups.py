"""Groups of dequantisers, a layer and a quantiser: their parts, and how they are put together anew.

Used by the pass that reads them; which groups are read as what is written there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cimc.driver.rewrite import Rewriter, scalar
from cimc.driver.stored import held
from cimc.ir.graph import Node, Value
from cimc.ir.types import TensorType, container, int_range, is_integer, planes

_FLOAT32 = 1  # TensorProto.FLOAT, the `to` of a Cast


# -- parts of a group ------------------------------------------------------------------


@dataclass(frozen=True)
class Quantised:
    """A value as integers q with scale and zero point, all as values of the graph; steps holds
    the scales, flat."""

    q: Value
    scale: Value
    zero: Value | None
    steps: Any
    axis: int


def dequantised(rw: Rewriter, value: Value | None) -> Quantised | None:
    """What a DequantizeLinear reads, if its scales and zero points are constants."""
    node = rw.producer(value, "onnx.DequantizeLinear")
    if node is None or node.attrs.get("block_size", 0) or node.output.elem != "f32":
        return None
    q, scale = node.arg(0), node.arg(1)
    zero = node.operand(2)
    if scale.const is None or (zero is not None and zero.const is None):
        return None
    if not is_integer(q.elem) or scale.const.ndim > 1:
        return None
    return Quantised(q, scale, zero, scale.const.reshape(-1), node.int_attr("axis", 1))


def single(part: Quantised | None) -> bool:
    return part is not None and part.steps.size == 1 and planes(part.q.elem) <= 8


@dataclass(frozen=True)
class End:
    """The QuantizeLinear behind a layer, and Relu or Clip before it."""

    quantise: Node
    between: tuple[Node, ...]


def quantised_end(rw: Rewriter, value: Value) -> End | None:
    """Where a layer's result is quantised at once, and used for nothing else."""
    between: list[Node] = []
    while True:
        users = rw.users(value)
        if len(users) != 1 or value in rw.graph.outputs:
            return None
        (node,) = users
        if node.op == "onnx.QuantizeLinear" and node.inputs[0] is value:
            known = all(v is None or v.const is not None for v in node.inputs[1:])
            one = scalar(node.arg(1)) is not None and node.arg(1).elem == "f32"
            small = is_integer(node.output.elem) and planes(node.output.elem) <= 8
            plain = known and one and small and not node.attrs.get("block_size", 0)
            zero = node.operand(2)
            plain = plain and (zero is None or scalar(zero) is not None)
            return End(node, tuple(between)) if plain else None
        constant = all(v is None or v.const is not None for v in node.inputs[1:])
        if node.op not in ("onnx.Relu", "onnx.Clip") or not constant:
            return None
        between.append(node)
        value = node.output


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

    def zero(self, part: Quantised) -> Value:
        """The zero point of a part, which may be left out."""
        if part.zero is not None:
            return part.zero
        return self.const(f"{part.q.name}.zero", np.zeros(part.scale.const.shape), part.q.elem)  # type: ignore[union-attr]

    def weights(self, part: Quantised, like: str) -> tuple[Value, Value] | None:
        """Constant weights and their zero point in 8 bits, for an input of type `like`: its
        kernels take i8 for i8, u8 or i8 for u8. None if they are not constant."""
        levels: Any = held(self.rw, part.q)
        if levels is None:
            return None
        zero: Any = np.zeros(part.scale.const.shape) if part.zero is None else part.zero.const  # type: ignore[union-attr]
        elem = f"{part.q.elem[0]}8"
        if elem == "u8" and like[0] == "i":  # the same values, 128 lower
            levels, zero, elem = levels.astype(np.int16) - 128, zero.astype(np.int16) - 128, "i8"
        elif part.q.const is not None and part.q.elem == elem and part.zero is not None:
            return part.q, part.zero
        name = part.q.name
        found = self.rw.const(f"{name}.{elem}", levels.astype(container(elem)), elem)
        return found, self.rw.const(f"{name}.zero", zero.astype(container(elem)), elem)

    def wide(self, part: Quantised) -> Value:
        """Data of fewer than 8 bits as bytes, which the integer kernels take."""
        q, elem = part.q, f"{part.q.elem[0]}8"
        if q.elem == elem:
            return q
        code = {"u8": 2, "i8": 3}[elem]
        return self.op("onnx.Cast", [q], "wide", q.tensor.with_elem(elem), {"to": code})

    def wide_zero(self, part: Quantised) -> Value:
        zero, elem = self.zero(part), f"{part.q.elem[0]}8"
        if zero.elem == elem:
            return zero
        return self.const(f"{part.q.name}.zero", zero.const, elem)

    def requantised(self, end: End, elem: str, make: Callable[[Value, Value], Value]) -> None:
        """The layer's integers in Q's scale, in the place of Q: `make(scale, zero)` gives them in
        type `elem`; what lies between layer and Q, and another type of Q, follow literally."""
        quantise = end.quantise
        target = quantise.output.elem
        number = scalar(quantise.inputs[2]) if len(quantise.inputs) > 2 else 0.0
        low, _ = int_range(elem)
        least, _ = int_range(target)
        shift = 128 if least < 0 and low == 0 else -128 if least == 0 and low < 0 else 0
        zero = self.const("q.zero", int(number or 0) + shift, elem)
        made = make(quantise.arg(1), zero)
        if target == elem and not end.between:
            self.rw.replace(quantise.output, made)
            return
        shape = quantise.output.tensor
        scale = quantise.arg(1)
        x = self.rw.op("onnx.DequantizeLinear", [made, scale, zero], f"{self.name}.f", quantise,
                       {}, shape.with_elem("f32"))  # fmt: skip
        for step in end.between:
            x = self.rw.op(step.op, [x, *step.inputs[1:]], f"{step.output.name}.f", quantise,
                           dict(step.attrs), shape.with_elem("f32"))  # fmt: skip
        name = f"{quantise.output.name}.again"
        again = self.rw.op(
            "onnx.QuantizeLinear", [x, *quantise.inputs[1:]], name, quantise,
            dict(quantise.attrs), shape,
        )  # fmt: skip
        self.rw.replace(quantise.output, again)

    def in_float(self, acc: Value, steps: Any, bias: Value | None, along: int) -> None:
        """Integer sums times their step, plus a float bias, in the place of the layer."""
        shape = self.node.output.tensor
        x = self.op("onnx.Cast", [acc], "float", shape, {"to": _FLOAT32})
        rank = len(shape.shape or ())
        dims = [1] * rank
        if steps.size > 1:
            dims[along] = -1
        factor = self.const("step", steps.reshape(dims) if rank else steps.reshape(()), "f32")
        x = self.op("onnx.Mul", [x, factor], "scaled", shape)
        if bias is not None:
            x = self.op("onnx.Add", [x, bias], "biased", shape)
        self.rw.replace(self.node.output, x)


def integer_bias(rw: Rewriter, value: Value | None, steps: Any) -> Value | None:
    """The integers of a bias in the steps of the sums; None if it is none of that kind."""
    part = dequantised(rw, value)
    if part is None or part.q.elem != "i32" or part.q.const is None:
        return None
    if part.zero is not None and np.any(part.zero.const != 0):
        return None
    same = part.steps.size in (1, steps.size) and np.array_equal(
        np.broadcast_to(part.steps, steps.shape), steps
    )
    return part.q if same else None


def per_channel(part: Quantised, axis: int) -> bool:
    """One scale, or one for each channel along `axis`."""
    rank = len(part.q.tensor.shape or ())
    return part.steps.size == 1 or (part.axis % max(1, rank)) == axis


def as_scalar(group: Group, zero: Value) -> Value:
    """A zero point as a scalar."""
    if zero.tensor.static == ():
        return zero
    return group.const("x.zero", zero.const.reshape(()), zero.elem)  # type: ignore[union-attr]


def one_zero(group: Group, stored: tuple[Value, Value], w: Quantised) -> tuple[Value, Value] | None:
    """Weights with a single zero point: ConvInteger takes no other."""
    kernel, zero = stored
    number = scalar(zero)
    if number is not None:
        return kernel, group.const("w.zero", int(number), kernel.elem)
    less: Any = kernel.const.astype(np.int32) - zero.const.astype(np.int32).reshape(  # type: ignore[union-attr]
        -1,
        *(1,) * (kernel.const.ndim - 1),  # type: ignore[union-attr]
    )
    if less.min(initial=0) < -128 or less.max(initial=0) > 127:
        return None
    return group.const("w.int8", less, "i8"), group.const("w.zero", 0, "i8")


def reshaped(group: Group, value: Value, shape: tuple[int, ...]) -> Value:
    if value.const is not None:
        return group.const("bias", value.const.reshape(shape), "f32")
    sizes = group.const("bias.shape", list(shape), "i64")
    dims = tuple(d if d > 0 else "?" for d in shape)
    return group.op("onnx.Reshape", [value, sizes], "bias", TensorType("f32", dims))
