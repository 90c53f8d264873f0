"""Values in the text of the graph IR: numbers, strings, and the elements of constants.

Below the parser and the printer, which both use it, so that what one writes the other
reads to the same bits. Knows nothing of operations and graphs.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence

import numpy as np

from cimc.ir.types import Array, TensorType, container, int_range, is_float, is_integer

INLINE = 64
"""A constant of more elements is written by its content hash."""

LARGEST = 2**31
"""Elements that a constant may have."""

Literal = int | float | bool | str


# -- numbers and strings --


def float_text(x: float) -> str:
    """The shortest text that `read_float` reads as `x`."""
    with np.errstate(over="ignore"):
        single = np.float32(x)
    if math.isnan(x) or float(single) == x:
        return str(single)
    text = repr(x)
    return text if read_float(text) == x else f"{x:.16e}"


def read_float(text: str) -> float:
    """The nearest float32 for a text of at most 9 significant digits, else the nearest
    double. ONNX attributes are float32: `0.1` is the float32 nearest to 0.1."""
    value = float(text)
    digits = re.sub(r"[eE].*|\D", "", text).lstrip("0")
    if len(digits) > 9:
        return value
    with np.errstate(over="ignore"):
        single = float(np.float32(value))
    return value if math.isinf(single) else single


def quote(text: str) -> str:
    """A JSON string; what isn't legal UTF-8 (lone surrogates) is escaped."""
    quoted = json.dumps(text, ensure_ascii=False)
    return re.sub("[\ud800-\udfff\x7f-\xa0\u2028\u2029]", lambda m: f"\\u{ord(m[0]):04x}", quoted)


def unquote(text: str) -> str:
    """The string of a JSON literal; ValueError where an escape is wrong."""
    return str(json.loads(text, strict=False))


# -- the elements of a constant --


def sizes(type_: TensorType) -> tuple[int, ...]:
    """The shape of a constant; ValueError if it can't have one."""
    shape = type_.static
    if shape is None:
        raise ValueError(f"a constant needs a known shape, not {type_}")
    if math.prod(shape) > LARGEST:
        raise ValueError(f"{type_} is too large")
    return shape


def element_texts(array: Array, elem: str) -> list[str] | None:
    """One text for each element, row-major; None if they have no inline form (complex
    numbers, NaNs with a payload)."""
    if elem in ("c64", "c128"):
        return None
    if elem == "str":
        return [quote(str(x)) for x in array.ravel()]
    if elem == "bool":
        return ["true" if x else "false" for x in array.ravel()]
    if is_integer(elem):
        return [str(int(x)) for x in array.ravel()]
    texts = [_float_element(x) for x in array.ravel()]
    again = np.array([float(t) for t in texts], np.float64).astype(array.dtype)
    return texts if again.tobytes() == array.tobytes() else None


def _float_element(x: np.generic) -> str:
    """The shortest decimal that converts to the same value of its type."""
    if x.dtype in (np.float16, np.float32, np.float64):
        return str(x)
    value = float(x)
    if not math.isfinite(value):
        return str(value)
    texts = (f"{value:.{digits}g}" for digits in range(1, 10))
    text = next(t for t in texts if float(np.float64(t).astype(x.dtype)) == value)
    return text if "." in text or "e" in text else f"{text}.0"


def elements(items: Sequence[Literal], type_: TensorType) -> Array:
    """The array of an inline constant; ValueError names the first item that doesn't fit."""
    shape = sizes(type_)
    if len(items) != math.prod(shape):
        raise ValueError(f"{type_} has {math.prod(shape)} elements, {len(items)} are given")
    for item in items:
        _check_item(item, type_.elem)
    if is_float(type_.elem):
        with np.errstate(over="ignore"):
            flat = np.array([float(i) for i in items], np.float64).astype(container(type_.elem))
    else:
        flat = np.array(items, container(type_.elem))
    return flat.reshape(shape)


