"""Channels that add something known to every sum behind them: they go, and the sum stays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cimc.driver.rewrite import Rewriter
from cimc.frontend.windows import conv_attrs
from cimc.ir.graph import Graph, Node, Value, layer_name
from cimc.ir.ops import TABLE
from cimc.ir.types import TensorType
from cimc.prune.known import Known, effective, evaluate, slides_alike
from cimc.prune.remove import remove_channels
from cimc.prune.spaces import Kernels, Spaces

_WEIGHT_BITS, _SUM_BITS = 8, 24  # of weights that are meant as integers; of float32


@dataclass(frozen=True)
class Removed:
    """channels: how many went. kernels: how many of each layer, by name. spared: layers of which a
    dead kernel stays, so that one is left or groups stay alike, by name. locked: why dead kernels
    of a layer stay, by name."""

    channels: int
    kernels: dict[str, int]
    spared: dict[str, int]
    locked: dict[str, str]

    @property
    def changed(self) -> bool:
        return self.channels > 0


def remove_dead_channels(graph: Graph) -> Removed:
    """Take out, in place, each channel whose contributions are known, and fold these into the
    layers behind: the function stays the same, but for how float sums round."""
    spaces, known = Spaces(graph), Known(graph)
    uses = _Uses(graph, spaces, known)
    dead = {c for c in range(spaces.count) if uses.known[c] and c not in spaces.locked}
    unfit = dict[int, str]()
    while True:
        spared = spaces.spared(dead)
        dead -= spared
        misfit = uses.unfoldable(dead)
        if not misfit:
            break
        unfit |= misfit
        dead -= set(misfit)
    report = _report(spaces, known, dead, spared, unfit)
    if dead:
        folds = uses.folds(dead)
        remove_channels(graph, spaces, dead)
        rw = Rewriter(graph)
        for fold in folds:
            fold.apply(rw)
        graph.remove_dead()
    return report


@dataclass(frozen=True)
class _Fold:
    """What a layer's result gains, an array of its shape after the removal; exact: whether the
    sums of a float layer are, so that a bias is rounded once, behind them, and must stay so."""

    layer: Kernels
    added: Any
    exact: bool

    def apply(self, rw: Rewriter) -> None:
        if self.layer.layer.shift is not None:
            _into_integers(rw, self.layer, self.added)
        else:
            _into_floats(rw, self.layer, self.added, self.exact)


class _Uses:
    """What each layer makes of the channels that are known."""

    def __init__(self, graph: Graph, spaces: Spaces, known: Known) -> None:
        self.graph, self.spaces = graph, spaces
        self.partial = known
        self.counts = [self._counts(k) for k in spaces.kernels]
        made = {c for k in spaces.kernels for c in k.out.tolist()}
        self.known = np.zeros(spaces.count, np.bool_)
        self.known[list(made | {c for k in spaces.kernels for c in k.columns.ravel().tolist()})] = 1
        for layer, counts in zip(spaces.kernels, self.counts):
            steady = ~counts | self._steady(layer)
            np.logical_and.at(self.known, layer.columns.ravel(), steady.ravel())
        self._ranges()
        self._found: dict[tuple[int, bytes], Any] = {}

    def _counts(self, layer: Kernels) -> Any:
        """Which columns have a weight that counts, [groups, C]; all where that is not known."""
        w = self.partial.of(layer.weights)
        found = None if w is None else effective(layer.node, layer.layer, w.values, self.partial)
        if found is None:
            return np.ones(layer.columns.shape, np.bool_)
        return layer.layer.rows(found, layer.groups).any(axis=(1, 3))

    def _steady(self, layer: Kernels) -> Any:
        """Which columns meet elements that are all known, [groups, C]."""
        x = self.partial.of(layer.node.arg(layer.layer.data))
        zero = None if layer.layer.shift is None else layer.node.operand(layer.layer.shift)
        shift = self.partial.of(zero)
        if x is None or (zero is not None and (shift is None or shift.values.size > 1)):
            return np.zeros(layer.columns.shape, np.bool_)
        axis = layer.layer.data_axis % x.unknown.ndim
        others = tuple(i for i in range(x.unknown.ndim) if i != axis)
        unsteady = x.unknown
        if not slides_alike(layer.node, layer.layer):  # nothing but zeros adds the same everywhere
            unsteady = x.unknown | (x.values != 0) | (layer.layer.shift is not None)
        return (~unsteady.any(axis=others)).reshape(layer.columns.shape)

    def _ranges(self) -> None:
        """Dynamic quantisation takes its range from all channels, and from zero."""
        for node in self.graph.nodes:
            if node.op != "onnx.DynamicQuantizeLinear":
                continue
            x = self.partial.of(node.arg(0))
            for axis, numbers in enumerate(self.spaces.of(node.outputs[0])):
                others = tuple(i for i in range(len(self.spaces.of(node.outputs[0]))) if i != axis)
                zero: Any = np.zeros(len(numbers), np.bool_)
                if x is not None:
                    zero = ((x.values == 0) & ~x.unknown).all(axis=others)
                np.logical_and.at(self.known, numbers, zero)

    # -- contributions --

    def contribution(self, at: int, dead: set[int]) -> Any:
        """What the dead columns of a layer add to its sums, as an array of the result's shape, or
        None if they add nothing."""
        layer = self.spaces.kernels[at]
        meant = np.isin(layer.columns, list(dead)) & self.counts[at]
        node, form = layer.node, layer.layer
        if not meant.any() or not slides_alike(node, form):
            return None
        x = self.partial.of(node.arg(form.data))
        assert x is not None
        axis = form.data_axis % x.values.ndim
        shape = [1] * x.values.ndim
        shape[axis] = -1
        values = x.values
        if values.dtype.kind in "iu":
            zero = self.partial.of(None if form.shift is None else node.operand(form.shift))
            values = values.astype(np.int64) - (
                0 if zero is None else int(zero.values.reshape(-1)[0])
            )
        values = np.where(meant.reshape(shape), values, values.dtype.type(0))
        if not values.any():
            return None
        key = at, meant.tobytes()
        if key not in self._found:
            self._found[key] = self._sum(layer, values)
        return self._found[key]

    def _sum(self, layer: Kernels, values: Any) -> Any:
        """The layer without its bias and requantisation, on given data less its zero point."""
        node, form = layer.node, layer.layer
        if values.dtype.kind in "iu":
            return self._integer_sum(layer, values)
        x, w = node.arg(form.data), node.arg(form.weights)
        made = replace(
            node, inputs=list(node.inputs[:2]), outputs=[Value("sum", node.outputs[0].type)]
        )
        known = self.partial.of(w)
        assert known is not None
        return evaluate(self.graph, made, {x: values, w: known.values})[made.outputs[0]]

    def _integer_sum(self, layer: Kernels, values: Any) -> Any:
        node, form = layer.node, layer.layer
        w: Any = self.partial.of(layer.weights)
        weights = w.values.astype(np.int64)
        zero = self.partial.of(None if form.zero is None else node.operand(form.zero))
        if zero is not None:
            shape = [1] * weights.ndim
            shape[form.out_axis] = -1
            vector = zero.values.astype(np.int64).reshape(-1)
            weights = weights - (vector.reshape(shape) if vector.size > 1 else vector)
        if node.int_attr("transA", 0):
            values = values.T
        if node.int_attr("transB", 0):
            weights = weights.T
        if not form.spatial:
            pair = (weights, values) if form.data > form.weights else (values, weights)
            return np.matmul(*pair)
        row = TABLE["cim.conv"]
        attrs: Any = node.attrs if node.op == "cim.conv" else conv_attrs(node, weights.shape[2:])
        return row.evaluate([values, weights], row.full_attrs(attrs), [TensorType("i32", None)])[0]

    def unfoldable(self, dead: set[int]) -> dict[int, str]:
        """Of dead channels, those with a contribution that a layer behind can't take, and why."""
        found: dict[int, str] = {}
        for at, layer in enumerate(self.spaces.kernels):
            if not np.isin(layer.columns, list(dead)).any():
                continue
            why = self._unfit(layer, self.contribution(at, dead))
            if why:
                meant = layer.columns[self.counts[at]].tolist()
                found |= {c: why for c in meant if c in dead}
        return found

    def _unfit(self, layer: Kernels, added: Any) -> str:
        node = layer.node
        if added is None or not added.any():
            return ""
        name = layer_name(node)
        if layer.layer.shift is not None:
            if layer.layer.bias is None:
                return f"what they add to '{name}' has no place there: it has no bias"
            if node.op != "cim.conv" and _vector(layer, added) is None:
                return f"what they add to '{name}' differs by position"
            bias = node.operand(layer.layer.bias)
            if bias is not None and bias.const is None:
                return f"the bias of '{name}', which they add to, is not constant"
            total = _integer_bias(layer, added)
            if total.min() < -(2**31) or total.max() >= 2**31:
                return f"what they add to '{name}' needs more than 32 bits with its bias"
        if not np.isfinite(added).all():
            return f"what they add to '{name}' is not finite"
        dims = node.outputs[0].tensor.shape or ()
        if _vector(layer, added) is None and any(isinstance(d, str) for d in dims[1:]):
            return f"what they add to '{name}' differs by position, and its size is not known"
        return ""

    def folds(self, dead: set[int]) -> list[_Fold]:
        """What has to be added to the layers behind, once the channels are gone."""
        found = []
        for at, layer in enumerate(self.spaces.kernels):
            added = self.contribution(at, dead)
            if added is None or not added.any():
                continue
            axis = layer.layer.result_axis % added.ndim
            kept = np.compress(~np.isin(layer.out, list(dead)), added, axis)
            if kept.any():
                found.append(_Fold(layer, kept, self._exact(layer, added)))
        return found

    def _exact(self, layer: Kernels, added: Any) -> bool:
        """Whether weights and contributions are integers, or such times one power of two for each:
        then sums of integers have no rounding, in whatever order."""
        w = self.partial.of(layer.weights)
        assert w is not None
        return _whole(w.values, _WEIGHT_BITS) and _whole(added, _SUM_BITS)


