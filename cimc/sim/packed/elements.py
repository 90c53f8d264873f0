"""How values lie in packed buffers, and how kernels read and write one of them.

A sample of a buffer is one run of elements, channel last. Formats:

    BIT    one bit an element: bip (1 is +1) and u1
    TERN   two runs of bits, x > 0 and, `second` bytes further, x != 0
    BYTE   u2 to u8 and i2 to i8, stored less the lowest value of the type
    others integers of 16 and 32 bits as they are

A *code* is what is stored, from 0 on: value = code * factor + low. An operand of a kernel is a
run of 64-bit numbers, the fields below.
"""

from __future__ import annotations

from dataclasses import dataclass

from cimc.ir.types import int_range, is_integer
from cimc.sim.packed.jit import inlined
from cimc.sim.packed.memory import (
    get_i16,
    get_i32,
    get_i64,
    get_u8,
    get_u16,
    get_u32,
    put_u8,
    put_u16,
    put_u32,
)

BIT, TERN, BYTE, I16, U16, I32, U32 = range(7)

# the fields of an operand
BASE, STEP, FORMAT, FACTOR, LOW, LEAST, MOST, SECOND, AT, STRIDE = range(10)
FIELDS = 10
"""BASE: address of sample 0; STEP: bytes from sample to sample; LEAST, MOST: range of values;
AT: address of the first element (int32) of each vector; STRIDE: elements from channel to
channel."""


@dataclass(frozen=True)
class Format:
    """The format of an element type, with the lowest value and what a code counts for."""

    kind: int
    low: int
    factor: int
    least: int
    most: int

    @staticmethod
    def of(elem: str) -> Format | None:
        """None for element types that only the reference interpreter handles."""
        if not is_integer(elem):
            return None
        least, most = int_range(elem)
        if elem == "bip":
            return Format(BIT, -1, 2, -1, 1)
        if elem == "tern":
            return Format(TERN, -1, 1, -1, 1)
        bits = int(elem[1:]) if elem[1:].isdigit() else 64
        if elem == "u1":
            return Format(BIT, 0, 1, 0, 1)
        if bits <= 8:
            return Format(BYTE, least, 1, least, most)
        if bits <= 16:
            return Format(I16 if elem[0] == "i" else U16, 0, 1, least, most)
        if bits <= 32:
            return Format(I32 if elem[0] == "i" else U32, 0, 1, least, most)
        return None

    @property
    def is_small(self) -> bool:
        """At most 256 codes."""
        return self.kind <= BYTE

    @property
    def codes(self) -> int:
        """Number of codes of a small format."""
        return (self.most - self.low) // self.factor + 1

    @property
    def bits(self) -> int:
        """Bits of one element in one run."""
        return (1, 1, 8, 16, 16, 32, 32)[self.kind]


@inlined
def get_code(kind: int, base: int, element: int, second: int) -> int:
    """The code (of wide formats the value) of an element."""
    if kind == BYTE:
        return get_u8(base + element)
    if kind == BIT:
        return (get_u8(base + (element >> 3)) >> (element & 7)) & 1
    if kind == I32:
        return get_i32(base + 4 * element)
    if kind == TERN:
        place, bit = base + (element >> 3), element & 7
        positive = (get_u8(place) >> bit) & 1
        return 2 if positive else 1 - ((get_u8(place + second) >> bit) & 1)
    if kind == I16:
        return get_i16(base + 2 * element)
    if kind == U16:
        return get_u16(base + 2 * element)
    return get_u32(base + 4 * element)


@inlined
def put_bit(place: int, bit: int, value: int) -> None:
    """Set a bit of a byte."""
    put_u8(place, (get_u8(place) & ~(1 << bit)) | (value << bit))


@inlined
def put_code(kind: int, base: int, element: int, second: int, code: int) -> None:
    """Store a code (of wide formats the value)."""
    if kind == BYTE:
        put_u8(base + element, code)
    elif kind == BIT:
        put_bit(base + (element >> 3), element & 7, code)
    elif kind in (I32, U32):
        put_u32(base + 4 * element, code)
    elif kind == TERN:
        place, bit = base + (element >> 3), element & 7
        put_bit(place, bit, 1 if code == 2 else 0)
        put_bit(place + second, bit, 0 if code == 1 else 1)
    else:
        put_u16(base + 2 * element, code)


@inlined
def get_value(operand: int, base: int, element: int) -> int:
    """The value of an element of an operand (the address of its fields)."""
    code = get_code(get_i64(operand + 8 * FORMAT), base, element, get_i64(operand + 8 * SECOND))
    return code * get_i64(operand + 8 * FACTOR) + get_i64(operand + 8 * LOW)


@inlined
def put_value(operand: int, base: int, element: int, value: int) -> int:
    """Store a value; 1 where the type doesn't hold it, else 0."""
    if value < get_i64(operand + 8 * LEAST) or value > get_i64(operand + 8 * MOST):
        return 1
    code = value - get_i64(operand + 8 * LOW)
    if get_i64(operand + 8 * FACTOR) == 2:
        if code & 1:
            return 1
        code >>= 1
    put_code(get_i64(operand + 8 * FORMAT), base, element, get_i64(operand + 8 * SECOND), code)
    return 0
