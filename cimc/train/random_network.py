"""The published network of random weights for 28 x 28 images: what it learns is which weights
count."""

from __future__ import annotations

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
    unmask,
)

PIXELS = 256.0  # a power of two, so that all sums are exact
BITS, RANGE = 4, 4.0  # activations: 16 levels from 0 to 3.75
LIMIT_SIZE = 0.007  # where the published one ends; it begins at 0.01


class RandomNetwork(nn.Module):
    """Max pool on the image, two convolutions 1 to 64 to 16 with batch normalisation without
    parameters, two linear layers 400 to 128 to 10; activations of 4 bits behind each ReLU.

    The layers of the network for Fashion-MNIST of arXiv 2311.07164. sparsity, limit_size: see
    `Supermask`.
    """

    def __init__(self, sparsity: float = 0.5, limit_size: float = 0.0) -> None:
        super().__init__()
        how = {"sparsity": sparsity, "limit_size": limit_size}
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


def _limited() -> RandomNetwork:
    return RandomNetwork(limit_size=LIMIT_SIZE)


def _unpruned(model: nn.Module, data: Data) -> None:
    unmask(model)
    estimate_statistics(model, torch.split(data.x_train, 500))


PRESETS = (
    Preset(
        "fashion",
        "supermask",
        "random weights, half of them chosen by learned scores; the published training",
        _limited,
        read,
        Settings(
            epochs=65, batch=60, lr=0.1, optimizer="sgd", nesterov=False, weight_decay=5e-4,
            held_out=600, keep="last",
        ),
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
