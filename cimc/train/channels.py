"""Which layer makes each channel and which layers read it, in a traced module; and taking channels
out of the module.

A channel that is added to another, or goes where its way can't be followed, is locked. Depthwise
kernels and batch normalisation follow the channels that they work on.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as nnf
from torch import Tensor, fx, nn

from cimc.train import quantisers
from cimc.train.layers import Levels
from cimc.train.trace import Traced, argument, name_of, shape, trace

Numbers = npt.NDArray[np.int64]


@dataclass
class Layer:
    """A convolution or linear layer. out: the numbers of the channels that it makes, [N]. into:
    those of the weights' second axis, [C], None where they are not known. positions: dot products
    with each kernel, for one sample. taps: weights of a kernel for each input channel."""

    name: str
    module: nn.Conv2d | nn.Linear
    positions: int
    taps: int
    out: Numbers
    into: Numbers | None

    @property
    def convolution(self) -> bool:
        return isinstance(self.module, nn.Conv2d)

    def macs(self, live: npt.NDArray[np.bool_]) -> int:
        """Multiply-accumulates with the live channels only. live: by number."""
        inputs = self.module.weight.shape[1] if self.into is None else int(live[self.into].sum())
        return self.positions * int(live[self.out].sum()) * inputs * self.taps


@dataclass
class Channels:
    """All channels of a module by number. layers in the forward's order. followers: modules with
    something for each channel (batch normalisation, depthwise convolutions), with the numbers.
    locked: why a channel must stay, by number."""

    count: int
    layers: list[Layer] = field(default_factory=list)
    followers: list[tuple[str, nn.Module, Numbers]] = field(default_factory=list)
    locked: dict[int, str] = field(default_factory=dict)

    def layer(self, name: str) -> Layer:
        return next(one for one in self.layers if one.name == name)

    def readers(self, name: str) -> list[Layer]:
        """The layers that read what a layer makes."""
        own = self.layer(name).out
        return [r for r in self.layers if r.into is not None and np.isin(own, r.into).any()]


def channels_of(model: nn.Module, example: Tensor) -> Channels:
    """Raises CompileError where the forward can't be traced. example: an input, any batch."""
    found = _Finder(trace(model, example))
    return found.run()


# What keeps channels apart and in place.
_KEEPING: tuple[Any, ...] = (
    nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Identity, nn.Dropout,
    nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, quantisers.Sign,
    quantisers.QuantAct,
)  # fmt: skip
_KEEPING_FUNCTIONS = {
    quantisers.sign, torch.relu, nnf.relu, nnf.leaky_relu, nnf.dropout, nnf.max_pool2d,
    nnf.avg_pool2d, nnf.adaptive_avg_pool2d, torch.sigmoid, torch.tanh, torch.clamp,
}  # fmt: skip
_KEEPING_METHODS = {"relu", "sigmoid", "tanh", "clamp", "contiguous", "float"}
_SCALARS = {operator.add, operator.sub, operator.mul, operator.truediv}


