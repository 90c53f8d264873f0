"""Decides what runs on the tiles and what on the host, and gathers the host's work."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from cimc.driver import Pass, PassContext
from cimc.driver.bounds import bounds
from cimc.driver.tiles import refusal, search_refusal
from cimc.errors import CompileError, raise_all
from cimc.frontend.macs import macs
from cimc.ir.graph import Graph, Node, Value, layer_name
from cimc.ir.ops import HOST, LAYERS
from cimc.ir.similar import B, C
from cimc.ir.types import is_integer

# Integer work that the program does between layers, if it touches one.
_BETWEEN = (
    "cim.threshold", "cim.max_pool", "cim.add", "cim.relu", "cim.reshape", "cim.transpose",
    "cim.requant", "cim.lut", "cim.sum_pool", "cim.qadd", "cim.concat", "cim.slice",
    "cim.take",
)  # fmt: skip
_SUM_BITS = 32  # the result of a layer is i32
_VIEWS = ("cim.reshape", "cim.transpose")


def _on_tiles(graph: Graph, ctx: PassContext) -> set[Node]:
    """The layers that fit, and the integer work that leads to or from them."""
    made, users = graph.producers(), graph.users()
    chosen: set[Node] = set()
    for node in graph.nodes:
        if node.op not in LAYERS:
            continue
        node.why = refusal(node, ctx.geometry) or None
        if node.why is None:
            chosen.add(node)
    chosen.update(_searches(graph, chosen, ctx))
    movable = [n for n in graph.nodes if n.op in _BETWEEN and _static(n)]
    for node in movable:
        if any(made.get(v) in chosen for v in node.inputs if v is not None):
            chosen.add(node)
    for node in reversed(movable):
        if any(user in chosen for user in users.get(node.output, ())):
            chosen.add(node)
    return chosen


def _searches(graph: Graph, layers: set[Node], ctx: PassContext) -> list[Node]:
    """Searches for similar kernels that run where the kernels lie."""
    kernels = {layer.arg(1): layer for layer in reversed(graph.nodes) if layer in layers}
    return [
        node
        for node in graph.nodes
        if node.op == "cim.similar"
        and node.arg(0) in kernels
        and not search_refusal(
            kernels[node.arg(0)],
            Fraction(str(node.attrs.get("b", B))),
            Fraction(str(node.attrs.get("c", C))),
            ctx.geometry,
        )
    ]


def _static(node: Node) -> bool:
    values = [v for v in (*node.inputs, *node.outputs) if v is not None]
    both = node.op in ("cim.add", "cim.qadd", "cim.concat")
    if node.arg(0).const is not None or (both and node.arg(1).const is not None):
        return False  # constants are tables of a program, not buffers
    if node.op == "cim.requant":
        values.remove(node.arg(1))  # its scales are floats
    return all(is_integer(v.elem) and v.tensor.static is not None for v in values)


def _check_widths(graph: Graph, tiles: set[Node], ctx: PassContext) -> None:
    made, errors = graph.producers(), []
    acc_bits = ctx.geometry.acc_bits
    limit = 2 ** (min(acc_bits, _SUM_BITS) - 1) - 1
    for node in graph.nodes:
        if node not in tiles or node.op not in LAYERS:
            continue
        reach = bounds(node.output, made).reach
        if reach > limit:
            errors.append(_too_wide(node, reach, acc_bits))
    raise_all(errors)


def _too_wide(node: Node, reach: int, acc_bits: int) -> CompileError:
    where, need = f"layer '{layer_name(node)}'", reach.bit_length() + 1
    if need > _SUM_BITS:
        return CompileError(
            f"its sums reach {reach}, which needs {need} bits; those of a layer have {_SUM_BITS}",
            where,
            help="quantise its input, weights or bias to fewer bits",
        )
    return CompileError(
        f"its sums reach {reach}, which needs an accumulator of {need} bits; the target has "
        f"{acc_bits}",
        where,
        help=f"use a target with acc_bits of at least {need}",
    )


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


class _Cut:
    """Takes fragments out of a graph, one after the other; `finish` tells the rest of it.

    A value that crosses the border keeps its name outside and gets one of its own inside.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._names = graph.names()
        self._outputs = set(graph.outputs)
        self._uses = Counter(v for n in graph.nodes for v in set(n.reads()))  # by what is left
        self._outside: dict[Value, Value] = {}  # of a fragment's result: the value outside
        self._moved: set[Value] = set()  # constants that only a fragment uses

    def fragment(self, nodes: list[Node], stage: int) -> Node:
        """One cim.host operation for `nodes`, to be put in their place."""
        read = list(dict.fromkeys(v for n in nodes for v in n.reads()))
        made = [v for n in nodes for v in n.outputs]
        self._uses.subtract(v for n in nodes for v in set(n.reads()))
        name, why = self._names.fresh(f"host{stage}"), _reasons(nodes)
        own = set(made)
        operands = [v for v in read if v not in own and v.const is None]
        inside = {v: self._copy(v) for v in operands}
        results = [v for v in made if self._needed(v)]
        for value in results:
            self._outside[value] = Value(value.name, value.type)
            value.name = self._names.fresh(f"{value.name}.host")
        consts = [v for v in read if v.const is not None]
        copies = {v: self._copy(v) for v in consts if self._needed(v)}
        self._moved.update(v for v in consts if v not in copies)
        for node in nodes:
            _swap(node, inside | copies)
        body = Graph(
            name,
            inputs=list(inside.values()),
            outputs=list(results),
            nodes=list(nodes),
            consts=[copies.get(v, v) for v in consts],
        )
        self._names.release(v.name for v in body.values())  # each fragment has names of its own
        self._uses.update(operands)
        outs = [self._outside[v] for v in results]
        return Node(HOST, list(operands), outs, {"body": body}, why=why)

    def finish(self) -> None:
        """Let the operations outside use the fragments' results."""
        for node in self.graph.nodes:
            _swap(node, self._outside)
        self.graph.outputs[:] = [self._outside.get(v, v) for v in self.graph.outputs]
        self.graph.consts = [v for v in self.graph.consts if v not in self._moved]

    def _needed(self, value: Value) -> bool:
        return self._uses[value] > 0 or value in self._outputs

    def _copy(self, value: Value) -> Value:
        name = self._outside.get(value, value).name
        return Value(self._names.fresh(f"{name}.host"), value.type, value.const, value.seed)


