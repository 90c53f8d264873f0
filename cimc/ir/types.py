"""Types of the graph IR: how a value is encoded, and its shape.

The element type carries the encoding: `bip` is one bit (1 means +1, 0 means -1), `tern`
is -1, 0 or +1, `uN`/`iN` are N-bit integers, `f32` and the like are IEEE floats. numpy
arrays hold them unpacked (`container`): ±1 and ternary values in int8, N-bit integers in
the smallest integer that holds them. Programs use the same element types.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]

_FLOATS: dict[str, npt.DTypeLike] = {
    "f16": np.float16,
    "f32": np.float32,
    "f64": np.float64,
    "bf16": ml_dtypes.bfloat16,
    "f8e4m3fn": ml_dtypes.float8_e4m3fn,
    "f8e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "f8e5m2": ml_dtypes.float8_e5m2,
    "f8e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "f4e2m1": ml_dtypes.float4_e2m1fn,
    "f8e8m0": ml_dtypes.float8_e8m0fnu,
    "c64": np.complex64,
    "c128": np.complex128,
}
_INT = re.compile(r"([ui])([1-9]\d?)$")


def is_elem(name: str) -> bool:
    """Whether `name` is an element type."""
    if name in _FLOATS or name in ("bip", "tern", "bool", "str"):
        return True
    match = _INT.match(name)
    return match is not None and (int(match[2]) <= 32 or int(match[2]) == 64)


@cache
def container(elem: str) -> np.dtype[np.generic]:
    """The numpy type that holds one element of `elem`, unpacked."""
    if elem in _FLOATS:
        return np.dtype(_FLOATS[elem])
    if elem in ("bip", "tern"):
        return np.dtype(np.int8)
    if elem == "bool":
        return np.dtype(np.bool_)
    if elem == "str":
        return np.dtype(object)
    match = _INT.match(elem)
    assert match, f"not an element type: {elem}"
    bits = next(b for b in (8, 16, 32, 64) if int(match[2]) <= b)
    return np.dtype(f"{match[1]}{bits // 8}")


def elem_of(dtype: np.dtype[np.generic]) -> str:
    """The plain element type of an array that states none: `i8` for int8, not `bip`."""
    plain = ("bool", "str", *(f"{s}{bits}" for s in "iu" for bits in (8, 16, 32, 64)), *_FLOATS)
    return next(elem for elem in plain if container(elem) == dtype)


def is_float(elem: str) -> bool:
    """Whether an element type is a float or complex one."""
    return elem in _FLOATS


def is_integer(elem: str) -> bool:
    """Whether values are exact integers: `uN`, `iN`, `bip`, `tern`."""
    return elem in ("bip", "tern") or _INT.match(elem) is not None


def int_range(elem: str) -> tuple[int, int]:
    """Smallest and largest value of an integer element type."""
    if elem in ("bip", "tern"):
        return -1, 1
    match = _INT.match(elem)
    assert match, f"not an integer type: {elem}"
    bits = int(match[2])
    return (0, 2**bits - 1) if match[1] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


F32_EXACT = 2**24
"""Integers up to here are exact in float32."""


def narrowest(low: int, high: int) -> str:
    """The integer type of fewest bits that holds low … high."""
    if low >= 0:
        return f"u{max(1, high.bit_length())}"
    return f"i{max((~low).bit_length(), high.bit_length()) + 1}"


def planes(elem: str) -> int:
    """Bit planes of a value that a tile can take as input: bip and tern 1, uN/iN N."""
    if elem in ("bip", "tern"):
        return 1
    match = _INT.match(elem)
    assert match, f"no bit planes: {elem}"
    return int(match[2])


INPUT_PLANES = 8
"""Bit planes of an input that a tile layer takes at most, one after the other."""


def is_small(elem: str) -> bool:
    """Whether values are integers of few planes: inputs of a tile layer, of a table."""
    return is_integer(elem) and planes(elem) <= INPUT_PLANES


Dim = int | str
"""A dimension: a size, or a symbol such as `N`; `?` is an unknown size."""


def random_array(rng: np.random.Generator, elem: str, shape: tuple[int, ...]) -> Array:
    """Values of an element type: floats standard normal, integers over at most a byte's range."""
    dtype = container(elem)
    if is_float(elem):
        return rng.standard_normal(shape).astype(dtype)
    if elem == "bip":
        return np.asarray(rng.integers(0, 2, shape) * 2 - 1, dtype)
    if elem == "tern":
        return rng.integers(-1, 2, shape).astype(dtype)
    if elem == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if elem == "str":
        return np.full(shape, "text", dtype=object)
    bits = min(8, int(elem[1:]))
    low, high = (0, 2**bits) if elem[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    return rng.integers(low, high, shape).astype(dtype)


@dataclass(frozen=True)
class TensorType:
    """`u8[1,28,28]`; `shape` is None for an unknown rank, printed `f32[*]`."""

    elem: str
    shape: tuple[Dim, ...] | None

    @property
    def rank(self) -> int | None:
        return None if self.shape is None else len(self.shape)

    @property
    def static(self) -> tuple[int, ...] | None:
        """The shape if every dimension is an integer, else None."""
        if self.shape is None:
            return None
        sizes = tuple(d for d in self.shape if isinstance(d, int))
        return sizes if len(sizes) == len(self.shape) else None

    def with_elem(self, elem: str) -> TensorType:
        return TensorType(elem, self.shape)

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.elem}[*]"
        return f"{self.elem}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class SeqType:
    """`seq<f32[2]>`: an ONNX sequence; only host operations use it."""

    elem: Type

    def __str__(self) -> str:
        return f"seq<{self.elem}>"


@dataclass(frozen=True)
class OptType:
    """`opt<f32[2]>`: an ONNX optional; only host operations use it."""

    elem: Type

    def __str__(self) -> str:
        return f"opt<{self.elem}>"


@dataclass(frozen=True)
class AnyType:
    """`any`: a type that neither ONNX nor onnxruntime can tell; only between host operations."""

    def __str__(self) -> str:
        return "any"


Type = TensorType | SeqType | OptType | AnyType