class _Finder:
    def __init__(self, traced: Traced) -> None:
        self.traced = traced
        self.found = Channels(0)
        self.numbers: dict[fx.Node, Numbers | None] = {}
        self.called: dict[nn.Module, Numbers | None] = {}

    def run(self) -> Channels:
        for node in self.traced.nodes:
            self.numbers[node] = self._result(node)
        return self.found

    def _result(self, node: fx.Node) -> Numbers | None:
        if node.op in ("placeholder", "get_attr"):
            return None
        if node.op == "output":
            return self._unknown(node, "the forward returns it")
        module = self.traced.module(node)
        if isinstance(module, nn.Conv2d | nn.Linear):
            return self._layer(node, module)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            return self._batch_norm(node, module)
        if isinstance(module, _KEEPING) or self._keeps(node):
            return self._first(node)
        if isinstance(module, nn.Flatten) or node.target in (torch.flatten, "flatten"):
            return self._flatten(node)
        if node.target is torch.cat:
            return self._cat(node)
        if node.target in ("mean", torch.mean):
            return self._mean(node)
        return self._unknown(node, f"{name_of(module or node.target)} mixes it with others")

    def _first(self, node: fx.Node) -> Numbers | None:
        inputs = node.all_input_nodes
        return self.numbers[inputs[0]] if inputs else None

    def _keeps(self, node: fx.Node) -> bool:
        if node.op == "call_method":
            return node.target in _KEEPING_METHODS
        if node.target in _SCALARS:
            return len(node.all_input_nodes) == 1
        return node.target in _KEEPING_FUNCTIONS

    def _unknown(self, node: fx.Node, why: str) -> Numbers | None:
        """Locks what the operation reads; its result can't be followed."""
        for source in node.all_input_nodes:
            self._lock_numbers(self.numbers[source], why)
        return None

    def _lock_numbers(self, numbers: Numbers | None, why: str) -> None:
        for number in set() if numbers is None else set(numbers.tolist()):
            self.found.locked.setdefault(number, why)

    def _layer(self, node: fx.Node, module: nn.Conv2d | nn.Linear) -> Numbers | None:
        into = self._first(node)
        if module in self.called:
            self._lock_numbers(into, f"'{node.target}' is used twice")
            self._lock_numbers(self.called[module], f"'{node.target}' is used twice")
            return None
        if isinstance(module, nn.Linear) and into is not None and len(shape(node) or ()) != 2:
            self._lock_numbers(into, f"'{node.target}' works along another axis")
            into = None
        groups = module.groups if isinstance(module, nn.Conv2d) else 1
        if groups > 1:
            return self._grouped(node, module, into)
        out = self._new(module.weight.shape[0])
        self._add(node, module, out, into)
        return out

    def _grouped(self, node: fx.Node, module: Any, into: Numbers | None) -> Numbers | None:
        if into is not None and module.groups == module.in_channels == module.out_channels:
            self.called[module] = into
            self.found.followers.append((str(node.target), module, into))
            self._add(node, module, into, None)
            return into
        self._lock_numbers(into, f"'{node.target}' has groups")
        out = self._new(module.weight.shape[0])
        self._add(node, module, out, None)
        self._lock_numbers(out, f"'{node.target}' has groups")
        return out

    def _add(self, node: fx.Node, module: Any, out: Numbers, into: Numbers | None) -> None:
        dims = shape(node) or (1,)
        conv = isinstance(module, nn.Conv2d)
        positions = prod(dims[2:]) if conv else prod(dims[1:-1])
        taps = prod(module.weight.shape[2:])
        self.called[module] = out
        self.found.layers.append(Layer(str(node.target), module, positions, taps, out, into))

    def _new(self, count: int) -> Numbers:
        first = self.found.count
        self.found.count += count
        return np.arange(first, first + count)

    def _batch_norm(self, node: fx.Node, module: nn.Module) -> Numbers | None:
        numbers = self._first(node)
        if module in self.called:
            self._lock_numbers(numbers, f"'{node.target}' is used twice")
            self._lock_numbers(self.called[module], f"'{node.target}' is used twice")
            return numbers
        self.called[module] = numbers
        if numbers is not None:
            self.found.followers.append((str(node.target), module, numbers))
        return numbers

    def _flatten(self, node: fx.Node) -> Numbers | None:
        numbers = self._first(node)
        dims, start = shape(node.all_input_nodes[0]) or (), argument(node, 1, "start_dim", 1)
        module = self.traced.module(node)
        start = getattr(module, "start_dim", start)
        if start != 1 or len(shape(node) or ()) != 2:
            return self._unknown(node, "a flatten joins it with other axes")
        return None if numbers is None else np.repeat(numbers, prod(dims[2:]))

    def _cat(self, node: fx.Node) -> Numbers | None:
        parts = [self.numbers[n] for n in argument(node, 0, "tensors")]
        if argument(node, 1, "dim", 0) != 1 or any(p is None for p in parts):
            return self._unknown(node, "it is joined with what can't be followed")
        return np.concatenate([p for p in parts if p is not None])

    def _mean(self, node: fx.Node) -> Numbers | None:
        axes = argument(node, 1, "dim")
        rank = len(shape(node.all_input_nodes[0]) or ())
        axes = {a % rank for a in ([axes] if isinstance(axes, int) else axes or ())}
        if not axes or axes & {0, 1}:
            return self._unknown(node, "a mean mixes it with others")
        return self._first(node)


