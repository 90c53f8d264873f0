"""Finds the layers that a tile computes exactly: integer inputs, binary or ternary weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cimc.driver import Pass, PassContext, Rewriter
from cimc.driver.bounds import bounds
from cimc.driver.levels import encoding, levels
from cimc.driver.rewrite import power_of_two, scalar
from cimc.driver.robust import signs_agree
from cimc.driver.stored import held
from cimc.frontend.windows import window_attrs
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.rules import Misfit, input_planes
from cimc.ir.types import Array, TensorType

_EXACT = 2**24  # onnxruntime sums in float32: exact for integers up to here
_TRIED = 1 << 23  # sums times channels that a rounding bias is tried on
_BLOCK = 128  # products that onnxruntime's Gemm sums before it adds the bias, at least


@dataclass(frozen=True)
class _Weights:
    """Weights as integers in {-1, 0, +1} times a power of two for each output channel."""

    levels: Array
    elem: str
    alpha: Array  # float32, one for each output channel, or a single one


def _split(w: Array, axis: int) -> _Weights | str:
    """Weights ±α or 0 with one α for each channel along `axis`; else why not."""
    size: Any = np.abs(w)
    others = tuple(i for i in range(w.ndim) if i != axis)
    largest = size.max(axis=others, initial=0.0, keepdims=True)
    if not np.all((size == 0) | (size == largest)):
        return "the weights of a kernel are not ±α"
    alpha = largest.reshape(-1).astype(np.float64)
    alpha[alpha == 0] = 1.0
    if not all(power_of_two(a) for a in alpha.tolist()):
        return "α of its weights ±α is not a power of two, so the sum rounds"
    levels = np.sign(w).astype(np.int8)
    elem = "tern" if bool(np.any(levels == 0)) else "bip"
    one = bool(np.all(alpha == alpha[0])) if alpha.size else True
    return _Weights(levels, elem, (alpha[:1] if one else alpha).astype(np.float32))


def _operand(rw: Rewriter, value: Value | None, node: Node) -> tuple[Value, float] | str:
    """The integer behind a layer's data operand and its scale; else why not."""
    found = rw.dequant(value) or _encoded(rw, value, node)
    if found is None:
        return "its input is float"
    if not power_of_two(found[1]):
        return f"its input's scale {found[1]:g} is not a power of two, so the sum rounds"
    try:
        input_planes(found[0].elem)
    except Misfit as misfit:
        return f"its input: {misfit}"
    return found


def _encoded(rw: Rewriter, value: Value | None, node: Node) -> tuple[Value, float] | None:
    """5. A float operand that holds bits all the same, as a sign of it."""
    found = encoding(levels(value, rw.made))
    if value is None or found is None:
        return None
    attrs, scale = found
    return rw.op("cim.sign", [value], f"{value.name}.bits", node, attrs), scale


def _weights(rw: Rewriter, value: Value, axis: int) -> _Weights | str:
    w = held(rw, value)
    if w is None:
        return "its weights are not constant"
    if value.elem != "f32":
        return f"its weights are {value.elem}"
    return _split(w, axis)


def _emit(
    rw: Rewriter,
    node: Node,
    acc: Value,
    scale: float,
    alpha: Array,
    bias: Value | None = None,
) -> str:
    """y = d(acc) * alpha + bias, alpha along the channel axis; returns why not, or ""."""
    y = node.output
    if bounds(acc, rw.made).reach >= _EXACT:
        return f"its sums reach {bounds(acc, rw.made).reach}, beyond float32's exact integers"
    if alpha.size == 1:
        scale *= float(alpha[0])
    if not np.isfinite(np.float32(scale)) or np.float32(scale) == 0:
        return "its scale leaves float32"
    if alpha.size == 1 and bias is None:
        rw.encode(y, acc, scale, node)
        return ""
    attrs = {"scale": scale} if scale != 1.0 else {}
    out = rw.op("cim.dequant", [acc], f"{y.name}.f", node, attrs)
    if alpha.size > 1:
        factor = rw.const(f"{y.name}.alpha", _channelwise(acc, node, alpha), "f32")
        out = rw.op("onnx.Mul", [out, factor], f"{y.name}.scaled", node, {}, y.tensor)
    if bias is not None:
        out = rw.op("onnx.Add", [out, bias], f"{y.name}.biased", node, {}, y.tensor)
    rw.replace(y, out)
    return ""


