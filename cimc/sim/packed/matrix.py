"""From terms and cells to the matrices of a sum.

A read of rows is linear in the bits b and valid marks v of what was loaded (b = 0 where v = 0):

    and   b w          nand  v - b w
    or    b + v w - b w     xor  b + v w - 2 b w

So a sum is  sum V[m, k] b[k] + sum U[m, k] v[k], V and U made from the cells as they are. All
later decisions (popcounts or products, which coefficients) follow from these numbers, whatever
reads they came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cimc.sim.packed.jit import compiled, inlined
from cimc.sim.packed.loads import FIELDS, LATCHES, OPS

Ints = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.int32]

(_OUT, _ACC, _N, _COEF, _OP, _LATCH, _PLANE, _GROUP, _K, _SIZE, _TILE, _ROW, _COL, _FACTOR) = range(
    len(FIELDS)
)
_AND, _NAND, _OR, _XOR, _ONES, _VALID = OPS.values()
_BITS, _ONE, _ZERO = LATCHES.values()


@dataclass(frozen=True)
class Cells:
    """The cells of all tiles [tiles, W, rows], and the physical row of each logical one."""

    words: npt.NDArray[np.uint64]
    mapped: Ints  # which row of `maps` a tile has, -1: none
    maps: Ints  # [n, rows]


def matrices(
    terms: npt.NDArray[np.void],
    cells: Cells,
    shape: tuple[int, int],
    factors: Sequence[Ints],
    together: bool = False,
) -> tuple[Matrix, Matrix]:
    """V and U [channels, K] of terms; factors [channels] by number. together: sum over all
    channels, [1, K]."""
    v, u = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    table = np.ascontiguousarray(terms).view(np.int64).reshape(len(terms), len(FIELDS))
    held = np.stack(factors) if factors else np.ones((1, shape[0]), np.int64)
    _add(table, cells.words, cells.mapped, cells.maps, held, together, v, u)
    return v, u


@inlined
def _shares(op, latch):  # type: ignore[no-untyped-def]
    """What a term gives: b w, b, v w and v times these numbers."""
    if op == 0:
        bw, b, vw, one = 1, 0, 0, 0
    elif op == 1:
        bw, b, vw, one = -1, 0, 0, 1
    elif op == 2:
        bw, b, vw, one = -1, 1, 1, 0
    elif op == 3:
        bw, b, vw, one = -2, 1, 1, 0
    elif op == 4:
        bw, b, vw, one = 0, 1, 0, 0
    else:
        bw, b, vw, one = 0, 0, 0, 1
    if latch == 1:  # b = v
        return 0, 0, vw + bw, one + b
    if latch == 2:  # b = 0
        return 0, 0, vw, one
    return bw, b, vw, one


@compiled
def _add(terms, cells, mapped, maps, factors, together, v, u):  # type: ignore[no-untyped-def]
    for t in range(terms.shape[0]):
        coef, op, latch = terms[t, 3], terms[t, 4], terms[t, 5]
        k, size, tile, row, col = terms[t, 8], terms[t, 9], terms[t, 10], terms[t, 11], terms[t, 12]
        bw, b, vw, one = _shares(op, latch)
        for r in range(terms[t, 2]):
            m = 0 if together else terms[t, 1] + r
            times = coef if terms[t, 13] < 0 else coef * factors[terms[t, 13], m]
            place = row + r
            if op < 4 and mapped[tile] >= 0:
                place = maps[mapped[tile], place]
            i = 0
            while i < size:
                at = (col + i) & 63
                number = min(64 - at, size - i)
                word = (
                    cells[tile, (col + i) >> 6, place] >> np.uint64(at) if op < 4 else np.uint64(0)
                )
                if b == 0 and vw == 0 and one == 0:  # the most frequent case, for itself
                    worth = np.int32(times * bw)
                    for j in range(number):
                        v[m, k + i + j] += worth * np.int32((word >> np.uint64(j)) & np.uint64(1))
                else:
                    for j in range(number):
                        w = np.int64((word >> np.uint64(j)) & np.uint64(1))
                        v[m, k + i + j] += times * (b + bw * w)
                        u[m, k + i + j] += times * (one + vw * w)
                i += number


def uses_valid(terms: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    """Which terms have a share of v."""
    plain = (terms["latch"] == _BITS) & np.isin(terms["op"], (_AND, _ONES))
    return ~(plain | ((terms["latch"] == _ZERO) & np.isin(terms["op"], (_AND, _ONES))))


def uses_bits(terms: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    """Which terms have a share of b."""
    return (terms["latch"] == _BITS) & (terms["op"] != _VALID)


def planes_alike(terms: npt.NDArray[np.void], worth: Sequence[int]) -> bool:
    """Whether each bit plane i of the input meets the same rows, times worth[i]: with the values
    of the bits, the sum over planes is then a product with the input's value."""
    terms = terms[uses_bits(terms)]
    found = [terms[terms["plane"] == i] for i in range(len(worth))]
    if sum(map(len, found)) != len(terms) or not len(found[0]):
        return False
    first = _canonical(found[0], worth[0])
    for i, value in enumerate(worth):
        if len(found[i]) != len(first) or (found[i]["coef"] % value).any():
            return False
        if not np.array_equal(_canonical(found[i], value), first):
            return False
    return True


