"""Adds the search for similar kernels inside the array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from cimc.driver import Pass, PassContext
from cimc.driver.patterns import matched
from cimc.driver.tiles import refusal, search_refusal
from cimc.frontend.evaluate import output_names
from cimc.frontend.macs import macs
from cimc.ir import similar
from cimc.ir.graph import Graph, Node, Value, layer_name
from cimc.ir.ops import LAYERS
from cimc.ir.rules import Misfit
from cimc.ir.types import TensorType

_SIMILAR = "cim.similar"


def _chosen(graph: Graph, patterns: str) -> list[Node]:
    """The layers that patterns choose, or all convolutions; CompileError for a pattern that
    chooses none."""
    layers = [n for n in graph.nodes if macs(n) or n.op in LAYERS]
    if not patterns:
        return [n for n in layers if _is_conv(n)]
    names = [layer_name(n) for n in layers]
    found = set(matched(names, patterns, "find-similar{layers}"))
    return [n for i, n in enumerate(layers) if i in found]


def _is_conv(node: Node) -> bool:
    return "Conv" in node.op or node.op == "cim.conv"


def _free(name: str, taken: Sequence[str]) -> str:
    """The name, or `name.2` and so on where it is taken."""
    tries = (name if i == 1 else f"{name}.{i}" for i in range(1, len(taken) + 2))
    return next(text for text in tries if text not in taken)


@dataclass(frozen=True)
class FindSimilar(Pass):
    """Rules:
    1. `cim.conv(x, w)` that lies on tiles ⇒ the same, and a graph output `LAYER.prune`:
       `cim.similar(w)`, which of its kernels the criterion prunes
    2. `cim.matmul(x, w)` likewise, where the option layers names it
    Options: layers, names or patterns with `*`, joined by `+` or `|` (without: all convolutions);
    mode, intent or literal as in prune-similar; b and c, as 0.146 or 146/1000, read exactly. Layers
    that can't be searched are listed with the reason: those on the host, with one kernel, or with
    groups, whose kernels see different inputs.
    """

    name = "find-similar"
    summary = "search the kernels on the tiles for similar ones, inside the array"
    kind = "exact"
    adds_outputs = True
    mode: str = similar.MODE
    b: str = similar.B
    c: str = similar.C
    layers: str = ""

    def __post_init__(self) -> None:
        if self.mode not in similar.MODES:
            raise ValueError(f"mode must be one of {', '.join(similar.MODES)}")
        try:
            similar.fractions(self.b, self.c)
        except Misfit as misfit:
            raise ValueError(str(misfit)) from None

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        searched = {n.arg(0) for n in graph.nodes if n.op == _SIMILAR}
        found, why = list[Node](), dict[str, list[str]]()
        for node in _chosen(graph, self.layers):
            reason = self._refusal(node, ctx)
            if not reason and node.arg(1) in searched:
                reason = "its kernels are those of another layer, or searched already"
            if reason:
                why.setdefault(reason, []).append(layer_name(node))
                continue
            searched.add(node.arg(1))
            found.append(node)
        for node in found:
            self._add(graph, node)
        listed = ", ".join(layer_name(n) for n in found) or "no layer"
        ctx.notes.append(f"{self.name}: {self.mode}, b = {self.b}, c = {self.c}: {listed}")
        for reason, names in why.items():
            ctx.notes.append(f"{self.name}: not searched: {', '.join(names)}: {reason}")
        return bool(found)

    def _refusal(self, node: Node, ctx: PassContext) -> str:
        if node.op not in LAYERS:
            return f"on the host: {node.why or 'it is no layer of integers'}"
        reason = refusal(node, ctx.geometry, sizes=False)
        if reason:
            return f"on the host: {reason}"
        return search_refusal(node, Fraction(self.b), Fraction(self.c), ctx.geometry)

    def _add(self, graph: Graph, node: Node) -> None:
        w = node.arg(1)
        axis = 0 if node.op == "cim.conv" else 1
        given = {"mode": self.mode, "b": str(Fraction(self.b)), "c": str(Fraction(self.c))}
        usual = {"mode": similar.MODE, "b": similar.B, "c": similar.C}
        attrs = {"of": w.elem} | {k: v for k, v in given.items() if v != usual[k]}
        if axis:
            attrs |= {"axis": axis}
        names = output_names(graph)
        name = _free(f"{layer_name(node)}.prune", names)
        sizes = w.tensor.static or ()
        mask = Value(graph.fresh(name), TensorType("bool", (sizes[axis],)))
        graph.nodes.append(Node(_SIMILAR, [w], [mask], attrs))
        graph.outputs.append(mask)
        if graph.output_names or mask.name != name:
            graph.output_names = [*names, name]