def _whole(array: Any, bits: int) -> bool:
    """Whether the numbers of an array are integers of so many bits, times one power of two."""
    unit = np.ldexp(1.0, int(np.frexp(np.abs(array).max(initial=0.0))[1]) - bits)
    steps = array / np.float64(unit)
    return bool(np.all(steps == np.rint(steps)))


def _vector(layer: Kernels, added: Any) -> Any:
    """A contribution that is the same at all positions, by kernel; else None."""
    axis = layer.layer.result_axis % added.ndim
    rows = np.moveaxis(added, axis, 0).reshape(added.shape[axis], -1)
    return rows[:, 0] if bool((rows == rows[:, :1]).all()) else None


def _integer_bias(layer: Kernels, added: Any) -> Any:
    """An integer layer's bias with what is added, int64: one number a kernel, or a map."""
    vector = _vector(layer, added)
    total = (added if vector is None else vector).astype(np.int64)
    bias = layer.node.operand(layer.layer.bias or 0)
    if layer.layer.bias is None or bias is None or bias.const is None:
        return total
    parts = [total, bias.const.astype(np.int64)]
    rank = max(p.ndim for p in parts)
    # a number for each kernel beside a map lies on its axis 1
    return sum(p.reshape(-1, *(1,) * (rank - 2)) if p.ndim < rank else p for p in parts)


