"""Float layers as dynamic int8: activations quantised at run time, weights now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cimc.driver import Pass, PassContext, Rewriter
from cimc.driver.stored import held
from cimc.driver.trial import run_pipeline, tried
from cimc.frontend.elements import code_of
from cimc.frontend.opset import raise_opset
from cimc.frontend.windows import gather_attrs, mirrored
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.types import Array, TensorType

RECOGNISE = "cleanup,read-qdq,recognise-any-alpha"
"""What is left as a float layer by these becomes dynamic int8."""
_RECURRENT = ("onnx.LSTM", "onnx.GRU", "onnx.RNN")
_OPSET = 11  # the first with DynamicQuantizeLinear
_LEVELS = 254  # steps from -127 to 127


def quantised(w: Any) -> tuple[Array, Array]:
    """Weights as int8 in -127..127 with zero point 0, and their scale, float32 of no axes:
    the numbers of onnxruntime.quantization.quant_utils.quantize_data(w, INT8, symmetric=True).

    w: float32, finite, not empty. Weights below float32's normal numbers get the scale 1."""
    largest = np.maximum(np.abs(w.min()), np.abs(w.max())).astype(np.float64)
    scale = np.asarray(2 * largest / _LEVELS)
    if scale < np.finfo(np.float32).tiny:
        scale = np.asarray(1.0)
    scale = scale.astype(np.float32)
    return np.clip((w / scale).round(), -128, 127).astype(np.int8), scale


class _Recipe:
    """What layers share: each activation is quantised once, each weight tensor too."""

    def __init__(self, graph: Graph) -> None:
        self.rw = Rewriter(graph)
        self._inputs: dict[Value, tuple[Value, Value, Value]] = {}
        self._weights: dict[tuple[Value, str], tuple[Value, Value]] = {}

    def input(self, x: Value, before: Node) -> tuple[Value, Value, Value]:
        """x in u8, its scale and its zero point, both without axes."""
        if x not in self._inputs:
            names = [self.rw.fresh(f"{x.name}.{part}") for part in ("q", "scale", "zero")]
            types = (x.tensor.with_elem("u8"), TensorType("f32", ()), TensorType("u8", ()))
            q, scale, zero = (Value(n, t) for n, t in zip(names, types))
            op = "onnx.DynamicQuantizeLinear"
            self.rw.insert(Node(op, [x], [q, scale, zero], source=before.source), before)
            self._inputs[x] = q, scale, zero
        return self._inputs[x]

    def weights(self, w: Value, how: str, array: Array) -> tuple[Value, Value]:
        """`array`, made of w as `how` says, in int8, and its scale."""
        if (w, how) not in self._weights:
            levels, scale = quantised(array)
            self._weights[w, how] = (
                self.rw.const(f"{w.name}.q", levels, "i8"),
                self.rw.const(f"{w.name}.scale", scale, "f32"),
            )
        return self._weights[w, how]

    def finish(
        self, node: Node, acc: Value, scales: tuple[Value, Value], bias: Value | None
    ) -> None:
        """The float that the sums stand for, in the place of the layer's result."""
        rw, y = self.rw, node.output
        out = rw.op("onnx.Cast", [acc], f"{y.name}.sum", node, {"to": code_of("f32")}, y.tensor)
        scale = rw.op("onnx.Mul", scales, f"{y.name}.scale", node, {}, TensorType("f32", ()))
        out = rw.op("onnx.Mul", [out, scale], f"{y.name}.scaled", node, {}, y.tensor)
        if bias is not None:
            out = rw.op("onnx.Add", [out, bias], f"{y.name}.biased", node, {}, y.tensor)
        rw.replace(y, out)


def _weights(recipe: _Recipe, value: Value) -> Any:
    """The weights of a layer; a string says why they can't be quantised."""
    w = held(recipe.rw, value)
    if w is None:
        return "its weights are known at run time only"
    if w.size == 0:
        return "its weights are empty"
    return w if bool(np.isfinite(w).all()) else "its weights hold infinity or NaN"


def _channel_bias(recipe: _Recipe, node: Node, rank: int) -> Value | None:
    """The bias of a convolution in the shape [1, C, 1, …]."""
    bias = node.operand(2)
    if bias is None:
        return None
    rw, name, shape = recipe.rw, f"{node.output.name}.b", (1, -1, *(1,) * (rank - 2))
    if bias.const is not None:
        return rw.const(name, bias.const.reshape(shape), "f32")
    to = rw.const(f"{name}.shape", np.asarray(shape, np.int64), "i64")
    channels = (bias.tensor.shape or ("?",))[0]
    wide = TensorType("f32", (1, channels, *(1,) * (rank - 2)))
    return rw.op("onnx.Reshape", [bias, to], name, node, {}, wide)


