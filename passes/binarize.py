"""Gives the layers of a float model weights ±1 and inputs of two levels."""

from __future__ import annotations

from dataclasses import dataclass

from cimc.driver.binarise_model import FewLevels
from cimc.driver.few_levels import binary


@dataclass(frozen=True)
class Binarize(FewLevels):
    """Rules:
    1. `Conv(x, w) + b`, `MatMul(x, w)`, `MatMul(w, x)`, `Gemm(x, w, c)` of floats ⇒
       `layer(Where(x > t, high, low), q) * gain + shift`, q = ±1, the sums exact: layer by layer,
       gain and shift of each channel are the best line from the sums, of inputs as the layers
       before make them now, to the float output
    2. high, low = 1, -1 and t halfway between the two numbers that are nearest to x by least
       squares; what they have as mean is in the shift. Where zeros are padded to x: 1, 0, or 1, -1
       and t = 0, whichever is nearer
    3. padding with zeros and layout in front of a layer ⇒ behind `Where`
    4. layers that are binary or ternary stay for the passes behind
    5. operator sets before 9 ⇒ 13
    q starts as the sign of w, nearest to w with the mean of |w| as factor. With refine, each weight
    in turn flips where that brings the sums nearer to the float output, until none does or ten
    rounds are done, on up to 65,536 positions; the largest layers are left as they are, and named.
    Options: skip, what stays float (names or patterns with `*`, joined by `+` or `|`); keep_ends:
    so do layers that no other layer stands before, or none behind; refine; samples at most (fewer
    where their activations take more than 1 GiB); data, the record of the calibration data that
    must be given. Says for each layer the levels of its input and how large the error of its
    output is, relative to its root mean square: what its own levels make of float inputs, and in
    the whole network; with labels in the data, top-1 before and after.
    """

    name = "binarize"
    summary = "give float layers weights ±1 and inputs of two levels, by calibration data"
    nearest = binary
    levels = (-1, 1)
    doing = "binarisation"
    weights = "±1"
