"""Reads and writes the arrays that commands take: .npy, .npz, .png; never pickles."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cimc.cli.sources import Mapped, open_npz
from cimc.errors import CompileError
from cimc.ir.types import Array, container, random_array
from cimc.isa.program import Mem, Program
from cimc.sim.feed import Source
from cimc.textfile import write_bytes


@dataclass(frozen=True)
class Port:
    """An input as a command sees it: its ONNX name, element type and shape of one sample."""

    name: str
    elem: str
    shape: tuple[int, ...]
    batch: int | None


def ports(program: Program) -> list[Port]:
    """The inputs of a program. Raises CompileError for one that is no tensor."""
    return [_port(mem) for mem in program.inputs]


def _port(mem: Mem) -> Port:
    if mem.shape is None or mem.input is None:
        raise CompileError(f"input '{mem.input}' is no tensor")
    return Port(mem.input, mem.type, mem.shape, mem.batch)


def read_inputs(
    path: Path, inputs: Sequence[Port], scale: str = "raw"
) -> dict[str, Array | Source]:
    """The inputs of a program from .npz (ONNX input names as keys), .npy or .png (one input).

    Large arrays stay in their file until their rows are read. scale: `unit` divides pixels by
    255 for a float input. Raises CompileError, also for a file of no samples.
    """
    found = _read(path, inputs, scale)
    for port in inputs:
        shape = found[port.name].shape if port.name in found else ()
        if port.batch is not None and shape[port.batch : port.batch + 1] == (0,):
            raise CompileError(f"input '{port.name}' has no samples", str(path))
    return found


def _read(path: Path, inputs: Sequence[Port], scale: str) -> dict[str, Array | Source]:
    if path.suffix == ".npz":
        return open_npz(path)
    if len(inputs) != 1:
        names = ", ".join(repr(p.name) for p in inputs)
        raise CompileError(
            f"the program has {len(inputs)} inputs: {names}",
            str(path),
            help="give an .npz file with these names as keys",
        )
    if path.suffix == ".npy":
        return {inputs[0].name: _array(path)}
    if path.suffix == ".png":
        return {inputs[0].name: _image(path, inputs[0], scale)}
    raise CompileError("expected a file .npz, .npy or .png", str(path))


def _array(path: Path) -> Array:
    """An .npy file, mapped into memory where that can be."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except ValueError:  # no array, one of objects, or an empty one
        pass
    except (OSError, EOFError) as error:
        raise CompileError(f"not an .npy file of a plain array: {error}", str(path)) from None
    try:
        return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]
    except (OSError, ValueError, EOFError) as error:
        raise CompileError(f"not an .npy file of a plain array: {error}", str(path)) from None


def _image(path: Path, port: Port, scale: str) -> Array:
    from PIL import Image, UnidentifiedImageError

    shape = port.shape
    if len(shape) != 4 or shape[1] not in (1, 3) or port.elem not in ("u8", "f32"):
        raise CompileError(
            f"input '{port.name}' is {port.elem}{list(shape)}: no image of 1 or 3 channels",
            str(path),
        )
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L" if shape[1] == 1 else "RGB"))
    except FileNotFoundError:
        raise CompileError("no such file", str(path)) from None
    except (OSError, UnidentifiedImageError) as error:
        raise CompileError(f"not an image: {error}", str(path)) from None
    if pixels.shape[:2] != shape[2:]:
        raise CompileError(
            f"the image has {pixels.shape[1]}x{pixels.shape[0]} pixels, "
            f"input '{port.name}' takes {shape[3]}x{shape[2]}",
            str(path),
            help="resize the image",
        )
    planes = pixels[None, None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)[None]
    pixels = np.ascontiguousarray(planes)
    return loaded({port.name: scaled(pixels, port.elem, scale)})[port.name]


def scaled(rows: Array | Source, elem: str, scale: str) -> Array | Source:
    """Data in the element type of an input, converted when it is read. `unit` maps 0..255 to
    0..1 for a float input. Raises CompileError where values don't fit, some when they are read.
    """
    dtype = container(elem)
    if rows.dtype == dtype and scale == "raw":
        return rows
    if dtype.kind != "f" and rows.dtype.kind not in "iu":
        raise _misfit(rows.dtype, dtype)
    return Mapped(rows, rows.shape, dtype, lambda part: _converted(part, dtype, scale))


def _converted(part: Array, dtype: np.dtype[Any], scale: str) -> Array:
    values: Any = part.astype(dtype)
    if dtype.kind == "f":
        return np.asarray(values / dtype.type(255) if scale == "unit" else values, dtype)
    if np.array_equal(part, values):
        return np.asarray(values)
    raise _misfit(part.dtype, dtype)


def _misfit(found: np.dtype[Any], expected: np.dtype[Any]) -> CompileError:
    return CompileError(f"the data is {found}, the input takes {expected}")


def loaded(feeds: Mapping[str, Array | Source]) -> dict[str, Array]:
    """Inputs with all rows in memory."""
    return {
        name: value.read(0, value.shape[0]) if isinstance(value, Source) else value
        for name, value in feeds.items()
    }


def seeded_inputs(inputs: Sequence[Port], samples: int, seed: int) -> dict[str, Array]:
    """Random inputs: `samples` along the batch axis of each input that has one."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for port in inputs:
        shape = list(port.shape)
        if port.batch is not None:
            shape[port.batch] *= samples
        feeds[port.name] = random_array(rng, port.elem, tuple(shape))
    return feeds


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays to an .npz file, whole or not at all. Raises CompileError."""
    stream = io.BytesIO()
    np.savez(stream, **dict(arrays))  # type: ignore[arg-type]
    write_bytes(path, stream.getvalue())