def _conv(recipe: _Recipe, node: Node) -> str:
    """1. Conv(x, w) + b"""
    w = _weights(recipe, node.arg(1))
    if isinstance(w, str):
        return w
    q, scale, zero = recipe.input(node.arg(0), node)
    levels, step = recipe.weights(node.arg(1), "", w)
    wide = node.output.tensor.with_elem("i32")
    acc = recipe.rw.op("onnx.ConvInteger", [q, levels, zero], f"{node.output.name}.acc", node,
                       dict(node.attrs), wide)  # fmt: skip
    recipe.finish(node, acc, (scale, step), _channel_bias(recipe, node, w.ndim))
    return ""


def _conv_transpose(recipe: _Recipe, node: Node) -> str:
    """5. ConvTranspose(x, w) + b: a convolution over x with gaps, its kernels mirrored"""
    w = _weights(recipe, node.arg(1))
    if isinstance(w, str):
        return w
    found = gather_attrs(node, w.shape[2:])
    if found is None:
        return "its padding depends on a size that is not known"
    attrs, cut = found
    group = node.int_attr("group", 1)
    x, rw, name = node.arg(0), recipe.rw, node.output.name
    q, scale, zero = recipe.input(x, node)
    levels, step = recipe.weights(node.arg(1), f"mirrored {group}", mirrored(w, group))
    zero = rw.op("cim.reshape", [zero], f"{name}.zero", node, {"shape": (1,)})
    acc = rw.op("cim.conv", [q, levels, zero], f"{name}.acc", node, attrs)
    if any(cut):
        acc = _cropped(rw, node, acc, cut)
    recipe.finish(node, acc, (scale, step), _channel_bias(recipe, node, w.ndim))
    return ""


def _cropped(rw: Rewriter, node: Node, acc: Value, cut: tuple[int, ...]) -> Value:
    """acc without the first and last rows of each spatial axis: begins, then ends."""
    name, rank = acc.name, len(cut) // 2
    far = np.iinfo(np.int64).max
    bounds = [cut[:rank], [-c if c else far for c in cut[rank:]], range(2, 2 + rank)]
    operands = [rw.const(f"{name}.{part}", np.asarray(b, np.int64), "i64")
                for part, b in zip(("starts", "ends", "axes"), bounds)]  # fmt: skip
    wide = node.output.tensor.with_elem("i32")
    return rw.op("onnx.Slice", [acc, *operands], f"{name}.crop", node, {}, wide)


def _matmul(recipe: _Recipe, node: Node) -> str:
    """2. MatMul(x, w);  4. MatMul(w, x)"""
    return _product(recipe, node)


def _gemm(recipe: _Recipe, node: Node) -> str:
    """3. Gemm(x, w, c);  4. Gemm(w, x, c)"""
    flags = [bool(node.attrs.get(flag, 0)) for flag in ("transA", "transB")]
    alpha, beta = node.float_attr("alpha", 1.0), node.float_attr("beta", 1.0)
    bias = node.operand(2) if beta != 0.0 else None
    return _product(recipe, node, flags, alpha, bias, beta)


def _product(
    recipe: _Recipe,
    node: Node,
    turned: Sequence[bool] = (False, False),
    alpha: float = 1.0,
    bias: Value | None = None,
    beta: float = 1.0,
) -> str:
    """alpha · a · b + beta · bias; `turned` says which of a and b are transposed."""
    a, b = node.arg(0), node.arg(1)
    left = held(recipe.rw, a) is not None
    value, x = (a, b) if left else (b, a)
    w = _weights(recipe, value)
    if isinstance(w, str):
        return w
    if held(recipe.rw, x) is not None:
        return "both of its operands are constants"
    turn_w, turn_x = turned if left else turned[::-1]
    w: Any = w.T if turn_w else w
    w = np.float32(alpha) * w if alpha != 1.0 else w
    key = (value, f"{alpha:g} {'transposed' if turn_w else ''}")
    found = (_left if left else _right)(recipe, node, x, key, w, turn_x)
    if isinstance(found, str):
        return found
    recipe.finish(node, *found, _times(recipe, node, bias, beta))
    return ""


def _times(recipe: _Recipe, node: Node, bias: Value | None, beta: float) -> Value | None:
    if bias is None or beta == 1.0:
        return bias
    rw, name, factor = recipe.rw, f"{node.output.name}.c", np.asarray(beta, np.float32)
    if bias.const is not None:
        return rw.const(name, np.asarray(factor * bias.const, np.float32), "f32")
    by = rw.const(f"{name}.beta", factor, "f32")
    return rw.op("onnx.Mul", [bias, by], name, node, {}, bias.tensor)


_Sums = tuple[Value, tuple[Value, Value]]


def _right(
    recipe: _Recipe, node: Node, x: Value, key: tuple[Value, str], w: Any, turn: bool
) -> _Sums:
    """2. The sums of x · w, w of any shape, and the two scales."""
    rw, name = recipe.rw, node.output.name
    q, scale, zero = recipe.input(x, node)
    if turn:
        q = rw.op("cim.transpose", [q], f"{name}.x", node, {"perm": (1, 0)})
    levels, step = recipe.weights(*key, w)
    wide = node.output.tensor.with_elem("i32")
    acc = rw.op("onnx.MatMulInteger", [q, levels, zero], f"{name}.acc", node, {}, wide)
    return acc, (scale, step)


