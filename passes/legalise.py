"""Decides what runs on the tiles and what on the host, and gathers the host's work."""

from __future__ import annotations

from dataclasses import dataclass

from cimc.driver import Pass, PassContext
from cimc.driver.bounds import bounds
from cimc.errors import CompileError, raise_all
from cimc.frontend.evaluate import outline
from cimc.frontend.macs import macs
from cimc.ir.graph import Graph, Node, Value, layer_name
from cimc.ir.ops import HOST
from cimc.ir.rules import Misfit, input_planes
from cimc.ir.types import is_integer

LAYERS = ("cim.conv", "cim.matmul")
# Integer work that the program does between layers, if it touches one.
_BETWEEN = (
    "cim.threshold", "cim.max_pool", "cim.add", "cim.relu", "cim.reshape", "cim.transpose",
)  # fmt: skip
_VIEWS = ("cim.reshape", "cim.transpose")


def _refusal(node: Node, graph: Graph, ctx: PassContext) -> str:
    """Why a layer can't be on a tile; empty if it can."""
    x, w = node.arg(0), node.arg(1)
    try:
        count = input_planes(x.elem)
    except Misfit as misfit:
        return f"its input: {misfit}"
    if w.elem not in ("bip", "tern"):
        return f"its weights are {w.elem}"
    if x.tensor.static is None:
        return f"its input has the shape {x.type}: sizes must be known"
    functions = set(ctx.geometry.functions)
    if count > 1 and w.elem == "tern" and functions == {"xor"}:
        return "integers times ternary weights need and, nand or or; the target has only xor"
    return ""


def _on_tiles(graph: Graph, ctx: PassContext) -> set[Node]:
    """The layers that fit, and the integer work that leads to or from them."""
    made, users = graph.producers(), graph.users()
    chosen: set[Node] = set()
    for node in graph.nodes:
        if node.op not in LAYERS:
            continue
        node.why = _refusal(node, graph, ctx) or None
        if node.why is None:
            chosen.add(node)
    movable = [n for n in graph.nodes if n.op in _BETWEEN and _static(n)]
    for node in movable:
        if any(made.get(v) in chosen for v in node.inputs if v is not None):
            chosen.add(node)
    for node in reversed(movable):
        if any(user in chosen for user in users.get(node.output, ())):
            chosen.add(node)
    return chosen


def _static(node: Node) -> bool:
    values = [v for v in (*node.inputs, *node.outputs) if v is not None]
    return all(is_integer(v.elem) and v.tensor.static is not None for v in values)


def _check_widths(graph: Graph, tiles: set[Node], ctx: PassContext) -> None:
    made, errors = graph.producers(), []
    limit = 2 ** (ctx.geometry.acc_bits - 1) - 1
    for node in graph.nodes:
        if node not in tiles or node.op not in LAYERS:
            continue
        reach = bounds(node.output, made).reach
        if reach > limit:
            need = reach.bit_length() + 1
            errors.append(
                CompileError(
                    f"its sums reach {reach}, which needs an accumulator of {need} bits; the "
                    f"target has {ctx.geometry.acc_bits}",
                    f"layer '{layer_name(node)}'",
                    help=f"use a target with acc_bits of at least {need}",
                )
            )
    raise_all(errors)


def _stages(graph: Graph, tiles: set[Node]) -> dict[Node, int]:
    """When each operation can run: host fragment k runs after the tile work of stage k-1 and
    before that of stage k, so that operations of one stage and side never form a cycle."""
    made = graph.producers()
    stage: dict[Node, int] = {}
    for node in graph.nodes:
        ready = 0
        for value in node.reads():
            producer = made.get(value)
            if producer is None:
                continue
            leaves_tiles = producer in tiles and node not in tiles
            ready = max(ready, stage[producer] + (1 if leaves_tiles else 0))
        stage[node] = ready
    return stage


