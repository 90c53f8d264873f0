"""Spectrograms against a direct definition, and their invariances."""

import cmath
import math

import numpy as np
import pytest

from cimc.errors import CompileError
from cimc.train import spectrogram as s


def _tone(hertz: float, seconds: float, level: float = 9000.0) -> np.ndarray:
    n = np.arange(round(seconds * s.RATE))
    return np.rint(level * np.sin(2 * math.pi * hertz * n / s.RATE)).astype(np.int16)


def _direct_power(audio: np.ndarray, frame: int, band: int) -> float:
    """Power of one element, from the sums that define it."""

    def mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    left = (s.SPAN - len(audio)) // 2
    low, high = mel(s.LOWEST), mel(s.RATE / 2)
    edges = [low + (high - low) * i / (s.BANDS + 1) for i in range(s.BANDS + 2)]
    below, centre, above = edges[band : band + 3]
    windowed = []
    for n in range(s.WINDOW):
        at = frame * s.HOP + n - left
        sample = float(audio[at]) if 0 <= at < len(audio) else 0.0
        windowed.append(sample * (0.5 - 0.5 * math.cos(2 * math.pi * n / s.WINDOW)))
    total = 0.0
    for k in range(257):
        pitch = mel(k * s.RATE / 512)
        weight = min((pitch - below) / (centre - below), (above - pitch) / (above - centre))
        if weight > 0:
            turn = -2j * math.pi * k / 512
            bin_ = sum(x * cmath.exp(turn * n) for n, x in enumerate(windowed))
            total += weight * abs(bin_) ** 2
    return total


def test_elements_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    audio = (_tone(440, 0.5) + rng.integers(-2000, 2000, 4000)).astype(np.int16)
    found = s.spectrogram(audio)
    assert found.shape == (1, s.BANDS, s.FRAMES)
    assert found.dtype == np.uint8
    band, frame = np.unravel_index(int(found[0].argmax()), found[0].shape)
    assert found.max() == 255
    loudest = _direct_power(audio, int(frame), int(band))
    for other_band, other_frame in [(0, 20), (3, 24), (17, 11), (31, 30), (8, 40)]:
        power = _direct_power(audio, other_frame, other_band)
        decibels = max(-s.RANGE_DB, 10 * math.log10(power / loudest))
        assert found[0, other_band, other_frame] == round(255 * (1 + decibels / s.RANGE_DB))


def test_a_tone_is_in_the_band_around_its_pitch() -> None:
    for hertz in (300.0, 1000.0, 2500.0):
        picture = s.spectrogram(_tone(hertz, 0.784))[0]
        band = int(picture[:, s.FRAMES // 2].argmax())
        weights = s.filters()[band]
        assert weights[round(hertz * 512 / s.RATE)] > 0.4


def test_loudness_cancels() -> None:
    loud = _tone(700, 0.4, 16000.0)
    quiet = (loud.astype(int) // 4).astype(np.int16)
    strong = s.spectrogram(loud) > 128  # where rounding to quarter samples does not show
    difference = np.abs(s.spectrogram(loud).astype(int) - s.spectrogram(quiet))
    assert strong.any()
    assert difference[strong].max() <= 1


def test_short_recordings_lie_in_the_middle() -> None:
    picture = s.spectrogram(_tone(700, 0.2))[0]
    heard = np.flatnonzero(picture.max(axis=0))
    assert heard[0] + heard[-1] in range(s.FRAMES - 2, s.FRAMES + 1)
    assert len(heard) < s.FRAMES // 2


def test_of_long_recordings_the_loud_part_counts() -> None:
    silence = np.zeros(s.RATE, np.int16)
    word = _tone(700, s.SPAN / s.RATE)
    whole = s.spectrogram(np.concatenate([silence, word, silence]))
    assert np.array_equal(whole, s.spectrogram(word))


def test_silence_is_zeros() -> None:
    assert not s.spectrogram(np.zeros(100, np.int16)).any()


def test_many_recordings() -> None:
    audio = np.concatenate([_tone(300, 0.1), _tone(900, 0.3)])
    found = s.spectrograms(audio, np.array([0, 800, 3200]))
    assert np.array_equal(found[0], s.spectrogram(audio[:800]))
    assert np.array_equal(found[1], s.spectrogram(audio[800:]))


@pytest.mark.parametrize(
    "audio", [np.zeros(0, np.int16), np.zeros((2, 9), np.int16), np.zeros(9, np.float32)]
)
def test_what_is_no_recording(audio: np.ndarray) -> None:
    with pytest.raises(CompileError, match="a recording is int16"):
        s.spectrogram(audio)
