"""What passes share that change a float model by calibration data: which of its layers they
leave, and how they say so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod

from cimc.driver.base import PassContext
from cimc.driver.calibration import Calibration
from cimc.driver.patterns import matched
from cimc.driver.rewrite import FLOAT_LAYERS
from cimc.driver.trial import tried
from cimc.errors import CompileError
from cimc.ir.graph import Graph, Node, layer_name
from cimc.ir.types import TensorType

_QUANTISED = re.compile(r"(cim|qonnx)\.|.*([Qq]uantizeLinear|QLinear|Integer$)")


def data_for(ctx: PassContext, record: str, name: str, what: str) -> Calibration:
    """The calibration data for the pass `name`, which does `what`; CompileError without any, or
    with other data than `record` states."""
    if ctx.calibration is None:
        file = record.rpartition(":")[0] or "data.npz"
        raise CompileError(
            f"{what} needs calibration data", f"pass '{name}'",
            help=f"give --calibrate {file} (calibration= in Python); a model that was written by "
            f"`cimc opt MODEL -p cleanup,{name} --calibrate {file} -o q.onnx` needs none",
        )  # fmt: skip
    ctx.calibration.check(record)
    return ctx.calibration


def check_float(graph: Graph, name: str) -> None:
    """Raises CompileError, for the pass `name`, for a model that is quantised already."""
    found = [layer_name(n) for n in graph.nodes if _QUANTISED.match(n.op)]
    if found:
        more = f" and {len(found) - 4} more" if len(found) > 4 else ""
        raise CompileError(
            f"the model is quantised already: {', '.join(found[:4])}{more}", f"pass '{name}'",
            help="the pipelines exact and auto take it as it is",
        )  # fmt: skip


def name_all(graph: Graph) -> None:
    """Every operation gets a name: quantisers exclude by them, reports name layers by them."""
    used: set[str] = set()
    for node in graph.nodes:
        name = node.source or node.outputs[0].name
        while name in used:
            name += "_"
        used.add(name)
        node.source = name


def skipped(graph: Graph, texts: str, name: str) -> list[Node]:
    """The operations that patterns, joined by `+` or `|`, choose; CompileError, for the pass
    `name`, for those that choose none."""
    names = [layer_name(n) for n in graph.nodes]
    layers = [layer_name(n) for n in graph.nodes if n.op in FLOAT_LAYERS]
    return [graph.nodes[i] for i in matched(names, texts, f"{name}{{skip}}", layers)]


def set_aside(graph: Graph, ctx: PassContext) -> list[Node]:
    """What the exact passes turn into work on bits and integers, as it is."""
    twin, left = tried(graph, "exact", ctx)
    if not any(n.domain == "cim" for n in twin.nodes):
        return []
    return [n for n in graph.nodes if n not in left]


def say_why(graph: Graph, why: dict[Node, str]) -> None:
    """Reasons for the operations of the same names."""
    reasons = {node.source: text for node, text in why.items()}
    for node in graph.nodes:
        node.why = reasons.get(node.source, node.why)


def activation_bytes(graph: Graph) -> int:
    """Memory of all float results of one sample."""
    types = [v.type for n in graph.nodes for v in n.outputs]
    sizes = [t.shape for t in types if isinstance(t, TensorType) and t.shape and t.elem == "f32"]
    return 4 * sum(prod(d for d in shape if isinstance(d, int)) for shape in sizes)


def listed(ctx: PassContext, what: str, names: Sequence[str]) -> None:
    """A note with the first of the names, if there are any."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    if names:
        ctx.notes.append(f"{what}: {', '.join(names[:8])}{more}")
