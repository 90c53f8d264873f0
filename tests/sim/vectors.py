"""Random values and buffers of one vector or more, for the tests of single instructions."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from cimc.ir.types import container, int_range
from cimc.isa.state import Buffer, Vec

seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def random_values(rng, elem, shape):
    low, high = int_range(elem)
    values = rng.integers(low, high, shape, dtype=container(elem), endpoint=True)
    return np.where(values == 0, 1, values).astype(container(elem)) if elem == "bip" else values


def buffer_of(values, elem, axis=1):
    """A buffer of S samples from values [S, *shape]."""
    return Buffer(elem, values.shape[1:], axis, values.reshape(len(values), -1).copy())


def whole(buffer, position=0):
    return Vec(buffer, position, 0, buffer.shape[buffer.axis])
