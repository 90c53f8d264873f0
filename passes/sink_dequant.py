"""Moves the change from integer to float as far down as it goes, so that pools, sums and
layout work on integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cimc.driver import Pass, PassContext, Rewriter
from cimc.driver.bounds import bounds
from cimc.driver.elementwise import data_input
from cimc.driver.layout import LAYOUT, cut_out, joined, native
from cimc.driver.repeats import repeated
from cimc.driver.rewrite import power_of_two, scalar
from cimc.frontend.evaluate import Evaluator, outline
from cimc.frontend.quantisers import QUANTIZE
from cimc.frontend.windows import slices
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.meaning import lying_along
from cimc.ir.types import F32_EXACT, TensorType, is_float, is_integer

_LEVELS = {"bip": (-1, 1), "tern": (-1, 0, 1), "u1": (0, 1)}


def _layout(rw: Rewriter, node: Node) -> None:
    """1 to 3. layout(d(q)), MaxPool(d(q) scale>0) ⇒ d(layout(q))"""
    made, form = rw.producer(node.inputs[0], "cim.dequant"), native(node)
    if made is None or form is None:
        return
    if node.op == "onnx.MaxPool" and made.float_attr("scale", 1.0) <= 0:
        return
    _encode(rw, node, form.on(rw, made.arg(0), f"{node.output.name}.q", node), made)


def _encode(rw: Rewriter, node: Node, q: Value, made: Node) -> None:
    """The operation's result is q, with the scale and zero point of the dequantised operand."""
    scale, zero = made.float_attr("scale", 1.0), made.int_attr("zero", 0)
    rw.encode(node.outputs[0], q, scale, node, zero)


def _resize(rw: Rewriter, node: Node) -> None:
    """8. Resize(d(q)) that repeats elements ⇒ d(q) repeated; that copies nearest elements, q of 8
    bits ⇒ d(Resize(q))"""
    made = rw.producer(node.inputs[0], "cim.dequant")
    q = None if made is None else repeated(rw, node, made.arg(0))
    if made is not None and q is not None:
        _encode(rw, node, q, made)
        return
    cropped = node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    nearest = node.attrs.get("mode", "nearest") == "nearest"
    if made is None or cropped or not nearest or made.arg(0).elem not in ("u8", "i8"):
        return
    type_ = node.output.tensor.with_elem(made.arg(0).elem)
    inputs = [made.arg(0), *node.inputs[1:]]
    q = rw.op(node.op, inputs, f"{node.output.name}.q", node, dict(node.attrs), type_)
    _encode(rw, node, q, made)


def _add(rw: Rewriter, node: Node) -> None:
    """4. d(a) + d(b) with one scale, a power of two ⇒ d(cim.add(a, b)), below 2**24"""
    a, b = (rw.dequant(v) for v in node.inputs)
    if a is None or b is None or a[1] != b[1] or not power_of_two(a[1]):
        return
    if a[0].tensor.shape != b[0].tensor.shape or a[0].tensor.shape != node.output.tensor.shape:
        return
    if bounds(a[0], rw.made).reach + bounds(b[0], rw.made).reach >= F32_EXACT:
        return
    q = rw.op("cim.add", [a[0], b[0]], f"{node.output.name}.q", node)
    rw.encode(node.output, q, a[1], node)


