"""What a preset is: a task, a network, its data, settings and how it is pruned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from cimc.train.data import Data
from cimc.train.loop import Augment, Better
from cimc.train.pruner import SimilarityPruner
from cimc.train.settings import Settings

MakePruner = Callable[[nn.Module, Tensor, Settings], SimilarityPruner]
Finish = Callable[[nn.Module, Data], None]


@dataclass(frozen=True)
class Preset:
    """network makes the dense module with random weights (the seed is set before); its forward
    takes the samples of the data, preprocessing included. read: the data of a file. pruner: makes
    one for the module, an example and the settings; None: nothing is pruned. augment: varies the
    training samples. better: see `loop.train`. finish: changes the trained module before it
    is measured. pipeline: what the program is compiled with."""

    task: str
    name: str
    summary: str
    network: Callable[[], nn.Module]
    read: Callable[[Path], Data]
    settings: Settings
    pruner: MakePruner | None = None
    augment: Augment | None = None
    better: Better | None = None
    finish: Finish | None = None
    pipeline: str = "exact"

    def with_epochs(self, epochs: int | None) -> Preset:
        """The same for another number of epochs."""
        if epochs is None:
            return self
        return replace(self, settings=replace(self.settings, epochs=epochs))
