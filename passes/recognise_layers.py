"""Finds float layers that a tile computes: integer inputs, weights of few levels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cimc.driver import Pass, PassContext, Rewriter
from cimc.driver.bounds import bounds
from cimc.driver.levels import encoding, levels
from cimc.driver.padding import unpadded
from cimc.driver.rewrite import power_of_two, scalar
from cimc.driver.robust import signs_agree
from cimc.driver.stored import held, held_steps
from cimc.driver.weights import Weights, split
from cimc.frontend.windows import conv_attrs
from cimc.ir.graph import Graph, Node, Value, layer_name
from cimc.ir.rules import Misfit, input_planes
from cimc.ir.types import F32_EXACT, Array, TensorType, container

_TRIED = 1 << 23  # sums times channels that a rounding bias is tried on
_BLOCK = 128  # products that onnxruntime's Gemm sums before it adds the bias, at least


class _Layers(Rewriter):
    """A rewriter that knows whether scales other than powers of two will do."""

    def __init__(self, graph: Graph, any_alpha: bool) -> None:
        super().__init__(graph)
        self.any_alpha = any_alpha
        self.rounding: list[Node] = []  # layers whose float sums round


@dataclass(frozen=True)
class _Input:
    """x = (q - zero) * scale."""

    q: Value
    scale: float
    zero: int = 0


def _operand(rw: _Layers, value: Value | None, node: Node) -> _Input | str:
    """The integer behind a layer's data operand, its scale and zero; else why not."""
    found = _encoded(rw, value, node)
    made = rw.producer(value, "cim.dequant")
    if made is not None:
        found = _Input(made.arg(0), made.float_attr("scale", 1.0), made.int_attr("zero", 0))
    if found is None:
        return "its input is float"
    if not rw.any_alpha and not power_of_two(found.scale):
        return f"its input's scale {found.scale:g} is not a power of two, so the sum rounds"
    try:
        input_planes(found.q.elem)
    except Misfit as misfit:
        return f"its input: {misfit}"
    return found


def _operands(rw: _Layers, x: _Input, kernel: Value, name: str) -> list[Value | None]:
    """The operands of a layer: x, the kernel, and the zero point of x if it has one."""
    if not x.zero:
        return [x.q, kernel]
    zero = np.array([x.zero]).astype(container(x.q.elem))
    return [x.q, kernel, rw.const(f"{name}.zero", zero, x.q.elem)]


def _encoded(rw: _Layers, value: Value | None, node: Node) -> _Input | None:
    """5. A float operand that holds bits all the same, as a sign of it."""
    if rw.producer(value, "cim.dequant") is not None:
        return None
    found = encoding(levels(value, rw.made))
    if value is None or found is None:
        return None
    attrs, scale = found
    return _Input(rw.op("cim.sign", [value], f"{value.name}.bits", node, attrs), scale)


def _weights(rw: _Layers, value: Value, axis: int) -> Weights | str:
    w = held(rw, value)
    if w is None:
        return "its weights are not constant"
    if value.elem != "f32":
        return f"its weights are {value.elem}"
    return split(w, axis, held_steps(rw, value), rw.any_alpha)


def _emit(
    rw: _Layers,
    node: Node,
    acc: Value,
    scale: float,
    alpha: Array,
    bias: Value | None = None,
) -> str:
    """y = d(acc) * alpha + bias, alpha along the channel axis; returns why not, or ""."""
    y, reach = node.output, bounds(acc, rw.made).reach
    if not rw.any_alpha and reach >= F32_EXACT:
        return f"its sums reach {reach}, beyond float32's exact integers"
    if reach >= F32_EXACT or not all(power_of_two(a * scale) for a in alpha.tolist()):
        rw.rounding.append(node)
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
    rw: _Layers, node: Node, x: Value, scale: float, w: Weights, bias: Value | None
) -> str:
    """Why the bias of a Gemm can't be added behind the sum; empty if it can.

    onnxruntime sums long rows in blocks and adds the bias with the first, so that it rounds
    once a block. That is the same where no sum with the bias rounds (where all are multiples
    of one power of two, and few enough), and as good as the same where only signs of the
    result are taken and none changes within the error."""
    terms = w.levels.shape[0 if node.arg(0).const is None else 1]
    if rw.any_alpha or bias is None or bias.const is None or terms <= _BLOCK:
        return ""
    unit: Any = scale * w.alpha.astype(np.float64)
    reach = terms * bounds(x, rw.made).reach
    steps: Any = bias.const.astype(np.float64) / unit
    most = reach + float(np.abs(steps).max(initial=0.0))
    grid = steps * 2.0 ** (24 - int(np.frexp(most)[1]))
    if most < F32_EXACT and bool(np.all(grid == np.floor(grid))):
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


