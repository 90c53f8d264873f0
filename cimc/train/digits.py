"""A small network with binary weights for scikit-learn's handwritten digits, 8 x 8 pixels."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as nnf
from torch import Tensor, nn

from cimc.train.data import read_images
from cimc.train.layers import BinaryConv2d, BinaryLinear
from cimc.train.preset import Preset
from cimc.train.quantisers import sign
from cimc.train.settings import Settings

SHAPE, CLASSES = (1, 8, 8), 10
read = partial(read_images, shape=SHAPE, classes=CLASSES)


class Digits(nn.Module):
    """Two binary 3x3 convolutions, 1 to 32 to 32 kernels, and a binary linear layer, each with
    batch normalisation; signs between them. Pixels, 0 to 16, are taken as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = BinaryConv2d(1, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = BinaryConv2d(32, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.fc = BinaryLinear(512, CLASSES, bias=False)
        self.bn3 = nn.BatchNorm1d(CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = sign(self.bn1(self.conv1(image.float())))
        x = sign(nnf.max_pool2d(self.bn2(self.conv2(x)), 2))
        logits: Tensor = self.bn3(self.fc(x.flatten(1)))
        return logits


PRESETS = (
    Preset(
        "digits",
        "dense",
        "8 x 8 pixels, all weights binary, nothing removed",
        Digits,
        read,
        Settings(epochs=150, batch=32, lr=1e-2, shift=1, held_out=135, keep="last"),
    ),
)