def _canonical(terms: npt.NDArray[np.void], value: int) -> Ints:
    """Terms without their plane, coefficients over `value`, sorted."""
    table = np.ascontiguousarray(terms).view(np.int64).reshape(len(terms), len(FIELDS)).copy()
    table[:, _PLANE] = 0
    table[:, _COEF] //= value
    return table[np.lexsort(table.T)]


# -- weights for kernels ---------------------------------------------------------------


def digits(matrix: Matrix) -> list[tuple[int, npt.NDArray[np.int8]]]:
    """A matrix of integers as coefficients times matrices of signed bytes."""
    found: list[tuple[int, npt.NDArray[np.int8]]] = []
    if not matrix.size or (matrix.min() >= -128 and matrix.max() <= 127):
        return [(1, matrix.astype(np.int8))]
    rest, coef = matrix.astype(np.int64), 1
    while True:
        if not rest.size or (rest.min() >= -128 and rest.max() <= 127):
            return [*found, (coef, rest.astype(np.int8))]
        low = (rest + 64) % 128 - 64
        found.append((coef, low.astype(np.int8)))
        rest, coef = (rest - low) // 128, coef * 128


def signs(matrix: Matrix) -> int:
    """c, if all entries are c or -c; else 0."""
    if not matrix.size:
        return 0
    c = int(abs(matrix.flat[0]))
    return c if c and (np.abs(matrix) == c).all() else 0


def bit_planes(matrix: Matrix) -> list[tuple[int, npt.NDArray[np.bool_]]]:
    """A matrix of integers as coefficients times bits: the two's complement, as narrow as it
    goes."""
    if not matrix.any():
        return []
    step = int(np.gcd.reduce(matrix, axis=None))
    scaled = matrix // step
    low, high = int(scaled.min()), int(scaled.max())
    bits = max(high.bit_length(), (-low - 1).bit_length() if low < 0 else 0)
    found = [(step << i, (scaled >> i & 1).astype(np.bool_)) for i in range(bits)]
    if low < 0:
        found.append((-(step << bits), scaled < 0))
    return [(coef, plane) for coef, plane in found if plane.any()]


def lanes_of_bytes(matrix: npt.NDArray[np.int8], vecs: int, words: int) -> npt.NDArray[np.uint32]:
    """[channels, K] as words of four bytes, [pairs of vectors][words][lanes]."""
    wide = np.zeros((16 * vecs, 4 * words), np.int8)
    wide[: matrix.shape[0], : matrix.shape[1]] = matrix
    return _lanes(wide.view(np.uint32), vecs)


def lanes_of_bits(matrix: npt.NDArray[np.bool_], vecs: int, words: int) -> npt.NDArray[np.uint32]:
    """[channels, K] as words of 32 bits, [pairs of vectors][words][lanes]."""
    wide = np.zeros((16 * vecs, 32 * words), np.bool_)
    wide[: matrix.shape[0], : matrix.shape[1]] = matrix
    return _lanes(np.packbits(wide, axis=1, bitorder="little").view(np.uint32), vecs)


def _lanes(words: npt.NDArray[np.uint32], vecs: int) -> npt.NDArray[np.uint32]:
    pairs, number = vecs // 2, words.shape[1]
    whole = words[: 32 * pairs].reshape(pairs, 32, number).transpose(0, 2, 1).reshape(-1)
    last = words[32 * pairs :].T.reshape(-1)
    return np.concatenate([whole, last])