def _add_places(rw: Rewriter, node: Node) -> bool:
    """12. d(cim.conv(x, w, b)) + K, * alpha in between or not ⇒ d(cim.conv(x, w, b + K / unit))"""
    index = data_input(node) if node.op == "onnx.Add" else None
    if index is None or node.output.elem != "f32":
        return False
    x, factor = node.arg(index), None
    times = rw.producer(x, "onnx.Mul")
    if times is not None and (side := data_input(times)) is not None:
        x, factor = times.arg(side), times.arg(1 - side)
    found = rw.dequant(x)
    conv = None if found is None else rw.producer(found[0], "cim.conv")
    if found is None or conv is None or node.output.tensor.shape != found[0].tensor.shape:
        return False
    if not all(_only_user(rw, value) for value in (found[0], x, node.arg(index))):
        return False
    bias = _places_bias(conv, node.arg(1 - index).const, factor, found[1])
    if bias is None or bounds(found[0], rw.made).reach + np.abs(bias).max() >= F32_EXACT:
        return False
    name = node.output.name
    bias = _with_bias(bias, conv.operand(4))
    operands = [*(conv.operand(i) for i in range(4)), rw.const(f"{name}.b", bias, "i32")]
    q = rw.op("cim.conv", operands, f"{name}.q", conv, dict(conv.attrs), found[0].tensor)
    if factor is None:
        rw.encode(node.output, q, found[1], node)
        return True
    attrs = {"scale": found[1]} if found[1] != 1.0 else {}
    y = rw.op("cim.dequant", [q], f"{name}.f", node, attrs)
    y = rw.op("onnx.Mul", [y, factor], f"{name}.scaled", node, {}, node.output.tensor)
    rw.replace(node.output, y)
    return True


def _only_user(rw: Rewriter, value: Value) -> bool:
    return len(rw.users(value)) == 1 and value not in rw.graph.outputs


def _with_bias(bias: Any, b: Value | None) -> Any:
    """The sum of both as int32 [1, C, *out], or [C] if it is the same everywhere."""
    if b is not None and b.const is not None:
        bias = bias + (b.const if b.const.ndim > 1 else lying_along(b.const, bias.ndim, 1))
    flat = bias.reshape(bias.shape[1], -1)
    bias = flat[:, 0] if (flat == flat[:, :1]).all() else bias
    return np.ascontiguousarray(bias.astype(np.int32))


def _places_bias(conv: Node, k: Any, factor: Value | None, scale: float) -> Any:
    """k / (scale * factor) as integers [1, C, *out] in float64, where it is that, has more than
    one number for each channel, and the unit is a power of two for each channel; else None. (A
    negative one would make -0 of a sum of 0.)"""
    shape = conv.output.tensor.shape or ()
    dims, by_place = shape[1:], max((1, *k.shape[max(0, k.ndim - len(shape) + 2) :])) > 1
    if not by_place or not all(isinstance(d, int) for d in dims) or 0 in dims:
        return None
    alpha = np.ones(1) if factor is None or factor.const is None else factor.const
    try:
        k = np.broadcast_to(k.astype(np.float64), (1, *dims))
        alpha = np.broadcast_to(alpha.astype(np.float64), (1, dims[0], *(1,) * len(dims[1:])))
    except ValueError:
        return None
    units = alpha * scale
    if scale <= 0 or not all(map(power_of_two, units.ravel().tolist())):
        return None
    if units.min() < 2.0**-60 or units.max() > 2.0**60:
        return None
    steps: Any = k / units
    if not (np.abs(steps) < F32_EXACT).all():
        return None
    return steps if (steps == np.floor(steps)).all() else None


def _relu(rw: Rewriter, node: Node) -> bool:
    """5. Relu(d(q) scale>0) ⇒ d(cim.relu(q)), q of more than three levels"""
    found = rw.dequant(node.inputs[0])
    if node.op != "onnx.Relu" or found is None or found[1] <= 0 or found[0].elem in _LEVELS:
        return False
    if found[0].elem[0] == "u":  # nothing is below zero
        rw.encode(node.output, found[0], found[1], node)
        return True
    q = rw.op("cim.relu", [found[0]], f"{node.output.name}.q", node)
    rw.encode(node.output, q, found[1], node)
    return True


def _scaled(rw: Rewriter, node: Node) -> bool:
    """7. d(q) * c and d(q) / c, scale and c powers of two ⇒ d(q) with the product as scale"""
    index = data_input(node) if node.op in ("onnx.Mul", "onnx.Div") else None
    found = rw.dequant(node.inputs[index]) if index is not None else None
    if index is None or found is None or (node.op == "onnx.Div" and index == 1):
        return False
    factor = scalar(node.inputs[1 - index])
    if factor is None or factor <= 0 or not (power_of_two(factor) and power_of_two(found[1])):
        return False
    scale = found[1] * factor if node.op == "onnx.Mul" else found[1] / factor
    # Integers of at most 64 bits times these stay among float32's normal numbers.
    if not all(2.0**-60 <= abs(s) <= 2.0**60 for s in (scale, found[1])):
        return False
    if node.output.tensor.shape != found[0].tensor.shape:
        return False
    rw.encode(node.output, found[0], scale, node)
    return True