def _swap(node: Node, other: dict[Value, Value]) -> None:
    """Take other values for those that are keys of `other`, in nested graphs too."""
    node.inputs[:] = [None if v is None else other.get(v, v) for v in node.inputs]
    for graph in node.graphs():
        for value in graph.captured():
            if value in other:
                graph.replace(value, other[value], keep_name=False)


def _reasons(nodes: list[Node]) -> str | None:
    """Why the layers among the operations are here: `reason: layer, layer; reason: …`."""
    layers: dict[str, list[str]] = {}
    for node in nodes:
        if macs(node) or node.why:
            why = node.why or f"{node.op} is not a layer of integers"
            layers.setdefault(why, []).append(layer_name(node))
    return "; ".join(f"{why}: {', '.join(names)}" for why, names in layers.items()) or None


@dataclass(frozen=True)
class Legalise(Pass):
    """Rules:
    1. `cim.conv`, `cim.matmul` with at most 8 input planes: tile
    2. integer work that leads to or from them (thresholds, requantisation, tables, pools, sums,
       layout): in the program
    3. everything else, in maximal groups ⇒ `cim.host`, with the reason for each layer in it
    4. `cim.similar` of the kernels of a layer on tiles: in the program
    Refuses layers whose worst case overflows the target's accumulator, or 32 bits.
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
        cut, gone = _Cut(graph), set()
        for stage, nodes in groups.items():
            host = cut.fragment(nodes, stage)
            gone.update(nodes)
            graph.nodes.append(host)
            order[host] = (stage, 0, 0)
        graph.nodes = [n for n in graph.nodes if n not in gone]
        cut.finish()
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
