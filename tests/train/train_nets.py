"""Small networks and data for tests of training; needs PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import nn

from cimc.train import layers
from cimc.train.data import Data
from cimc.train.quantisers import sign


class Net(nn.Module):
    """Two binary convolutions, or float ones, and a linear layer, for images 1 x 8 x 8."""

    def __init__(self, binary: bool = True, norm: bool = True) -> None:
        super().__init__()
        conv = layers.BinaryConv2d if binary else nn.Conv2d
        self.binary = binary
        self.conv1 = conv(1, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.conv2 = conv(8, 6, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.fc = nn.Linear(96, 4)

    def forward(self, x: Any) -> Any:
        act = sign if self.binary else torch.relu
        x = x.float() / 255 - 0.5
        x = act(nnf.max_pool2d(self.bn1(self.conv1(sign(x))), 2))
        return self.fc(torch.relu(self.bn2(self.conv2(x))).flatten(1))


def images(count: int, classes: int = 4, size: int = 8, seed: int = 0) -> tuple[Any, Any]:
    """uint8 [count, size, size] with a bright patch whose place is the class."""
    random = np.random.default_rng(seed)
    x = random.integers(0, 90, (count, size, size), np.uint8)
    y = random.integers(0, classes, count).astype(np.uint8)
    step = size // classes
    for image, label in zip(x, y):
        image[label * step : (label + 1) * step] += 120
    return x, y


def data(count: int = 240) -> Data:
    """Of `images`, for `Net`."""
    x, y = images(count + 40)
    tensors = torch.from_numpy(x)[:, None], torch.from_numpy(y).long()
    return Data(tensors[0][:count], tensors[1][:count], tensors[0][count:], tensors[1][count:], 4)


def write_npz(path: Path, count: int, classes: int, size: int) -> Path:
    """A data set in the form that the presets read."""
    x, y = images(count + 60, classes, size)
    np.savez(path, x_train=x[:count], y_train=y[:count], x_test=x[count:], y_test=y[count:])
    return path


EXAMPLE = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
