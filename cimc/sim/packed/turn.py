"""Channels from their axis to the end, and back."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from cimc.sim.packed.jit import compiled, inlined
from cimc.sim.packed.memory import get_u8, get_u16, get_u32, put_u8, put_u16, put_u32
from cimc.sim.packed.vectors import turn_tile

_turn8, _turn16, _turn32 = turn_tile(8), turn_tile(16), turn_tile(32)


def turn(
    source: npt.NDArray[Any], to: npt.NDArray[Any], sizes: tuple[int, int, int], plus: int = 0
) -> None:
    """[S, before, rows, columns] to [S, before, columns, rows], elements of 1, 2 or 4 bytes, the
    samples of both arrays contiguous; `plus` is added to each, as its type adds. sizes: before,
    rows, columns."""
    before, rows, columns = sizes
    width = source.dtype.itemsize
    for sample in range(len(source)):
        start, end = int(source[sample].ctypes.data), int(to[sample].ctypes.data)
        _turn(start, end, before, rows, columns, width, plus)


@compiled
def _turn(  # type: ignore[no-untyped-def]
    src, to, before, rows, columns, width, plus
):
    whole_rows, whole_columns = rows & ~15, columns & ~15
    for _ in range(before):
        for r in range(0, whole_rows, 16):
            for c in range(0, whole_columns, 16):
                here, there = src + (r * columns + c) * width, to + (c * rows + r) * width
                if width == 1:
                    _turn8(here, columns, there, rows, plus)
                elif width == 2:
                    _turn16(here, 2 * columns, there, 2 * rows, plus)
                else:
                    _turn32(here, 4 * columns, there, 4 * rows, plus)
        for r in range(rows):
            for c in range(whole_columns if r < whole_rows else 0, columns):
                _one(src + (r * columns + c) * width, to + (c * rows + r) * width, width, plus)
        src += rows * columns * width
        to += rows * columns * width


@inlined
def _one(src, to, width, plus):  # type: ignore[no-untyped-def]
    if width == 1:
        put_u8(to, get_u8(src) + plus)
    elif width == 2:
        put_u16(to, get_u16(src) + plus)
    else:
        put_u32(to, get_u32(src) + plus)