def _into_integers(rw: Rewriter, layer: Kernels, added: Any) -> None:
    """An integer layer's bias: one number a kernel, or of a cim.conv a map of positions."""
    slot = layer.layer.bias
    assert slot is not None
    total = _integer_bias(layer, added).astype(np.int32)
    name = f"{layer.node.outputs[0].name}.b"
    rw.set_const(layer.node, slot, np.ascontiguousarray(total), "i32", name)


def _into_floats(rw: Rewriter, layer: Kernels, added: Any, exact: bool) -> None:
    """A float layer's bias, or sums behind it: where its own sums are exact, in their order."""
    node, slot = layer.node, layer.layer.bias
    bias = None if slot is None else node.operand(slot)
    known = bias is None or bias.const is not None
    scaled = node.op == "onnx.Gemm" and node.float_attr("beta", 1.0) != 1.0
    vector = _vector(layer, added)
    if vector is not None and slot is not None and known and not scaled:
        old: Any = 0.0 if bias is None or bias.const is None else bias.const.astype(np.float64)
        total = vector.astype(np.float64) + old
        rounded = total.astype(np.float32)
        if not exact or bool(np.all(rounded == total)):
            rw.set_const(node, slot, rounded, "f32", f"{node.outputs[0].name}.b")
            return
    behind = [np.ascontiguousarray(added if vector is None else _lying(layer, vector, added))]
    if exact and bias is not None and bias.const is not None and not scaled and slot is not None:
        moved: Any = bias.const
        if node.op != "onnx.Gemm":
            moved = moved.reshape(-1, *(1,) * (added.ndim - 2))
        behind.append(moved)
        del node.inputs[slot:]
    _sums_behind(rw, node, behind)


