"""Native operations as ONNX nodes, for host fragments and for export.

One function an operation, by the name of its row in `cimc.ir.ops`. Values of `bip`, `tern`
and odd integer widths travel in their container type (INT8, …). Arithmetic is in DOUBLE
(exact for 32-bit integers; its kernels exist in every operator set). Layers, requantisation
and the like are in `expand_integers.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto

from cimc.frontend import expand_integers
from cimc.frontend.elements import carrier
from cimc.frontend.emitter import Emitter
from cimc.ir.graph import Node
from cimc.ir.ops import TABLE
from cimc.ir.rules import window
from cimc.ir.types import int_range

F32, F64 = TensorProto.FLOAT, TensorProto.DOUBLE
_FEW = 3  # thresholds that are compared one by one


def _sign(e: Emitter, node: Node, attrs: dict[str, Any], ins: list[str], out: str) -> None:
    code = carrier(node.output.elem)
    x = e.cast(ins[0], F64)
    zero = e.const(np.float64(0.0))
    if attrs["zero"] == 0:
        above = e.cast(e.node("Greater", x, zero), F64)
        below = e.cast(e.node("Less", x, zero), F64)
        e.cast(e.node("Sub", above, below), code, out)
        return
    positive = e.node("Greater", x, zero) if attrs["zero"] < 0 else e.at_least(x, zero)
    e.cast(e.where(positive, 1.0, 0.0 if attrs["to"] == "u1" else -1.0, F64), code, out)


def _threshold(e: Emitter, node: Node, attrs: dict[str, Any], ins: list[str], out: str) -> None:
    """The levels, added up over an axis of their own where there are many."""
    rank = len(node.arg(0).tensor.shape or ())
    along = [1] * rank
    along[attrs["axis"]] = -1
    table = np.asarray(node.arg(1).const, np.float64)
    columns = table.reshape(table.shape[0], -1)
    x, top, to = e.cast(ins[0], F64), columns.shape[1], attrs["to"]
    if top > _FEW:
        shape = e.node("Concat", e.node("Shape", x), e.const([1], np.int64), axis=0)
        steps = e.const(columns.reshape([*along, top]))
        reached = e.cast(e.at_least(e.node("Reshape", x, shape), steps), F32)
        ones = e.const(np.ones((top, 1), np.float32))  # up to 2**24 of them: exact
        level = e.cast(e.node("Reshape", e.node("MatMul", reached, ones), e.node("Shape", x)), F64)
    else:
        bits = [
            e.cast(e.at_least(x, e.const(columns[:, k].reshape(along))), F64) for k in range(top)
        ]
        level = bits[0]
        for bit in bits[1:]:
            level = e.node("Add", level, bit)
    if len(ins) > 2:
        flip = np.asarray(node.arg(2).const, np.float64).reshape(along)
        level = e.node("Mul", level, e.const(flip))
        level = e.node("Add", level, e.const(np.where(flip < 0, float(top), 0.0)))
    if to == "bip":
        level = e.node("Mul", level, e.const(np.float64(2.0)))
    low, _ = int_range(to)
    if low:
        level = e.node("Add", level, e.const(np.float64(low)))
    e.cast(level, carrier(to), out)


def _max_pool(e: Emitter, node: Node, attrs: dict[str, Any], ins: list[str], out: str) -> None:
    strides, pads, dilations = window(attrs, len(attrs["kernel"]))
    optional: dict[str, Any] = {"dilations": dilations} if e.opset >= 10 else {}
    x = e.cast(ins[0], F64)
    y = e.node("MaxPool", x, kernel_shape=attrs["kernel"], strides=strides, pads=pads, **optional)
    e.cast(y, carrier(node.output.elem), out)


def _add(e: Emitter, node: Node, attrs: dict[str, Any], ins: list[str], out: str) -> None:
    x, y = (e.cast(i, carrier("i32")) for i in ins)
    e.node("Add", x, y, out=out)


def _relu(e: Emitter, node: Node, attrs: dict[str, Any], ins: list[str], out: str) -> None:
    x = e.cast(ins[0], F64)
    above = e.cast(e.node("Greater", x, e.const(np.float64(0.0))), F64)
    e.cast(e.node("Mul", x, above), carrier(node.output.elem), out)


def _dequant(e: Emitter, node: Node, attrs: dict[str, Any], ins: list[str], out: str) -> None:
    x = ins[0]
    if attrs["zero"]:
        zero = e.const(np.asarray(attrs["zero"], np.float64))
        x = e.node("Sub", e.cast(x, F64), zero)
    if attrs["scale"] == 1.0:
        e.cast(x, F32, out)
        return
    e.node("Mul", e.cast(x, F32), e.const(np.asarray(attrs["scale"], np.float32)), out=out)


def _reshape(e: Emitter, node: Node, attrs: dict[str, Any], ins: list[str], out: str) -> None:
    e.node("Reshape", ins[0], e.const(list(attrs["shape"]), np.int64), out=out)


def _transpose(e: Emitter, node: Node, attrs: dict[str, Any], ins: list[str], out: str) -> None:
    e.node("Transpose", ins[0], out=out, perm=attrs["perm"])


def _concat(e: Emitter, node: Node, attrs: dict[str, Any], ins: list[str], out: str) -> None:
    e.node("Concat", *ins, out=out, axis=attrs["axis"])


def _slice(e: Emitter, node: Node, attrs: dict[str, Any], ins: list[str], out: str) -> None:
    start, stop, axis = [attrs["start"]], [attrs["stop"]], [attrs["axis"]]
    if e.opset < 10:
        x = e.cast(ins[0], F32)  # small integers, exact; old kernels know floats only
        e.cast(e.node("Slice", x, starts=start, ends=stop, axes=axis),
               carrier(node.output.elem), out)  # fmt: skip
        return
    parts = [e.const(part, np.int64) for part in (start, stop, axis)]
    e.node("Slice", ins[0], *parts, out=out)


def _take(e: Emitter, node: Node, attrs: dict[str, Any], ins: list[str], out: str) -> None:
    index = node.arg(1).const
    assert index is not None
    chosen = e.const(index.astype(np.int64), np.int64)
    e.node("Gather", ins[0], chosen, out=out, axis=attrs["axis"])


def _similar(e: Emitter, node: Node, attrs: dict[str, Any], ins: list[str], out: str) -> None:
    """Its kernels are constant: so is the mask."""
    kernels = node.arg(0).const
    assert kernels is not None
    (mask,) = TABLE[node.op].evaluate([kernels], attrs, [node.output.tensor])
    e.node("Identity", e.const(mask), out=out)


_EXPAND: dict[str, Callable[[Emitter, Node, dict[str, Any], list[str], str], None]] = {
    "cim.sign": _sign,
    "cim.conv": expand_integers.conv,
    "cim.matmul": expand_integers.matmul,
    "cim.threshold": _threshold,
    "cim.max_pool": _max_pool,
    "cim.add": _add,
    "cim.relu": _relu,
    "cim.dequant": _dequant,
    "cim.quantize": expand_integers.quantize,
    "cim.requant": expand_integers.requant,
    "cim.lut": expand_integers.lut,
    "cim.sum_pool": expand_integers.sum_pool,
    "cim.qadd": expand_integers.qadd,
    "cim.concat": _concat,
    "cim.slice": _slice,
    "cim.take": _take,
    "cim.reshape": _reshape,
    "cim.transpose": _transpose,
    "cim.similar": _similar,
}
assert _EXPAND.keys() == TABLE.keys(), "every native operation needs its ONNX form"


def expand(e: Emitter, node: Node, ins: list[str], out: str) -> None:
    """Emit the ONNX nodes of a native operation that reads `ins` and defines `out`."""
    row = TABLE[node.op]
    _EXPAND[node.op](e, node, row.full_attrs(dict(node.attrs)), ins, out)
