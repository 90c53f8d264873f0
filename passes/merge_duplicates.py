"""Channels that carry the same values become one."""

from __future__ import annotations

from dataclasses import dataclass

from cimc.driver import Pass, PassContext
from cimc.ir.graph import Graph
from cimc.prune.dead import remove_dead_channels
from cimc.prune.duplicates import merge_equal
from cimc.prune.spaces import Spaces


@dataclass(frozen=True)
class MergeDuplicates(Pass):
    """Rules:
    1. channels made by equal kernels, with equal parameters up to the layers behind ⇒ the first;
       it gets the sum of their columns
    They stay apart, and the pass says so, where the layers behind have weights ±α, or integers
    that would need more bits.
    """

    name = "merge-duplicates"
    summary = "let channels that carry the same values share one"
    kind = "exact"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        merged = merge_equal(graph, Spaces(graph))
        for name, why in merged.kept.items():
            ctx.notes.append(f"{self.name}: equal kernels of '{name}' stay: {why}")
        if not merged.kernels:
            return False
        listed = ", ".join(f"{name} {count}" for name, count in merged.kernels.items())
        ctx.notes.append(f"{self.name}: {listed}")
        remove_dead_channels(graph)
        return True