def _few_levels(rw: Rewriter, node: Node) -> None:
    """6. f(d(q)) for q of two or three levels ⇒ the same levels under another scale, or 0/1"""
    index = data_input(node)
    found = rw.dequant(node.inputs[index]) if index is not None else None
    if _relu(rw, node) or _scaled(rw, node) or _add_places(rw, node):
        return
    if index is None or found is None or found[0].elem not in _LEVELS:
        return
    others = [v for i, v in enumerate(node.inputs) if i != index and v is not None]
    if any(scalar(v) is None for v in others) or node.output.elem != "f32":
        return
    if node.output.tensor.shape != found[0].tensor.shape:
        return
    levels = np.asarray(_LEVELS[found[0].elem])
    after = _apply(rw.graph, node, index, (levels * np.float32(found[1])).astype(np.float32))
    match = _match(levels, after)
    if match is None:
        return
    elem, scale, zero = match
    q = found[0]
    if elem != q.elem:
        to = {"to": "u1"} if elem == "u1" else {}
        q = rw.op("cim.sign", [q], f"{node.output.name}.q", node, {"zero": zero, **to})
    rw.encode(node.outputs[0], q, scale, node)


def _apply(graph: Graph, node: Node, index: int, x: Any) -> Any:
    """The operation's results for the candidates `x`, computed as it would be at run time."""
    given = Value("given", TensorType("f32", x.shape))
    given_node = Node(node.op, list(node.inputs), [Value("out", TensorType("f32", x.shape))],
                      dict(node.attrs))  # fmt: skip
    given_node.inputs[index] = given
    for i, value in enumerate(node.inputs):
        if i != index and value is not None and value.const is not None:
            flat = value.const.ravel()[:1].reshape(() if value.const.ndim == 0 else (1,))
            given_node.inputs[i] = Value(value.name, TensorType(value.elem, flat.shape), const=flat)
    part = outline(Graph("f", [given], [given_node.output], opsets=graph.opsets), [given_node])
    return Evaluator(part)({"given": x})["out"]


def _match(levels: Any, after: Any) -> tuple[str, float, int] | None:
    """(element type, scale) of the levels `after`, in the order of `levels`, and with which
    end a middle level goes if two are left."""
    low, high = float(after[0]), float(after[-1])
    if not np.isfinite(after).all() or low == high:
        return None
    if len(levels) == 3:
        if after[1] == 0 and low == -high:
            return "tern", high, 0
        if after[1] not in (low, high):
            return None
    zero = 1 if len(levels) == 3 and after[1] == high else -1
    if low == -high:
        return "bip", high, zero
    if low == 0:
        return "u1", high, zero
    return None


def _slice(rw: Rewriter, node: Node) -> None:
    """10. Slice(d(q)), Split(d(q)) ⇒ d(cim.slice(q))"""
    made, parts = rw.producer(node.inputs[0], "cim.dequant"), slices(node)
    if made is None or parts is None:
        return
    scale, zero = made.float_attr("scale", 1.0), made.int_attr("zero", 0)
    for out, cuts in zip(node.outputs, parts):
        q = cut_out(rw, made.arg(0), cuts, f"{out.name}.q", node)
        rw.encode(out, q, scale, node, zero)


def _concat(rw: Rewriter, node: Node) -> None:
    """11. Concat(d(a), d(b)) of one type, scale and zero point ⇒ d(cim.concat(a, b))"""
    parts = [rw.producer(v, "cim.dequant") for v in node.inputs]
    rank = len(node.output.tensor.shape or ())
    known = [p for p in parts if p is not None]
    if not rank or len(known) < len(parts) or len(known) < 2:
        return
    first = known[0]
    if any(p.attrs != first.attrs or p.arg(0).elem != first.arg(0).elem for p in known):
        return
    axis = node.int_attr("axis", 1) % rank
    q = joined(rw, [p.arg(0) for p in known], axis, f"{node.output.name}.q", node)
    _encode(rw, node, q, first)