# -- taking channels out -----------------------------------------------------------------------


def take_out(
    model: nn.Module,
    channels: Channels,
    live: npt.NDArray[np.bool_],
    optimizer: torch.optim.Optimizer | None = None,
) -> Channels:
    """Make the module smaller, in place, parameters and an optimiser's state included; returns its
    channels, numbered anew. live: by number; locked ones must be."""
    cut = _Cut(optimizer)
    for layer in channels.layers:
        keep = live[layer.out]
        cut.layer(layer, keep, None if layer.into is None else live[layer.into])
    for _, module, numbers in channels.followers:
        if not isinstance(module, nn.Conv2d):
            cut.batch_norm(module, live[numbers])
    new = np.cumsum(live) - 1
    made = Channels(int(live.sum()))
    made.locked = {int(new[n]): why for n, why in channels.locked.items() if live[n]}
    for layer in channels.layers:
        into = None if layer.into is None else new[layer.into[live[layer.into]]]
        out = new[layer.out[live[layer.out]]]
        made.layers.append(Layer(layer.name, layer.module, layer.positions, layer.taps, out, into))
    made.followers = [(n, m, new[ids[live[ids]]]) for n, m, ids in channels.followers]
    return made


class _Cut:
    def __init__(self, optimizer: torch.optim.Optimizer | None) -> None:
        self.optimizer = optimizer

    def tensor(self, owner: nn.Module, name: str, keep: Any, axis: int) -> None:
        """Shorten a parameter or buffer, with what an optimiser holds for it."""
        value = getattr(owner, name)
        if value is None:
            return
        index = torch.from_numpy(np.nonzero(keep)[0])
        if not isinstance(value, nn.Parameter):
            setattr(owner, name, _selected(value, axis, index))
            return
        # A new parameter: graphs of the old one may still be alive, and know its size.
        made = nn.Parameter(_selected(value.data, axis, index), value.requires_grad)
        setattr(owner, name, made)
        if self.optimizer is not None:
            self._exchange(value, made, axis, index)

    def _exchange(self, old: nn.Parameter, new: nn.Parameter, axis: int, index: Tensor) -> None:
        assert self.optimizer is not None
        for group in self.optimizer.param_groups:
            group["params"] = [new if p is old else p for p in group["params"]]
        state = self.optimizer.state.pop(old, None)
        if state is None:
            return
        for key, held in state.items():
            if isinstance(held, Tensor) and held.shape == old.shape:
                state[key] = _selected(held, axis, index)
        self.optimizer.state[new] = state

    def layer(self, layer: Layer, out: Any, into: Any) -> None:
        module: Any = layer.module
        self.tensor(module, "weight", out, 0)
        self.tensor(module, "bias", out, 0)
        if into is not None:
            self.tensor(module, "weight", into, 1)
        if isinstance(module, Levels):
            module.mask = None
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
            return
        depthwise = module.groups > 1 and module.groups == module.in_channels
        module.out_channels = module.weight.shape[0]
        if depthwise:
            module.groups = module.in_channels = module.out_channels
        elif module.groups == 1:
            module.in_channels = module.weight.shape[1]

    def batch_norm(self, module: Any, keep: Any) -> None:
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.tensor(module, name, keep, 0)
        module.num_features = int(keep.sum())


def _selected(value: Tensor, axis: int, index: Tensor) -> Tensor:
    """Some entries along an axis, stored in the order of dimensions that the whole has."""
    found = value.index_select(axis, index)
    if value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last):
        return found.contiguous(memory_format=torch.channels_last)
    return found