def _conv(rw: _Layers, node: Node) -> str:
    """1. Conv(d(x), ±α) + b ⇒ d(cim.conv(x, w)) * α + b"""
    image, margin = unpadded(rw, node.arg(0))
    x = _operand(rw, image, node)
    if isinstance(x, str):
        return x
    w = _weights(rw, node.arg(1), 0)
    if isinstance(w, str):
        return w
    attrs = conv_attrs(node, w.levels.shape[2:], margin)
    if attrs is None:
        return "its padding depends on a size that is not known"
    bias = node.operand(2)
    if bias is not None:
        if bias.const is None:
            return "its bias is not constant"
        shape = (-1, *(1,) * (w.levels.ndim - 2))
        bias = rw.const(f"{node.output.name}.b", bias.const.reshape(shape), "f32")
    kernel = rw.shared(f"{node.arg(1).name}.{w.elem}", w.levels, w.elem)
    operands = _operands(rw, x, kernel, node.output.name)
    acc = rw.op("cim.conv", operands, f"{node.output.name}.acc", node, attrs, node.output.tensor)
    return _emit(rw, node, acc, x.scale, w.alpha, bias)


def _matmul(rw: _Layers, node: Node) -> str:
    """2. MatMul(d(x), ±α) ⇒ d(cim.matmul(x, w)) * α;  3. MatMul(±α, d(x)) ⇒ a 1-D cim.conv"""
    a, b = node.arg(0), node.arg(1)
    left, w = held(rw, a), held(rw, b)
    if left is not None:
        return _left(rw, node, left, b, 1.0, None)
    while w is not None and len(a.tensor.shape or ()) >= w.ndim > 2 and w.shape[0] == 1:
        w = w[0]  # one matrix for the whole batch
    return _right(rw, node, a, b, w, 1.0, None)


def _right(
    rw: _Layers, node: Node, a: Value, b: Value, w: Array | None, scale: float, bias: Value | None
) -> str:
    x = _operand(rw, a, node)
    if isinstance(x, str):
        return x
    if w is None:
        return "its weights are not constant"
    if w.ndim != 2 or not x.q.tensor.shape or b.elem != "f32":
        return f"its weights have the shape {list(w.shape)}: one matrix is expected"
    steps = held_steps(rw, b)
    if steps is not None:  # turned and cut as the weights were
        steps = steps.T if steps.shape != w.shape and steps.ndim == 2 else steps.reshape(w.shape)
    parts = split(w, 1, steps, rw.any_alpha)
    if isinstance(parts, str):
        return parts
    early = _early_bias(rw, node, x.q, x.scale * scale, parts, bias)
    if early:
        return early
    kernel = rw.shared(f"{b.name}.{parts.elem}", parts.levels, parts.elem)
    if len(x.q.tensor.shape) < 2:
        return "its input is a vector without a batch axis"
    operands = _operands(rw, x, kernel, node.output.name)
    acc = rw.op("cim.matmul", operands, f"{node.output.name}.acc", node, {}, node.output.tensor)
    return _emit(rw, node, acc, x.scale * scale, parts.alpha, bias)


