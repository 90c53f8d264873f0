"""Gives the layers of a float model weights -1, 0 or +1 and inputs of two levels."""

from __future__ import annotations

from dataclasses import dataclass

from cimc.driver.binarise_model import FewLevels
from cimc.driver.few_levels import ternary


@dataclass(frozen=True)
class Ternarize(FewLevels):
    """Rules"""

    name = "ternarize"
    summary = "give float layers weights -1, 0 or +1 and two-level inputs, by calibration data"
    nearest = ternary
    doing = "ternarisation"
    weights = "ternary"
