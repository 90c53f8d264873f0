"""Type rules of the native operations: operand types and attributes to result types.

A rule raises `Misfit` where the operands do not fit. Symbolic dimensions pass through;
a size that depends on one is `?`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cimc.ir.types import INPUT_PLANES, Dim, TensorType, Type, int_range, is_elem, is_small, planes


class Misfit(Exception):
    """Operands that do not fit an operation, in one sentence."""


def _shape(t: TensorType) -> tuple[Dim, ...]:
    if t.shape is None:
        raise Misfit(f"the rank of {t} is unknown")
    return t.shape


def window(attrs: dict[str, Any], rank: int) -> tuple[tuple[int, ...], ...]:
    """strides, pads and dilations of `rank` spatial axes with defaults filled in."""
    strides = attrs["strides"] or (1,) * rank
    pads = attrs["pads"] or (0,) * (2 * rank)
    dilations = attrs["dilations"] or (1,) * rank
    if (len(strides), len(pads), len(dilations)) != (rank, 2 * rank, rank):
        raise Misfit(f"strides, pads and dilations must fit {rank} spatial axes")
    if min(strides, default=1) < 1 or min(dilations, default=1) < 1 or min(pads, default=0) < 0:
        raise Misfit("strides and dilations must be at least 1, pads at least 0")
    return strides, pads, dilations


def _slide(shape: Sequence[Dim], kernel: Sequence[int], attrs: dict[str, Any]) -> list[Dim]:
    """Output sizes of a window that slides over spatial axes of `shape`."""
    rank = len(shape)
    if len(kernel) != rank:
        raise Misfit(f"a kernel of {len(kernel)} axes on {rank} spatial axes")
    strides, pads, dilations = window(attrs, rank)
    out: list[Dim] = []
    for i, size in enumerate(shape):
        if not isinstance(size, int):
            out.append("?")
            continue
        reach = dilations[i] * (kernel[i] - 1) + 1
        steps = (size + pads[i] + pads[rank + i] - reach) // strides[i] + 1
        if steps < 0 or (steps < 1 and size > 0):
            raise Misfit(f"a window of {reach} is larger than the padded size of axis {i + 2}")
        out.append(max(0, steps))
    return out


def sign(types: Sequence[TensorType], attrs: dict[str, Any]) -> list[Type]:
    if attrs["to"] == "u1" and attrs["zero"] == 0:
        raise Misfit('to="u1" has no level for zero=0')
    elem = attrs["to"] or ("tern" if attrs["zero"] == 0 else "bip")
    return [types[0].with_elem(elem)]


def conv(types: Sequence[TensorType], attrs: dict[str, Any]) -> list[Type]:
    x, w = (_shape(t) for t in types[:2])
    if len(x) < 2 or len(w) != len(x):
        raise Misfit(f"x {types[0]} and w {types[1]} must have one rank of at least 2")
    group = attrs["group"]
    kernel = [d for d in w if isinstance(d, int)]
    if len(kernel) != len(w) or group < 1 or kernel[0] % group:
        raise Misfit(f"group={group} must divide the {w[0]} kernels of {types[1]}")
    if isinstance(x[1], int) and x[1] != kernel[1] * group:
        raise Misfit(f"x has {x[1]} channels, w needs {kernel[1]} in each of {group} groups")
    up = attrs["up"] or (1,) * (len(x) - 2)
    if len(up) != len(x) - 2 or min(up, default=1) < 1:
        raise Misfit(f"up={list(up)} must have a factor of at least 1 for each spatial axis")
    out = _slide(spread(x[2:], up), kernel[2:], attrs)
    _zeros(types, kernel[0], (1, kernel[0], *out))
    return [TensorType("i32", (x[0], kernel[0], *out))]


def spread(sizes: Sequence[Dim], up: Sequence[int]) -> list[Dim]:
    """Sizes with up - 1 gaps between the elements of each axis."""
    return [
        (size - 1) * k + 1 if isinstance(size, int) and size else size if k == 1 else "?"
        for size, k in zip(sizes, up)
    ]


def _zeros(
    types: Sequence[TensorType | None], channels: Dim, places: tuple[Dim, ...] | None = None
) -> None:
    """Zero points and bias of a layer: zx[1], zw[1] or [C], b[C] or the shape of `places`."""
    shapes: dict[str, list[tuple[Dim, ...]]] = {
        "zx": [(1,)],
        "zw": [(1,), (channels,)],
        "b": [(channels,), *([places] if places else [])],
    }
    for name, type_ in zip(shapes, types[2:]):
        if type_ is not None and not any(_meets(_shape(type_), shape) for shape in shapes[name]):
            sizes = " or ".join(f"[{','.join(map(str, shape))}]" for shape in shapes[name])
            raise Misfit(f"{name} must have the shape {sizes}, not {type_}")


def _meets(shape: tuple[Dim, ...], wanted: tuple[Dim, ...]) -> bool:
    """Whether a shape is the wanted one, where that is known."""
    return len(shape) == len(wanted) and all(
        a == b or not isinstance(b, int) for a, b in zip(shape, wanted)
    )


def matmul(types: Sequence[TensorType], attrs: dict[str, Any]) -> list[Type]:
    x, w = (_shape(t) for t in types[:2])
    if not x or len(w) != 2:
        raise Misfit(f"x {types[0]} needs an axis to sum over, w {types[1]} the shape [K,N]")
    if isinstance(x[-1], int) and x[-1] != w[0]:
        raise Misfit(f"the last axis of x {types[0]} must be the first of w {types[1]}")
    _zeros(types, w[1])
    return [TensorType("i32", (*x[:-1], w[1]))]


def threshold(types: Sequence[TensorType], attrs: dict[str, Any]) -> list[Type]:
    x, th = _shape(types[0]), _shape(types[1])
    axis, to = attrs["axis"], attrs["to"]
    if not 0 <= axis < len(x):
        raise Misfit(f"axis={axis} is not an axis of {types[0]}")
    if len(th) not in (1, 2) or (isinstance(x[axis], int) and th[0] != x[axis]):
        raise Misfit(f"th must be [{x[axis]}] or [{x[axis]},T] for axis={axis}, not {types[1]}")
    if len(types) > 2 and _shape(types[2]) != (th[0],):
        raise Misfit(f"flip must be bip[{th[0]}], not {types[2]}")
    levels = th[1] if len(th) == 2 else 1
    if not isinstance(levels, int) or not _levels_fit(to, levels):
        raise Misfit(f'{levels} thresholds a channel do not make to="{to}"')
    return [types[0].with_elem(to)]


def _levels_fit(to: str, levels: int) -> bool:
    if levels < 1:
        return False
    if to == "bip":
        return levels == 1
    if to == "tern":
        return levels == 2
    if not is_elem(to) or to[0] not in "ui":
        return False
    low, high = int_range(to)
    return levels <= high - low


def max_pool(types: Sequence[TensorType], attrs: dict[str, Any]) -> list[Type]:
    x = _shape(types[0])
    out = _slide(x[2:], attrs["kernel"], attrs)
    return [TensorType(types[0].elem, (*x[:2], *out))]


def add(types: Sequence[TensorType], attrs: dict[str, Any]) -> list[Type]:
    if not compatible(types[0].with_elem("i32"), types[1].with_elem("i32")):
        raise Misfit(f"shapes differ: {types[0]} and {types[1]}")
    return [types[0].with_elem("i32")]


def relu(types: Sequence[TensorType], attrs: dict[str, Any]) -> list[Type]:
    if types[0].elem == "bip":
        return [types[0].with_elem("u1")]  # bip has no zero
    return [types[0]]


def quantize(types: Sequence[TensorType], attrs: dict[str, Any]) -> list[Type]:
    if not attrs["scale"] > 0:
        raise Misfit(f"scale={attrs['scale']} must be above 0")
    return [types[0].with_elem(_quantised(attrs["to"], attrs["zero"]))]


def quantised_limits(elem: str, narrow: int) -> tuple[int, int]:
    """The range of an integer type, less its lowest (signed) or highest (unsigned) value if
    `narrow`."""
    low, high = int_range(elem)
    if not narrow:
        return low, high
    return (low + 1, high) if low < 0 else (low, high - 1)


def requant(types: Sequence[TensorType], attrs: dict[str, Any]) -> list[Type]:
    x, scale = _shape(types[0]), _shape(types[1])
    axis, zero = attrs["axis"], attrs["zero"]
    if types[1].elem != "f32" or len(scale) != 1:
        raise Misfit(f"scale must be f32[1] or f32[C], not {types[1]}")
    if scale[0] != 1 and not 0 <= axis < len(x):
        raise Misfit(f"axis={axis} is not an axis of {types[0]}")
    if scale[0] != 1 and isinstance(x[axis], int) and scale[0] != x[axis]:
        raise Misfit(f"scale must be f32[1] or f32[{x[axis]}] for axis={axis}, not {types[1]}")
    return [types[0].with_elem(_quantised(attrs["to"], zero))]


def _quantised(to: str, zero: int) -> str:
    if not is_elem(to) or to[0] not in "ui" or not is_small(to):
        raise Misfit(f'to="{to}" must be an integer type of at most {INPUT_PLANES} bits')
    low, high = int_range(to)
    if not low <= zero <= high:
        raise Misfit(f"zero={zero} is not a value of {to}, which holds {low} … {high}")
    return to


def lut(types: Sequence[TensorType], attrs: dict[str, Any]) -> list[Type]:
    if types[0].elem in ("bip", "tern"):
        raise Misfit(f"{types[0]} has too few levels for a table")
    size = 2 ** input_planes(types[0].elem)
    if _shape(types[1]) != (size,):
        raise Misfit(f"the table for {types[0].elem} must have {size} elements, not {types[1]}")
    return [types[0].with_elem(types[1].elem)]


def sum_pool(types: Sequence[TensorType], attrs: dict[str, Any]) -> list[Type]:
    x = _shape(types[0])
    return [TensorType("i32", (*x[:2], *_slide(x[2:], attrs["kernel"], attrs)))]


def qadd(types: Sequence[TensorType], attrs: dict[str, Any]) -> list[Type]:
    if not compatible(types[0].with_elem("i32"), types[1].with_elem("i32")):
        raise Misfit(f"shapes differ: {types[0]} and {types[1]}")
    return [types[0].with_elem(_quantised(attrs["to"], attrs["zero"]))]


def concat(types: Sequence[TensorType], attrs: dict[str, Any]) -> list[Type]:
    x, y, axis = _shape(types[0]), _shape(types[1]), attrs["axis"]
    elems = {types[0].elem, types[1].elem}
    elem = "tern" if elems == {"bip", "tern"} else types[0].elem
    if len(elems) > 1 and elem != "tern":
        raise Misfit(f"element types differ: {types[0]} and {types[1]}")
    if not 0 <= axis < len(x):
        raise Misfit(f"axis={axis} is not an axis of {types[0]}")
    rest = [TensorType(elem, (*s[:axis], *s[axis + 1 :])) for s in (x, y)]
    if len(x) != len(y) or not compatible(*rest):
        raise Misfit(f"shapes differ beside axis {axis}: {types[0]} and {types[1]}")
    a, b = x[axis], y[axis]
    size = a + b if isinstance(a, int) and isinstance(b, int) else "?"
    return [TensorType(elem, (*x[:axis], size, *x[axis + 1 :]))]


def slice_(types: Sequence[TensorType], attrs: dict[str, Any]) -> list[Type]:
    x, axis, start, stop = _shape(types[0]), attrs["axis"], attrs["start"], attrs["stop"]
    if not 0 <= axis < len(x):
        raise Misfit(f"axis={axis} is not an axis of {types[0]}")
    size = x[axis]
    if not 0 <= start < stop or (isinstance(size, int) and stop > size):
        raise Misfit(f"{start}:{stop} is not a part of axis {axis} of {types[0]}")
    return [TensorType(types[0].elem, (*x[:axis], stop - start, *x[axis + 1 :]))]


def take(types: Sequence[TensorType], attrs: dict[str, Any]) -> list[Type]:
    x, index, axis = _shape(types[0]), _shape(types[1]), attrs["axis"]
    if not 0 <= axis < len(x):
        raise Misfit(f"axis={axis} is not an axis of {types[0]}")
    if len(index) != 1:
        raise Misfit(f"index must be a vector of integers, not {types[1]}")
    return [TensorType(types[0].elem, (*x[:axis], index[0], *x[axis + 1 :]))]


def take_index(
    types: Sequence[TensorType], attrs: dict[str, Any], constants: Sequence[Any]
) -> None:
    """Whether the entries of a take's index are elements of the axis."""
    size, index = _shape(types[0])[attrs["axis"]], constants[1]
    if isinstance(size, int) and index.size and (index.min() < 0 or index.max() >= size):
        ends = f"{index.min()} … {index.max()}"
        raise Misfit(f"index has entries {ends}; axis {attrs['axis']} of {types[0]} has {size}")


