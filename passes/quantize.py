"""Makes a float model int8 by the ranges of calibration data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cimc.driver import Pass, PassContext, Rewriter
from cimc.driver.affine import fold_affine
from cimc.driver.calibrated import (
    activation_bytes,
    check_float,
    data_for,
    listed,
    name_all,
    say_why,
    set_aside,
    skipped,
)  # fmt: skip
from cimc.driver.rewrite import scalar
from cimc.driver.stored import held
from cimc.driver.trial import run_pipeline
from cimc.errors import CompileError
from cimc.frontend.export import to_onnx
from cimc.frontend.importer import import_model
from cimc.frontend.layer_errors import LayerError, layer_errors
from cimc.frontend.opset import raise_opset
from cimc.frontend.static_quantiser import LAYERS, METHODS, quantise_static
from cimc.ir.graph import Graph, Node, layer_name

_LAYERS = tuple(f"onnx.{op}" for op in LAYERS)
_LEAST = {"minmax": 1, "entropy": 8, "percentile": 8}  # samples that a method needs
_OPSET = 13  # scales for each channel
_WHERE = "pass 'quantize'"


def _raise_opset(graph: Graph, ctx: PassContext) -> None:
    """Rule 5, and the clean-up of what the converter leaves."""
    why = raise_opset(graph, (_OPSET, 17))
    if why:
        raise CompileError(why, _WHERE, help="export the model for operator set 13 or newer")
    run_pipeline(graph, "cleanup", ctx)


def _constant_weights(graph: Graph, layers: Sequence[Node]) -> None:
    """Weights behind layout as plain constants: the quantiser knows no others."""
    rw = Rewriter(graph)
    for node in layers:
        for value in node.inputs[:2]:
            stored = None if value is None or value.const is not None else held(rw, value)
            if value is not None and stored is not None:
                rw.replace(value, rw.const(f"{value.name}.w", stored, value.elem), keep_name=False)
    graph.remove_dead()


def _trouble(node: Node) -> str:
    """Why a layer can't be quantised; empty if it can."""
    others = [v.elem for v in (*node.inputs, *node.outputs) if v is not None and v.elem != "f32"]
    if others:
        return f"it is in {others[0] or 'an unknown type'}: int8 takes float32"
    bias = node.operand(2)
    w = node.arg(1).const
    if bias is None:
        return ""
    if bias.const is None or w is None:
        return "its bias or its weights are known at run time only"
    matrix = node.op == "onnx.Gemm" and ("alpha" in node.attrs or "beta" in node.attrs)
    return "its bias has not one element for each channel" if matrix or bias.const.ndim != 1 else ""


def _stays(graph: Graph, node: Node) -> bool:
    """Whether the quantiser would spoil a node: it quantises the scale of a BatchNormalization
    for all channels at once; it drops a Relu or Clip even where the range of the quantised
    value, which always holds zero, does not stand for it, and where its input is an output."""
    if node.op == "onnx.BatchNormalization":
        return True
    if node.op not in ("onnx.Relu", "onnx.Clip"):
        return False
    low, high = ([scalar(v) for v in node.inputs[1:]] + [None, None])[:2]
    return node.arg(0) in graph.outputs or (low or 0.0) > 0 or (high or 0.0) < 0


def _one_scale(layers: Sequence[Node]) -> list[str]:
    """Weights, by name, that get one scale: vectors, the left side of a product, and those of
    grouped ConvTranspose, whose output channels share an axis."""
    found = []
    for node in layers:
        product = node.op == "onnx.MatMul"
        left, right = (node.arg(i).const for i in (0, 1))
        vector = product and right is not None and right.ndim == 1
        if vector or (node.op == "onnx.ConvTranspose" and node.int_attr("group", 1) > 1):
            found.append(node.arg(1).name)
        elif product and left is not None:
            found.append(node.arg(0).name)
    return found


def _table(errors: list[LayerError], bits: int) -> list[str]:
    """Lines that say how far each layer's output is off."""
    wide = max([5, *(len(e.layer) for e in errors)])
    lines = [f"  {'layer':<{wide}}  bits  added here   in all"]
    for e in errors:
        lines.append(f"  {e.layer:<{wide}}  {bits:>4}  {e.added:>10.2%}  {e.total:>7.2%}")
    return lines


