"""Random variations of samples: what they change, and what they must not."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'cimc[train]'")

from cimc.train.augment import masked, mirrored, noisy, spoken  # noqa: E402
from cimc.train.spectrogram import BANDS, FRAMES, spectrogram  # noqa: E402


def _draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _words(count: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        tone = np.sin(rng.uniform(0.2, 1.5) * np.arange(4000)) * rng.uniform(3000, 9000)
        made.append(spectrogram((tone + rng.normal(0, 50, 4000)).astype(np.int16)))
    return torch.from_numpy(np.stack(made))


def test_mirrored_exchanges_left_and_right_of_about_half() -> None:
    images = torch.arange(64 * 6).reshape(64, 1, 2, 3)
    found = mirrored(images, _draw())
    same = (found == images).flatten(1).all(1)
    turned = (found == images.flip(3)).flatten(1).all(1)
    assert bool((same ^ turned).all())
    assert 16 < int(turned.sum()) < 48


def test_noise_keeps_what_is_loud_and_fills_what_is_quiet() -> None:
    words = _words(20)
    found = noisy(words, _draw())
    assert found.dtype == torch.uint8
    assert found.shape == words.shape
    assert bool((found.amax((1, 2, 3)) == 255).all())
    change = found.int() - words.int()
    assert int(change[words > 230].abs().max()) < 12
    assert float(change[words < 20].float().mean()) > 1.0


def test_masks_are_stretches_of_bands_and_frames() -> None:
    found = masked(torch.full((50, 1, BANDS, FRAMES), 9, dtype=torch.uint8), _draw())[:, 0] == 0
    bands, frames = found.all(2), found.all(1)
    assert torch.equal(found, bands[:, :, None] | frames[:, None, :])
    for rows, most in ((bands, 4), (frames, 6)):
        assert int(rows.sum(1).max()) == most
        edges = torch.diff(rows.int(), dim=1).abs().sum(1) + rows[:, 0] + rows[:, -1]
        assert int(edges.max()) == 2  # one stretch


def test_the_same_draw_gives_the_same() -> None:
    words = _words(8)
    assert torch.equal(spoken(words, _draw(3)), spoken(words, _draw(3)))
    assert not torch.equal(spoken(words, _draw(3)), spoken(words, _draw(4)))
