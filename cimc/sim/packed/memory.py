"""Reading and writing memory by address, in kernels."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from cimc.sim.packed.emit import (
    BYTES,
    F32,
    I8,
    I16,
    I32,
    I64,
    LANES,
    intrinsic,
    load,
    pointer,
    store,
)

_KINDS = {
    "u8": (I8, types.int64, "zext"), "u16": (I16, types.int64, "zext"),
    "i16": (I16, types.int64, "sext"), "u32": (I32, types.int64, "zext"),
    "i32": (I32, types.int64, "sext"), "i64": (I64, types.int64, ""),
}  # fmt: skip


def getter(kind: str) -> Any:
    """(address) -> the number there."""
    held, _, widen = _KINDS[kind]

    @intrinsic
    def get(ctx, address):  # type: ignore[no-untyped-def]
        def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
            found = load(b, args[0], held, 1)
            return getattr(b, widen)(found, I64) if widen else found

        return types.int64(types.int64), generate

    return get


def putter(kind: str) -> Any:
    """(address, number): store its low bits there."""
    held = _KINDS[kind][0]

    @intrinsic
    def put(ctx, address, number):  # type: ignore[no-untyped-def]
        def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
            number = args[1] if held is I64 else b.trunc(args[1], held)
            store(b, number, args[0], 1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return put


@intrinsic
def get_f32(ctx, address):  # type: ignore[no-untyped-def]
    """The float32 at an address."""

    def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
        return load(b, args[0], F32, 4)

    return types.float32(types.int64), generate


@intrinsic
def copy_bytes(ctx, to, source, number):  # type: ignore[no-untyped-def]
    """Copy bytes between places that don't overlap."""

    def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
        to, source = (pointer(b, a, I8) for a in args[:2])
        cgutils.raw_memcpy(b, to, source, args[2], 1)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


@intrinsic
def copy_16(ctx, to, source):  # type: ignore[no-untyped-def]
    """Copy 16 bytes."""

    def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
        store(b, load(b, args[1], BYTES, 1), args[0], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def copy_over(ctx, to, source, number):  # type: ignore[no-untyped-def]
    """Copy bytes and up to 63 more behind them."""

    def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
        to, source, number = args
        wide = ir.VectorType(I8, 4 * LANES)

        def copy(kind: Any, size: int) -> None:
            blocks = b.lshr(b.add(number, ir.Constant(I64, size - 1)), ir.Constant(I64, _log(size)))
            with cgutils.for_range(b, blocks, intp=I64) as loop:
                at = b.shl(loop.index, ir.Constant(I64, _log(size)))
                store(b, load(b, b.add(source, at), kind, 1), b.add(to, at), 1)

        short = b.icmp_signed("<", number, ir.Constant(I64, 48))
        with b.if_else(short) as (then, otherwise):
            with then:
                copy(BYTES, 16)
            with otherwise:
                copy(wide, 64)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


def _log(number: int) -> int:
    return number.bit_length() - 1


@intrinsic
def fill_bytes(ctx, to, value, number):  # type: ignore[no-untyped-def]
    """Set bytes to a value."""

    def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
        cgutils.memset(b, pointer(b, args[0], I8), args[2], b.trunc(args[1], I8))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


@intrinsic
def call_address(ctx, kernel, p, scratch, first, last, low, high):  # type: ignore[no-untyped-def]
    """Call a kernel (a C function of six numbers) by its address."""

    def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
        kind = ir.FunctionType(I64, [I64] * 6)
        return b.call(pointer(b, args[0], kind), args[1:])

    return types.int64(*[types.int64] * 7), generate


get_u8, get_u16, get_i16, get_u32, get_i32, get_i64 = map(
    getter, ("u8", "u16", "i16", "u32", "i32", "i64")
)
put_u8, put_u16, put_u32, put_i64 = map(putter, ("u8", "u16", "u32", "i64"))
