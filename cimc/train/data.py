"""Data sets in memory: read from `.npz`, checked, split, shifted."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from cimc.errors import CompileError, raise_all


@dataclass(frozen=True)
class Data:
    """x: [samples, …], uint8 or float32, such as images [samples, channels, height, width] or rows
    of features [samples, features]. y: int64 [samples], the classes, from 0 to classes - 1.
    """

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int

    def check(self, where: str = "data") -> None:
        """Raises CompileError, one for each tensor that is not as said above or has NaN."""
        shape = tuple(self.x_train.shape[1:])
        errors = []
        for part in ("train", "test"):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            found = _misfit(part, x.numpy(), y.numpy(), shape, self.classes)
            if x.dtype not in (torch.uint8, torch.float32):
                found.append(f"x_{part} is {x.dtype}, not torch.uint8 or torch.float32")
            if not y.is_floating_point() and (y.dtype != torch.int64 or y.ndim != 1):
                found.append(f"y_{part} is {y.dtype} {list(y.shape)}, not torch.int64 [{len(x)}]")
            errors += [CompileError(text, where) for text in found]
        raise_all(errors)

    def limited(self, count: int | None) -> Data:
        """With the first training samples only."""
        if count is None:
            return self
        return replace(self, x_train=self.x_train[:count], y_train=self.y_train[:count])

    def split(self, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Training samples and labels without held-out ones, and the `count` held-out ones,
        drawn by the seed."""
        total = len(self.x_train)
        if not 0 < count < total:
            raise CompileError(
                f"{count} of {total} training samples would be held out to choose the epoch",
                "training",
                help="give at least 5 samples, and settings that hold some out but not all",
            )
        order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
        out, kept = order[:count], order[count:]
        return self.x_train[kept], self.y_train[kept], self.x_train[out], self.y_train[out]


def read_images(path: Path, shape: tuple[int, ...], classes: int) -> Data:
    """A NumPy archive with x_train, y_train, x_test and y_test; a missing channel axis is added.

    shape: of one sample, uint8. Raises CompileError, one for each array that does not fit.
    """
    arrays = read_npz(path, ("x_train", "y_train", "x_test", "y_test"))
    for name in ("x_train", "x_test"):
        if arrays[name].ndim == len(shape) and shape[0] == 1:
            arrays[name] = arrays[name][:, None]
    raise_all(
        [
            CompileError(
                f"{name} is {arrays[name].dtype}, not uint8",
                str(path),
                help="give pixels of 0 to 255; the network scales them",
            )
            for name in ("x_train", "x_test")
            if arrays[name].dtype != np.uint8
        ]
    )
    return checked(arrays, shape, classes, str(path))


def read_npz(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Arrays of an archive by name. Raises CompileError where it can't be read or lacks some."""
    help = f"give a NumPy archive with {', '.join(names)}"
    try:
        # np.load would take a single array, or advise to run code from what is no archive.
        if not zipfile.is_zipfile(path) and path.is_file():
            raise CompileError("can't read it as .npz: it is no archive", str(path), help=help)
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in names if name not in file.files]
            if not missing:
                return {name: _array(file, name, path) for name in names}
            have = ", ".join(sorted(file.files))
    except FileNotFoundError:
        raise CompileError("can't read it as .npz: there is no such file", str(path)) from None
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise CompileError(f"can't read it as .npz: {error}", str(path), help=help) from None
    raise CompileError(f"has no {', '.join(missing)}", str(path), help=f"it has: {have}")


def _array(file: Any, name: str, path: Path) -> Any:
    try:
        return file[name]
    except ValueError:
        raise CompileError(
            f"{name} holds Python objects", str(path), help="save arrays of numbers"
        ) from None


def checked(arrays: dict[str, Any], shape: tuple[int, ...], classes: int, where: str) -> Data:
    """Data of arrays x_train, y_train, x_test, y_test. Raises CompileError for wrong shapes, other
    classes, NaN and infinities."""
    errors = []
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        found = _misfit(part, x, y, shape, classes)
        errors += [CompileError(text, where) for text in found]
    raise_all(errors)
    tensors = {
        name: torch.from_numpy(np.ascontiguousarray(a)) if name[0] == "x" else _labels(a)
        for name, a in arrays.items()
        if name[:2] in ("x_", "y_")
    }
    return Data(**tensors, classes=classes)


def _labels(y: Any) -> Tensor:
    return torch.from_numpy(np.asarray(y).reshape(-1).astype(np.int64))


def _misfit(part: str, x: Any, y: Any, shape: tuple[int, ...], classes: int) -> list[str]:
    found = []
    if x.shape[1:] != shape:
        found.append(f"x_{part}: samples of {list(x.shape[1:])}, expected {list(shape)}")
    if not len(x) or y.size != len(x):
        shaped = f" ({list(y.shape)}: give one class for each)" if y.ndim > 1 else ""
        found.append(f"{len(x)} samples in x_{part}, {y.size} labels in y_{part}{shaped}")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        found.append(f"x_{part} has NaN or infinite values")
    if y.dtype.kind not in "iu":
        found.append(f"y_{part} is {y.dtype}, not integers")
    elif y.size and not 0 <= int(y.min()) <= int(y.max()) < classes:
        found.append(f"y_{part} has classes {y.min()} to {y.max()}, expected 0 to {classes - 1}")
    return found


def shifted(images: Tensor, largest: int, random: torch.Generator) -> Tensor:
    """Each image [N, C, H, W] moved by whole pixels, at most `largest` each way; zeros enter."""
    if not largest:
        return images
    n, _, height, width = images.shape
    padded = nnf.pad(images, (largest,) * 4)
    shifts = torch.randint(0, 2 * largest + 1, (2, n, 1), generator=random)
    rows = (shifts[0] + torch.arange(height))[:, :, None]
    cols = (shifts[1] + torch.arange(width))[:, None]
    return padded[torch.arange(n)[:, None, None], :, rows, cols].movedim(3, 1)
