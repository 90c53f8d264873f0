"""What pruning saved, in words."""

from __future__ import annotations

from cimc.driver.clone import clone
from cimc.errors import CompileError
from cimc.frontend.bind import bind_shapes
from cimc.frontend.operations import LayerOps, count
from cimc.frontend.reduction import Sums, compare
from cimc.ir.graph import Graph


def operations(graph: Graph) -> list[LayerOps] | None:
    """The layers of a graph for one sample; None where sizes are not known."""
    twin, _ = clone(graph)
    try:
        bind_shapes(twin, {}, graph.name)
    except CompileError:
        return None
    return count(twin)


def saved(now: list[LayerOps], dense: list[LayerOps]) -> list[str]:
    """Lines: MACs before and after by convolutions and in all, and as the published scripts count
    them."""
    found = compare(now, dense, "")
    lines = []
    for what, sums in (("convolutions", found.convolutions), ("all layers", found.all_layers)):
        if sums.dense:
            lines.append(f"{what}: {_change(sums)}; {sums.zero_share:.1%} of the weights gone")
    if found.scripted is not None:
        lines.append(f"as the published scripts count operations: {found.scripted:.1%} removed")
    return lines


def _change(sums: Sums) -> str:
    return f"{sums.dense:,} → {sums.effective:,} MACs, {sums.removed:.1%} removed"
