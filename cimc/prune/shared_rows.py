"""Kernels that are stored once for several channels: their sums are equal, or one is a constant
less the other, and what is compared with thresholds is taken from one row read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cimc.driver.bounds import Bounds, bounds
from cimc.ir.graph import Graph, Node, Value, layer_name
from cimc.ir.kernels import by_channel, kernel_rows
from cimc.ir.ops import LAYERS
from cimc.ir.types import TensorType, container, int_range


def share_rows(graph: Graph) -> dict[str, tuple[int, int]]:
    """Let layers store one of their kernels that are equal, and of those that are the negative of
    each other where thresholds follow, in place; cim.take gives the channels what is theirs.
    Returns how many kernels each had and has, by layer. Exact in every bit.

    Kernels less their zero point count. A layer keeps as many in each group as the group with the
    most different ones has. Layers that share weights, and those that are placed, stay.
    """
    users, made = graph.users(), graph.producers()
    placed = {place.value for place in graph.places}
    found: dict[str, tuple[int, int]] = {}
    for node in [n for n in graph.nodes if n.op in LAYERS]:
        w = node.arg(1)
        if w.const is None or not w.const.size or w in placed or len(users[w]) > 1:
            continue
        layer = _layer(graph, node, users.get(node.output, []))
        if len(layer.kept) == len(layer.owner):
            continue
        reach = bounds(node.output, made)
        found[layer_name(node)] = len(layer.owner), len(layer.kept)
        if layer.thresholds:
            for user in users[node.output]:
                _compare(graph, user, layer, reach)
        _store_once(graph, node, layer)
    return found


@dataclass(frozen=True)
class _Layer:
    """What the channels of a layer have in common.

    owner: the channel whose sum a, less its bias, each channel [C] has: as it is where factor is
    1, as its negative where it is -1; its own sum is factor * a + offset. kept: the owners.
    thresholds: whether all that follows are thresholds along the channels.
    """

    owner: Any
    factor: Any
    offset: Any
    kept: Any
    thresholds: bool


def _layer(graph: Graph, node: Node, users: list[Node]) -> _Layer:
    rows = kernel_rows(node).astype(np.int64)
    zero, bias = node.operand(3), node.operand(4)
    if zero is not None and zero.const is not None:
        rows = rows - zero.const.astype(np.int64).reshape(-1, 1)
    b: Any = np.zeros((len(rows), 1), np.int64)
    if bias is not None and bias.const is not None:
        b = by_channel(bias.const.astype(np.int64))
    axis, groups = _axis(node), node.int_attr("group", 1)
    thresholds = node.output not in graph.outputs and all(
        user.op == "cim.threshold" and user.int_attr("axis", 1) == axis for user in users
    )
    factor = np.ones(len(rows), np.int64)
    if thresholds:  # signs that make a kernel and its negative the same
        first = np.take_along_axis(rows, (rows != 0).argmax(axis=1)[:, None], axis=1)[:, 0]
        factor = np.where(first < 0, -1, 1)
    shown = factor[:, None] * b
    shown = shown - shown[:, :1] if thresholds else shown
    size, firsts = len(rows) // groups, dict[tuple[int, bytes, bytes], int]()
    kernels = rows * factor[:, None]
    owner = np.array([
        firsts.setdefault((j // size, kernels[j].tobytes(), shown[j].tobytes()), j)
        for j in range(len(rows))
    ])  # fmt: skip
    owner = _alike_in_groups(owner, groups)
    factor = factor * factor[owner]
    return _Layer(owner, factor, b[:, 0] - factor * b[owner, 0], np.unique(owner), thresholds)


def _alike_in_groups(owner: Any, groups: int) -> Any:
    """Owners so that each group has equally many: in some, channels have a kernel of their own
    although it is like another."""
    own = np.arange(len(owner))
    most = int((owner == own).reshape(groups, -1).sum(axis=1).max())
    found = owner.copy()
    for channels in own.reshape(groups, -1):
        others = channels[owner[channels] != channels]
        spare = others[len(channels) - most :]
        found[spare] = spare
    return found


def _axis(node: Node) -> int:
    """The axis of a layer's result along which its channels lie."""
    return 1 if node.op == "cim.conv" else len(node.output.tensor.shape or ()) - 1


