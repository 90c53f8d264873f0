"""Runs a graph: native operations by their numpy meaning, QONNX operators by definition,
everything else in onnxruntime (unoptimised), in runs of neighbouring operations.

The oracle of every pass, and of programs from graph text and from QONNX models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from cimc.errors import CompileError
from cimc.frontend import qonnx
from cimc.frontend.export import to_onnx
from cimc.frontend.session import call, open_session
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.ops import HOST, TABLE, present
from cimc.ir.types import Array, TensorType, random_array

Env = dict[Value, Array]
Step = Callable[[Env], None]


class Evaluator:
    """A graph made ready to run; onnxruntime sessions are opened once.

    graph: its types need not be static; onnxruntime takes what it gets. threads: of its sessions,
    0 for onnxruntime's choice.
    Raises CompileError where onnxruntime refuses a fragment.
    """

    def __init__(self, graph: Graph, threads: int = 0) -> None:
        self.graph = graph
        self._steps = _plan(graph, threads)

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. feeds: an array for each input by name, in the container of its
        element type; names are the ONNX names where the graph has them."""
        graph = self.graph
        env: Env = {v: v.const for v in graph.consts if v.const is not None}
        for value, name in zip(graph.inputs, input_names(graph)):
            if name not in feeds:
                raise CompileError(f"no value for input '{name}'", f"@{graph.name}")
            env[value] = feeds[name]
        for step in self._steps:
            step(env)
        return {n: env[v] for v, n in zip(graph.outputs, output_names(graph))}


def input_names(graph: Graph) -> list[str]:
    """Names of the inputs: the ONNX ones where the graph has them."""
    return graph.input_names or [v.name for v in graph.inputs]


def output_names(graph: Graph) -> list[str]:
    """Names of the outputs: the ONNX ones where the graph has them."""
    return graph.output_names or [v.name for v in graph.outputs]


def _plan(graph: Graph, threads: int) -> list[Step]:
    steps: list[Step] = []
    pending: list[Node] = []
    for node in graph.nodes:
        own = _own_step(graph, node)
        if own is None:
            pending.append(node)
            continue
        if pending:
            steps.append(_runtime_step(graph, pending, threads))
            pending = []
        steps.append(own)
    if pending:
        steps.append(_runtime_step(graph, pending, threads))
    return steps


def _own_step(graph: Graph, node: Node) -> Step | None:
    if node.op in TABLE:
        return _native_step(node)
    if node.domain == "qonnx":
        return _qonnx_step(node)
    if node.op == HOST:
        return _host_step(graph, node)
    return None


def _native_step(node: Node) -> Step:
    row = TABLE[node.op]
    attrs = row.full_attrs(dict(node.attrs))
    types = [v.tensor for v in node.outputs]

    def step(env: Env) -> None:
        args = present([None if v is None else env[v] for v in node.inputs])
        for value, array in zip(node.outputs, row.evaluate(args, attrs, types)):
            env[value] = np.asarray(array)

    return step


def _qonnx_step(node: Node) -> Step:
    define = qonnx.EVALUATE[node.op.split(".")[1]]

    def step(env: Env) -> None:
        env[node.output] = define([env[v] for v in node.inputs if v is not None], dict(node.attrs))

    return step


def _host_step(graph: Graph, node: Node) -> Step:
    (body,) = node.graphs()
    inner = Evaluator(replace(body, opsets=graph.opsets))  # a fragment has none of its own
    ins, outs = input_names(body), output_names(body)

    def step(env: Env) -> None:
        results = inner({n: env[v] for n, v in zip(ins, node.inputs) if v is not None})
        env.update((v, results[n]) for v, n in zip(node.outputs, outs))

    return step


def _runtime_step(graph: Graph, nodes: Sequence[Node], threads: int) -> Step:
    part = outline(graph, nodes)
    session = open_session(to_onnx(part).SerializeToString(), f"@{graph.name}", threads)
    names = [v.name for v in part.inputs]

    def step(env: Env) -> None:
        feeds = {n: env[v] for n, v in zip(names, part.inputs)}
        env.update(zip(part.outputs, call(session, feeds, f"@{graph.name}")))

    return step


def outline(graph: Graph, nodes: Sequence[Node], name: str = "part") -> Graph:
    """A graph of `nodes` (in order), on the same values: its inputs are what they use and do
    not make, its outputs what others or the graph's outputs use. Constants come
    along."""
    inside = set(nodes)
    made = {v for n in nodes for v in n.outputs}
    read = list(dict.fromkeys(v for n in nodes for v in n.reads()))
    wanted = set(graph.outputs)
    for node in graph.nodes:
        if node not in inside:
            wanted.update(node.reads())
    return Graph(
        name,
        inputs=[v for v in read if v not in made and v.const is None],
        outputs=[v for n in nodes for v in n.outputs if v in wanted],
        nodes=list(nodes),
        consts=[v for v in read if v.const is not None],
        opsets=dict(graph.opsets),
    )


def random_feeds(graph: Graph, seed: int) -> dict[str, Array]:
    """A seeded array for each input: floats standard normal, integers over at most a byte's
    range, symbols of dimensions 1. Raises CompileError for an input that is no tensor."""
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for value, name in zip(graph.inputs, input_names(graph)):
        if not isinstance(value.type, TensorType) or value.type.shape is None:
            raise CompileError(f"no random value for input '{name}' of type {value.type}")
        shape = tuple(d if isinstance(d, int) else 1 for d in value.type.shape)
        feeds[name] = random_array(rng, value.type.elem, shape)
    return feeds
