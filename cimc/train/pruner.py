"""Pruning while training: kernels of a live network that are alike lose all but one of them.

A pruner looks at a module's kernels at the end of epochs or every n steps, and masks those that a
criterion takes: weights, gradients, and what the optimiser remembers. What follows a kernel (batch
normalisation, the input channels of the layers behind) goes with it, so that the masked module
computes what the smaller one does, which `shrink` makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cimc.errors import CompileError
from cimc.train import choose
from cimc.train.channels import Layer, channels_of, take_out
from cimc.train.choose import Bools, Nearest, Published
from cimc.train.layers import Levels
from cimc.train.masks import Masks


@dataclass(frozen=True)
class Schedule:
    """When: from `start` to `stop`, both included, in epochs (every=0) or steps of the optimiser,
    then every so many. The share that is to be gone grows from the start to the stop as
    1 - (1 - t)³ (ramp=cubic; Zhu and Gupta, arXiv 1710.01878) or as t (linear)."""

    start: int = 1
    stop: int = 1
    every: int = 0
    ramp: str = "cubic"

    def __post_init__(self) -> None:
        if (
            not 0 < self.start <= self.stop
            or self.every < 0
            or self.ramp not in ("cubic", "linear")
        ):
            raise ValueError("0 < start <= stop, every from 0 on, ramp cubic or linear")

    def due(self, at: int) -> bool:
        """Whether kernels go at this epoch or step."""
        inside = self.start <= at <= self.stop
        return inside and (not self.every or (at - self.start) % self.every == 0)

    def share(self, at: int) -> float:
        """How much of the goal is to be reached then, 0 to 1."""
        every = self.every or 1
        turns = (self.stop - self.start) // every + 1
        t = min(1.0, ((at - self.start) // every + 1) / turns)
        return t if self.ramp == "linear" else 1 - (1 - t) ** 3

    def last(self) -> int:
        """The epoch or step of the last pruning."""
        every = self.every or 1
        return self.start + (self.stop - self.start) // every * every


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of the convolutions for one sample: of the dense network, with spatial
    size, and of what is left, input channels that went included."""

    dense: int
    left: int

    @property
    def removed(self) -> float:
        """Share of the dense network's that is gone."""
        return 1 - self.left / self.dense if self.dense else 0.0