def _left(rw: _Layers, node: Node, w: Array, b: Value, scale: float, bias: Value | None) -> str:
    """W[M,K] · x[…,K,N]: positions along N, kernels along M, so a convolution of one tap."""
    x = _operand(rw, b, node)
    if isinstance(x, str):
        return x
    dims = x.q.tensor.static
    if w.ndim != 2 or node.arg(0).elem != "f32" or dims is None or len(dims) < 2:
        return "a constant left side must be one matrix, and its input of known shape"
    parts = split(w, 0, None, rw.any_alpha)
    if isinstance(parts, str):
        return parts
    if parts.alpha.size > 1:
        return "the weights on the left side have a different α for each row"
    early = _early_bias(rw, node, x.q, x.scale * scale, parts, bias)
    if early:
        return early
    name = node.output.name
    flat = rw.op("cim.reshape", [x.q], f"{name}.x", node, {"shape": (-1, dims[-2], dims[-1])})
    kernel = rw.shared(f"{node.arg(0).name}.{parts.elem}", parts.levels[:, :, None], parts.elem)
    acc = rw.op("cim.conv", _operands(rw, replace(x, q=flat), kernel, name), f"{name}.acc", node)
    shape = (*dims[:-2], w.shape[0], dims[-1])
    back = rw.op("cim.reshape", [acc], f"{name}.rows", node, {"shape": shape})
    return _emit(rw, node, back, x.scale * scale, parts.alpha, bias)


def _gemm(rw: _Layers, node: Node) -> str:
    """4. Gemm(d(x), ±α, C) ⇒ d(cim.matmul) * α·alpha + beta·C; either side may be constant"""
    alpha, beta = node.float_attr("alpha", 1.0), node.float_attr("beta", 1.0)
    if not rw.any_alpha and not power_of_two(alpha):
        return f"alpha={alpha:g} is not a power of two, so the sum rounds"
    bias = node.operand(2)
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


def _turned(rw: _Layers, node: Node, x: Value, flag: str) -> Value:
    """x transposed as Gemm's attribute asks, with the dequant kept on the outside."""
    made = rw.producer(x, "cim.dequant")
    if not node.attrs.get(flag, 0) or made is None:
        return x
    q = rw.op("cim.transpose", [made.arg(0)], f"{x.name}.t", node, {"perm": (1, 0)})
    return rw.op("cim.dequant", [q], f"{x.name}.tf", node, dict(made.attrs))


_RULES: dict[str, Callable[[_Layers, Node], str]] = {
    "onnx.Conv": _conv,
    "onnx.MatMul": _matmul,
    "onnx.Gemm": _gemm,
}


@dataclass(frozen=True)
class RecogniseLayers(Pass):
    """Rules (d = cim.dequant; every α and scale a power of two, every sum below 2**24, unless
    any_alpha):
    1. `Conv(d(x), ±α) + b` ⇒ `d(cim.conv(x, w)) * α + b`
    2. `MatMul(d(x), ±α)` ⇒ `d(cim.matmul(x, w)) * α`
    3. `MatMul(±α, d(x))` ⇒ `d(cim.conv(x, w))` over the columns of x
    4. `Gemm` likewise, with alpha, beta, transA and transB; with more than 128 products only
       if the sums with its bias are exact, or only signs are taken that rounding can't change
    5. a float operand that holds only ±a, 0 and a, or ±a and 0 (below Concat, Slice, Round of
       Clip, …) ⇒ `d(cim.sign(x))`
    6. `Conv(Pad(x))` with zeros ⇒ more `pads`
    7. the same for the integer weights of a QONNX quantiser in the place of ±α
    Weights may lie behind quantisers and layout. A layer that stays says why.
    any_alpha: take any α and scale: integer sums, scaled once, in the place of float sums that
    round. That is approximate, and the pass says for which layers.
    """

    name = "recognise-layers"
    summary = (
        "turn float layers on integers, with weights of few levels, into cim.conv and cim.matmul"
    )
    kind = "exact"
    any_alpha: bool = False

    def __post_init__(self) -> None:
        if self.any_alpha:  # how sums round may change
            object.__setattr__(self, "kind", "approximate")

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        rw = _Layers(graph, self.any_alpha)
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
        if self.any_alpha and rw.rounding:
            ctx.notes.append(
                f"{self.name}: integer sums, scaled once, in the place of float32 sums, which "
                f"round: {', '.join(layer_name(n) for n in rw.rounding)}"
            )
        graph.remove_dead()
        return rw.changed
