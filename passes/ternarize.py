"""Gives the layers of a float model weights -1, 0 and +1 and inputs of two levels."""

from __future__ import annotations

from dataclasses import dataclass

from cimc.driver.binarise_model import FewLevels
from cimc.driver.few_levels import ternary


@dataclass(frozen=True)
class Ternarize(FewLevels):
    """Rules:
    1. as the rules of `binarize`, with q = -1, 0, +1: the sign of the largest |w|, as many as with
       their mean as factor come nearest to w by least squares, 0 for the others; with refine,
       changed as there
    Options and what is said as in `binarize`.
    """

    name = "ternarize"
    summary = "give float layers weights -1, 0, +1 and inputs of two levels, by calibration data"
    nearest = ternary
    levels = (-1, 0, 1)
    doing = "ternarisation"
    weights = "ternary"
