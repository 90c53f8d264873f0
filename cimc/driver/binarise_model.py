"""The passes that binarise and ternarise float models: which layers, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cimc.driver.base import Pass, PassContext
from cimc.driver.binariser import Binarised, Binariser, Nearest
from cimc.driver.calibrated import (
    activation_bytes,
    check_float,
    data_for,
    listed,
    name_all,
    say_why,
    set_aside,
    skipped,
)
from cimc.driver.layer_forms import Layer, read_layer
from cimc.driver.rewrite import FLOAT_LAYERS, Rewriter
from cimc.driver.trial import run_pipeline
from cimc.errors import CompileError
from cimc.frontend.opset import raise_opset
from cimc.ir.graph import Graph, Node, Value, layer_name
from cimc.ir.types import Array

_OPSET = 9  # the first with Where
_BYTES = 1 << 30  # of activations of all samples, held at most
_ENDS = "the first and the last layer stay: keep_ends=false takes them too"


def ends(graph: Graph) -> list[Node]:
    """The float layers that have no other before them, or none behind."""
    found = _first(graph.nodes, lambda n: (n.reads(), n.outputs))
    found |= _first(graph.nodes[::-1], lambda n: (n.outputs, n.reads()))
    return [n for n in graph.nodes if n in found]


def _first(
    nodes: Sequence[Node], ends: Callable[[Node], tuple[list[Value], list[Value]]]
) -> set[Node]:
    """The layers that no other leads to, going from each operation's first `ends` to the second."""
    reached, found = set[Value](), set[Node]()
    for node in nodes:
        come, go = ends(node)
        behind, layer = any(v in reached for v in come), node.op in FLOAT_LAYERS
        if layer and not behind:
            found.add(node)
        if layer or behind:
            reached.update(go)
    return found


@dataclass(frozen=True)
class FewLevels(Pass):
    """What `binarize` and `ternarize` have in common; `nearest` makes weights of `levels`.

    skip: layers that stay float, names or patterns with `*`, joined by `+` or `|`; keep_ends: so
    do the first and the last; samples: at most so many; data: the record of the calibration
    data that must be given."""

    kind = "approximate"
    nearest: ClassVar[Nearest]
    levels: ClassVar[tuple[int, ...]]
    doing: ClassVar[str]
    weights: ClassVar[str]
    skip: str = ""
    keep_ends: bool = True
    refine: bool = True
    samples: int = 1000
    data: str = ""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError("samples must be at least 1")

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        data, old = data_for(ctx, self.data, self.name, self.doing), graph.opsets.get("onnx", 13)
        check_float(graph, self.name)
        most = max(1, min(self.samples, _BYTES // max(1, activation_bytes(graph))))
        samples, labels = data.labelled(graph, most)
        if old < _OPSET:
            self._raise_opset(graph, ctx)
        graph.remove_dead()
        name_all(graph)
        aside = set_aside(graph, ctx)
        exact = [layer_name(n) for n in aside if n.op in FLOAT_LAYERS]
        layers, why = self._layers(graph, aside)
        binariser = Binariser(
            graph, layers, samples, type(self).nearest, self.levels if self.refine else ()
        )
        found = binariser.run(ctx.progress)
        accuracy = "" if labels is None else _accuracy(*binariser.outputs(), labels, data.name)
        graph.remove_dead()
        say_why(graph, why)
        counted = "1 layer" if len(layers) == 1 else f"{len(layers)} layers"
        new = graph.opsets.get("onnx", 13)
        ctx.notes.append(
            f"{self.name}: {counted} with {self.weights} weights and two-level inputs, "
            f"by {len(samples)} samples"
            + (f"; operator set {old} converted to {new}" if old != new else "")
        )
        listed(ctx, f"{self.name}: too large to refine", binariser.left)
        listed(ctx, f"{self.name}: left in float", [layer_name(n) for n in why])
        listed(ctx, f"{self.name}: left for the passes behind", exact)
        ctx.notes.append(f"{self.name}: error of each layer's output, relative (rms)")
        ctx.notes += _table(found)
        if accuracy:
            ctx.notes.append(f"{self.name}: {accuracy}")
        return True

    def _raise_opset(self, graph: Graph, ctx: PassContext) -> None:
        """The last rule, and the clean-up of what the converter leaves."""
        trouble = raise_opset(graph, (13, 12, 11))
        if trouble:
            help = f"export the model for operator set {_OPSET} or newer"
            raise CompileError(trouble, f"pass '{self.name}'", help=help)
        run_pipeline(graph, "cleanup", ctx)

    def _layers(self, graph: Graph, aside: Sequence[Node]) -> tuple[list[Layer], dict[Node, str]]:
        """The layers to change, and why others stay float; CompileError if there are none."""
        stated = skipped(graph, self.skip, self.name)
        floats = [n for n in graph.nodes if n.op in FLOAT_LAYERS and n not in aside]
        why = dict.fromkeys(ends(graph), _ENDS) if self.keep_ends else {}
        why |= dict.fromkeys(stated, "the option skip names it")
        rw, layers = Rewriter(graph), list[Layer]()
        for node in (n for n in floats if n not in why):
            found = read_layer(rw, node)
            if isinstance(found, str):
                why[node] = found
            else:
                layers.append(found)
        why = {n: text for n, text in why.items() if n in floats}
        if layers:
            return layers, why
        reasons = [f"{layer_name(n)}: {text}" for n, text in why.items()]
        more = f"; and {len(reasons) - 4} more" if len(reasons) > 4 else ""
        raise CompileError(
            "no float layer to change" if floats else "the model has no float layers",
            f"pass '{self.name}'",
            help="; ".join(reasons[:4]) + more if reasons
            else "the pipelines exact and auto take it as it is",
        )  # fmt: skip


def _table(found: Sequence[Binarised]) -> list[str]:
    """Lines that say how far each layer's output is off."""
    wide = max([5, *(len(e.layer) for e in found)])
    lines = [f"  {'layer':<{wide}}  inputs  added here   in all"]
    for e in found:
        lines.append(f"  {e.layer:<{wide}}  {e.inputs:>6}  {e.added:>10.2%}  {e.total:>7.2%}")
    return lines


def _accuracy(before: Sequence[Any], after: Sequence[Any], labels: Array, name: str) -> str:
    """Top-1 of the first output, float and now. Raises CompileError for labels beyond it."""
    scores = all(isinstance(a, np.ndarray) and a.dtype.kind == "f" and a.ndim for a in before)
    classes = before[0].shape[-1] if scores else 0
    if classes < 2 or any(a.size != classes * one.size for a, one in zip(before, labels)):
        return "the first output is no score for each class: nothing to hold against the labels"
    if int(labels.max()) >= classes:
        raise CompileError(
            f"label {int(labels.max())}, but the model has {classes} classes", name,
            help="a label is the number of its class, from 0 on",
        )  # fmt: skip
    shares = [
        np.mean([np.argmax(a.reshape(-1, classes), 1) == one for a, one in zip(arrays, labels)])
        for arrays in (before, after)
    ]
    return (
        f"top-1 of {len(labels)} calibration samples: {shares[0]:.2%} before, {shares[1]:.2%} after"
    )
