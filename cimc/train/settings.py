"""How a network is trained: numbers only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """epochs, batch, lr (Adam, or SGD with momentum 0.9), weight_decay. nesterov: how SGD
    looks ahead. cosine: lr
    falls to 0 over all steps, along a cosine; else it stays. warmup: steps in which it rises.
    shift: images move by up to so many pixels. held_out: training samples that choose the epoch
    and are not trained with; at most a fifth. patience: stop after so many epochs without a
    better one, counted from the end of the pruning on; 0: never. keep: which epoch's weights are
    the result, `best` on the held-out samples or `last`. shrink: pruned kernels are really taken
    out, so that later epochs are cheaper (no regrowth then). distil: weight of the dense network's
    logits in the loss, 0 to 1, from the first pruning on; temperature: what they are divided by.
    """

    epochs: int
    batch: int = 128
    lr: float = 3e-3
    optimizer: str = "adam"
    weight_decay: float = 0.0
    nesterov: bool = True
    cosine: bool = True
    warmup: int = 0
    shift: int = 0
    held_out: int = 5000
    patience: int = 0
    keep: str = "best"
    shrink: bool = True
    distil: float = 0.0
    temperature: float = 2.0
