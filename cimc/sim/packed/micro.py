"""The innermost loops, as LLVM IR on vectors of 16 words of 32 bits.

LLVM makes of them what the processor has: `vpopcntd` and 512-bit registers, or byte shuffles on
smaller ones, or NEON. A lane is an output channel: weights lie as [words of K][lanes], and a word
of the input is broadcast to all lanes, so that no sum runs across lanes and results leave as
vectors. One word holds 32 columns of one bit, or 4 bytes; `dot` multiplies bytes by signed bytes.

All arguments are addresses and numbers of 64 bits. `rows` is the address of a table with the
address of each input row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from cimc.sim.packed.emit import (
    HALVES,
    I32,
    I64,
    LANES,
    VEC,
    Builder,
    beyond,
    call,
    intrinsic,
    load,
    splat,
    store,
)
from cimc.sim.packed.jit import features

# -- what one word of input and weights adds to the sums -----------------------------------


def _xor(b: Builder, total: Any, x: Any, w: Any) -> Any:
    return b.add(total, call(b, "llvm.ctpop.v16i32", VEC, b.xor(x, w)))


def _and(b: Builder, total: Any, x: Any, w: Any) -> Any:
    return b.add(total, call(b, "llvm.ctpop.v16i32", VEC, b.and_(x, w)))


def _dot_vnni(b: Builder, total: Any, x: Any, w: Any) -> Any:
    return call(b, "llvm.x86.avx512.vpdpbusd.512", VEC, total, x, w)


def _dot_plain(b: Builder, total: Any, x: Any, w: Any) -> Any:
    """Even and odd bytes apart, as pairs of products of 16 bits: `vpmaddwd` and the like."""
    eight = ir.Constant(HALVES, [8] * 32)
    low = ir.Constant(HALVES, [255] * 32)
    x, w = b.bitcast(x, HALVES), b.bitcast(w, HALVES)
    wide = ir.VectorType(I32, 2 * LANES)
    for xs, ws in (
        (b.and_(x, low), b.ashr(b.shl(w, eight), eight)),
        (b.lshr(x, eight), b.ashr(w, eight)),
    ):
        product = b.mul(b.sext(xs, wide), b.sext(ws, wide))
        none = ir.Constant(wide, ir.Undefined)
        for first in (0, 1):
            lanes = ir.Constant(VEC, list(range(first, 2 * LANES, 2)))
            total = b.add(total, b.shuffle_vector(product, none, lanes))
    return total


def has_dot() -> bool:
    """Whether there is an instruction for four products of bytes at once."""
    return "avx512vnni" in features()


STEPS: dict[str, Callable[..., Any]] = {
    "xor": _xor,
    "and": _and,
    "dot": _dot_vnni if has_dot() else _dot_plain,
}


def _sums(b: Builder, op: str, rows: int, vecs: int, args: Any) -> list[list[Any]]:
    """The sums over K of `rows` input rows by `vecs` vectors of lanes."""
    table, weights, words = args
    step = STEPS[op]
    unroll = 4 if rows == 1 else 1
    starts = [load(b, beyond(b, table, 8 * r), I64, 8) for r in range(rows)]
    zero = ir.Constant(VEC, None)
    sums = [[cgutils.alloca_once(b, VEC) for _ in range(vecs * unroll)] for _ in range(rows)]
    for row in sums:
        for slot in row:
            b.store(zero, slot)

    def body(k: Any, number: int) -> None:
        kx = b.shl(k, ir.Constant(I64, 2))
        kw = b.add(weights, b.mul(k, ir.Constant(I64, 64 * vecs)))
        for u in range(number):
            ws = [load(b, beyond(b, kw, 64 * (u * vecs + v))) for v in range(vecs)]
            for r in range(rows):
                x = splat(b, load(b, beyond(b, b.add(starts[r], kx), 4 * u), I32, 1))
                for v in range(vecs):
                    slot = sums[r][u * vecs + v]
                    b.store(step(b, b.load(slot), x, ws[v]), slot)

    whole = b.and_(words, ir.Constant(I64, -unroll))
    with cgutils.for_range_slice(b, ir.Constant(I64, 0), whole, ir.Constant(I64, unroll), I64) as (
        k,
        _,
    ):
        body(k, unroll)
    if unroll > 1:
        with cgutils.for_range_slice(b, whole, words, ir.Constant(I64, 1), I64) as (k, _):
            body(k, 1)
    found = []
    for row in sums:
        values = [b.load(slot) for slot in row]
        total = values[:vecs]
        for u in range(1, unroll):
            total = [b.add(t, values[u * vecs + v]) for v, t in enumerate(total)]
        found.append(total)
    return found


def sum_tile(op: str, rows: int, vecs: int) -> Any:
    """(rows, weights, words, coef, froms, offset, sums, stride): sums[r] = from[r] + coef *
    products. `froms` is a table with an address for each row, `offset` is added to it; `stride`
    bytes between rows of sums."""

    @intrinsic
    def tile(ctx, table, weights, words, coef, froms, offset, sums, stride):  # type: ignore[no-untyped-def]
        def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
            found = _sums(b, op, rows, vecs, args[:3])
            factor = splat(b, b.trunc(args[3], I32))
            address = args[6]
            for r, row in enumerate(found):
                start = b.add(load(b, beyond(b, args[4], 8 * r), I64, 8), args[5])
                for v, total in enumerate(row):
                    before = load(b, beyond(b, start, 64 * v))
                    value = b.add(before, b.mul(total, factor))
                    store(b, value, beyond(b, address, 64 * v))
                address = b.add(address, args[7])
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), generate

    return tile


def sign_tile(op: str, rows: int, vecs: int) -> Any:
    """(rows, weights, words, limits, offset, flips, outs, place): bit = (sum <= limit) != flip,
    16 lanes to two bytes. `limits` and `outs` are tables with an address for each row, to which
    `offset` and `place` are added; `flips` the address of two bytes for each vector."""

    @intrinsic
    def tile(ctx, table, weights, words, limits, offset, flips, outs, place):  # type: ignore[no-untyped-def]
        def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
            found = _sums(b, op, rows, vecs, args[:3])
            bits = ir.IntType(LANES * vecs)
            flip = load(b, args[5], bits, 1)
            every = ir.Constant(ir.VectorType(I32, LANES * vecs), list(range(LANES * vecs)))
            for r, row in enumerate(found):
                limit = b.add(load(b, beyond(b, args[3], 8 * r), I64, 8), args[4])
                out = b.add(load(b, beyond(b, args[6], 8 * r), I64, 8), args[7])
                below = [
                    b.icmp_signed("<=", total, load(b, beyond(b, limit, 64 * v)))
                    for v, total in enumerate(row)
                ]
                mask = below[0] if vecs == 1 else b.shuffle_vector(*below, every)
                store(b, b.xor(b.bitcast(mask, bits), flip), out, 1)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), generate

    return tile
