"""Random variations of training samples, drawn by a generator: images in, images out."""

from __future__ import annotations

import torch
from torch import Tensor

from cimc.train.spectrogram import BANDS, RANGE_DB, filters

_MASKED_BANDS, _MASKED_FRAMES = 4, 6  # at most
_QUIETEST, _LOUDEST = -70.0, -30.0  # dB, noise in its loudest band below the speech's loudest


def mirrored(images: Tensor, random: torch.Generator) -> Tensor:
    """Each image [N, C, H, W] as it is or with left and right exchanged."""
    turned = torch.rand(len(images), generator=random) < 0.5
    return torch.where(turned[:, None, None, None], images.flip(3), images)


def noisy(spectrograms: Tensor, random: torch.Generator) -> Tensor:
    """Each spectrogram uint8 [N, 1, BANDS, FRAMES] with white noise of a random loudness: powers
    add up, those of the noise are as random as the power of normal noise in a band is."""
    n, _, _, frames = spectrograms.shape
    power = 10.0 ** ((spectrograms.float() / 255.0 - 1.0) * RANGE_DB / 10.0)
    power[spectrograms == 0] = 0.0  # this or less
    width = torch.from_numpy(filters().sum(1)).float()[:, None]
    loudness = _QUIETEST + (_LOUDEST - _QUIETEST) * torch.rand(n, 1, 1, 1, generator=random)
    chi = torch.randn(2, n, 1, BANDS, frames, generator=random).square().mean(0)
    power = power + 10.0 ** (loudness / 10.0) * chi * width / width.max()
    power /= power.amax((1, 2, 3), keepdim=True)
    decibels = 10.0 * power.clamp(min=10.0 ** (-RANGE_DB / 10.0)).log10()
    return (255.0 * (1.0 + decibels / RANGE_DB)).round().to(torch.uint8)


def masked(spectrograms: Tensor, random: torch.Generator) -> Tensor:
    """Each spectrogram without some neighbouring bands and some neighbouring frames, which become
    0 (SpecAugment, Park et al., arXiv 1904.08779)."""
    _, _, bands, frames = spectrograms.shape
    low = _stretch(len(spectrograms), bands, _MASKED_BANDS, random)
    late = _stretch(len(spectrograms), frames, _MASKED_FRAMES, random)
    return spectrograms.masked_fill(low[:, None, :, None] | late[:, None, None, :], 0)


def _stretch(n: int, size: int, most: int, random: torch.Generator) -> Tensor:
    """True in one random stretch of at most `most` of `size` places, [n, size]."""
    width = torch.randint(0, most + 1, (n, 1), generator=random)
    start = (torch.rand(n, 1, generator=random) * (size - width + 1)).long()
    place = torch.arange(size)
    return (place >= start) & (place < start + width)


def spoken(spectrograms: Tensor, random: torch.Generator) -> Tensor:
    """`noisy`, then `masked`."""
    return masked(noisy(spectrograms, random), random)