def _fragment(graph: Graph, nodes: list[Node], name: str) -> Node:
    """One cim.host operation in the place of `nodes`."""
    part = outline(graph, nodes, name)
    part.opsets = {}
    why = _reasons(nodes)  # with the names that the values have outside
    inputs, outputs = list(part.inputs), list(part.outputs)
    # Inside, the border values get names of their own; outside, they keep theirs.
    inner = {v: Value(graph.fresh(f"{v.name}.host"), v.type) for v in inputs}
    for value, copy in inner.items():
        for node in nodes:
            node.inputs[:] = [copy if v is value else v for v in node.inputs]
        part.outputs[:] = [copy if v is value else v for v in part.outputs]
    _capture(nodes, inner)
    results: list[Value] = []
    for value in outputs:
        result = Value(value.name, value.type)
        value.name = graph.fresh(f"{value.name}.host")
        results.append(result)
    part.inputs = [inner[v] for v in inputs]
    _own_constants(graph, part, set(nodes))
    host = Node(HOST, list(inputs), results, {"body": part}, why=why)
    for old, new in zip(outputs, results):
        for node in graph.nodes:
            if node not in set(nodes):
                _use(node, old, new)
        graph.outputs[:] = [new if v is old else v for v in graph.outputs]
    return host


def _capture(nodes: list[Node], inner: dict[Value, Value]) -> None:
    for node in nodes:
        for graph in node.graphs():
            for value, copy in inner.items():
                graph.replace(value, copy, keep_name=False)


def _use(node: Node, old: Value, new: Value) -> None:
    node.inputs[:] = [new if v is old else v for v in node.inputs]
    for graph in node.graphs():
        graph.replace(old, new, keep_name=False)


def _own_constants(graph: Graph, part: Graph, nodes: set[Node]) -> None:
    """A constant that others use too is copied into the fragment under a name of its own."""
    outside = {v for n in graph.nodes if n not in nodes for v in n.reads()} | set(graph.outputs)
    for i, value in enumerate(part.consts):
        if value not in outside:
            graph.consts.remove(value)
            continue
        copy = Value(graph.fresh(f"{value.name}.host"), value.type, value.const, value.seed)
        part.consts[i] = copy
        for node in nodes:
            _use(node, value, copy)


def _reasons(nodes: list[Node]) -> str | None:
    """Why the layers among the operations are here: `reason: layer, layer; reason: …`."""
    layers: dict[str, list[str]] = {}
    for node in nodes:
        if macs(node) or node.why:
            why = node.why or f"{node.op} is not a layer with binary or ternary weights"
            layers.setdefault(why, []).append(layer_name(node))
    return "; ".join(f"{why}: {', '.join(names)}" for why, names in layers.items()) or None


@dataclass(frozen=True)
class Legalise(Pass):
    """Rules:
    1. `cim.conv`, `cim.matmul` with at most 8 input planes and bip or tern weights: tile
    2. integer work between layers (thresholds, pools, sums, layout): in the program
    3. everything else, in maximal groups ⇒ `cim.host`, with the reason for each layer in it
    Refuses layers whose worst case overflows the target's accumulator.
    """

    name = "legalise"
    summary = "decide tile or host for each operation, with the reason"
    kind = "exact"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        if any(n.op == HOST for n in graph.nodes):
            return False
        changed = _own_outputs(graph)
        tiles = _on_tiles(graph, ctx)
        _check_widths(graph, tiles, ctx)
        stages = _stages(graph, tiles)
        groups: dict[int, list[Node]] = {}
        for node in graph.nodes:
            if node not in tiles:
                groups.setdefault(stages[node], []).append(node)
        order = {node: (stages[node], 1, i) for i, node in enumerate(graph.nodes)}
        for stage, nodes in groups.items():
            host = _fragment(graph, nodes, graph.fresh(f"host{stage}"))
            gone = set(nodes)
            graph.nodes = [n for n in graph.nodes if n not in gone] + [host]
            order[host] = (stage, 0, 0)
        graph.nodes.sort(key=order.__getitem__)
        return changed or bool(groups)


def _own_outputs(graph: Graph) -> bool:
    """An output that is an input, a constant, a view or another output as well gets a copy:
    each output is a buffer of its own."""
    made, seen = graph.producers(), set()
    changed = False
    for i, value in enumerate(graph.outputs):
        node = made.get(value)
        if node is not None and node.op not in _VIEWS and value not in seen:
            seen.add(value)
            continue
        copy = Value(graph.fresh(f"{value.name}.out"), value.type)
        graph.nodes.append(Node("onnx.Identity", [value], [copy]))
        graph.outputs[i] = copy
        changed = True
    return changed