def _lying(layer: Kernels, vector: Any, added: Any) -> Any:
    """A number for each kernel as it lies on the result."""
    shape = [1] * added.ndim
    shape[layer.layer.result_axis % added.ndim] = -1
    return vector.reshape(shape)


def _sums_behind(rw: Rewriter, node: Node, terms: list[Any]) -> None:
    """Constants added to a layer's result, one after the other; the last sum is what its users
    get."""
    result = node.outputs[0]
    x = Value(rw.fresh(f"{result.name}.live"), result.type)
    node.outputs[0] = x
    at = rw.graph.nodes.index(node) + 1
    for i, term in enumerate(terms):
        last = i == len(terms) - 1
        out = result if last else Value(rw.fresh(f"{result.name}.all"), result.type)
        const = rw.const(f"{result.name}.{'dead' if not i else 'b'}", term, "f32")
        rw.graph.nodes.insert(at + i, Node("onnx.Add", [x, const], [out]))
        x = out


def _report(
    spaces: Spaces, known: Known, dead: set[int], spared: set[int], unfit: dict[int, str]
) -> Removed:
    """By layer; only kernels of zeros are asked after."""
    kernels, left, locked = dict[str, int](), dict[str, int](), dict[str, str]()
    for layer in spaces.kernels:
        name, numbers = layer_name(layer.node), layer.out
        gone = np.isin(numbers, list(dead))
        if gone.any():
            kernels[name] = int(gone.sum())
        zero = _zero_kernels(layer, known) & ~gone
        for i in np.nonzero(zero)[0].tolist():
            channel = int(numbers[i])
            if channel in spared and channel not in spaces.locked:
                left[name] = left.get(name, 0) + 1
            else:
                why = spaces.locked.get(channel) or unfit.get(channel)
                locked.setdefault(name, why or "their channels hold more than these kernels make")
    return Removed(len(dead), kernels, left, locked)


def _zero_kernels(layer: Kernels, known: Known) -> Any:
    w = known.of(layer.weights)
    counts = None if w is None else effective(layer.node, layer.layer, w.values, known)
    if counts is None:
        return np.zeros(len(layer.out), np.bool_)
    return ~layer.layer.rows(counts, layer.groups).any(axis=(2, 3)).reshape(-1)
