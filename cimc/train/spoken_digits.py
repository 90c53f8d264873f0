"""Spoken digits: a small network on spectrograms, binary weights and activations of 4 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as nnf
from torch import Tensor, nn

from cimc.errors import CompileError
from cimc.train.augment import spoken
from cimc.train.choose import Nearest
from cimc.train.data import Data, checked, read_npz
from cimc.train.layers import BinaryConv2d, BinaryLinear
from cimc.train.preset import Preset
from cimc.train.pruner import Schedule, SimilarityPruner
from cimc.train.quantisers import QuantReLU
from cimc.train.settings import Settings
from cimc.train.spectrogram import BANDS, FRAMES, spectrograms

SHAPE, CLASSES = (1, BANDS, FRAMES), 10
LEVELS = 256.0  # a power of two, so that all sums are exact


def read(path: Path) -> Data:
    """Spectrograms of an archive with audio_train and audio_test, int16, the recordings one after
    the other, offset_train and offset_test, where each begins and the last ends, and labels
    y_train and y_test. Raises CompileError."""
    names = [f"{what}_{part}" for part in ("train", "test") for what in ("audio", "offset", "y")]
    found = read_npz(path, tuple(names))
    for part in ("train", "test"):
        audio, offsets = found[f"audio_{part}"], found[f"offset_{part}"]
        _check_offsets(offsets, audio.size, f"offset_{part}", str(path))
        found[f"x_{part}"] = spectrograms(audio, offsets)
    return checked(found, SHAPE, CLASSES, str(path))


def _check_offsets(offsets: Any, samples: int, name: str, where: str) -> None:
    rising = offsets.ndim == 1 and offsets.dtype.kind in "iu" and bool(np.all(np.diff(offsets) > 0))
    if rising and len(offsets) > 1 and offsets[0] >= 0 and offsets[-1] <= samples:
        return
    raise CompileError(
        f"{name} does not part {samples} samples into recordings",
        where,
        help="give where each recording begins and the last one ends, integers that rise",
    )


class SpokenDigits(nn.Module):
    """Three binary 3x3 convolutions, 1 to 16 to 32 to 32 kernels, each with max pool, batch
    normalisation and ReLU of 4 bits, and a binary linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = BinaryConv2d(1, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.act1 = QuantReLU(4)
        self.conv2 = BinaryConv2d(16, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.act2 = QuantReLU(4)
        self.conv3 = BinaryConv2d(32, 32, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(32)
        self.act3 = QuantReLU(4)
        self.fc = BinaryLinear(32 * (BANDS // 8) * (FRAMES // 8), CLASSES, bias=False)
        self.bn4 = nn.BatchNorm1d(CLASSES)

    def forward(self, spectrogram: Tensor) -> Tensor:
        x = spectrogram.float() / LEVELS
        x = self.act1(self.bn1(nnf.max_pool2d(self.conv1(x), 2)))
        x = self.act2(self.bn2(nnf.max_pool2d(self.conv2(x), 2)))
        x = self.act3(self.bn3(nnf.max_pool2d(self.conv3(x), 2)))
        logits: Tensor = self.bn4(self.fc(x.flatten(1)))
        return logits


def _similar(model: nn.Module, example: Tensor, settings: Settings) -> SimilarityPruner:
    start = max(1, settings.epochs // 5)
    schedule = Schedule(start, max(start, settings.epochs // 2))
    return SimilarityPruner(model, Nearest(remove=0.8), schedule, example=example)


_SETTINGS = Settings(epochs=60, batch=60, lr=3e-3, shift=4, held_out=120)
PRESETS = (
    Preset(
        "spoken-digits",
        "ours",
        "80 % of the convolutions' MACs removed while training",
        SpokenDigits,
        read,
        _SETTINGS,
        _similar,
        augment=spoken,
    ),
    Preset(
        "spoken-digits",
        "dense",
        "the same network, nothing removed",
        SpokenDigits,
        read,
        _SETTINGS,
        augment=spoken,
    ),
)
