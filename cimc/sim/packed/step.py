"""One call of a kernel: its parameters, and the buffers they point into."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.sim.packed.elements import (
    AT,
    BASE,
    FACTOR,
    FORMAT,
    LEAST,
    LOW,
    MOST,
    SECOND,
    STEP,
    STRIDE,
)
from cimc.sim.packed.jit import Kernel
from cimc.sim.packed.layout import Slot


@dataclass
class Step:
    """A kernel with its parameters. Rows are those of one sample, or 1 for kernels that do whole
    samples; `pairs` of lane vectors can be shared out like rows.

    work: multiply-accumulates (of bits where `unit` is "bit"), or elements, for one sample.
    by_place: sums start with constants that differ from position to position.
    counts: the instruction whose `ones` the kernel returns; `fixed` ones a sample come on top."""

    layer: str
    what: str
    kernel: Kernel
    params: npt.NDArray[np.int64]
    rows: int
    scratch: int
    pairs: int = 1
    work: int = 0
    unit: str = "element"
    shared: bool = True  # whether rows of one sample can be shared out
    by_place: bool = False
    counts: str = ""
    fixed: int = 0
    bases: list[tuple[int, str, int]] = field(default_factory=list)
    inner: list[tuple[int, int]] = field(default_factory=list)
    kept: list[npt.NDArray[Any]] = field(default_factory=list)

    @property
    def weight(self) -> int:
        """Nanoseconds that a sample takes, roughly, for sharing work out."""
        return self.work // {"bit": 512, "byte": 64}.get(self.unit, 1)

    def address(self, array: npt.NDArray[Any]) -> int:
        """The address of an array, which lives as long as the step."""
        held = np.ascontiguousarray(array)
        self.kept.append(held)
        return int(held.ctypes.data)

    def point(self, index: int, slot: Slot, offset: int = 0) -> None:
        """Let parameter `index` be the address of a slot, and the one behind it its stride."""
        self.bases.append((index, slot.name, offset))
        self.params[index + 1] = slot.stride

    def operand(self, at: int, slot: Slot, first: npt.NDArray[np.int64], stride: int) -> None:
        """Fill in an operand from parameter `at` on."""
        form = slot.format
        self.point(at + BASE, slot)
        assert BASE + 1 == STEP
        for name, value in (
            (FORMAT, form.kind), (FACTOR, form.factor), (LOW, form.low), (LEAST, form.least),
            (MOST, form.most), (SECOND, slot.second), (STRIDE, stride),
            (AT, self.address(first.astype(np.int32))),
        ):  # fmt: skip
            self.params[at + name] = value

    def extra(self, number: int) -> int:
        """Room for more parameters; where it starts."""
        start = len(self.params)
        self.params.resize(start + number, refcheck=False)  # in place: others hold the array
        return start

    def bound(self, addresses: dict[str, int]) -> npt.NDArray[np.int64]:
        """The parameters with the addresses of the slots."""
        params = self.params.copy()
        for index, name, offset in self.bases:
            params[index] = addresses[name] + offset
        for index, offset in self.inner:
            params[index] = params.ctypes.data + 8 * offset
        return params


def float_bits(number: float) -> int:
    """A float32 as the low 32 bits of a parameter."""
    return int(np.float32(number).view(np.uint32))
