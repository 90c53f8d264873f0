"""Takes out channels whose values are known without running."""

from __future__ import annotations

from dataclasses import dataclass

from cimc.driver import Pass, PassContext
from cimc.ir.graph import Graph
from cimc.prune.dead import remove_dead_channels


@dataclass(frozen=True)
class RemoveDeadChannels(Pass):
    """Rules (a channel: all that goes with one kernel, through normalisation, activation, pools,
    sums, concatenation, depthwise layers, layout):
    1. a channel of which every column behind it is zero, or meets only values that are known ⇒
       nothing: the kernel, its parameters and the columns go
    2. what such a channel added to a sum ⇒ its bias; where that differs by position, at padded
       borders, a constant of the result's shape is added behind it, or is the bias `b` of a
       cim.conv
    3. a sum of which all columns that are not zero meet known values is known itself
    A channel stays if it is an input or a result of the model, goes through an operation that
    mixes channels, or is the last of its layer.
    """

    name = "remove-dead-channels"
    summary = "take out channels of known value, and fold what they add to the sums behind them"
    kind = "exact"
    repeat = True

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        return remove_dead_channels(graph).changed