_QUANTISERS = (*QUANTIZE, "cim.quantize")


def _quantise_first(rw: Rewriter, node: Node) -> None:
    """9. Q(layout(x)), Q(MaxPool(x)) ⇒ layout(Q(x)), MaxPool(Q(x)), for Q of one scale"""
    if node.op not in _QUANTISERS or not is_float(node.arg(0).elem):
        return
    above = rw.producer(node.arg(0), *LAYOUT)
    if any(v is not None and scalar(v) is None for v in node.inputs[1:]) or above is None:
        return
    x, out, form = above.arg(0), node.output, native(above)
    if form is None or not is_integer(out.elem) or out.tensor.static is None:
        return
    inputs = [x, *node.inputs[1:]]
    type_ = x.tensor.with_elem(out.elem)
    q = rw.op(node.op, inputs, f"{x.name}.quantised", above, dict(node.attrs), type_)
    rw.replace(out, form.on(rw, q, f"{out.name}.q", node))


_RULES: dict[str, Callable[[Rewriter, Node], None]] = {
    **dict.fromkeys(LAYOUT, _layout),
    "onnx.Slice": _slice,
    "onnx.Split": _slice,
    "onnx.Concat": _concat,
    "onnx.Resize": _resize,
    "onnx.Upsample": _resize,
    **dict.fromkeys(_QUANTISERS, _quantise_first),
}


@dataclass(frozen=True)
class SinkDequant(Pass):
    """Rules (d = cim.dequant):
    1. `Reshape(d(q))`, Flatten, Squeeze, Unsqueeze ⇒ `d(cim.reshape(q))`
    2. `Transpose(d(q))` ⇒ `d(cim.transpose(q))`
    3. `MaxPool(d(q) scale>0)` ⇒ `d(cim.max_pool(q))`
    4. `d(a) scale=s + d(b) scale=s` ⇒ `d(cim.add(a, b)) scale=s`, s a power of two,
       sums below 2**24
    5. `Relu(d(q) scale>0)` ⇒ `d(cim.relu(q))`; of an unsigned q ⇒ `d(q)`
    6. `f(d(q))`, f element-wise, q of two or three levels ⇒ `d(q')`, if the levels allow it
    7. `d(q) scale=s * c`, `/ c`, s and c powers of two ⇒ `d(q)` with the product as scale
    8. `Resize(d(q))` that gives each element a whole number of times ⇒ `d(cim.concat(q, q))`
       between `cim.reshape`; others of mode nearest, q of 8 bits ⇒ `d(Resize(q))`
    9. `Q(Reshape(x))`, Transpose, MaxPool, …, Q a quantiser of one scale, x float ⇒ the same on
       `Q(x)`
    10. `Slice(d(q))` with steps of one, `Split(d(q))` ⇒ `d(cim.slice(q))`
    11. `Concat(d(a), d(b))` of one type, scale and zero point ⇒ `d(cim.concat(a, b))`
    12. `d(cim.conv(x, w, b)) scale=s + K`, K a constant for each place, whole numbers of s, a
       power of two ⇒ `d(cim.conv(x, w, b + K / s)) scale=s`, sums below 2**24; also with a
       product with powers of two along the channels between them
    """

    name = "sink-dequant"
    summary = "move cim.dequant below layout, pooling, sums and maps of few levels"
    kind = "exact"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        rw = Rewriter(graph)
        for node in list(graph.nodes):
            if not node.outputs or not isinstance(node.outputs[0].type, TensorType):
                continue
            if node.op in _RULES:
                _RULES[node.op](rw, node)
            elif node.op == "onnx.Add" and all(v is None or v.const is None for v in node.inputs):
                _add(rw, node)
            elif node.op.startswith("onnx."):
                _few_levels(rw, node)
        graph.remove_dead()
        return rw.changed