class SimilarityPruner:
    """Prunes a module's convolutions.

    example: an input, any batch; the forward must be traceable. layers: names of those that are
    judged; all convolutions otherwise. Convolutions with groups and those whose channels are added
    to others' are not: `locked` says why, by name.

    Use: `attach(optimizer)` once; `step()` after each of its steps, `epoch(n)` after each epoch.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Nearest | Published,
        schedule: Schedule,
        *,
        example: Tensor,
        layers: tuple[str, ...] = (),
    ) -> None:
        self.model, self.criterion, self.schedule = model, criterion, schedule
        self.channels = channels_of(model, example)
        self.locked: dict[str, str] = {}
        self._judged = self._prunable(layers)
        self.live: Bools = np.ones(self.channels.count, np.bool_)
        self.dense = self._macs()
        self._first = {one.name: len(one.out) for one in self.channels.layers}
        self._kernel = {one.name: one.module.weight[0].numel() for one in self.channels.layers}
        self._numbers = np.arange(self.channels.count)  # the dense network's, of those left
        self._masks = Masks()
        self._optimizer: torch.optim.Optimizer | None = None
        self._importance = torch.zeros(self.channels.count, dtype=torch.float64)
        self._steps = self._done = 0

    def _prunable(self, wanted: tuple[str, ...]) -> list[str]:
        convolutions = [one for one in self.channels.layers if one.convolution]
        unknown = sorted(set(wanted) - {one.name for one in convolutions})
        if unknown:
            raise CompileError(
                f"no convolution {', '.join(unknown)}",
                type(self.model).__name__,
                help=f"there is {', '.join(one.name for one in convolutions)}",
            )
        found = []
        for one in convolutions:
            why = self._why_not(one)
            if why:
                self.locked[one.name] = why
            elif not wanted or one.name in wanted:
                found.append(one.name)
        return found

    def _why_not(self, layer: Layer) -> str:
        if isinstance(layer.module, nn.Conv2d) and layer.module.groups > 1:
            return "it has groups: its kernels follow their inputs"
        why = [self.channels.locked[n] for n in layer.out.tolist() if n in self.channels.locked]
        return why[0] if why else ""

    @property
    def literal(self) -> bool:
        """Whether kernels are overwritten only, as in the published script."""
        return isinstance(self.criterion, Published) and self.criterion.mode == "literal"

    # -- during training --

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Hold masked parameters in this optimiser."""
        self._optimizer = optimizer
        optimizer.register_step_pre_hook(lambda *_: self._before_step())
        optimizer.register_step_post_hook(lambda *_: self._masks.hold())

    def _before_step(self) -> None:
        if isinstance(self.criterion, Nearest) and not self.finished(self._done):
            self._measure()
        self._masks.stop_gradients()

    def step(self) -> list[str]:
        """After a step of the optimiser; prunes if the schedule counts steps. Returns notes."""
        self._steps += 1
        if self.schedule.every and self.schedule.due(self._steps):
            return self._prune(self._steps)
        return []

    def epoch(self, number: int) -> list[str]:
        """After an epoch, counted from 1; prunes if the schedule counts epochs. Returns notes."""
        self._done = number
        if not self.schedule.every and self.schedule.due(number):
            return self._prune(number)
        return []

    def begins(self, epoch: int) -> bool:
        """Whether the first pruning comes at the end of this epoch, or may come during the next."""
        return epoch == 1 if self.schedule.every else epoch >= self.schedule.start

    def finished(self, epoch: int) -> bool:
        """Whether no pruning comes after this epoch."""
        return (self._steps if self.schedule.every else epoch) >= self.schedule.last()

    # -- what is left --

    def macs(self) -> Macs:
        """Of the convolutions."""
        return Macs(self.dense, self._macs())

    def kernels(self) -> dict[str, int]:
        """Live kernels of the convolutions, by name."""
        convolutions = [one for one in self.channels.layers if one.convolution]
        return {one.name: int(self.live[one.out].sum()) for one in convolutions}

    def zero_weights(self) -> float:
        """Share of the dense convolutions' weights in kernels that went, as the published scripts
        log it: no input channels, no spatial size."""
        whole = left = 0
        for one in self.channels.layers:
            if one.convolution:
                kernel = self._kernel[one.name]
                whole += self._first[one.name] * kernel
                left += int(self.live[one.out].sum()) * kernel
        return 1 - left / whole if whole else 0.0

    def _macs(self) -> int:
        return sum(one.macs(self.live) for one in self.channels.layers if one.convolution)

    def _layers(self) -> list[Layer]:
        return [self.channels.layer(name) for name in self._judged]

    # -- pruning --

    @torch.no_grad()
    def _prune(self, at: int) -> list[str]:
        before = self.kernels()
        if isinstance(self.criterion, Published):
            notes = self._published(self.criterion)
        else:
            notes = self._nearest(self.criterion, at)
        self._importance.zero_()
        now = self.kernels()
        changed = [f"{n} {before[n]} → {now[n]}" for n in now if now[n] != before[n]]
        return [f"kernels: {', '.join(changed)}" if changed else "kernels: none went", *notes]

    def _published(self, criterion: Published) -> list[str]:
        notes = []
        for layer in self._layers():
            weights = self._weights(layer)
            gone = criterion.pruned(weights) & self.live[layer.out]
            if not self.literal and gone.sum() == self.live[layer.out].sum():
                gone[int(np.argmax(self.live[layer.out]))] = False
                notes.append(f"{layer.name}: the criterion takes all kernels; one stays")
            self.live[layer.out[gone]] = False
            if self.literal:
                self._masks.overwrite(layer, self.live, self._optimizer)
        if not self.literal:
            self._apply()
        return notes

    def _weights(self, layer: Layer) -> Any:
        """A layer's kernels, zeros where they or their inputs are gone, [N, …]."""
        module = layer.module
        if self.literal or not isinstance(module, Levels):
            return module.weight.detach().numpy()
        return module.counted_levels().detach().numpy()

    def _nearest(self, criterion: Nearest, at: int) -> list[str]:
        if criterion.regrow and at < self.schedule.last():
            self._regrow(criterion.regrow)
        goal = criterion.remove * self.schedule.share(at)
        budget = int(self.dense * (1 - goal))
        steps, full = choose.cheapest_first(
            self.channels,
            self._layers(),
            self.live,
            lambda one: self._weights(one).reshape(len(one.out), -1),
            self._importance.numpy() + 1e-12,
            lambda one: criterion.least(one, self._first[one.name]),
            budget,
        )
        for step in steps:
            self.live[step.channel] = False
            if criterion.merge:
                self._merge(step)
        self._apply()
        short = self._macs() > budget
        said = f"at the least of {', '.join(full)}" if full else ""
        return [f"{said}: {goal:.0%} of the MACs can't go"] if short else []

    def _merge(self, step: choose.Step) -> None:
        for layer in self.channels.layers:
            if layer.into is None or not (layer.into == step.channel).any():
                continue
            weight = layer.module.weight
            gone = torch.from_numpy(np.nonzero(layer.into == step.channel)[0])
            twin = torch.from_numpy(np.nonzero(layer.into == step.twin)[0])
            if len(gone) == len(twin):
                weight[:, twin] += step.sign * weight[:, gone]

    def _regrow(self, share: float) -> None:
        """Masked kernels return that are least like the living ones."""
        for layer in self._layers():
            alive = self.live[layer.out]
            count = int(share * (~alive).sum())
            if not count:
                continue
            rows = self._masks.remembered(layer).reshape(len(alive), -1)
            likeness = np.abs(choose.alike(rows))[:, alive].max(1)
            likeness[alive] = 2
            back = np.argsort(likeness, kind="stable")[:count]
            self.live[layer.out[back]] = True
        self._apply()

    def _apply(self) -> None:
        self._masks.apply(self.channels, self.live, self._optimizer)

    # -- importance --

    @torch.no_grad()
    def _measure(self) -> None:
        """Adds the squares of what the loss would change to first order if a channel were 0, from
        the gradients at hand: the sum of gradient times activation is γ·dL/dγ + β·dL/dβ of the
        batch normalisation behind it, else w·dL/dw + b·dL/db of the kernel itself (Molchanov et
        al., arXiv 1906.10771)."""
        normed = {
            int(numbers[0]): module
            for _, module, numbers in self.channels.followers
            if isinstance(module, nn.BatchNorm2d) and module.affine and len(numbers)
        }
        for layer in self._layers():
            module = normed.get(int(layer.out[0]), layer.module)
            change = torch.zeros(len(layer.out))
            for p in (module.weight, module.bias):
                if p is not None and p.grad is not None:
                    change += (p * p.grad).flatten(1).sum(1) if p.dim() > 1 else p * p.grad
            index = torch.from_numpy(layer.out)
            self._importance[index] += change.double() ** 2

    # -- smaller, saved, restored --

    def shrink(self) -> None:
        """Take masked kernels out of the module and the optimiser's state for good."""
        if self.literal or self.live.all():
            return
        self._masks.forget()
        self.channels = take_out(self.model, self.channels, self.live, self._optimizer)
        self._numbers = self._numbers[self.live]
        self._importance = self._importance[torch.from_numpy(self.live)]
        self.live = np.ones(self.channels.count, np.bool_)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next prunings depend on but the module's weights."""
        return {
            "layers": dict(self._first),
            "numbers": self._numbers.tolist(),
            "live": self.live.tolist(),
            "importance": self._importance.clone(),
            "steps": self._steps,
            "epochs": self._done,
            "masks": self._masks.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Masks and sizes of a saved pruner, on the dense module: load the module's weights after
        that, then the optimiser's. Raises CompileError where it was another module's."""
        if state["layers"] != self._first:
            raise CompileError(
                "the pruner's state is of another network",
                type(self.model).__name__,
                help=f"it has {state['layers']}, this one {self._first}",
            )
        kept = np.zeros(self.channels.count, np.bool_)
        kept[np.isin(self._numbers, state["numbers"])] = True
        self.live = kept
        self.shrink()
        self.live = np.array(state["live"], np.bool_)
        self._importance = state["importance"].clone()
        self._steps, self._done = state["steps"], state["epochs"]
        self._masks.restore(self.channels, self.live, self.literal, state["masks"])