def _check_item(item: Literal, elem: str) -> None:
    if elem in ("str", "bool"):
        good = isinstance(item, str if elem == "str" else bool)
    elif is_float(elem):
        good = isinstance(item, int | float) and not isinstance(item, bool)
    else:
        good = isinstance(item, int) and not isinstance(item, bool)
    if not good:
        raise ValueError(f"{_spelled(item)} is not an element of type {elem}")
    if not is_integer(elem):
        return
    low, high = int_range(elem)
    assert isinstance(item, int)
    if not low <= item <= high or (elem == "bip" and item == 0):
        legal = "-1 and 1" if elem == "bip" else f"{low} to {high}"
        raise ValueError(f"{item} is out of range for {elem} ({legal})")


def _spelled(item: Literal) -> str:
    if isinstance(item, bool):
        return str(item).lower()
    return quote(item) if isinstance(item, str) else str(item)


def range_problem(array: Array, elem: str) -> str | None:
    """What is wrong with the values of a constant of an integer type, or None."""
    if not is_integer(elem) or array.size == 0:
        return None
    low, high = int_range(elem)
    least, most = int(array.min()), int(array.max())
    if least < low or most > high:
        return f"values {least} to {most} are out of range for {elem} ({low} to {high})"
    if elem == "bip" and not array.all():
        return "bip has no 0, only -1 and 1"
    return None


# -- content --


def pack(array: Array, elem: str) -> bytes:
    """The bytes of a constant: little-endian containers, row-major; `bip` one bit each,
    least significant bit first, 1 for +1; strings as a JSON list."""
    if elem == "bip":
        bits = array.ravel().astype(np.int8) > 0
        return np.packbits(bits, bitorder="little").tobytes()
    if elem == "str":
        return json.dumps([str(x) for x in array.ravel()], separators=(",", ":")).encode()
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


def unpack(data: bytes, type_: TensorType) -> Array:
    """The array whose bytes `pack` gave; ValueError if they are not `type_`'s."""
    shape, elem = sizes(type_), type_.elem
    count = math.prod(shape)
    if elem == "str":
        return _unpack_strings(data, shape)
    size = -(-count // 8) if elem == "bip" else count * container(elem).itemsize
    if len(data) != size:
        raise ValueError(f"{type_} takes {size} bytes, {len(data)} are given")
    if elem == "bip":
        bits = np.unpackbits(np.frombuffer(data, np.uint8), count=count, bitorder="little")
        return (bits.astype(np.int8) * 2 - 1).reshape(shape)
    little = np.frombuffer(data, container(elem).newbyteorder("<"))
    return little.astype(container(elem)).reshape(shape)


def _unpack_strings(data: bytes, shape: tuple[int, ...]) -> Array:
    try:
        items = json.loads(data)
    except ValueError:
        items = None
    if not isinstance(items, list) or not all(isinstance(i, str) for i in items):
        raise ValueError("the bytes are not a JSON list of strings")
    if len(items) != math.prod(shape):
        raise ValueError(f"str{list(shape)} has {math.prod(shape)} elements, not {len(items)}")
    flat = np.empty(len(items), object)
    flat[:] = items
    return flat.reshape(shape)


def content_hash(type_: TensorType, data: bytes) -> str:
    """The name of a constant's bytes: 16 hex digits of sha256 over the type and them."""
    return "sha256:" + hashlib.sha256(f"{type_}\n".encode() + data).hexdigest()[:16]


def draw(type_: TensorType, seed: int) -> Array:
    """The elements of `= random seed=…`, from numpy's `default_rng(seed)`: ±1 for bip, the
    full range for integers of at most 8 bits, -100 to 100 (or what fits) for wider ones,
    the standard normal distribution for floats. ValueError for strings and complex numbers."""
    shape, elem = sizes(type_), type_.elem
    if seed < 0:
        raise ValueError("a seed is at least 0")
    rng = np.random.default_rng(seed)
    if elem in ("str", "c64", "c128"):
        raise ValueError(f"no random constants of type {elem}")
    if elem == "bip":
        return np.asarray(rng.integers(0, 2, shape) * 2 - 1).astype(np.int8)
    if elem == "bool":
        return np.asarray(rng.integers(0, 2, shape)).astype(np.bool_)
    if is_float(elem):
        return np.asarray(rng.standard_normal(shape)).astype(container(elem))
    low, high = int_range(elem)
    if container(elem).itemsize > 1:
        low, high = max(low, -100), min(high, 100)
    return np.asarray(rng.integers(low, high + 1, shape)).astype(container(elem))
