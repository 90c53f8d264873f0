"""Channels that carry the same values become one; kernels that are alike are stored once."""

from __future__ import annotations

from dataclasses import dataclass

from cimc.driver import Pass, PassContext
from cimc.ir.graph import Graph
from cimc.prune.dead import remove_dead_channels
from cimc.prune.duplicates import merge_equal
from cimc.prune.shared_rows import share_rows
from cimc.prune.spaces import Spaces


@dataclass(frozen=True)
class MergeDuplicates(Pass):
    """Rules:
    1. channels made by equal kernels, with equal parameters up to the layers behind ⇒ the first;
       it gets the sum of their columns
    2. channels of cim.conv or cim.matmul with equal kernels in a group, and equal biases ⇒ one
       kernel; cim.take gives its sum to all of them
    3. the same where cim.threshold follows, whatever the biases: thresholds less their difference
    4. channels with kernels w and -w where cim.threshold follows ⇒ one kernel; of -a + d >= th
       is left the contrary of a >= d - th + 1
    With rule 1 they stay apart, and the pass says so, where the layers behind have weights ±α, or
    integers that would need more bits. Rules 2 to 4 are for graphs whose layers are integers by
    now, as behind `exact`; layers that share their weights stay.
    """

    name = "merge-duplicates"
    summary = "let channels that carry the same values share one, and equal kernels their rows"
    kind = "exact"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        merged = merge_equal(graph, Spaces(graph))
        for name, why in merged.kept.items():
            ctx.notes.append(f"{self.name}: equal kernels of '{name}' stay: {why}")
        if merged.kernels:
            listed = ", ".join(f"{name} {count}" for name, count in merged.kernels.items())
            ctx.notes.append(f"{self.name}: {listed}")
            remove_dead_channels(graph)
        shared = share_rows(graph)
        if shared:
            graph.remove_dead()
            parts = (f"{name} {many} → {few}" for name, (many, few) in shared.items())
            ctx.notes.append(f"{self.name}: kernels stored: {', '.join(parts)}")
        return bool(merged.kernels or shared)
