"""The indices of tensor axes as numbers, and what ties them together."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.ir.graph import Graph, Node, Value, layer_name
from cimc.ir.types import TensorType
from cimc.prune.layers import LAYERS

Atoms = npt.NDArray[np.int64]
Key = Value | tuple[Node, int]


class Ties:
    """Collects ties and locks between atoms: one for each index of each axis of each value.

    A constant has atoms of its own at each use, so that operations which share a constant are
    not tied by it; weights of layers are what they are, wherever they are used.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.made = graph.producers()
        self._atoms: dict[Key, list[Atoms]] = {}
        self._count = 0
        self._pairs: list[tuple[Atoms, Atoms]] = []
        self._locks: list[tuple[Atoms, str]] = []
        self._regroupings: list[Node] = []
        self._constant: dict[Value, bool] = {}
        self._shared = {
            node.inputs[row.weights]
            for node in graph.nodes
            if (row := LAYERS.get(node.op)) is not None and len(node.inputs) > row.weights
        }
        for value in (*graph.inputs, *graph.outputs):
            self.atoms(value)
        for node in graph.nodes:
            for slot in range(len(node.inputs)):
                self.operand(node, slot)
            for value in node.outputs:
                self.atoms(value)

    # -- atoms --

    def atoms(self, key: Key) -> list[Atoms]:
        """The atoms of each axis; none for what is no tensor of known rank."""
        if key not in self._atoms:
            value = key if isinstance(key, Value) else key[0].inputs[key[1]]
            self._atoms[key] = self._new(value)
        return self._atoms[key]

    def _new(self, value: Value | None) -> list[Atoms]:
        if value is None or not isinstance(value.type, TensorType) or value.type.shape is None:
            return []
        found = []
        for dim in value.type.shape:
            size = dim if isinstance(dim, int) else 1
            found.append(np.arange(self._count, self._count + size))
            self._count += size
        return found

    def operand(self, node: Node, slot: int) -> list[Atoms]:
        """The atoms of an operand."""
        value = node.operand(slot)
        if value is None:
            return []
        own = value.const is not None and value not in self._shared
        return self.atoms((node, slot) if own else value)

    def axes(self) -> list[Atoms]:
        """All axes that were looked at."""
        return [axis for axes in self._atoms.values() for axis in axes]

    def constant(self, value: Value) -> bool:
        """Whether a value follows from constants alone."""
        if value not in self._constant:
            node = self.made.get(value)
            self._constant[value] = value.const is not None or (
                node is not None
                and not node.graphs()
                and bool(node.inputs)
                and all(v is None or self.constant(v) for v in node.inputs)
            )
        return self._constant[value]

    # -- ties --

    def tie(self, a: Atoms, b: Atoms) -> None:
        """Index by index; axes of different sizes are locked."""
        if len(a) == len(b):
            self._pairs.append((a, b))
            return
        for atoms in (a, b):
            self._locks.append((atoms, "their number is not known"))

    def lock(self, value: Value, why: str) -> None:
        for atoms in self.atoms(value):
            self._locks.append((atoms, why))

    def lock_atoms(self, atoms: Atoms, why: str) -> None:
        self._locks.append((atoms, why))

    def unknown(self, node: Node) -> None:
        """An operation without a rule."""
        why = f"they go through {node.op.split('.')[-1]} '{layer_name(node)}'"
        for slot in range(len(node.inputs)):
            for atoms in self.operand(node, slot):
                self._locks.append((atoms, why))
        for value in [*node.outputs, *(v for g in node.graphs() for v in g.captured())]:
            self.lock(value, why)

    def regroup(self, node: Node) -> None:
        """A reshape, looked at when the rest is known."""
        self._regroupings.append(node)

    def settle(self) -> None:
        """The reshapes: where an axis is several others in one, its indices are tied to the
        axis among them that is free."""
        for node in self._regroupings:
            blocks = _blocks(node.arg(0), node.outputs[0])
            if blocks is None:
                self.unknown(node)
                continue
            _, locked = self.channels(plain=True)
            x, y = self.operand(node, 0), self.atoms(node.outputs[0])
            for left, right in blocks:
                self._regroup(node, [x[i] for i in left], [y[i] for i in right], locked)

    def _regroup(
        self, node: Node, left: list[Atoms], right: list[Atoms], locked: npt.NDArray[np.bool_]
    ) -> None:
        left, right = ([a for a in side if len(a) != 1] for side in (left, right))
        if len(left) > len(right):
            left, right = right, left
        if not left:
            return
        if len(left) > 1:
            for atoms in (*left, *right):
                self.lock_atoms(atoms, f"'{layer_name(node)}' divides them otherwise")
            return
        (one,) = left
        free = [i for i, atoms in enumerate(right) if not locked[atoms].any()]
        chosen = free[0] if free else 0
        sizes = [len(a) for a in right]
        index = np.unravel_index(np.arange(len(one)), sizes)[chosen]
        self._pairs.append((one, right[chosen][index]))
        for i, atoms in enumerate(right):
            if i != chosen:
                self.lock_atoms(atoms, f"'{layer_name(node)}' joins them with others")

    # -- channels --

    def channels(self, plain: bool = False) -> Any:
        """(number of the channel of each atom, reasons by number); plain: (the same, whether
        each atom is locked). Connected sets are numbered in the order of their first atoms."""
        label = np.arange(self._count)
        pairs = [np.concatenate(side) for side in zip(*self._pairs)] or [label[:0], label[:0]]
        while True:
            low = np.minimum(label[pairs[0]], label[pairs[1]])
            before = label.copy()
            for side in pairs:
                np.minimum.at(label, before[side], low)
                np.minimum.at(label, side, low)
            label = label[label]
            if np.array_equal(label, before):
                break
        roots, number = np.unique(label, return_inverse=True)
        reasons: dict[int, str] = {}
        for atoms, why in self._locks:
            for channel in np.unique(number[atoms]).tolist():
                reasons.setdefault(channel, why)
        if not plain:
            return number, reasons
        locked = np.zeros(len(roots), np.bool_)
        locked[list(reasons)] = True
        return number, locked[number]


def _blocks(x: Value, y: Value) -> list[tuple[list[int], list[int]]] | None:
    """Runs of axes of x and of y with the same number of elements, in order; None where sizes
    are not known. Equal symbols stand for each other."""
    if not all(isinstance(v.type, TensorType) and v.type.shape is not None for v in (x, y)):
        return None
    a, b = list(x.tensor.shape or ()), list(y.tensor.shape or ())
    if a and b and isinstance(a[0], str) and isinstance(b[0], str):
        b[0] = a[0]  # the batch axis may have got another name
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(a) or j < len(b):
        left, right = ([i] if i < len(a) else []), ([j] if j < len(b) else [])
        i, j = i + len(left), j + len(right)
        if left and right and a[left[0]] == b[right[0]]:
            blocks.append((left, right))
            continue
        while True:
            sizes = [[d[k] for k in part] for d, part in ((a, left), (b, right))]
            if any(isinstance(d, str) for size in sizes for d in size):
                return None
            m, n = (prod(int(d) for d in size) for size in sizes)
            if m == n:
                break
            if m < n and i < len(a):
                left.append(i)
                i += 1
            elif n < m and j < len(b):
                right.append(j)
                j += 1
            else:
                return None
        blocks.append((left, right))
    return blocks