@dataclass(frozen=True)
class Quantize(Pass):
    """Rules:
    1. float layers and what lies between them ⇒ `DequantizeLinear`, operation,
       `QuantizeLinear`, by onnxruntime's static quantiser: activations u8 in the range that the
       calibration data shows, weights signed with a scale for each output channel
    2. bits below 8 ⇒ weights of ±(2**(bits - 1) - 1) steps, biases in steps of the sums
    3. BatchNormalization, and products and sums with constants of each channel, behind a layer
       that is quantised ⇒ its weights and bias; so are alpha and beta of Gemm, and
       `MatMul + Add` of matrices becomes Gemm
    4. layers that are binary or ternary stay for the passes behind
    5. operator sets before 13 ⇒ 13
    Options: method of finding ranges (minmax, entropy, percentile; entropy is onnxruntime's, whose
    histograms have as many bins as it keeps levels: where the data is read in one go it finds the
    ranges of minmax); bits of weights, 2 to 8; skip, what stays float (names or patterns with `*`,
    joined by `+` or `|`); samples at most; data, the record of the calibration data that must be
    given. Says for each layer how large the error of its output is, relative to its root mean
    square: what its own quantisation adds, and in the whole quantised network.
    """

    name = "quantize"
    summary = "make a float model int8 by the ranges of calibration data"
    kind = "approximate"
    method: str = "minmax"
    bits: int = 8
    skip: str = ""
    samples: int = 512
    data: str = ""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}")
        if not 2 <= self.bits <= 8:
            raise ValueError("bits must be 2 to 8")
        if self.samples < _LEAST[self.method]:
            raise ValueError(f"samples must be at least {_LEAST[self.method]}")

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        data = data_for(ctx, self.data, self.name, "static quantisation")
        old = graph.opsets.get("onnx", _OPSET)
        check_float(graph, self.name)
        samples = data.samples(graph, self.samples, _LEAST[self.method])
        if old < _OPSET:
            _raise_opset(graph, ctx)
        name_all(graph)
        stated, aside = skipped(graph, self.skip, self.name), set_aside(graph, ctx)
        layers = [n for n in graph.nodes if n.op in _LAYERS and n not in {*stated, *aside}]
        _constant_weights(graph, layers)
        folded = fold_affine(graph, layers, {*stated, *aside})
        why = {n: "the option skip names it" for n in stated}
        why |= {n: text for n in layers if (text := _trouble(n))}
        layers = [n for n in layers if n not in why]
        if not layers:
            say_why(graph, why)
            ctx.notes.append("quantize: no float layer to quantise")
            return bool(folded) or old < _OPSET
        stay = {*why, *aside, *(n for n in graph.nodes if _stays(graph, n))}
        before = to_onnx(graph)
        after = quantise_static(
            before, samples, method=self.method, bits=self.bits,
            skip=[str(n.source) for n in graph.nodes if n in stay],
            one_scale=_one_scale(layers), sample_bytes=activation_bytes(graph),
            progress=ctx.progress,
        )  # fmt: skip
        errors = layer_errors(before, after, samples)
        graph.become(import_model(after, f"@{graph.name}"))
        say_why(graph, why)
        counted = "1 layer" if len(layers) == 1 else f"{len(layers)} layers"
        ctx.notes.append(
            f"quantize: {counted} to int8, weights of {self.bits} bits per channel, "
            f"ranges by {self.method} of {len(samples)} samples"
            + (f"; operator set {old} converted to {graph.opsets['onnx']}" if old < _OPSET else "")
        )
        listed(ctx, "quantize: folded into the layers before", folded)
        listed(ctx, "quantize: left in float", [layer_name(n) for n in why])
        exact = [layer_name(n) for n in aside if n.op in _LAYERS]
        listed(ctx, "quantize: left for the exact passes", exact)
        ctx.notes.append("quantize: error of each layer's output, relative (rms)")
        ctx.notes += _table(errors, self.bits)
        return True