def _compare(graph: Graph, node: Node, layer: _Layer, reach: Bounds) -> None:
    """Thresholds for the sums of the owners. With d the offset and T levels, of

        a + d >= th_k   and   -a + d >= th_k

    the first is a >= th_k - d, the second the contrary of a >= d - th_k + 1: the levels are
    mirrored."""
    old, flips = node.arg(1), node.operand(2)
    assert old.const is not None
    limits: Any = old.const.astype(np.int64).reshape(len(layer.owner), -1)
    held = limits.clip(reach.low - 1 - abs(layer.offset).max(), None)  # no number too large
    held = held.clip(None, reach.high + 1 + abs(layer.offset).max())
    offset = layer.offset[:, None]
    mirrored = offset - held[:, ::-1] + 1
    moved = np.where(layer.factor[:, None] > 0, held - offset, mirrored)
    moved = moved.clip(reach.low, reach.high + 1)  # always and never reached
    same = (layer.factor > 0) & (layer.offset == 0)
    moved = np.where(same[:, None], limits, moved).reshape(old.const.shape)
    _constant(graph, node, 1, moved, _holding(old.elem, moved))
    signs: Any = layer.factor
    if flips is not None and flips.const is not None:
        signs = signs * flips.const
    if (signs > 0).all():
        node.inputs = node.inputs[:2]
    elif flips is not None:
        _constant(graph, node, 2, signs, "bip")
    else:
        added = graph.const(f"{node.output.name}.flip", *_as_constant(signs, "bip"))
        node.inputs = [*node.inputs[:2], added]


def _holding(elem: str, array: Any) -> str:
    """The type of thresholds, or one that holds them."""
    for kind in (elem, "i32"):
        low, high = int_range(kind)
        if not array.size or (low <= array.min() and array.max() <= high):
            return kind
    return "i64"


def _store_once(graph: Graph, node: Node, layer: _Layer) -> None:
    """Kernels, zero points and bias of the owners, and a cim.take behind them."""
    axis, sums, name = _axis(node), node.output, node.output.name
    for slot, value in enumerate(node.inputs[1:], 1):
        if value is None or value.const is None or slot == 2 or value.const.shape == (1,):
            continue
        along = 1 if value.const.ndim > 1 and (slot == 4 or node.op == "cim.matmul") else 0
        _constant(graph, node, slot, np.take(value.const, layer.kept, along), value.elem)
    index = np.searchsorted(layer.kept, layer.owner)
    place = graph.nodes.index(node) + 1
    taken = Value(graph.fresh(f"{name}.taken"), sums.type)
    graph.replace(sums, taken, keep_name=sums in graph.outputs)
    shape = list(sums.tensor.shape or ())
    shape[axis] = len(layer.kept)
    sums.type = TensorType(sums.elem, tuple(shape))
    chosen = graph.const(f"{name}.take", *_as_constant(index, "i32"))
    attrs: dict[str, Any] = {} if axis == 1 else {"axis": axis}
    graph.nodes.insert(place, Node("cim.take", [sums, chosen], [taken], attrs))


def _as_constant(array: Any, elem: str) -> tuple[Any, TensorType]:
    held = np.ascontiguousarray(array.astype(container(elem)))
    return held, TensorType(elem, held.shape)


def _constant(graph: Graph, node: Node, slot: int, array: Any, elem: str) -> None:
    """Another constant as operand, which takes the name of the old one."""
    node.inputs[slot] = graph.renewed(node.arg(slot), *_as_constant(array, elem))
