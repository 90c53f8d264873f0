"""Bytes of `.data` items: what base64 and sha256 in the program text stand for.

Bits (`cells`, `bip`) form one stream in row-major order without padding between rows,
least significant bit first, filled with zeros to a whole byte at the end. Everything else
is its numpy container, little-endian, row-major. Knows nothing of the text around it.
"""

from __future__ import annotations

from math import prod

import numpy as np

from cimc.ir.types import container, int_range, is_elem, is_integer
from cimc.isa.cells import Cells, Source
from cimc.isa.program import Array, Data


def is_data_kind(kind: str) -> bool:
    """Whether `kind` can stand in a `.data` line."""
    return kind in ("cells", "onnx") or (is_elem(kind) and kind != "str")


def byte_count(kind: str, shape: tuple[int, ...]) -> int:
    """Bytes that an item of this kind and shape takes."""
    count = prod(shape)
    if kind in ("cells", "bip"):
        return -(-count // 8)
    return count * _container(kind).itemsize


def to_bytes(data: Data) -> bytes:
    """The bytes of an item."""
    if data.kind == "cells":
        return data.cells.packed.tobytes()
    if data.kind == "bip":
        return np.packbits(np.greater(data.array, 0), bitorder="little").tobytes()
    array = np.ascontiguousarray(data.array, dtype=_container(data.kind))
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def from_bytes(
    kind: str, shape: tuple[int, ...], raw: bytes, source: Source | None = None
) -> Array | Cells:
    """The content of an item from exactly `byte_count` bytes, which `source` gives again.

    Raises ValueError, with a message for the user, where a value doesn't fit the kind.
    """
    count = prod(shape)
    if kind in ("cells", "bip") and count % 8 and raw[-1] >> count % 8:
        raise ValueError("the bits that fill the last byte aren't zero")
    if kind == "cells":
        return Cells(raw, (shape[0], shape[1]), source)
    if kind == "bip":
        bits = np.unpackbits(np.frombuffer(raw, np.uint8), count=count, bitorder="little")
        return np.where(bits > 0, 1, -1).astype(np.int8).reshape(shape)
    dtype = _container(kind)
    if dtype == np.bool_ and max(raw, default=0) > 1:
        raise ValueError("a byte of a `bool` item is neither 0 nor 1")
    array = np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype).reshape(shape)
    problem = value_problem(kind, array)
    if problem:
        raise ValueError(problem)
    return array


def value_problem(kind: str, array: Array) -> str:
    """Why the values of `array` are no values of `kind`; empty when they are."""
    if array.size == 0 or kind == "onnx" or not (kind == "cells" or is_integer(kind)):
        return ""
    low, high = (0, 1) if kind == "cells" else int_range(kind)
    least, most = int(array.min()), int(array.max())
    if least < low or most > high:
        return f"values run from {least} to {most}, a `{kind}` from {low} to {high}"
    if kind == "bip" and bool((array == 0).any()):
        return "a `bip` value is 0; only +1 and -1 exist"
    return ""


def _container(kind: str) -> np.dtype[np.generic]:
    return np.dtype(np.uint8) if kind in ("cells", "onnx") else container(kind)
