"""The network and method of `mnist --preset ours` on Fashion-MNIST: accuracy for each share of the
convolutions' multiply-accumulates that is removed."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from cimc.train import mnist
from cimc.train.augment import mirrored
from cimc.train.choose import Nearest
from cimc.train.preset import MakePruner, Preset
from cimc.train.pruner import SimilarityPruner
from cimc.train.settings import Settings

SHARES = (0.0, 0.25, 0.5, 0.75, 0.9)
(_OURS,) = [preset for preset in mnist.PRESETS if preset.name == "ours"]


def _removed(share: float) -> MakePruner:
    def make(model: nn.Module, example: Tensor, settings: Settings) -> SimilarityPruner:
        assert _OURS.pruner is not None
        pruner = _OURS.pruner(model, example, settings)
        assert isinstance(pruner.criterion, Nearest)
        pruner.criterion = replace(pruner.criterion, remove=share)
        return pruner

    return make


def _preset(share: float) -> Preset:
    return replace(
        _OURS,
        task="fashion",
        name=f"removed-{100 * share:.0f}",
        summary=f"binary convolutions, {share:.0%} of their MACs removed while training",
        settings=replace(_OURS.settings, epochs=25, held_out=600),
        pruner=_removed(share) if share else None,
        augment=mirrored,
    )


PRESETS = tuple(_preset(share) for share in SHARES)
