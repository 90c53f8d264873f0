"""The network and method of `mnist --preset ours` on Fashion-MNIST: accuracy for each share of the
convolutions' multiply-accumulates that is removed."""

from __future__ import annotations

from torch import Tensor, nn

from cimc.train.augment import mirrored
from cimc.train.choose import Nearest
from cimc.train.mnist import ThreeConvolutions, read
from cimc.train.preset import MakePruner, Preset
from cimc.train.pruner import Schedule, SimilarityPruner
from cimc.train.settings import Settings

SHARES = (0.0, 0.25, 0.5, 0.75, 0.9)


def _removed(share: float) -> MakePruner:
    def make(model: nn.Module, example: Tensor, settings: Settings) -> SimilarityPruner:
        start = max(1, settings.epochs // 10)
        schedule = Schedule(start, max(start, settings.epochs // 3))
        criterion = Nearest(remove=share, limits=(("conv1", 0.75),))
        return SimilarityPruner(model, criterion, schedule, example=example)

    return make


def _preset(share: float) -> Preset:
    return Preset(
        "fashion",
        f"removed-{100 * share:.0f}",
        f"binary convolutions, {share:.0%} of their MACs removed while training",
        ThreeConvolutions,
        read,
        Settings(epochs=15, batch=128, lr=3e-3, shift=1, held_out=600),
        _removed(share) if share else None,
        augment=mirrored,
    )


PRESETS = tuple(_preset(share) for share in SHARES)
