"""Layers whose weights are random and stay so: training only chooses which of them count.

Each weight is a fixed random sign. A learned score decides whether it takes part: the largest
|score| of a layer do, at a given share (edge popup, Ramanujan et al., arXiv 1911.13299). What is
left is a ternary weight times one power of two a layer, so that tiles hold a sign plane and a
mask plane, and sums are exact. Knows no training loop and no ONNX.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cimc.errors import CompileError
from cimc.train.layers import LevelConv2d, LevelLinear, Levels


def top_k_mask(ranks: Tensor, k: int) -> Tensor:
    """1.0 at the k largest elements, 0.0 elsewhere: exactly k ones, also where some are equal."""
    mask = torch.zeros(ranks.numel(), dtype=ranks.dtype, device=ranks.device)
    mask[torch.topk(ranks.flatten(), k, sorted=False).indices] = 1.0
    return mask.reshape(ranks.shape)


def magnitude(fan_in: int, sparsity: float) -> float:
    """The power of two next to sqrt(2 / (fan_in · (1 - sparsity))), with which sums of so many
    products keep the size of their inputs (He et al., arXiv 1502.01852); of two equally near, the
    smaller one."""
    exponent = 0.5 - 0.5 * math.log2(fan_in * (1.0 - sparsity))
    return float(2.0 ** math.ceil(exponent - 0.5 - 1e-9))


class _Through(torch.autograd.Function):
    """Forward the mask; backward as if it were |score|."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, edges: Tensor) -> Tensor:
        ctx.save_for_backward(scores)
        return edges.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (scores,) = ctx.saved_tensors
        return grads[0] * scores.sign(), None


class Supermask(Levels):
    """What both layers share.

    weight: the scores, which are learned. signs: -1 or +1, fixed. edges: 1 where a weight takes
    part, renewed by each forward pass in training mode. settled: the score that each element of
    edges had when it was last set. All of the weights' shape, and in the state dict.

    sparsity: share of weights left out, from 0 to less than 1. limit_size: an element of edges
    flips only where its score has changed by at least this share since it was set; the number of
    ones stays. 0: always. literal: as in the published code, since the forward pass before, so
    that slow scores never flip theirs, and the number of ones is nearly kept; limit_size may be
    changed while training, and is in the state dict as `limit`.
    """

    edges: Tensor
    signs: Tensor
    settled: Tensor
    limit: Tensor

    def __init_supermask__(self, sparsity: float, limit_size: float, literal: bool) -> None:
        if not 0.0 <= sparsity < 1.0 or not limit_size >= 0.0:
            raise CompileError(
                f"sparsity={sparsity:g}, limit_size={limit_size:g}: a share of weights to leave "
                "out and a relative change of a score are expected",
                help="sparsity is from 0 to less than 1, limit_size 0 or more",
            )
        self.sparsity, self.literal = sparsity, literal
        scores = self.weight.detach()
        self.kept = max(1, round(scores.numel() * (1.0 - sparsity)))
        self.magnitude = magnitude(scores[0].numel(), sparsity)
        self.register_buffer("signs", torch.randint(0, 2, scores.shape).to(scores.dtype) * 2 - 1)
        self.register_buffer("edges", top_k_mask(scores.abs(), self.kept))
        self.register_buffer("settled", scores.clone())
        self.register_buffer("limit", torch.tensor(limit_size, dtype=torch.float64))

    @property
    def limit_size(self) -> float:
        """The least relative change of a score with which its weight may come or go."""
        return float(self.limit)

    @torch.no_grad()
    def renew(self) -> int:
        """Choose by the scores as they are; returns how many elements of edges flipped."""
        if self.literal:
            return self._renew_literally()
        ranks, limit = self.weight.abs(), self.limit_size
        if limit > 0.0:
            free = (self.weight - self.settled).abs() >= limit * self.settled.abs()
            # Those that may not flip come first or last, as they are.
            ranks = torch.where(free, ranks, (2.0 * self.edges - 1.0) * math.inf)
        wanted = top_k_mask(ranks, self.kept)
        flipped = wanted != self.edges
        self.settled[flipped] = self.weight[flipped]
        self.edges.copy_(wanted)
        return int(flipped.sum())

    def _renew_literally(self) -> int:
        ranks, before = self.weight.abs(), self.settled.abs()
        wanted = top_k_mask(ranks, self.kept)
        wanted = torch.where((ranks - before).abs() < self.limit_size * before, self.edges, wanted)
        flipped = int((wanted != self.edges).sum())
        self.settled.copy_(self.weight)
        self.edges.copy_(wanted)
        return flipped

    def levels(self) -> Tensor:
        """sign where a weight takes part, else 0; gradients pass to all scores."""
        if self.training:
            self.renew()
        edges: Tensor = _Through.apply(self.weight, self.edges)  # type: ignore[no-untyped-call]
        return edges * self.signs

    def scale(self) -> Tensor:
        return torch.tensor(self.magnitude)


class SupermaskConv2d(Supermask, LevelConv2d):
    """nn.Conv2d of fixed random signs behind a learned mask. Arguments as there, but no bias."""

    def __init__(
        self,
        *args: object,
        sparsity: float = 0.5,
        limit_size: float = 0.0,
        literal: bool = False,
        **kwargs: object,
    ) -> None:
        super().__init__(*args, bias=False, **kwargs)  # type: ignore[arg-type]
        self.__init_supermask__(sparsity, limit_size, literal)


class SupermaskLinear(Supermask, LevelLinear):
    """nn.Linear of fixed random signs behind a learned mask. Arguments as there, but no bias."""

    def __init__(
        self,
        *args: object,
        sparsity: float = 0.5,
        limit_size: float = 0.0,
        literal: bool = False,
        **kwargs: object,
    ) -> None:
        super().__init__(*args, bias=False, **kwargs)  # type: ignore[arg-type]
        self.__init_supermask__(sparsity, limit_size, literal)


def supermasks(model: nn.Module) -> Iterator[Supermask]:
    """The layers of a model that have a mask."""
    yield from (layer for layer in model.modules() if isinstance(layer, Supermask))


@torch.no_grad()
def unmask(model: nn.Module) -> None:
    """All random weights take part: the network before any pruning. The statistics of its batch
    normalisation are then others: see `estimate_statistics`. Training mode chooses again."""
    for layer in supermasks(model):
        layer.edges.fill_(1.0)


@torch.no_grad()
def estimate_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Mean and variance of batch normalisation as averages over batches of inputs; all else in
    evaluation mode, and as it was."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the average of all batches
        norm.train()
    for batch in batches:
        model(batch)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    model.eval()
