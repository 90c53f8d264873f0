"""The published network of random weights for 28 x 28 images: what it learns is which weights
count. As published, and ours."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from cimc.train.data import Data
from cimc.train.mnist import read
from cimc.train.preset import Preset
from cimc.train.quantisers import QuantReLU
from cimc.train.settings import Settings
from cimc.train.supermask import (
    SupermaskConv2d,
    SupermaskLinear,
    estimate_statistics,
    supermasks,
    unmask,
)

PIXELS = 256.0  # a power of two, so that all sums are exact
BITS, RANGE = 4, 4.0  # activations: 16 levels from 0 to 3.75
LIMIT_SIZE = 0.007
LIMIT_FIRST, LIMIT_LAST, LIMIT_STEPS = 0.01, 0.007, 15  # of the published scripts
RANGE_MOMENTUM = 0.1  # as of batch normalisation


class RandomNetwork(nn.Module):
    """Max pool on the image, two convolutions 1 to 64 to 16 with batch normalisation without
    parameters, two linear layers 400 to 128 to 10; activations of 4 bits behind each ReLU.

    The layers of the network for Fashion-MNIST of arXiv 2311.07164. sparsity, limit_size: see
    `Supermask`.
    """

    def __init__(self, sparsity: float = 0.5, limit_size: float = 0.0) -> None:
        super().__init__()
        how: dict[str, Any] = {"sparsity": sparsity, "limit_size": limit_size}
        self.conv1 = SupermaskConv2d(1, 64, 3, **how)
        self.bn1 = nn.BatchNorm2d(64, affine=False)
        self.act1 = QuantReLU(BITS, RANGE, learned=False)
        self.conv2 = SupermaskConv2d(64, 16, 3, **how)
        self.bn2 = nn.BatchNorm2d(16, affine=False)
        self.act2 = QuantReLU(BITS, RANGE, learned=False)
        self.fc1 = SupermaskLinear(400, 128, **how)
        self.act3 = QuantReLU(BITS, RANGE, learned=False)
        self.fc2 = SupermaskLinear(128, 10, **how)

    def forward(self, image: Tensor) -> Tensor:
        x = nnf.max_pool2d(image.float(), 2) / PIXELS
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.act2(self.bn2(nnf.max_pool2d(self.conv2(x), 2)))
        x = self.act3(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc2(x)
        return logits


class RangeReLU(nn.Module):
    """ReLU to the levels 0 to 2^bits - 1, of which the highest is the largest value of the batch.
    In evaluation mode it is a mean over the batches of training, since a program sees one sample;
    the published scripts take the batch's there too. Gradients pass as through ReLU."""

    step: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.levels = QuantReLU(bits, 2.0**bits, learned=False)
        self.register_buffer("step", torch.tensor(1.0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The levels, and what one is worth."""
        step = self.step
        if self.training:
            step = x.detach().amax().clamp(min=1e-6) / self.levels.high
            with torch.no_grad():
                self.step.lerp_(step, RANGE_MOMENTUM)
        return self.levels(x / step), step


class PublishedRandomNetwork(nn.Module):
    """`RandomNetwork` as the published scripts have it, on digital cells: activations of 4 bits in
    the range of each batch, the pooled image too, flips by the change of a score in one step, and
    sums of random signs divided by sqrt(fan_in / 4).

    Here activations stay levels, since batch normalisation and the next range take their factors
    out again, and so sums are integers; the logits have the factors of the last two layers. The
    published weights are conductances that differ from cell to cell; these are signs.
    """

    def __init__(self) -> None:
        super().__init__()
        how: dict[str, Any] = {"limit_size": LIMIT_FIRST, "literal": True}
        self.pixels = QuantReLU(BITS, 2.0**BITS, learned=False)
        self.conv1 = SupermaskConv2d(1, 64, 3, **how)
        self.bn1 = nn.BatchNorm2d(64, affine=False)
        self.act1 = RangeReLU(BITS)
        self.conv2 = SupermaskConv2d(64, 16, 3, **how)
        self.bn2 = nn.BatchNorm2d(16, affine=False)
        self.act2 = RangeReLU(BITS)
        self.fc1 = SupermaskLinear(400, 128, **how)
        self.act3 = RangeReLU(BITS)
        self.fc2 = SupermaskLinear(128, 10, **how)
        published = [2.0 / layer.in_features**0.5 for layer in (self.fc1, self.fc2)]
        self.factor = published[0] * published[1] / (self.fc1.magnitude * self.fc2.magnitude)

    def forward(self, image: Tensor) -> Tensor:
        # Pixels 0 to 255 as 16 levels. Mean and deviation of the published normalisation cancel:
        # there is no padding, and batch normalisation follows.
        x = self.pixels(nnf.max_pool2d(image.float(), 2) / 17.0)
        x, _ = self.act1(self.bn1(self.conv1(x)))
        x, step2 = self.act2(self.bn2(nnf.max_pool2d(self.conv2(x), 2)))
        x, step3 = self.act3(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc2(x) * (step2 * step3 * self.factor)
        return logits


def lower_limits(model: nn.Module) -> None:
    """Let more weights flip, as the published scripts do whenever accuracy is the best so far."""
    for layer in supermasks(model):
        layer.limit -= (LIMIT_FIRST - LIMIT_LAST) / LIMIT_STEPS


def _limited() -> RandomNetwork:
    return RandomNetwork(limit_size=LIMIT_SIZE)


def _unpruned(model: nn.Module, data: Data) -> None:
    unmask(model)
    estimate_statistics(model, torch.split(data.x_train, 500))


PRESETS = (
    Preset(
        "fashion",
        "supermask",
        "random weights, half of them chosen by learned scores",
        _limited,
        read,
        Settings(
            epochs=65, batch=60, lr=0.1, optimizer="sgd", nesterov=False, weight_decay=5e-4,
            held_out=600, keep="last",
        ),
    ),
    Preset(
        "fashion",
        "supermask-published",
        "the published scripts' settings and rule of flips, literally",
        PublishedRandomNetwork,
        read,
        Settings(
            epochs=65, batch=60, lr=0.1, optimizer="sgd", nesterov=False, weight_decay=5e-4,
            held_out=600,
        ),
        better=lower_limits,
    ),
    Preset(
        "fashion",
        "random",
        "the network of `supermask` before training, with all of its random weights",
        _limited,
        read,
        Settings(epochs=0, batch=60, held_out=600),
        finish=_unpruned,
    ),
)  # fmt: skip
