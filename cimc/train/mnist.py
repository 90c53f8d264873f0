"""The published network for 28 x 28 images, and how it is trained on MNIST."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch.nn.functional as nnf
from torch import Tensor, nn

from cimc.train.choose import Nearest, Published
from cimc.train.data import read_images
from cimc.train.layers import BinaryConv2d
from cimc.train.preset import MakePruner, Preset
from cimc.train.pruner import Schedule, SimilarityPruner
from cimc.train.quantisers import sign
from cimc.train.settings import Settings

PIXEL_MAX, PIXEL_MEAN, PIXEL_STD = 255.0, 0.1307, 0.3081
SHAPE, CLASSES = (1, 28, 28), 10
read = partial(read_images, shape=SHAPE, classes=CLASSES)


class ThreeConvolutions(nn.Module):
    """Three binary 3x3 convolutions, 1 to 32 to 64 to 16 kernels, and three float layers, as in
    the published code, with batch normalisation after each convolution and gradients through the
    signs; falling: see `quantisers.sign`."""

    def __init__(self, falling: bool = False) -> None:
        super().__init__()
        self.falling = falling
        self.conv1 = BinaryConv2d(1, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = BinaryConv2d(32, 64, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.conv3 = BinaryConv2d(64, 16, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(16)
        self.fc1 = nn.Linear(784, 256)
        self.fc2 = nn.Linear(256, 128)
        self.fc3 = nn.Linear(128, 10)
        for layer in (self.conv1, self.conv2, self.conv3):
            nn.init.uniform_(layer.weight, -0.5, 0.5)

    def forward(self, image: Tensor) -> Tensor:
        x = sign((image.float() / PIXEL_MAX - PIXEL_MEAN) / PIXEL_STD)
        x = sign(nnf.max_pool2d(self.bn1(self.conv1(x)), 2), falling=self.falling)
        x = sign(nnf.max_pool2d(self.bn2(self.conv2(x)), 2), falling=self.falling)
        x = nnf.relu(self.bn3(self.conv3(x))).flatten(1)
        x = nnf.relu(self.fc1(x))
        x = nnf.relu(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits


class FrozenConvolutions(nn.Module):
    """The published network as its code has it: weights and inputs of the convolutions become
    signs outside of the gradient, so that only the last convolution's bias and the float layers
    learn; there is no batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = BinaryConv2d(1, 32, 3, padding=1)
        self.conv2 = BinaryConv2d(32, 64, 3, padding=1)
        self.conv3 = BinaryConv2d(64, 16, 3, padding=1)
        self.fc1 = nn.Linear(784, 256)
        self.fc2 = nn.Linear(256, 128)
        self.fc3 = nn.Linear(128, 10)
        for layer in (self.conv1, self.conv2, self.conv3):
            layer.weight.requires_grad_(False)
        # A sign with zero padding and no gradient: biases of layers in front learn nothing.
        for layer in (self.conv1, self.conv2):
            assert layer.bias is not None
            layer.bias.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        x = sign((image.float() / PIXEL_MAX - PIXEL_MEAN) / PIXEL_STD)
        x = sign(nnf.relu(nnf.max_pool2d(self.conv1(x), 2)))
        x = sign(nnf.relu(nnf.max_pool2d(self.conv2(x), 2)))
        x = nnf.relu(self.conv3(x)).flatten(1)
        x = nnf.relu(self.fc1(x))
        x = nnf.relu(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits


def removing(share: float) -> MakePruner:
    """Pruners of `ThreeConvolutions` that take this share of the convolutions' MACs, 0 to 1, in
    the first tenth of the epochs."""
    # Nine weights of a kernel of conv1 are cheap to judge alike: a quarter of them stays.
    criterion = Nearest(remove=share, limits=(("conv1", 0.75),))

    def make(model: nn.Module, example: Tensor, settings: Settings) -> SimilarityPruner:
        schedule = Schedule(1, max(1, settings.epochs // 10))
        return SimilarityPruner(model, criterion, schedule, example=example)

    return make


def _published(model: nn.Module, example: Tensor, settings: Settings) -> SimilarityPruner:
    schedule = Schedule(1, settings.epochs)
    return SimilarityPruner(model, Published("binary", "literal"), schedule, example=example)


OURS = Preset(
    "mnist",
    "ours",
    "85 % of the convolutions' MACs removed while training",
    partial(ThreeConvolutions, falling=True),
    read,
    Settings(epochs=40, batch=128, lr=1e-2, shift=1),
    removing(0.85),
)
PRESETS = (
    OURS,
    replace(OURS, name="dense", summary="the same network, nothing removed", pruner=None),
    Preset(
        "mnist",
        "published",
        "the published script's settings and quirks, literally",
        FrozenConvolutions,
        read,
        Settings(epochs=2, batch=64, lr=1e-3, cosine=False, keep="last", shrink=False),
        _published,
    ),
)
