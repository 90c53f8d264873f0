"""Convolutions and linear layers whose weights have few levels.

y = (sum of x · levels) · scale + bias, in this order: where x are integers, or integers times a
power of two, the sum is exact in float32, and the exported program has the same one. Layers of
your own are subclasses of `LevelConv2d` and `LevelLinear` that say what their levels are.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from cimc.train import quantisers

SCALES = ("none", "channel", "layer")
"""The levels as they are; times one number a kernel; times one number."""


class Levels(nn.Module):
    """What convolutions and linear layers of few levels share.

    weight: float weights that are trained, [N, …]. mask: 1 where a weight counts and 0 where it
    is pruned, broadcast to the weights; None: all count.
    """

    weight: Any
    bias: Any
    mask: Tensor | None

    def __init_levels__(self, scale: str) -> None:
        if scale not in SCALES:
            raise ValueError(f"scale must be one of {', '.join(SCALES)}")
        self.scale_by = scale
        self.register_buffer("mask", None, persistent=False)  # a pruner's, which saves it

    def levels(self) -> Tensor:
        """Integers, as floats of the weights' shape, with straight-through gradients."""
        raise NotImplementedError

    def scale(self) -> Tensor | None:
        """What the sums are multiplied by, [N] or []; None: by nothing."""
        if self.scale_by == "none":
            return None
        size: Tensor = self.weight.detach().abs()
        return size.mean() if self.scale_by == "layer" else size.flatten(1).mean(1)

    def counted_levels(self) -> Tensor:
        """The levels that are not pruned; 0 elsewhere."""
        levels = self.levels()
        return levels if self.mask is None else levels * self.mask

    def finish(self, sums: Tensor) -> Tensor:
        """Scale and bias; sums: [batch, N, …]."""
        shape = (-1, *(1,) * (sums.dim() - 2))
        scale = self.scale()
        if scale is not None:
            sums = sums * scale.reshape(shape if scale.dim() else ())
        return sums if self.bias is None else sums + self.bias.reshape(shape)

    def after_step(self) -> None:
        """Called after each step of an optimiser, without gradients."""


class LevelConv2d(nn.Conv2d, Levels):
    """nn.Conv2d with weights of few levels. Padding is zeros. Arguments as there."""

    def __init__(self, *args: object, scale: str = "none", **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        if self.padding_mode != "zeros":
            raise ValueError(f"padding_mode='{self.padding_mode}': only zeros are supported")
        self.__init_levels__(scale)

    def forward(self, x: Tensor) -> Tensor:
        sums = nnf.conv2d(
            x, self.counted_levels(), None, self.stride, self.padding, self.dilation, self.groups
        )
        return self.finish(sums)


class LevelLinear(nn.Linear, Levels):
    """nn.Linear with weights of few levels. Arguments as there."""

    def __init__(self, *args: object, scale: str = "none", **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.__init_levels__(scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(nnf.linear(x, self.counted_levels()))


class _Binary(Levels):
    """Weights -1 and +1; a float weight of 0 is -1. Float weights stay within [-1, 1]: outside,
    the gradient would be 0 for good."""

    def levels(self) -> Tensor:
        return quantisers.sign(self.weight)

    def after_step(self) -> None:
        self.weight.clamp_(-quantisers.WINDOW, quantisers.WINDOW)


class BinaryConv2d(_Binary, LevelConv2d):
    """Weights -1 and +1."""


class BinaryLinear(_Binary, LevelLinear):
    """Weights -1 and +1."""


class _Ternary(Levels):
    """Weights -1, 0 and +1: 0 below a share of the mean size of the kernel's weights."""

    def levels(self) -> Tensor:
        size = self.weight.detach().abs().flatten(1).mean(1)
        threshold = quantisers.TERNARY_SHARE * size.reshape(-1, *(1,) * (self.weight.dim() - 1))
        return quantisers.ternary(self.weight, threshold)

    def scale(self) -> Tensor | None:
        """The mean size of the weights that are not 0, of each kernel or of the layer."""
        if self.scale_by == "none":
            return None
        size: Tensor = self.weight.detach().abs()
        counts = self.levels().detach().abs()
        if self.scale_by == "layer":
            return (size * counts).sum() / counts.sum().clamp(min=1)
        return (size * counts).flatten(1).sum(1) / counts.flatten(1).sum(1).clamp(min=1)

    def after_step(self) -> None:
        self.weight.clamp_(-quantisers.WINDOW, quantisers.WINDOW)


class TernaryConv2d(_Ternary, LevelConv2d):
    """Weights -1, 0 and +1."""


class TernaryLinear(_Ternary, LevelLinear):
    """Weights -1, 0 and +1."""


class _Quant(Levels):
    """Weights of k bits, symmetric: integers up to 2^(k-1) - 1 either way times a scale, which is
    the largest weight's (of each kernel or of the layer)."""

    bits: int

    def __init_bits__(self, bits: int) -> None:
        if not 2 <= bits <= 8:
            raise ValueError(f"bits={bits}: weights have 2 to 8 bits, 1 is Binary")
        if self.scale_by == "none":
            raise ValueError("weights of k bits need a scale: channel or layer")
        self.bits = bits

    def _step(self) -> Tensor:
        size: Tensor = self.weight.detach().abs()
        largest = size.amax() if self.scale_by == "layer" else size.flatten(1).amax(1)
        return largest.clamp(min=1e-12) / ((1 << (self.bits - 1)) - 1)

    def levels(self) -> Tensor:
        step = self._step()
        if step.dim():
            step = step.reshape(-1, *(1,) * (self.weight.dim() - 1))
        return quantisers.rounded(self.weight / step)

    def scale(self) -> Tensor | None:
        return self._step()


class QuantConv2d(_Quant, LevelConv2d):
    """Weights of k bits. bits: 2 to 8."""

    def __init__(self, *args: object, bits: int, scale: str = "channel", **kwargs: object) -> None:
        super().__init__(*args, scale=scale, **kwargs)
        self.__init_bits__(bits)


class QuantLinear(_Quant, LevelLinear):
    """Weights of k bits. bits: 2 to 8."""

    def __init__(self, *args: object, bits: int, scale: str = "channel", **kwargs: object) -> None:
        super().__init__(*args, scale=scale, **kwargs)
        self.__init_bits__(bits)


@torch.no_grad()
def after_step(model: nn.Module) -> None:
    """What layers do after each step of an optimiser."""
    for module in model.modules():
        if isinstance(module, Levels):
            module.after_step()
