"""Whether signs can tell one rounding of a float value from another.

onnxruntime may round a sum on the way, in an order of its own. If all that is done with the
sum is to take signs, and no sign changes within the error, then it is as good as exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from cimc.driver.elementwise import data_input
from cimc.driver.steps import SignMap, chain_axis
from cimc.ir.graph import Graph, Node, Value

# Element-wise operations that rise or fall throughout, whatever their constants.
_MONOTONE = {
    "onnx.Add", "onnx.Sub", "onnx.Mul", "onnx.Max", "onnx.Min", "onnx.BatchNormalization",
    "onnx.Relu", "onnx.Clip", "onnx.Sign", "onnx.Neg", "onnx.Identity",
    "cim.sign", "cim.dequant",
}  # fmt: skip


def signs_agree(graph: Graph, value: Value, axis: int, low: Any, high: Any) -> bool:
    """Whether every use of `value` ends in signs that are the same from `low` to `high`.

    low, high: float32 [n, channels], bounds of the value for each of n cases and each
    channel along `axis`. False where a use is anything but monotone maps of each element,
    pools and signs.
    """
    chains = list(_chains(graph, value, ()))
    if not chains or None in chains:
        return False
    channels = low.shape[1]
    for chain in chains:
        assert chain is not None
        if chain_axis(chain, value) not in (-1, axis):
            return False
        run = SignMap(chain, value, axis, channels, graph.opsets)
        if not np.array_equal(run(low), run(high)):
            return False
    return True


def _chains(
    graph: Graph, value: Value, before: tuple[Node, ...]
) -> Iterator[tuple[Node, ...] | None]:
    """Each way from the value to a sign, pools left out; None for any other use."""
    if value in graph.outputs:
        yield None
    for user in graph.users().get(value, []):
        if user.op == "onnx.MaxPool" and len(user.outputs) == 1:
            yield from _chains(graph, user.output, before)
        elif user.op not in _MONOTONE or data_input(user) is None:
            yield None
        elif user.op == "cim.sign":
            yield (*before, user)
        elif user.output.tensor.shape != value.tensor.shape:
            yield None
        else:
            yield from _chains(graph, user.output, (*before, user))
