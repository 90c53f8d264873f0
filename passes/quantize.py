"""Makes a float model int8 by the ranges of calibration data."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from fnmatch import fnmatchcase

from cimc.driver import Pass, PassContext, Rewriter
from cimc.driver.stored import held
from cimc.errors import CompileError
from cimc.frontend.export import to_onnx
from cimc.frontend.importer import import_model
from cimc.frontend.opset import raise_opset
from cimc.frontend.static_quantiser import (
    LAYERS,
    METHODS,
    LayerError,
    layer_errors,
    quantise_static,
)
from cimc.ir.graph import Graph, layer_name

_LEAST = {"minmax": 1, "entropy": 8, "percentile": 8}  # samples that a method needs
_OPSET = 13  # scales for each channel


def _named(graph: Graph) -> None:
    """Every operation gets a name: the quantiser excludes by them, reports name layers by them."""
    used: set[str] = set()
    for node in graph.nodes:
        name = node.source or node.outputs[0].name
        while name in used:
            name += "_"
        used.add(name)
        node.source = name


def _constant_weights(graph: Graph) -> None:
    """Weights behind layout as plain constants: the quantiser knows no others."""
    rw = Rewriter(graph)
    for node in graph.nodes:
        if node.op.split(".")[-1] not in LAYERS:
            continue
        for value in node.inputs[:2]:
            stored = None if value is None or value.const is not None else held(rw, value)
            if value is not None and stored is not None:
                rw.replace(value, rw.const(f"{value.name}.w", stored, value.elem), keep_name=False)
    graph.remove_dead()


def _skipped(graph: Graph, texts: str) -> list[str]:
    """The names of the layers that the patterns choose; CompileError for one that chooses none."""
    names = [layer_name(n) for n in graph.nodes if n.op.split(".")[-1] in LAYERS]
    found: list[str] = []
    for text in filter(None, texts.split("+")):
        chosen = [n for n in names if fnmatchcase(n, text)]
        if not chosen:
            close = difflib.get_close_matches(text, names, 3)
            listed = ", ".join(close or names[:8])
            raise CompileError(
                f"no layer '{text}'", "quantize{skip}",
                help=f"{'did you mean' if close else 'the layers are'} {listed}?"
                if close else f"the layers are {listed}",
            )  # fmt: skip
        found += chosen
    sources = {layer_name(n): n.source for n in graph.nodes}
    return [str(sources[name]) for name in dict.fromkeys(found)]


def _table(errors: list[LayerError]) -> list[str]:
    """Lines that say how far each layer's output is off."""
    wide = max([5, *(len(e.layer) for e in errors)])
    lines = [f"  {'layer':<{wide}}  added here  in all"]
    for e in errors:
        lines.append(f"  {e.layer:<{wide}}  {e.added:>10.2%}  {e.total:>6.2%}")
    return lines


@dataclass(frozen=True)
class Quantize(Pass):
    """Rules:
    1. float layers and what lies between them ⇒ `DequantizeLinear`, operation,
       `QuantizeLinear`, by onnxruntime's static quantiser: activations u8 in the range that the
       calibration data shows, weights signed with a scale for each output channel
    2. bits below 8 ⇒ weights of ±(2**(bits - 1) - 1) steps, biases in steps of the sums
    Options: method of finding ranges (minmax, entropy, percentile); bits of weights, 2 to 8;
    skip, layers that stay float (names or patterns with `*`, joined by `+`); samples at most;
    data, the digest of the calibration data that must be given. Says for each layer how large
    the error of its output is, relative to its root mean square.
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
        if self.samples < 1:
            raise ValueError("samples must be at least 1")

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        data = ctx.calibration
        if data is None:
            raise CompileError(
                "static quantisation needs calibration data", "pass 'quantize'",
                help="give --calibrate data.npz (calibration= in Python); a model quantised once, "
                "`cimc opt -p int8 --calibrate data.npz -o q.onnx`, needs none any more",
            )  # fmt: skip
        if self.data and self.data != data.digest:
            raise CompileError(
                f"the program was compiled with other calibration data ({self.data}, this is "
                f"{data.digest})", data.name,
            )  # fmt: skip
        if any(n.domain in ("cim", "qonnx") or "Quantize" in n.op for n in graph.nodes):
            raise CompileError(
                "the model is quantised already", "pass 'quantize'",
                help="compile it with the pipeline exact or auto",
            )  # fmt: skip
        if graph.opsets.get("onnx", _OPSET) < _OPSET:
            why = raise_opset(graph, (_OPSET, 17))
            if why:
                raise CompileError(why, "pass 'quantize'")
        _constant_weights(graph)
        _named(graph)
        samples = data.samples(graph, self.samples, _LEAST[self.method])
        before = to_onnx(graph)
        after = quantise_static(
            before, samples, method=self.method, bits=self.bits,
            skip=_skipped(graph, self.skip), progress=ctx.progress,
        )  # fmt: skip
        errors = layer_errors(before, after, samples)
        count = f"{len(errors)} layer{'s' * (len(errors) != 1)}"
        found = import_model(after, f"@{graph.name}")
        graph.inputs, graph.outputs = found.inputs, found.outputs
        graph.nodes, graph.consts, graph.opsets = found.nodes, found.consts, found.opsets
        ctx.notes.append(
            f"quantize: {count} to int8, weights of {self.bits} bits per channel, "
            f"ranges by {self.method} of {len(samples)} samples; error of each layer's output, "
            "relative (rms):"
        )
        ctx.notes += _table(errors)
        return True
