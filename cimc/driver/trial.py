"""Passes that run other passes: in place, or on a copy to see what these would do."""

from __future__ import annotations

from cimc.driver.base import PassContext
from cimc.driver.clone import clone
from cimc.driver.pipeline import parse_pipeline
from cimc.driver.registry import load_registry
from cimc.driver.runner import run_passes
from cimc.ir.graph import Graph, Node


def run_pipeline(graph: Graph, spec: str, ctx: PassContext) -> None:
    """Run built-in passes over the graph, in place."""
    run_passes(graph, parse_pipeline(spec, load_registry()), ctx)


def tried(graph: Graph, spec: str, ctx: PassContext) -> tuple[Graph, set[Node]]:
    """What built-in passes would make of the graph, and the operations of it that they would
    leave as they are. Their notes are dropped."""
    twin, original = clone(graph)
    run_pipeline(twin, spec, PassContext(ctx.geometry))
    left = {original[n] for n in twin.nodes if n in original and n.op == original[n].op}
    return twin, left