def _left(
    recipe: _Recipe, node: Node, x: Value, key: tuple[Value, str], w: Any, turn: bool
) -> _Sums | str:
    """4. The sums of w[M,K] · x[…,K,N]: a convolution of one tap over the columns of x."""
    dims = x.tensor.shape
    if w.ndim != 2 or not dims:
        return "its weights on the left side are no matrix"
    if len(dims) == 1:
        return _right(recipe, node, x, (key[0], f"{key[1]} turned"), w.T, False)
    if len(dims) != 3 and x.tensor.static is None:
        return f"its input has the shape {x.type}: sizes must be known"
    rw, name = recipe.rw, node.output.name
    q, scale, zero = recipe.input(x, node)
    if turn:
        q, dims = rw.op("cim.transpose", [q], f"{name}.x", node, {"perm": (1, 0)}), dims[::-1]
    levels, step = recipe.weights(key[0], f"{key[1]} taps", w[:, :, None])
    zero = rw.op("cim.reshape", [zero], f"{name}.zero", node, {"shape": (1,)})
    if len(dims) != 3:
        q = rw.op("cim.reshape", [q], f"{name}.x", node, {"shape": (-1, *dims[-2:])})
    acc = rw.op("cim.conv", [q, levels, zero], f"{name}.acc", node)
    if len(dims) != 3:
        shape = (*dims[:-2], w.shape[0], dims[-1])
        acc = rw.op("cim.reshape", [acc], f"{name}.rows", node, {"shape": shape})
    return acc, (scale, step)


_RULES: dict[str, Callable[[_Recipe, Node], str]] = {
    "onnx.Conv": _conv,
    "onnx.MatMul": _matmul,
    "onnx.Gemm": _gemm,
    "onnx.ConvTranspose": _conv_transpose,
}


def _float_layers(graph: Graph, ctx: PassContext) -> list[Node]:
    """The layers in float32 that recognition leaves as they are. Others say why they stay."""
    layers = [n for n in graph.nodes if n.op in _RULES]
    if not layers:
        return []
    _, left = tried(graph, RECOGNISE, ctx)
    found = []
    for node in (n for n in layers if n in left):
        values = [v for v in (*node.inputs, *node.outputs) if v is not None]
        others = [v.elem or "an unknown type" for v in values if v.elem != "f32"]
        if others:
            node.why = f"it is in {others[0]}: dynamic int8 takes float32"
        else:
            found.append(node)
    return found


def _say_why(graph: Graph) -> None:
    """6. The reasons of what this pass does not look at."""
    for node in graph.nodes:
        if node.op in _RECURRENT:
            node.why = "recurrent cells stay on the host"
        inner = [n for g in node.graphs() for n in g.nodes]
        if any(n.op in (*_RULES, *_RECURRENT) for n in inner):
            node.why = "layers inside control flow stay on the host"


@dataclass(frozen=True)
class QuantizeDynamic(Pass):
    """Rules (q, s, z = DynamicQuantizeLinear(x), once for each x; W = int8 of w with one scale
    t; the numbers of onnxruntime's quantize_dynamic with weight_type=QInt8):
    1. `Conv(x, w) + b` ⇒ `Cast(ConvInteger(q, W, z)) * (s * t) + b`
    2. `MatMul(x, w)` ⇒ `Cast(MatMulInteger(q, W, z)) * (s * t)`
    3. `Gemm(x, w, c)` ⇒ the same, + c; transA, transB, alpha and beta are applied before
    4. `MatMul(w, x)`, `Gemm(w, x, c)` ⇒ the same with a cim.conv over the columns of x
    5. `ConvTranspose(x, w) + b` ⇒ the same with a cim.conv over x with gaps, W mirrored
    6. quantised, binary and ternary layers, and what can't be quantised, stay, with the reason
    7. operator sets before 11 ⇒ 13
    """

    name = "quantize-dynamic"
    summary = "turn float layers into dynamic int8, as onnxruntime's quantize_dynamic does"
    kind = "approximate"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        _say_why(graph)
        layers, old = _float_layers(graph, ctx), graph.opsets.get("onnx", 13)
        if layers and old < _OPSET:
            trouble = raise_opset(graph, (13, 12, 11))
            for node in layers if trouble else ():
                node.why = trouble
            layers = [] if trouble else self._anew(graph, ctx)
        recipe, count = _Recipe(graph), 0
        for node in layers:
            node.why = _RULES[node.op](recipe, node) or None
            count += node.why is None
        graph.remove_dead()
        new = graph.opsets.get("onnx", 13)
        if count:
            what = "1 layer" if count == 1 else f"{count} layers"
            ctx.notes.append(
                f"quantize-dynamic: {what} to dynamic int8: activations per tensor at run time, "
                "weights int8 per tensor"
                + (f"; operator set {old} converted to {new}" if old != new else "")
            )
        return count > 0 or new != old

    def _anew(self, graph: Graph, ctx: PassContext) -> list[Node]:
        """The layers of a graph that was made anew."""
        run_pipeline(graph, "cleanup", ctx)
        _say_why(graph)
        return _float_layers(graph, ctx)
