"""Finds where a float map of integers changes sign: the thresholds of a compare.

The map is run itself, in onnxruntime, on the integers in question; nothing is derived
from formulas, so the result holds for the arithmetic that the model would have done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cimc.driver.bounds import Bounds
from cimc.driver.elementwise import data_input, rising
from cimc.frontend.evaluate import Evaluator
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.types import Array, TensorType, container, int_range, narrowest, planes

_ALL, _CHUNK = 1 << 26, 1 << 22  # candidates tried in all, and at a time
_LOWEST, _HIGHEST = int_range("i32")


@dataclass(frozen=True)
class Steps:
    """thresholds: int64 [channels, T], one for each level of `to` but the lowest; flips: ±1 by
    channel; to: the element type."""

    thresholds: Any
    flips: Any
    to: str

    @property
    def flipped(self) -> bool:
        return bool((self.flips < 0).any())

    def keeps(self, elem: str) -> bool:
        """Whether the map gives back each sign of a bip value."""
        inside = (self.thresholds > -1) & (self.thresholds <= 1)
        return elem == self.to == "bip" and not self.flipped and bool(inside.all())

    def at_zero(self, elem: str) -> int:
        """+1 or -1 if the map keeps the signs of a tern value and gives that at 0, else 0."""
        if elem != "tern" or self.to != "bip" or self.flipped:
            return 0
        if bool(((self.thresholds > -1) & (self.thresholds <= 0)).all()):
            return 1
        return -1 if bool(((self.thresholds > 0) & (self.thresholds <= 1)).all()) else 0

    def narrowed(self, lowest: int, highest: int) -> Steps:
        """The same levels in the fewest bits, without flips; lowest, highest: the integers that
        the map is given, below and above which thresholds are never or always reached."""
        if self.flipped or self.to in ("bip", "tern"):
            return self
        first = int_range(self.to)[0]
        always = int((self.thresholds <= lowest).all(axis=0).sum())
        ever = int((self.thresholds <= highest).any(axis=0).sum())
        to = narrowest(first + always, first + ever)
        if planes(to) >= planes(self.to):
            return self
        low, high = int_range(to)
        return Steps(self.thresholds[:, low - first : high - first], self.flips, to)

    def tables(self, channels: int) -> tuple[Array, Array | None]:
        """Thresholds i32 [C] or [C, T], many of them i16 where that will do, and flips i8 [C]
        (None: no flip) for that many channels; a single one is repeated."""
        th = np.broadcast_to(self.thresholds, (channels, self.thresholds.shape[1]))
        small = th.shape[1] > 2 and bool((np.abs(th) < 2**15).all())
        th = np.ascontiguousarray(
            th[:, 0] if th.shape[1] == 1 else th, np.int16 if small else np.int32
        )
        if not self.flipped:
            return th, None
        return th, np.ascontiguousarray(np.broadcast_to(self.flips, channels), np.int8)


def chain_axes(nodes: Sequence[Node], source: Value) -> set[int]:
    """The axes along which constants of the chain differ."""
    rank = len(source.tensor.shape or ())
    axes = set()
    for node in nodes:
        if node.op == "onnx.BatchNormalization":
            axes.add(1)
            continue
        if node.op == "qonnx.MultiThreshold":  # thresholds[C, T]
            channels_last = str(node.attrs.get("data_layout", "NCHW")).endswith("C") and rank > 2
            if (node.arg(1).tensor.static or (0,))[0] != 1:
                axes.add(rank - 1 if channels_last else 1)
            continue
        for value in node.inputs:
            if value is None or value.const is None:
                continue
            dims = value.const.shape
            axes |= {rank - len(dims) + i for i, d in enumerate(dims) if d != 1}
    return axes


def chain_axis(nodes: Sequence[Node], source: Value) -> int | None:
    """The one axis along which constants of the chain differ; -1 if none does; None if
    several do or the axis has no known size."""
    rank, axes = len(source.tensor.shape or ()), chain_axes(nodes, source)
    if len(axes) > 1 or rank < 2 or axes & {0}:
        return None
    axis = axes.pop() if axes else -1
    return axis if axis < 0 or isinstance((source.tensor.shape or ())[axis], int) else None


def find_steps(
    nodes: Sequence[Node],
    source: Value,
    reach: Bounds,
    axis: int,
    channels: int | str,
    opsets: dict[str, int],
) -> Steps | None:
    """The thresholds of the map `nodes` (first to last, ending in a sign or a quantiser) of
    `source`.

    axis: the channel axis, -1 if all channels share one map (then channels is 1).
    None if the map is no step: it rises and falls, or is too wide to try and not rising; or
    if a threshold one past the last integer would leave i32.
    """
    assert isinstance(channels, int)
    if reach.low < _LOWEST or reach.high > _HIGHEST:
        return None
    to = nodes[-1].output.elem
    run = SignMap(nodes, source, axis, channels, opsets)
    count = (reach.high - reach.low) // reach.step + 1
    if count * channels <= _ALL:
        values = reach.low + reach.step * np.arange(count, dtype=np.int64)
        rows = max(1, _CHUNK // channels)
        signs = [run(np.repeat(values[i : i + rows, None], channels, 1))
                 for i in range(0, count, rows)]  # fmt: skip
        return _within_i32(_from_table(values, np.concatenate(signs), to))
    if not all(rising(n) for n in nodes):
        return None
    thresholds = [_bisect(run, reach, channels, level) for level in _levels(to)]
    return _within_i32(Steps(np.stack(thresholds, 1), np.ones(channels, np.int8), to))


def _levels(to: str) -> range:
    """The values of an element type that need a threshold: all but the lowest."""
    low, high = int_range(to)
    return range(high, high + 1) if to == "bip" else range(low + 1, high + 1)


def _within_i32(steps: Steps | None) -> Steps | None:
    fits = steps is not None and bool((steps.thresholds <= _HIGHEST).all())
    return steps if fits else None


class SignMap:
    """A float map of each element that ends in a sign or a quantiser, made ready to run on
    candidates."""

    def __init__(
        self, nodes: Sequence[Node], source: Value, axis: int, channels: int, opsets: dict[str, int]
    ) -> None:
        rank = len(source.tensor.shape or ())
        dims: list[int | str] = [1] * rank
        dims[0] = "n"
        if axis >= 0:
            dims[axis] = channels
        self._shape = [d if isinstance(d, int) else -1 for d in dims]
        self._dtype = container(source.elem)
        given = Value("given", TensorType(source.elem, tuple(dims)))
        graph = Graph("map", [given], opsets=opsets)
        x = given
        for node in nodes:
            index = data_input(node)
            assert index is not None
            inputs = list(node.inputs)
            inputs[index] = x
            x = Value(node.output.name, TensorType(node.output.elem, tuple(dims)))
            graph.nodes.append(Node(node.op, inputs, [x], dict(node.attrs)))
            graph.consts += [v for v in inputs if v is not None and v.const is not None]
        graph.consts = list(dict.fromkeys(graph.consts))
        graph.outputs = [x]
        graph.output_names = ["sign"]
        graph.input_names = ["given"]
        self._evaluate = Evaluator(graph)

    def __call__(self, candidates: Any) -> Any:
        """Results int16 [rows, channels] for values [rows, channels]."""
        x = candidates.astype(self._dtype).reshape(self._shape)
        return self._evaluate({"given": x})["sign"].reshape(candidates.shape).astype(np.int16)


def _from_table(values: Any, found: Any, to: str) -> Steps | None:
    """Steps from the results [values, channels]; None if a channel is no step."""
    if to == "tern" and not (found == 0).any():
        to = "bip"
    climbs = np.all(found[1:] >= found[:-1], axis=0)
    if not np.all(climbs | np.all(found[1:] <= found[:-1], axis=0)):
        return None
    flips = np.where(climbs, 1, -1).astype(np.int8)
    low, high = int_range(to)
    rising_ones = np.where(climbs, found, low + high - found)
    ends = np.append(values, values[-1] + 1)  # one past the last where a level is never reached
    thresholds = [
        ends[np.searchsorted(rising_ones[:, c], _levels(to))] for c in range(found.shape[1])
    ]
    return Steps(np.stack(thresholds), flips, to)


def _bisect(run: SignMap, reach: Bounds, channels: int, level: int) -> Any:
    """The smallest value whose sign is at least `level`, for each channel of a rising map."""
    low = np.full(channels, reach.low, np.int64)
    high = np.full(channels, reach.high + 1, np.int64)
    while np.any(low < high):
        middle = (low + high) // 2
        tried = np.minimum(middle, reach.high)
        reached = (run(tried[None])[0] >= level) & (middle <= reach.high)
        high = np.where((low < high) & reached, middle, high)
        low = np.where((low < high) & ~reached, middle + 1, low)
    return low
