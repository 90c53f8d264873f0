"""Functions of few levels, with gradients that pass through them (straight-through estimators).

Tensors in, tensors out; layers use them on weights and activations. Each may stand in the forward
of any module: the exporter knows them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

WINDOW = 1.0
"""Straight-through gradients of signs are 0 where |x| is larger."""
TERNARY_SHARE = 0.7
"""Weights below this share of the mean size of their kernel are 0: ternary weight networks, Li et
al., arXiv 1605.04711, equation 6."""


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, zero: int, window: float, falling: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.window, ctx.falling = window, falling
        high = x > 0 if zero < 0 else x >= 0
        return high.to(x.dtype).mul_(2).sub_(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        if ctx.falling:
            return grads[0] * (2 - x.abs() * (2 / ctx.window)).clamp_(min=0), None, None, None
        return grads[0] * (x.abs() <= ctx.window), None, None, None


class _Ternary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: Tensor, window: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.window = window
        return x.sign() * (x.abs() > threshold)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return grads[0] * (x.abs() <= ctx.window), None, None


class _Through(torch.autograd.Function):
    """Rounds; the gradient passes as if it did not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, up: bool) -> Tensor:
        return x.ceil() if up else x.round()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def _apply(function: Any, *args: Any) -> Tensor:
    found: Tensor = function.apply(*args)
    return found


def sign(x: Tensor, zero: int = -1, window: float = WINDOW, falling: bool = False) -> Tensor:
    """-1 or +1 for each element; 0 becomes `zero`, which is -1 or +1. The gradient passes where
    |x| <= window; falling: times 2 - 2·|x| / window there, which is nearer to the sign's own
    (Bi-Real Net, Liu et al., arXiv 1808.00278)."""
    if has_torch_function_unary(x):  # so that tracing sees one operation
        options: dict[str, Any] = {"zero": zero, "window": window, "falling": falling}
        found: Tensor = handle_torch_function(sign, (x,), x, **options)
        return found
    return _apply(_Sign, x, zero, window, falling)


def ternary(x: Tensor, threshold: Tensor, window: float = WINDOW) -> Tensor:
    """The sign where |x| > threshold, else 0. The gradient passes where |x| <= window."""
    return _apply(_Ternary, x, threshold, window)


def rounded(x: Tensor) -> Tensor:
    """To the nearest integer, halves to the even one; the gradient is 1."""
    return _apply(_Through, x, False)


def rounded_up(x: Tensor) -> Tensor:
    """To the next integer above; the gradient is 1."""
    return _apply(_Through, x, True)


class Sign(nn.Module):
    """`sign` as a module."""

    def __init__(self, zero: int = -1, window: float = WINDOW, falling: bool = False) -> None:
        super().__init__()
        self.zero, self.window, self.falling = zero, window, falling

    def forward(self, x: Tensor) -> Tensor:
        return sign(x, self.zero, self.window, self.falling)


class QuantAct(nn.Module):
    """Activations of k bits: x to the nearest multiple of a step within the range.

    The step is a power of two, so that sums of products in float32 are exact: the range is
    2^ceil(log2_clip), signed ones from -that on. A learned clip follows the gradient of log2_clip
    (trained quantisation thresholds, Jain et al., arXiv 1903.08066).

    bits: 1 to 8 (signed: 2 to 8). clip: the range at the start, more than 0.
    """

    def __init__(
        self, bits: int, signed: bool = False, clip: float = 4.0, learned: bool = True
    ) -> None:
        super().__init__()
        if not 1 + signed <= bits <= 8 or not clip > 0:
            raise ValueError(f"bits={bits}, clip={clip}: bits are {1 + signed} to 8, clip above 0")
        self.bits, self.signed = bits, signed
        start = torch.tensor(clip).log2()
        if learned:
            self.log2_clip: Tensor = nn.Parameter(start)
        else:
            self.register_buffer("log2_clip", start)

    @property
    def low(self) -> int:
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        return (1 << (self.bits - self.signed)) - 1

    def step(self) -> Tensor:
        """What one level is worth; a power of two."""
        return torch.exp2(rounded_up(self.log2_clip)) / (self.high + 1)

    def forward(self, x: Tensor) -> Tensor:
        step = self.step()
        return rounded(x / step).clamp(self.low, self.high) * step


class QuantReLU(QuantAct):
    """ReLU with outputs of k bits: `QuantAct` without sign."""

    def __init__(self, bits: int, clip: float = 4.0, learned: bool = True) -> None:
        super().__init__(bits, False, clip, learned)
