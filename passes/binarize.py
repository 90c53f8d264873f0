"""Gives the layers of a float model weights ±1 and inputs of two levels."""

from __future__ import annotations

from dataclasses import dataclass

from cimc.driver.binarise_model import FewLevels
from cimc.driver.few_levels import binary


@dataclass(frozen=True)
class Binarize(FewLevels):
    """Rules"""

    name = "binarize"
    summary = "give float layers weights ±1 and two-level inputs, by calibration data"
    nearest = binary
    doing = "binarisation"
    weights = "±1"
