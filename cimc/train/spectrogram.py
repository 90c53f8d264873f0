"""Speech as a small picture: the logarithmic mel spectrogram of a recording, as bytes.

What a program for spoken digits takes as its input. Needs numpy alone, so that whoever runs the
program can compute its input. Knows nothing of networks.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cimc.errors import CompileError

RATE = 8000  # samples a second
WINDOW = 256  # samples a frame: 32 ms
HOP = 128  # samples from frame to frame: 16 ms
FRAMES = 48
BANDS = 32
LOWEST = 60.0  # Hz, where the first band begins; the last one ends at RATE / 2
RANGE_DB = 60.0  # what lies so far below the loudest element is 0
SPAN = WINDOW + HOP * (FRAMES - 1)  # samples that count: 0.784 s
_BINS = 512  # length of the Fourier transform; frames are padded with zeros

Floats = NDArray[np.floating]


def mel(hertz: Floats) -> Floats:
    """The mel scale, 2595 log10(1 + f/700) (O'Shaughnessy, Speech Communication, 1987)."""
    pitch: Floats = 2595.0 * np.log10(1.0 + hertz / 700.0)
    return pitch


@lru_cache(maxsize=1)
def filters() -> Floats:
    """Triangular filters [BANDS, _BINS // 2 + 1], evenly spaced in mel: each rises from the peak of
    the one before to 1 and falls to the peak of the next."""
    ends = mel(np.array([LOWEST, RATE / 2]))
    edges = np.linspace(ends[0], ends[1], BANDS + 2)[:, None]
    bins = mel(np.fft.rfftfreq(_BINS, 1.0 / RATE))
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    weights: Floats = np.clip(np.minimum(rising, falling), 0.0, None)
    return weights


def spectrogram(audio: NDArray[np.int16]) -> NDArray[np.uint8]:
    """The spectrogram uint8 [1, BANDS, FRAMES] of a recording int16 [samples] at 8 kHz.

    1. The SPAN samples with the most energy; of a shorter recording all, with silence around.
    2. Frames of WINDOW samples every HOP samples, each under a Hann window.
    3. Power in BANDS triangular mel bands.
    4. Decibels: the loudest element is 255, RANGE_DB below it is 0, so that loudness cancels.

    Silence gives zeros. Raises CompileError for anything but int16 in one dimension, and for an
    empty recording."""
    if audio.ndim != 1 or audio.dtype != np.int16 or not audio.size:
        raise CompileError(
            f"a recording is int16 [samples], at least one; this is {audio.dtype} "
            f"{list(audio.shape)}",
            help="give one channel of 16-bit samples, 8,000 a second",
        )
    frames = np.lib.stride_tricks.sliding_window_view(_span(audio), WINDOW)[::HOP]
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(WINDOW) / WINDOW)
    power = np.abs(np.fft.rfft(frames * hann, _BINS)) ** 2
    bands: Floats = filters() @ power.T
    if bands.max() == 0.0:
        return np.zeros((1, BANDS, FRAMES), np.uint8)
    least = 10.0 ** (-RANGE_DB / 10.0)
    decibels = 10.0 * np.log10(np.maximum(bands / bands.max(), least))
    levels: NDArray[np.uint8] = np.rint(255.0 * (1.0 + decibels / RANGE_DB)).astype(np.uint8)
    return levels[None]


def _span(audio: NDArray[np.int16]) -> Floats:
    """The SPAN samples that count, as float64."""
    samples = audio.astype(np.float64)
    spare = SPAN - samples.size
    if spare >= 0:
        return np.pad(samples, (spare // 2, spare - spare // 2))
    energy = np.concatenate([[0.0], np.cumsum(samples**2)])
    start = int(np.argmax(energy[SPAN:] - energy[:-SPAN]))
    return samples[start : start + SPAN]


def spectrograms(audio: NDArray[np.int16], offsets: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Those of concatenated recordings, uint8 [n, 1, BANDS, FRAMES]; recording i is
    audio[offsets[i]:offsets[i + 1]]."""
    parts = [audio[a:b] for a, b in pairwise(offsets)]
    return np.stack([spectrogram(part) for part in parts])
