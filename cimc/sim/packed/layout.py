"""Where the elements of buffers lie in packed storage.

Each `.mem` has one *slot*: its elements in one order, channel last, in the format of
elements.py. The order is that of the buffer or view that its windows are taken of, so that the
channels of a tap lie together; others reach the elements through an index. Knows buffers and
shapes; nothing of instructions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.ir.types import container
from cimc.isa.program import Program
from cimc.isa.state import Buffer
from cimc.sim.packed.elements import BIT, BYTE, TERN, Format
from cimc.sim.packed.flow import Refused
from cimc.sim.packed.turn import turn

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Values = npt.NDArray[Any]

_SLACK = 80  # bytes behind a sample that kernels may read, and write with anything


@dataclass
class Slot:
    """The packed storage of one buffer: `elements` of a sample, `stride` bytes from sample to
    sample, and for TERN `second` bytes between its two runs."""

    name: str
    format: Format
    order: Buffer
    elem: str

    @cached_property
    def elements(self) -> int:
        return int(np.prod(self.order.shape))

    @cached_property
    def second(self) -> int:
        return _padded(-(-self.elements // 8)) if self.format.kind == TERN else 0

    @cached_property
    def stride(self) -> int:
        return 2 * self.second or _padded(-(-self.elements * self.format.bits // 8))

    def values(self, stored: Bytes) -> Values | None:
        """Storage as values [S, elements] in the order of the buffer, of bytes the codes; None
        where the order is another or several values share a byte."""
        form, shape, axis = self.format, self.order.shape, self.order.axis
        behind = int(np.prod(shape[axis + 1 :]))
        if form.kind < BYTE or not (behind == 1 or shape[axis] == 1):
            return None
        used = stored[:, : self.elements * form.bits // 8]
        return used if form.kind == BYTE else used.view(container(self.elem))

    def copy(self, flat: Values, values: Values, to_values: bool) -> None:
        """Between the values of a buffer [n, elements] and `values`, one way or the other."""
        form = self.format
        if form.kind == BYTE:
            low, bytes_ = np.uint8(form.low & 255), flat.view(np.uint8)
            if to_values:
                np.subtract(bytes_, low, out=values)
            else:
                np.add(values, low, out=bytes_)
        elif to_values:
            np.copyto(values, flat)
        else:
            np.copyto(flat, values)

    def pack(self, flat: Values, to: Bytes) -> None:
        """Values [S, elements] in the order of the buffer to storage [S, stride]."""
        if self.format.kind >= BYTE:
            used = to[:, : self.elements * self.format.bits // 8]
            if self.format.kind == BYTE:
                self._turn(flat.view(np.uint8), used, True, -self.format.low & 255)
            else:
                self._turn(flat, used.view(flat.dtype), True, 0)
            return
        values, kind = self._last(flat), self.format.kind
        if kind in (BIT, TERN):
            _put_bits(values > 0, to)
        if kind == TERN:
            _put_bits(values != 0, to[:, self.second :])

    def _turn(self, source: Values, to: Values, to_last: bool, plus: int) -> None:
        """Move the channels to the end, or back from there, and add a number to each byte."""
        shape, axis = self.order.shape, self.order.axis
        channels = shape[axis] if shape else 1
        before = int(np.prod(shape[:axis]))
        behind = int(np.prod(shape[axis + 1 :]))
        rows, columns = (channels, behind) if to_last else (behind, channels)
        turn(source, to, (before, rows, columns), plus)

    def unpack(self, stored: Bytes, flat: Values) -> None:
        """The inverse of `pack`."""
        kind, samples = self.format.kind, len(stored)
        if kind in (BIT, TERN):
            values = _bits(stored, self.elements).astype(flat.dtype)
            if kind == TERN:
                values = 2 * values - _bits(stored[:, self.second :], self.elements)
            else:
                values = values * self.format.factor + self.format.low
        else:
            used = stored[:, : self.elements * self.format.bits // 8]
            if kind == BYTE:
                self._turn(used, flat.view(np.uint8), False, self.format.low & 255)
            else:
                self._turn(used.view(flat.dtype), flat, False, 0)
            return
        self._last(flat)[...] = values.reshape(self._last(flat[:samples]).shape)

    def _last(self, flat: Values) -> Values:
        """The values [S, …] channel last, as a view where that is possible."""
        buffer = self.order
        if buffer.order is not None:
            raise AssertionError("storage follows a buffer or a reshape of it")
        if not buffer.shape:
            return flat
        whole = flat.reshape(len(flat), *buffer.shape)
        return np.moveaxis(whole, 1 + buffer.axis, -1)


def _padded(size: int) -> int:
    return -(-(size + _SLACK) // 64) * 64


def _put_bits(bits: Values, to: Bytes) -> None:
    packed = np.packbits(bits.reshape(len(bits), -1), axis=1, bitorder="little")
    to[:, : packed.shape[1]] = packed


def _bits(stored: Bytes, number: int) -> Bytes:
    return np.unpackbits(stored, axis=1, count=number, bitorder="little")


@dataclass
class Access:
    """How a buffer or view reaches the elements of its slot: `index` [positions, channels], or
    None where the element of channel c at position p is p * channels + c."""

    slot: Slot
    positions: int
    channels: int
    index: Ints | None
    shape: tuple[int, ...]

    def vectors(self, positions: Ints, lo: int, size: int) -> tuple[Ints, int]:
        """First element of channels [lo, lo + size) at each position, and the distance from
        channel to channel. Raises Refused where there is no one distance."""
        if self.index is None:
            return positions * self.channels + lo, 1
        part = self.index[positions, lo : lo + size]
        steps = np.diff(part, axis=1)
        if steps.size == 0:
            return part[:, 0], 1
        if steps.min() != steps.max():
            raise Refused("the channels of a vector lie at uneven distances")
        return part[:, 0], int(steps.flat[0])

    def elements(self, positions: Ints, lo: int, size: int) -> Ints:
        """The elements [positions, size]."""
        if self.index is None:
            return (positions * self.channels + lo)[:, None] + np.arange(size)
        return self.index[positions, lo : lo + size]


@dataclass
class Layout:
    """The slots of a program's buffers by root name, and the accesses by name."""

    program: Program
    buffers: Mapping[str, Any]  # of a machine
    preferred: Mapping[str, str]  # whose order a root's slot takes
    _slots: dict[str, Slot | None] = field(default_factory=dict)
    _accesses: dict[str, Access] = field(default_factory=dict)

    def root(self, name: str) -> str:
        """The `.mem` behind a buffer or view."""
        while name in self.program.views:
            name = self.program.views[name].source
        return name

    def slot(self, name: str) -> Slot:
        """The slot of a buffer or of the source of a view. Raises Refused if it can't have
        one."""
        root = self.root(name)
        if root not in self._slots:
            self._slots[root] = self._make(root)
        found = self._slots[root]
        if found is None:
            elem = self.program.mems[root].type
            raise Refused(f"{root} holds {elem}: only integers of up to 32 bits are packed")
        return found

    def _make(self, root: str) -> Slot | None:
        mem = self.program.mems[root]
        form = None if mem.shape is None else Format.of(mem.type)
        if form is None:
            return None
        order = self.buffers[self.preferred.get(root, root)]
        if order.order is not None:
            order = self.buffers[root]
        return Slot(root, form, order, mem.type)

    def access(self, name: str) -> Access:
        """How `name` reaches its slot. Raises Refused."""
        if name not in self._accesses:
            self._accesses[name] = self._reach(name)
        return self._accesses[name]

    def _reach(self, name: str) -> Access:
        slot, buffer = self.slot(name), self.buffers[name]
        if buffer.elem != slot.elem:
            raise Refused(f"{name} reads {slot.elem} as {buffer.elem}")
        channels = buffer.shape[buffer.axis] if buffer.shape else 1
        if slot.elements == 1:
            return Access(slot, 1, 1, None, buffer.shape)
        positions = slot.elements // channels if channels else 0
        order = slot.order
        same = (buffer.shape, buffer.axis) == (order.shape, order.axis)
        if same and buffer.order is None:
            return Access(slot, positions, channels, None, buffer.shape)
        place = np.empty(slot.elements, np.int64)
        place[order.channels.reshape(-1)] = np.arange(slot.elements)
        index = place[buffer.channels]
        plain = np.arange(slot.elements).reshape(index.shape)
        found = None if np.array_equal(index, plain) else index
        return Access(slot, positions, channels, found, buffer.shape)
