"""Masks on a module's parameters: what is pruned stays as it is, whatever the optimiser does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cimc.train.channels import Channels, Layer
from cimc.train.choose import Bools
from cimc.train.layers import Levels


@dataclass
class _Held:
    """A parameter, where it is trained (bool), and what it is elsewhere (None: 0). before: what
    it was there when it was masked, for kernels that return."""

    parameter: nn.Parameter
    mask: Tensor
    value: Tensor | None
    before: Tensor


class Masks:
    """By the name of the parameter."""

    def __init__(self) -> None:
        self.held: dict[str, _Held] = {}

    @torch.no_grad()
    def apply(
        self, channels: Channels, live: Bools, optimizer: torch.optim.Optimizer | None
    ) -> None:
        """Mask what is not live: kernels, the input channels of layers, batch normalisation.
        Layers of few levels get the mask, and keep their float weights; others get zeros."""
        for layer in channels.layers:
            alive = torch.from_numpy(live[layer.out])
            columns = torch.ones(layer.module.weight.shape[1], dtype=torch.bool)
            if layer.into is not None:
                columns = torch.from_numpy(live[layer.into])
            mask = alive[:, None] & columns
            mask = mask.reshape(*mask.shape, *(1,) * (layer.module.weight.dim() - 2))
            levels = isinstance(layer.module, Levels)
            if isinstance(layer.module, Levels):
                layer.module.mask = None if bool(mask.all()) else mask.float()
            self._mask(f"{layer.name}.weight", layer.module.weight, mask, levels, optimizer)
            if layer.module.bias is not None:
                self._mask(f"{layer.name}.bias", layer.module.bias, alive, False, optimizer)
        for name, module, numbers in channels.followers:
            if not isinstance(module, nn.Conv2d):
                alive = torch.from_numpy(live[numbers])
                for part in ("weight", "bias"):
                    value = getattr(module, part)
                    if value is not None:
                        self._mask(f"{name}.{part}", value, alive, False, optimizer)

    def overwrite(self, layer: Layer, live: Bools, optimizer: torch.optim.Optimizer | None) -> None:
        """As the published script: a layer's weights become their signs, 0 where a kernel is gone;
        gradients are stopped where a weight is 0, and no more than that."""
        weight = layer.module.weight
        alive = torch.from_numpy(live[layer.out]).reshape(-1, *(1,) * (weight.dim() - 1))
        weight.copy_(weight.sign() * alive)
        self._mask(f"{layer.name}.weight", weight, weight != 0, False, optimizer)

    def _mask(
        self,
        name: str,
        parameter: Any,
        mask: Tensor,
        keep: bool,
        optimizer: torch.optim.Optimizer | None,
    ) -> None:
        old = self.held.pop(name, None)
        mask = mask.expand_as(parameter)
        if old is None and bool(mask.all()):
            return
        before = parameter.detach().clone()
        if old is not None:
            before = torch.where(old.mask, before, old.before)
            back = mask & ~old.mask
            parameter.copy_(torch.where(back, before, parameter))
        if bool(mask.all()):
            return
        value = before.clone() if keep else None
        one = _Held(parameter, mask.clone(), value, before)
        self.held[name] = one
        _rest(one)
        state = optimizer.state.get(parameter, {}) if optimizer is not None else {}
        for held in state.values():
            if isinstance(held, Tensor) and held.shape == parameter.shape:
                held.mul_(mask)

    def stop_gradients(self) -> None:
        """Before a step: no gradient where a parameter is masked."""
        for one in self.held.values():
            if one.parameter.grad is not None:
                one.parameter.grad.mul_(one.mask)

    @torch.no_grad()
    def hold(self) -> None:
        """After a step: masked elements as they were."""
        for one in self.held.values():
            _rest(one)

    def remembered(self, layer: Layer) -> Any:
        """A layer's kernels, masked ones as they were when they were masked."""
        one = self.held.get(f"{layer.name}.weight")
        weight = layer.module.weight.detach()
        if one is not None:
            weight = torch.where(one.mask, weight, one.before)
        return np.sign(weight.numpy()) if isinstance(layer.module, Levels) else weight.numpy()

    def forget(self) -> None:
        """No masks any more: what was masked is taken out."""
        self.held.clear()

    def state_dict(self) -> dict[str, Any]:
        return {
            name: {"mask": one.mask, "value": one.value, "before": one.before}
            for name, one in self.held.items()
        }

    def restore(
        self, channels: Channels, live: Bools, literal: bool, state: dict[str, Any]
    ) -> None:
        """The masks of `state_dict`, on a module of the same sizes."""
        modules: dict[str, Any] = {one.name: one.module for one in channels.layers}
        modules |= {name: module for name, module, _ in channels.followers}
        if not literal and not live.all():
            self.apply(channels, live, None)
        for name, saved in state.items():
            owner, part = name.rsplit(".", 1)
            parameter = getattr(modules[owner], part)
            self.held[name] = _Held(parameter, saved["mask"], saved["value"], saved["before"])


def _rest(one: _Held) -> None:
    other = torch.zeros_like(one.parameter) if one.value is None else one.value
    one.parameter.copy_(torch.where(one.mask, one.parameter, other))
