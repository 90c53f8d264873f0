"""The published criteria on the layers of a graph: which kernels they take, and taking them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from cimc.frontend.quantisers import DEQUANTIZE, QUANTIZE
from cimc.ir.graph import Graph, Node, Value, layer_name
from cimc.ir.types import TensorType
from cimc.prune.known import Known
from cimc.prune.spaces import Kernels, Spaces
from cimc.similarity.criteria import Decision


@dataclass(frozen=True)
class Judged:
    """A layer and what a criterion says of its kernels."""

    layer: Kernels
    decision: Decision

    @property
    def name(self) -> str:
        return layer_name(self.layer.node)


def is_depthwise(layer: Kernels) -> bool:
    """Whether each kernel sees one channel of its own: kernels that see different inputs are not
    alike, and follow their inputs."""
    return layer.groups > 1 and layer.columns.shape[1] == 1


def kernel_matrix(layer: Kernels, known: Known) -> Any:
    """The weights less their zero point, one row a kernel, [N, K]; None where they aren't known."""
    w = known.of(layer.weights)
    if w is None or w.unknown.any():
        return None
    rows = np.moveaxis(w.values, layer.layer.out_axis, 0)
    zero = _zero(layer, known)
    if zero is None:
        return rows.reshape(len(rows), -1)
    rows = rows.astype(np.int64) - zero.reshape(-1, *(1,) * (rows.ndim - 1))
    return rows.reshape(len(rows), -1)


def _zero(layer: Kernels, known: Known) -> Any:
    slot = layer.layer.zero
    zero = known.of(None if slot is None else layer.node.operand(slot))
    return None if zero is None else np.atleast_1d(zero.values).astype(np.int64).reshape(-1)


def alphas(rows: Any) -> Any:
    """The α of kernels whose weights are all ±α, [N], 0 for kernels of zeros; None if some kernel's
    are not."""
    size = np.abs(rows)
    largest = size.max(axis=1, initial=0, keepdims=True)
    return largest[:, 0] if bool(np.all(size == largest)) else None


def within_groups(layer: Kernels, rows: Any, criterion: Callable[[Any], Decision]) -> Decision:
    """The criterion on the kernels of each group, which see the same inputs."""
    parts = [criterion(part) for part in rows.reshape(layer.groups, -1, rows.shape[1])]
    if len(parts) == 1:
        return parts[0]
    count = len(rows)
    distances: Any = np.zeros((count, count), parts[0].distances.dtype)
    size = count // len(parts)
    for i, part in enumerate(parts):
        distances[i * size : (i + 1) * size, i * size : (i + 1) * size] = part.distances
    return Decision(
        np.concatenate([p.pruned for p in parts]),
        np.concatenate([p.live for p in parts]),
        np.concatenate([p.counts for p in parts]),
        distances,
        parts[0].threshold,
    )


@dataclass(frozen=True)
class Choice:
    """gone: kernels that go, by layer as masks [N]. locked: by layer name, why kernels that the
    criterion takes stay, and how many. spared: layers of which kernels stay so that one is left,
    and how many."""

    gone: list[tuple[Kernels, Any]]
    locked: dict[str, tuple[int, str]]
    spared: dict[str, int]


def removable(spaces: Spaces, judged: Sequence[Judged]) -> Choice:
    """The kernels of which the whole channel can go: no index of it is locked, and the criterion
    takes all kernels that make it. Depthwise kernels follow."""
    votes = np.zeros(spaces.count, np.int64)  # kernels that must be taken
    taken = np.zeros(spaces.count, np.int64)
    for layer in spaces.kernels:
        if not is_depthwise(layer):
            np.add.at(votes, layer.out, 1)
    for one in judged:
        np.add.at(taken, one.layer.out, one.decision.pruned)
    whole = (taken > 0) & (taken == votes)
    whole[list(spaces.locked)] = False
    spared = spaces.spared(set(np.nonzero(whole)[0].tolist()))
    gone = whole.copy()
    gone[list(spared)] = False
    choice = Choice([], {}, {})
    for one in judged:
        numbers, pruned = one.layer.out, one.decision.pruned
        choice.gone.append((one.layer, pruned & gone[numbers]))
        kept = numbers[pruned & ~gone[numbers]]
        left = [c for c in kept.tolist() if whole[c]]
        if left:
            choice.spared[one.name] = len(left)
        held = [c for c in kept.tolist() if not whole[c]]
        if held:
            why = spaces.locked.get(held[0], "other layers add to the same channels, and keep them")
            choice.locked[one.name] = len(held), why
    return choice


def set_kernels(graph: Graph, layer: Kernels, mask: Any, known: Known, values: Any = None) -> bool:
    """Overwrite the kernels of `mask` by zeros, or by rows of `values` [N, K]; False where the
    weights are stored in a form that can't take them."""
    form = layer.layer
    stored = _stored(graph, layer.weights)
    if stored is None or not mask.any():
        return not mask.any()
    user, slot, old, zero = stored
    array: Any = np.moveaxis(np.array(old.const), form.out_axis, 0)
    if values is not None:
        new = values.reshape(array.shape)[mask]
    else:
        code = zero if zero is not None else _zero(layer, known)
        code = np.zeros(1, np.int64) if code is None else code
        new = np.broadcast_to(code, len(array)).reshape(-1, *(1,) * (array.ndim - 1))[mask]
    array[mask] = new
    array = np.ascontiguousarray(np.moveaxis(array, 0, form.out_axis))
    elem = "tern" if old.elem == "bip" and bool((array == 0).any()) else old.elem
    made = graph.renewed(old, array, TensorType(elem, array.shape))
    if user is None:  # all layers that share the weights
        graph.replace(old, made, keep_name=False)
    else:
        user.inputs[slot] = made
    graph.remove_dead()
    return True


def _stored(graph: Graph, w: Value) -> tuple[Node | None, int, Value, Any] | None:
    """Where weights are stored: the operation that codes or decodes them (None: they are a
    constant themselves), its operand, the constant, and the codes of zero there, one or one a
    kernel (None: the layer's)."""
    made = graph.producers()
    node, zero = made.get(w), None
    if w.const is not None or node is None:
        return (None, 0, w, None) if w.const is not None else None
    if node.op in DEQUANTIZE:
        zero = np.zeros(1, np.int64) if node.operand(2) is None else node.arg(2).const
        inner = made.get(node.arg(0))
        if inner is not None and inner.op in QUANTIZE:
            node, zero = inner, np.zeros(1, np.int64)
        elif node.op.startswith("onnx.") and node.int_attr("block_size", 0):
            return None
    elif node.op in ("qonnx.Quant", "qonnx.IntQuant"):
        zero = np.zeros(1, np.int64)
    else:
        return None
    if node.arg(0).const is None or zero is None:
        return None
    return node, 0, node.arg(0), zero.reshape(-1)


def fraction(text: str, name: str, low: Fraction, high: Fraction | None) -> Fraction:
    """A number such as 0.15 or 15/100, exactly. Raises ValueError that names the range."""
    end = f"{high}" if high is not None else "any"
    try:
        found = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{name} must be a number such as 0.15 or 15/100") from None
    if found < low or (high is not None and found > high):
        upper = f"at most {end}" if high is not None else "without upper limit"
        raise ValueError(f"{name} must be at least {low}, {upper}")
    return found
