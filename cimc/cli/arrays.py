"""Reads and writes the arrays that commands take: .npy, .npz, .png; never pickles."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cimc.errors import CompileError
from cimc.ir.types import Array, container, random_array
from cimc.isa.program import Mem, Program
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


def read_npz(path: Path) -> dict[str, Array]:
    """All arrays of an .npz file. Raises CompileError for anything that is none."""
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise CompileError("holds one array without a name: an .npz is expected", str(path))
        with file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise CompileError("no such file", str(path)) from None
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError, EOFError) as error:
        raise CompileError(f"not an .npz file of plain arrays: {error}", str(path)) from None


def read_inputs(path: Path, inputs: Sequence[Port], scale: str = "raw") -> dict[str, Array]:
    """The inputs of a program from .npz (ONNX input names as keys), .npy or .png (one input).

    scale: `unit` divides pixels by 255 for a float input. Raises CompileError, also for a file
    of no samples.
    """
    found = _read(path, inputs, scale)
    for port in inputs:
        shape = found[port.name].shape if port.name in found else ()
        if port.batch is not None and shape[port.batch : port.batch + 1] == (0,):
            raise CompileError(f"input '{port.name}' has no samples", str(path))
    return found


def _read(path: Path, inputs: Sequence[Port], scale: str) -> dict[str, Array]:
    if path.suffix == ".npz":
        return read_npz(path)
    if len(inputs) != 1:
        names = ", ".join(repr(p.name) for p in inputs)
        raise CompileError(
            f"the program has {len(inputs)} inputs: {names}",
            str(path),
            help="give an .npz file with these names as keys",
        )
    if path.suffix == ".npy":
        try:
            return {inputs[0].name: np.load(path, allow_pickle=False)}
        except (OSError, ValueError, EOFError) as error:
            raise CompileError(f"not an .npy file of a plain array: {error}", str(path)) from None
    if path.suffix == ".png":
        return {inputs[0].name: _image(path, inputs[0], scale)}
    raise CompileError("expected a file .npz, .npy or .png", str(path))


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
    return scaled(np.ascontiguousarray(planes), port.elem, scale)


def scaled(pixels: Array, elem: str, scale: str) -> Array:
    """Data in the element type of an input. `unit` maps 0..255 to 0..1 for a float input."""
    dtype = container(elem)
    if pixels.dtype == dtype and scale == "raw":
        return pixels
    if dtype.kind == "f":
        values: Any = pixels.astype(dtype)
        return np.asarray(values / dtype.type(255) if scale == "unit" else values, dtype)
    if pixels.dtype.kind in "iu" and np.array_equal(pixels, pixels.astype(dtype)):
        return pixels.astype(dtype)
    raise CompileError(f"the data is {pixels.dtype}, the input takes {dtype}")


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
