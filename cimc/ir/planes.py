"""The bit planes in which cells hold weights: `bip` has one (1 means +1), `tern` has two (where
the weight is +1, where it is -1), `uN` and `iN` have N (the bits of the two's complement, the least
significant first)."""

from __future__ import annotations

from typing import Any

import numpy as np

from cimc.ir.types import planes


def weight_planes(elem: str) -> int:
    """Bit planes of weights: two for ternary ones, else as for inputs."""
    return 2 if elem == "tern" else planes(elem)


def plane_weights(elem: str) -> tuple[int, ...]:
    """What a cell that differs counts in each plane: 2**j for bit j of an integer."""
    count = weight_planes(elem)
    return (1,) * count if elem in ("bip", "tern") else tuple(1 << j for j in range(count))


def bit_planes(rows: Any, elem: str) -> Any:
    """uint8 0/1 of shape [planes, *rows.shape]."""
    if elem in ("bip", "tern"):
        return np.stack([rows > 0, rows < 0][: weight_planes(elem)]).astype(np.uint8)
    return np.stack([((rows >> j) & 1).astype(np.uint8) for j in range(planes(elem))])
