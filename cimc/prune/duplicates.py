"""Channels that carry the same values: one of them is enough where the layers behind can add up
the columns that meet them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from cimc.ir.graph import Graph, Value, layer_name
from cimc.ir.types import TensorType, int_range, is_float, is_integer
from cimc.prune.spaces import Kernels, Spaces


@dataclass(frozen=True)
class Merged:
    """kernels: how many of each layer carry what another does, and gave it their columns, by name.
    kept: layers whose kernels stay although others are equal, and why, by name."""

    kernels: dict[str, int]
    kept: dict[str, str]


def merge_equal(graph: Graph, spaces: Spaces) -> Merged:
    """Give the columns behind each channel that equals another to that one, in place; its own
    become zero, so that it is dead. Exact, but for how float sums round."""
    made = _Columns(graph, spaces)
    kernels, kept = dict[str, int](), dict[str, str]()
    for group in equal_channels(graph, spaces):
        for other in group[1:]:
            names = [layer_name(spaces.kernels[at].node) for at, _ in made.makers[other]]
            why = spaces.locked.get(other) or made.misfit(group[0], other)
            if why:
                kept.update((name, why) for name in names)
                continue
            made.merge(group[0], other)
            for name in names:
                kernels[name] = kernels.get(name, 0) + 1
    made.store()
    return Merged(kernels, kept)


def equal_channels(graph: Graph, spaces: Spaces) -> list[list[int]]:
    """Sets of channels, in order, that carry the same values: made by equal kernels with equal
    constants all along."""
    digests = [hashlib.sha256() for _ in range(spaces.count)]
    told = np.zeros(spaces.count, np.bool_)
    for layer in spaces.kernels:
        told[layer.out] = True
    columns = {(k.node, k.layer.weights): k.layer.in_axis for k in spaces.kernels}
    for at, node in enumerate(graph.nodes):
        for slot, value in enumerate(node.inputs):
            axes = spaces.operand(node, slot)
            skip = columns.get((node, slot))
            for axis, numbers in enumerate(axes):
                if value is None or (skip is not None and axis == skip % len(axes)):
                    continue
                _tell(digests, told, f"{at} {slot} {axis}", numbers, value, axis)
        for out, value in enumerate(node.outputs):
            for axis, numbers in enumerate(spaces.of(value)):
                _tell(digests, told, f"{at} out {out} {axis}", numbers, None, axis)
    for layer in spaces.kernels:  # kernels of different groups see different inputs
        size = len(layer.out) // layer.groups
        for i, channel in enumerate(layer.out.tolist()):
            digests[channel].update(f"group {i // size if layer.groups > 1 else 0}".encode())
    found: dict[bytes, list[int]] = {}
    for channel in np.nonzero(told)[0].tolist():
        found.setdefault(digests[channel].digest(), []).append(channel)
    return [group for group in found.values() if len(group) > 1]


def _tell(
    digests: list[Any], told: Any, place: str, numbers: Any, value: Value | None, axis: int
) -> None:
    """Add to each channel where it occurs, and what constants hold there."""
    array: Any = None if value is None else value.const
    rows = None if array is None else np.moveaxis(array, axis, 0)
    for i, channel in enumerate(numbers.tolist()):
        if not told[channel]:
            continue
        digests[channel].update(place.encode())
        if rows is not None:
            digests[channel].update(np.ascontiguousarray(rows[i]).tobytes())


class _Columns:
    """The columns of all layers, as they change."""

    def __init__(self, graph: Graph, spaces: Spaces) -> None:
        self.graph, self.spaces = graph, spaces
        self.makers, self.users = spaces.makers(), spaces.users()
        self.arrays: dict[int, Any] = {}

    def misfit(self, first: int, other: int) -> str:
        """Why the columns behind `other` can't be added to those behind `first`; empty if they
        can."""
        pairs = self._pairs(first, other)
        if pairs is None:
            return "the layers behind see them in different groups"
        for at, (group, a), (_, b) in pairs:
            why = self._misfit(at, group, a, b)
            if why:
                return why
        return ""

    def _pairs(
        self, first: int, other: int
    ) -> list[tuple[int, tuple[int, int], tuple[int, int]]] | None:
        """Columns of the two that meet the same values: (layer, column, column)."""
        ones, others = self.users[first], self.users[other]
        if [(at, g) for at, g, _ in ones] != [(at, g) for at, g, _ in others]:
            return None
        return [(at, (g, a), (g, b)) for (at, g, a), (_, _, b) in zip(ones, others)]

    def _misfit(self, at: int, group: int, a: int, b: int) -> str:
        layer = self.spaces.kernels[at]
        name = layer_name(layer.node)
        if layer.weights.const is None:
            return f"the weights of '{name}' are stored in another form"
        rows = self._rows(at)[group]
        total = rows[:, a] + rows[:, b]
        if is_float(layer.weights.elem):
            size = np.abs(rows)
            binary = bool(((size == size.reshape(len(size), -1).max(1)[:, None, None])
                           | (size == 0)).all())  # fmt: skip
            return f"the weights of '{name}' are ±α, and would not be" if binary else ""
        if not is_integer(layer.weights.elem):
            return f"the weights of '{name}' are {layer.weights.elem}"
        low, high = int_range(layer.weights.elem)
        shifted = total + self._zero(layer)
        whole = layer.weights.elem == "bip"  # which has no zero to leave behind
        if whole or shifted.min() < low or shifted.max() > high:
            return f"the weights of '{name}' would need more bits"
        return ""

    def merge(self, first: int, other: int) -> None:
        for at, (group, a), (_, b) in self._pairs(first, other) or ():
            rows = self._rows(at)
            rows[group, :, a] += rows[group, :, b]
            rows[group, :, b] = 0

    def _rows(self, at: int) -> Any:
        """Weights less their zero point, [groups, kernels, columns, taps]."""
        if at not in self.arrays:
            layer = self.spaces.kernels[at]
            array: Any = layer.weights.const
            if array.dtype.kind in "iu":
                array = array.astype(np.int64)
            self.arrays[at] = layer.layer.rows(array, layer.groups) - self._zero(layer)
        return self.arrays[at]

    def _zero(self, layer: Kernels) -> Any:
        slot = layer.layer.zero
        zero = None if slot is None else layer.node.operand(slot)
        if zero is None or zero.const is None or not zero.const.any():
            return 0
        vector = np.broadcast_to(zero.const.reshape(-1).astype(np.int64), len(layer.out))
        return vector.reshape(layer.groups, -1, 1, 1)

    def store(self) -> None:
        """The changed weights as constants."""
        for at, rows in self.arrays.items():
            layer = self.spaces.kernels[at]
            old = layer.weights
            assert old.const is not None
            array = layer.layer.weights_of(rows + self._zero(layer), old.const.shape)
            array = np.ascontiguousarray(array.astype(old.const.dtype))
            if np.array_equal(array, old.const):
                continue
            made = self.graph.renewed(old, array, TensorType(old.elem, array.shape))
            self.graph.replace(old, made, keep_name=False)
