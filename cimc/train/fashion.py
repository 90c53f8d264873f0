"""The network and method of `mnist --preset ours` on Fashion-MNIST: accuracy for each share of the
convolutions' multiply-accumulates that is removed."""

from __future__ import annotations

from dataclasses import replace

from cimc.train.augment import mirrored
from cimc.train.mnist import OURS, removing
from cimc.train.preset import Preset

SHARES = (0.0, 0.25, 0.5, 0.75, 0.9)


def _preset(share: float) -> Preset:
    return replace(
        OURS,
        task="fashion",
        name=f"removed-{100 * share:.0f}",
        summary=f"binary convolutions, {share:.0%} of their MACs removed while training",
        settings=replace(OURS.settings, epochs=25, held_out=600),
        pruner=removing(share) if share else None,
        augment=mirrored,
    )


PRESETS = tuple(_preset(share) for share in SHARES)
