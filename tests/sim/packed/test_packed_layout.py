"""Packed storage: round trips of every element type on every axis, and how views reach it."""

import numpy as np
import pytest

from cimc.ir.types import container, int_range
from cimc.isa.state import Buffer
from cimc.isa.text import parse
from cimc.sim.machine import Machine, pack_tiles
from cimc.sim.packed.elements import BIT, BYTE, TERN, Format
from cimc.sim.packed.flow import Refused
from cimc.sim.packed.layout import Layout, Slot

RNG = np.random.default_rng(11)
TYPES = ["bip", "tern", *(f"{sign}{bits}" for sign in "ui" for bits in (*range(1, 10), 16, 20, 32))]
SAMPLES = 3


def _values(elem, number):
    if elem == "bip":
        return RNG.choice([-1, 1], (SAMPLES, number)).astype(np.int8)
    low, high = int_range(elem)
    found = RNG.integers(low, high + 1, (SAMPLES, number)).astype(container(elem))
    found[0, :2] = low, high
    return found


def _codes(slot, stored):
    """The codes [S, elements] of packed storage, by what elements.py says of each format."""
    form, number = slot.format, slot.elements
    bits = np.unpackbits(stored, axis=1, bitorder="little")
    if form.kind == BIT:
        return bits[:, :number].astype(np.int64)
    if form.kind == TERN:
        more = bits[:, 8 * slot.second : 8 * slot.second + number].astype(np.int64)
        return np.where(more == 0, 1, 2 * bits[:, :number].astype(np.int64))
    if form.kind == BYTE:
        return stored[:, :number].astype(np.int64)
    sign = "i" if form.least < 0 else "u"
    dtype = np.dtype(f"<{sign}{form.bits // 8}")
    used = np.ascontiguousarray(stored[:, : number * form.bits // 8])
    return used.view(dtype).astype(np.int64)


@pytest.mark.parametrize(("shape", "axis"), [
    ((1, 4, 6), 1), ((1, 4, 6), 2), ((1, 4, 6), 0), ((1, 3, 5, 7), 1), ((1, 3, 5, 7), 3),
    ((20, 17), 0), ((2,), 0), ((1, 33, 2, 18), 1),
])  # fmt: skip
@pytest.mark.parametrize("elem", TYPES)
def test_round_trip(elem, shape, axis):
    number = int(np.prod(shape))
    flat = _values(elem, number)
    slot = Slot("x", Format.of(elem), Buffer(elem, shape, axis, flat), elem)
    stored = np.full((SAMPLES, slot.stride), 0xA5, np.uint8)
    slot.pack(flat, stored)
    last = np.moveaxis(flat.reshape(SAMPLES, *shape), 1 + axis, -1).reshape(SAMPLES, -1)
    values = _codes(slot, stored) * slot.format.factor + slot.format.low
    np.testing.assert_array_equal(values, last)
    found = np.zeros((SAMPLES, number), container(elem))
    slot.unpack(stored, found)
    np.testing.assert_array_equal(found, flat)
    assert found.dtype == flat.dtype


@pytest.mark.parametrize("elem", ["u8", "i8", "i3", "u16", "i32"])
def test_copies_where_the_order_is_the_same(elem):
    flat = _values(elem, 24)
    for shape, axis, same in (((1, 24), 1, True), ((1, 1, 4, 6), 1, True), ((1, 4, 6), 1, False)):
        slot = Slot("x", Format.of(elem), Buffer(elem, shape, axis, flat), elem)
        right, stored = (np.zeros((SAMPLES, slot.stride), np.uint8) for _ in range(2))
        slot.pack(flat, right)
        values = slot.values(stored)
        assert (values is not None) == same
        if values is None:
            continue
        slot.copy(flat, values, to_values=True)
        np.testing.assert_array_equal(stored, right)
        found = np.zeros((SAMPLES, 24), container(elem))
        slot.copy(found, values, to_values=False)
        np.testing.assert_array_equal(found, flat)


def test_kernels_may_look_behind_a_sample():
    for elem in TYPES:
        for number in (1, 63, 64, 1000):
            slot = Slot("x", Format.of(elem), Buffer(elem, (1, number), 1, np.zeros(0)), elem)
            run = -(-number * slot.format.bits // 8)
            assert slot.stride % 64 == 0
            assert (slot.second or slot.stride) >= run + 64


PROGRAM = """.cim 1
.target toy rows=8 cols=16 tiles=1 functions=[and] acc_bits=32
.pipeline "exact"
.mem x i16[1,4,3,5] input="x" batch=0
.mem y f32[1,4] output="y" batch=0
.mem long i64[1,4]
.mem bits u8[1,8]
.mem one u8[1] axis=0
.view row i16[1,60] = x
.view nhwc i16[1,3,5,4] = x perm=[0,2,3,1] axis=3
.view turned i16[1,5,4,3] = x perm=[0,3,1,2]
.view again i16[1,20,3] = turned axis=2
.view other i16[1,4,15] = x
"""


def _layout(preferred):
    program = parse(PROGRAM)
    machine = Machine(program, 1, pack_tiles(None, program.target), {})
    return Layout(program, machine.buffers, preferred), machine.buffers


@pytest.mark.parametrize("preferred", [{}, {"x": "nhwc"}, {"x": "row"}, {"x": "other"}])
@pytest.mark.parametrize("name", ["x", "row", "nhwc", "turned", "again", "other"])
def test_views_reach_the_same_elements(name, preferred):
    layout, buffers = _layout(preferred)
    flat = np.arange(60, dtype=np.int16)[None]
    slot = layout.slot(name)
    assert slot is layout.slot("x")
    stored = np.zeros((1, slot.stride), np.uint8)
    slot.pack(flat, stored)
    packed = _codes(slot, stored)[0]
    access, buffer = layout.access(name), buffers[name]
    positions = np.arange(access.positions)
    assert access.positions * access.channels == 60
    elements = access.elements(positions, 0, access.channels)
    np.testing.assert_array_equal(packed[elements], flat[0][buffer.channels])
    lo, size = min(1, access.channels - 1), access.channels - 1
    right = elements[:, lo : lo + size]
    if len(np.unique(np.diff(right, axis=1))) > 1:
        with pytest.raises(Refused, match="the channels of a vector lie at uneven distances"):
            access.vectors(positions, lo, size)
        return
    first, stride = access.vectors(positions, lo, size)
    np.testing.assert_array_equal(first[:, None] + stride * np.arange(size), right)


def test_the_windows_buffer_has_its_channels_together():
    layout, _ = _layout({"x": "other"})
    assert layout.access("other").index is None
    assert layout.access("row").index is not None
    assert layout.access("one").positions == 1


def test_what_has_no_slot():
    layout, _ = _layout({})
    for name, elem in (("y", "f32"), ("long", "i64")):
        with pytest.raises(Refused, match=f"{name} holds {elem}: only integers of up to 32 bits"):
            layout.slot(name)