def dequant(types: Sequence[TensorType], attrs: dict[str, Any]) -> list[Type]:
    return [types[0].with_elem("f32")]


def reshape(types: Sequence[TensorType], attrs: dict[str, Any]) -> list[Type]:
    x, shape = _shape(types[0]), list(attrs["shape"])
    if shape.count(-1) > 1 or min(shape, default=0) < -1:
        raise Misfit(f"shape={shape} may have one -1 and no other negative size")
    known = [d for d in x if isinstance(d, int)]
    if len(known) < len(x):
        return [TensorType(types[0].elem, tuple("?" if d == -1 else d for d in shape))]
    total = _product(known)
    if -1 in shape:
        rest = _product([d for d in shape if d != -1])
        shape[shape.index(-1)] = total // rest if rest else 0
    if _product(shape) != total:
        raise Misfit(f"{types[0]} has {total} elements, shape={list(attrs['shape'])} does not")
    return [TensorType(types[0].elem, tuple(shape))]


def transpose(types: Sequence[TensorType], attrs: dict[str, Any]) -> list[Type]:
    x, perm = _shape(types[0]), attrs["perm"]
    if sorted(perm) != list(range(len(x))):
        raise Misfit(f"perm={list(perm)} is not an order of the {len(x)} axes of {types[0]}")
    return [TensorType(types[0].elem, tuple(x[i] for i in perm))]


def compatible(a: Type, b: Type) -> bool:
    """Whether two types can be the same value's: symbols and unknown ranks match anything."""
    if not isinstance(a, TensorType) or not isinstance(b, TensorType):
        return not (isinstance(a, TensorType) and isinstance(b, TensorType)) or a == b
    if a.elem != b.elem:
        return False
    if a.shape is None or b.shape is None:
        return True
    if len(a.shape) != len(b.shape):
        return False
    return all(x == y or isinstance(x, str) or isinstance(y, str) for x, y in zip(a.shape, b.shape))


def input_planes(elem: str) -> int:
    """Bit planes of an operand that a tile takes as input; raises Misfit beyond `INPUT_PLANES`."""
    count = planes(elem)
    if count > INPUT_PLANES:
        most = f"a tile layer takes at most {INPUT_PLANES}"
        raise Misfit(f"{elem} has {count} bit planes; {most}")
    return count


def _product(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
