"""Zero points and bias of an integer layer as what is added to its sums of products.

    sum (x - zx)(w - zw) + b = sum x·w + (b - zx·s) - zw·sum x,   s = sum w - K·zw

for each channel, b perhaps for each position; every column counts, padded taps holding zx. A
zero point zx that is known now goes into the first term, one that comes at run time multiplies -s
then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cimc.ir.graph import Node, Value
from cimc.ir.kernels import by_channel, kernel_rows
from cimc.ir.types import Array


@dataclass(frozen=True)
class Terms:
    """int32 [C] each, None where all are zero; `start` is [positions of one image, C] where it
    differs from one to the next. `zero` is the run-time zero point that multiplies `by_zero`,
    `pad` the known zero point; without either x is not shifted."""

    start: Array | None
    zero: Value | None
    by_zero: Array | None
    by_sum: Array | None
    pad: int | None


def correction_terms(node: Node) -> Terms:
    """The terms of a cim.conv or cim.matmul."""
    zx, zw, b = (node.operand(i) for i in (2, 3, 4))
    rows = kernel_rows(node)
    channels, columns = rows.shape
    shift: Any = np.zeros(channels, np.int64)
    if zw is not None and zw.const is not None:
        shift = shift + zw.const.astype(np.int64)
    start: Any = np.zeros(channels, np.int64)
    if b is not None and b.const is not None:
        bias = by_channel(b.const.astype(np.int64))
        start = start + (bias[:, 0] if (bias == bias[:, :1]).all() else bias.T)
    sums = rows.sum(axis=1, dtype=np.int64) - columns * shift
    known = None if zx is None or zx.const is None else int(zx.const[0])
    if known is not None:
        start = start - known * sums
    run_time = zx if zx is not None and known is None else None
    return Terms(
        _unless_zero(start),
        run_time,
        _unless_zero(-sums) if run_time is not None else None,
        _unless_zero(-shift),
        known or None,
    )


def _unless_zero(table: Any) -> Array | None:
    found: Array = table.astype(np.int32)
    assert np.array_equal(found, table), "legalise proves that sums fit 32 bits"
    return found if found.any() else None