def _early_bias(
    rw: Rewriter, node: Node, x: Value, scale: float, w: _Weights, bias: Value | None
) -> str:
    """Why the bias of a Gemm can't be added behind the sum; empty if it can.

    onnxruntime sums long rows in blocks and adds the bias with the first, so that it rounds
    once a block. That is the same where no sum with the bias rounds (where all are multiples
    of one power of two, and few enough), and as good as the same where only signs of the
    result are taken and none changes within the error."""
    terms = w.levels.shape[0 if node.arg(0).const is None else 1]
    if bias is None or bias.const is None or terms <= _BLOCK:
        return ""
    unit: Any = scale * w.alpha.astype(np.float64)
    reach = terms * bounds(x, rw.made).reach
    steps: Any = bias.const.astype(np.float64) / unit
    most = reach + float(np.abs(steps).max(initial=0.0))
    grid = steps * 2.0 ** (24 - int(np.frexp(most)[1]))
    if most < _EXACT and bool(np.all(grid == np.floor(grid))):
        return ""
    channels = (node.output.tensor.shape or (0,))[-1]
    if node.arg(0).const is None and bias.const.size == channels:
        blocks = 2 * -(-terms // _BLOCK) + 2  # twice what was seen, to be sure
        step = 2 if x.elem == w.elem == "bip" else 1
        sums = np.arange(-reach, reach + 1, step)[:, None] * unit + bias.const.reshape(1, -1)
        error = blocks * 2.0**-24 * most * unit
        low, high = ((sums + e).astype(np.float32) for e in (-error, error))
        if sums.size <= _TRIED and signs_agree(rw.graph, node.output, 1, low, high):
            return ""
    return f"its bias rounds before the last of its {terms} products is added"


def _channelwise(acc: Value, node: Node, vector: Array) -> Array:
    rank = len(acc.tensor.shape or ())
    return vector.reshape((-1, *(1,) * (rank - 2)) if node.op == "onnx.Conv" else (-1,))


def _kernel(rw: Rewriter, weights: Value, levels: Array, elem: str) -> Value:
    """The weights as a constant; layers that share weights share it, and so its rows."""
    name = f"{weights.name}.{elem}"
    for value in rw.graph.consts:
        if value.name == name and np.array_equal(value.const, levels):  # type: ignore[arg-type]
            return value
    return rw.const(name, levels, elem)


def _conv(rw: Rewriter, node: Node) -> str:
    """1. Conv(d(x), ±α) + b ⇒ d(cim.conv(x, w)) * α + b"""
    image, margin = _unpadded(rw, node.arg(0))
    x = _operand(rw, image, node)
    if isinstance(x, str):
        return x
    w = _weights(rw, node.arg(1), 0)
    if isinstance(w, str):
        return w
    attrs = window_attrs(node, w.levels.shape[2:])
    if attrs is None:
        return "its padding depends on a size that is not known"
    if any(margin):
        attrs["pads"] = tuple(np.add(margin, attrs.get("pads", 0)).tolist())
    if node.attrs.get("group", 1) != 1:
        attrs["group"] = node.attrs["group"]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        if bias.const is None:
            return "its bias is not constant"
        shape = (-1, *(1,) * (w.levels.ndim - 2))
        bias = rw.const(f"{node.output.name}.b", bias.const.reshape(shape), "f32")
    kernel = _kernel(rw, node.arg(1), w.levels, w.elem)
    acc = rw.op("cim.conv", [x[0], kernel], f"{node.output.name}.acc", node, attrs,
                node.output.tensor)  # fmt: skip
    return _emit(rw, node, acc, x[1], w.alpha, bias)


def _unpadded(rw: Rewriter, x: Value) -> tuple[Value, tuple[int, ...]]:
    """6. The image below a Pad that puts zeros around it, and those pads; else x and none."""
    pad = rw.producer(x, "onnx.Pad")
    if pad is None or pad.attrs.get("mode", "constant") != "constant":
        return x, ()
    fill, axes = (pad.inputs[k] if len(pad.inputs) > k else None for k in (2, 3))
    sizes = pad.arg(1).const if len(pad.inputs) > 1 else np.asarray(pad.ints_attr("pads"))
    zeros = pad.float_attr("value", 0.0) == 0.0 and (fill is None or scalar(fill) == 0.0)
    if sizes is None or axes is not None or not zeros:
        return x, ()
    pads: list[int] = sizes.astype(np.int64).tolist()
    rank = len(pads) // 2
    if min(pads, default=0) < 0 or any((*pads[:2], *pads[rank : rank + 2])):
        return x, ()
    return pad.arg(0), (*pads[2:rank], *pads[rank + 2 :])


def _matmul(rw: Rewriter, node: Node) -> str:
    """2. MatMul(d(x), ±α) ⇒ d(cim.matmul(x, w)) * α;  3. MatMul(±α, d(x)) ⇒ a 1-D cim.conv"""
    a, b = node.arg(0), node.arg(1)
    left, w = held(rw, a), held(rw, b)
    if left is not None:
        return _left(rw, node, left, b, 1.0, None)
    while w is not None and len(a.tensor.shape or ()) >= w.ndim > 2 and w.shape[0] == 1:
        w = w[0]  # one matrix for the whole batch
    return _right(rw, node, a, b, w, 1.0, None)


def _right(
    rw: Rewriter, node: Node, a: Value, b: Value, w: Array | None, scale: float, bias: Value | None
) -> str:
    x = _operand(rw, a, node)
    if isinstance(x, str):
        return x
    if w is None:
        return "its weights are not constant"
    if w.ndim != 2 or not x[0].tensor.shape or b.elem != "f32":
        return f"its weights have the shape {list(w.shape)}: one matrix is expected"
    split = _split(w, 1)
    if isinstance(split, str):
        return split
    early = _early_bias(rw, node, x[0], x[1] * scale, split, bias)
    if early:
        return early
    kernel = _kernel(rw, b, split.levels, split.elem)
    if len(x[0].tensor.shape) < 2:
        return "its input is a vector without a batch axis"
    acc = rw.op("cim.matmul", [x[0], kernel], f"{node.output.name}.acc", node, {},
                node.output.tensor)  # fmt: skip
    return _emit(rw, node, acc, x[1] * scale, split.alpha, bias)


def _left(rw: Rewriter, node: Node, w: Array, b: Value, scale: float, bias: Value | None) -> str:
    """W[M,K] · x[…,K,N]: positions along N, kernels along M, so a convolution of one tap."""
    x = _operand(rw, b, node)
    if isinstance(x, str):
        return x
    dims = x[0].tensor.static
    if w.ndim != 2 or node.arg(0).elem != "f32" or dims is None or len(dims) < 2:
        return "a constant left side must be one matrix, and its input of known shape"
    split = _split(w, 0)
    if isinstance(split, str):
        return split
    if split.alpha.size > 1:
        return "the weights on the left side have a different α for each row"
    early = _early_bias(rw, node, x[0], x[1] * scale, split, bias)
    if early:
        return early
    name = node.output.name
    flat = rw.op("cim.reshape", [x[0]], f"{name}.x", node, {"shape": (-1, dims[-2], dims[-1])})
    kernel = _kernel(rw, node.arg(0), split.levels[:, :, None], split.elem)
    acc = rw.op("cim.conv", [flat, kernel], f"{name}.acc", node)
    shape = (*dims[:-2], w.shape[0], dims[-1])
    back = rw.op("cim.reshape", [acc], f"{name}.rows", node, {"shape": shape})
    return _emit(rw, node, back, x[1] * scale, split.alpha, bias)


def _gemm(rw: Rewriter, node: Node) -> str:
    """4. Gemm(d(x), ±α, C) ⇒ d(cim.matmul) * α·alpha + beta·C; either side may be constant"""
    alpha, beta = node.float_attr("alpha", 1.0), node.float_attr("beta", 1.0)
    if not power_of_two(alpha):
        return f"alpha={alpha:g} is not a power of two, so the sum rounds"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and bias.const is None:
        return "its bias is not constant"
    if bias is not None and (beta == 0.0 or scalar(bias) == 0.0):
        bias = None
    if bias is not None and beta != 1.0:
        scaled = np.asarray(np.float32(beta) * bias.const.astype(np.float32))  # type: ignore[union-attr]
        bias = rw.const(f"{node.output.name}.c", scaled, "f32")
    a, b = node.arg(0), node.arg(1)
    left, w = held(rw, a), held(rw, b)
    if left is not None:
        w = left.T if node.attrs.get("transA", 0) else left
        return _left(rw, node, w, _turned(rw, node, b, "transB"), alpha, bias)
    if w is not None and node.attrs.get("transB", 0):
        w = w.T
    return _right(rw, node, _turned(rw, node, a, "transA"), b, w, alpha, bias)


def _turned(rw: Rewriter, node: Node, x: Value, flag: str) -> Value:
    """x transposed as Gemm's attribute asks, with the dequant kept on the outside."""
    found = rw.dequant(x)
    if not node.attrs.get(flag, 0) or found is None:
        return x
    q = rw.op("cim.transpose", [found[0]], f"{x.name}.t", node, {"perm": (1, 0)})
    return rw.op("cim.dequant", [q], f"{x.name}.tf", node, {"scale": found[1]})


_RULES: dict[str, Callable[[Rewriter, Node], str]] = {
    "onnx.Conv": _conv,
    "onnx.MatMul": _matmul,
    "onnx.Gemm": _gemm,
}


@dataclass(frozen=True)
class RecogniseLayers(Pass):
    """Rules (d = cim.dequant; every α and scale a power of two, every sum below 2**24):
    1. `Conv(d(x), ±α) + b` ⇒ `d(cim.conv(x, w)) * α + b`
    2. `MatMul(d(x), ±α)` ⇒ `d(cim.matmul(x, w)) * α`
    3. `MatMul(±α, d(x))` ⇒ `d(cim.conv(x, w))` over the columns of x
    4. `Gemm` likewise, with alpha, beta, transA and transB; with more than 128 products only
       if the sums with its bias are exact, or only signs are taken that rounding can't change
    5. a float operand that holds only ±a, 0 and a, or ±a and 0 (below Concat, Slice, Round of
       Clip, …) ⇒ `d(cim.sign(x))`
    6. `Conv(Pad(x))` with zeros ⇒ more `pads`
    Weights may lie behind quantisers and layout.
    A layer that stays says why.
    """

    name = "recognise-layers"
    summary = "turn layers with binary or ternary weights into cim.conv and cim.matmul"
    kind = "exact"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        rw = Rewriter(graph)
        for node in list(graph.nodes):
            if node.op not in _RULES or not isinstance(node.output.type, TensorType):
                continue
            try:
                why = _RULES[node.op](rw, node)
            except Misfit as misfit:  # onnxruntime decides whether the model is one
                why = str(misfit)
            if why and node.why is None:
                node.why = why
                rw.changed = True
        graph.remove_dead()
        return rw.changed
