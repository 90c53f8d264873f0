"""What is done with rows of sums, bytes and bits, 16 lanes at a time, as LLVM IR.

Arguments are addresses and numbers of 64 bits.
"""

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
    MASK,
    VEC,
    VECF,
    Builder,
    beyond,
    call,
    intrinsic,
    load,
    splat,
    store,
)


def _requantised(b: Builder, sums: Any, scale: Any, numbers: Any) -> Any:
    """16 bytes: round(clamp(f32(sum) * scale, least, most)) + plus, halves to even."""
    least, most, plus = numbers
    value = b.fmul(b.sitofp(sums, VECF), scale)
    value = b.select(b.fcmp_ordered("<", value, least), least, value)
    value = b.select(b.fcmp_ordered(">", value, most), most, value)
    value = call(b, "llvm.nearbyint.v16f32", VECF, value)
    return b.trunc(b.add(b.fptosi(value, VEC), plus), BYTES)


@intrinsic
def requantise_rows(ctx, sums, number, vecs, scales, least, most, plus, outs, place):  # type: ignore[no-untyped-def]
    """Rows of sums, 128 bytes each, to bytes at `place` beyond each address of the table `outs`,
    16 * vecs of them; `least` and `most` are float32."""

    def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
        sums, number, vecs, scales, least, most, plus, outs, place = args
        numbers = splat(b, least, VECF), splat(b, most, VECF), splat(b, b.trunc(plus, I32))
        with cgutils.for_range(b, vecs, intp=I64) as vec:
            at = b.shl(vec.index, ir.Constant(I64, 6))
            scale = load(b, b.add(scales, at), VECF)
            shift = b.add(place, b.shl(vec.index, ir.Constant(I64, 4)))
            with cgutils.for_range(b, number, intp=I64) as row:
                source = b.add(b.add(sums, at), b.shl(row.index, ir.Constant(I64, 7)))
                held = _requantised(b, load(b, source), scale, numbers)
                out = load(b, b.add(outs, b.shl(row.index, ir.Constant(I64, 3))), I64, 8)
                store(b, held, b.add(out, shift), 1)
        return context.get_dummy_value()

    word, number = types.int64, types.float32
    return types.void(word, word, word, word, number, number, word, word, word), generate


@intrinsic
def store_rows(ctx, sums, number, vecs, outs, place):  # type: ignore[no-untyped-def]
    """Rows of sums, 128 bytes each, as they are."""

    def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
        sums, number, vecs, outs, place = args
        with cgutils.for_range(b, number, intp=I64) as row:
            source = b.add(sums, b.shl(row.index, ir.Constant(I64, 7)))
            out = load(b, b.add(outs, b.shl(row.index, ir.Constant(I64, 3))), I64, 8)
            out = b.add(out, place)
            with cgutils.for_range(b, vecs, intp=I64) as vec:
                at = b.shl(vec.index, ir.Constant(I64, 6))
                store(b, load(b, b.add(source, at)), b.add(out, at))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@intrinsic
def slide_bits(ctx, src, first, step, masks, shift, number, out):  # type: ignore[no-untyped-def]
    """out[i] |= ((bits from bit `first + i * step` on) & masks[i]) << shift for `number` words,
    rounded up to 16; 16 * step and the bits of a mask are at most 56 together."""

    def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
        src, first, step, masks, shift, number, out = args
        wide = ir.VectorType(I64, LANES)
        lanes = ir.Constant(wide, list(range(LANES)))
        steps = b.mul(lanes, splat(b, step, wide))
        shifts = splat(b, b.trunc(shift, I32))
        blocks = b.lshr(b.add(number, ir.Constant(I64, 15)), ir.Constant(I64, 4))
        far = b.shl(step, ir.Constant(I64, 4))
        with cgutils.for_range(b, blocks, intp=I64) as loop:
            start = b.add(first, b.mul(loop.index, far))
            held = load(b, b.add(src, b.ashr(start, ir.Constant(I64, 3))), I64, 1)
            low = b.and_(start, ir.Constant(I64, 7))
            bits = b.lshr(splat(b, held, wide), b.add(steps, splat(b, low, wide)))
            at = b.shl(loop.index, ir.Constant(I64, 6))
            bits = b.and_(b.trunc(bits, VEC), load(b, b.add(masks, at)))
            place = b.add(out, at)
            store(b, b.or_(load(b, place), b.shl(bits, shifts)), place)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), generate


def _fold(b: Builder, how: str, x: Any, y: Any) -> Any:
    if how == "or":
        return b.or_(x, y)
    return b.select(b.icmp_unsigned(">", x, y), x, y)


def fold_tile(how: str) -> Any:
    """(taps, number, vecs, out): the largest byte, or all bits together, over taps: `taps` is a
    table with the address of each tap's bytes; 16 * vecs bytes."""

    @intrinsic
    def tile(ctx, taps, number, vecs, out):  # type: ignore[no-untyped-def]
        def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
            taps, number, vecs, out = args
            with cgutils.for_range(b, vecs, intp=I64) as outer:
                at = b.shl(outer.index, ir.Constant(I64, 4))
                best = cgutils.alloca_once(b, BYTES)
                b.store(ir.Constant(BYTES, None), best)
                with cgutils.for_range(b, number, intp=I64) as loop:
                    place = b.add(taps, b.shl(loop.index, ir.Constant(I64, 3)))
                    x = load(b, b.add(load(b, place, I64, 8), at), BYTES, 1)
                    b.store(_fold(b, how, x, b.load(best)), best)
                store(b, b.load(best), b.add(out, at), 1)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), generate

    return tile


@intrinsic
def clamp_bytes(ctx, x, low, high, vecs, out):  # type: ignore[no-untyped-def]
    """out = min(max(x, low), high) for 16 * vecs bytes, unsigned."""

    def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
        x, low, high, vecs, out = args
        least, most = (splat(b, b.trunc(a, I8), BYTES) for a in (low, high))
        with cgutils.for_range(b, vecs, intp=I64) as loop:
            at = b.shl(loop.index, ir.Constant(I64, 4))
            held = load(b, b.add(x, at), BYTES, 1)
            held = b.select(b.icmp_unsigned("<", held, least), least, held)
            held = b.select(b.icmp_unsigned(">", held, most), most, held)
            store(b, held, b.add(out, at), 1)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


def add_tile(fused: bool) -> Any:
    """(x, y, numbers, vecs, out): quantised sums of 16 * vecs bytes; see `quantised_sum` in
    `cimc/ir/meaning.py`. `numbers` are the address of float32: lowest x, lowest y, then fused:
    a, b, c, low, high; else x_scale, x_zero, y_scale, y_zero, scale, low, high; then what is
    added to the rounded result to give a code."""

    @intrinsic
    def tile(ctx, x, y, numbers, vecs, out):  # type: ignore[no-untyped-def]
        def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
            x, y, numbers, vecs, out = args
            n = [splat(b, load(b, beyond(b, numbers, 4 * i), F32), VECF) for i in range(10)]
            with cgutils.for_range(b, vecs, intp=I64) as loop:
                at = b.shl(loop.index, ir.Constant(I64, 4))
                first, second = (
                    b.fadd(b.uitofp(load(b, b.add(a, at), BYTES, 1), VECF), low)
                    for a, low in ((x, n[0]), (y, n[1]))
                )
                if fused:
                    inner = call(b, "llvm.fma.v16f32", VECF, second, n[3], n[4])
                    value = call(b, "llvm.fma.v16f32", VECF, first, n[2], inner)
                    low, high, plus = n[5:8]
                else:
                    first = b.fmul(b.fsub(first, n[3]), n[2])
                    second = b.fmul(b.fsub(second, n[5]), n[4])
                    value = b.fdiv(b.fadd(first, second), n[6])
                    low, high, plus = n[7:10]
                value = b.select(b.fcmp_ordered("<", value, low), low, value)
                value = b.select(b.fcmp_ordered(">", value, high), high, value)
                value = b.fadd(call(b, "llvm.nearbyint.v16f32", VECF, value), plus)
                held = b.trunc(b.fptosi(value, VEC), BYTES)
                store(b, held, b.add(out, at), 1)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), generate

    return tile


@intrinsic
def depth_tile(ctx, taps, offset, weights, stride, number, start, sums):  # type: ignore[no-untyped-def]
    """sums[lane] = start[lane] + byte * weight over taps, 16 lanes: `taps` is a table with the
    address of each tap's bytes, `offset` is added to it; int32 weights, `stride` bytes from tap
    to tap."""

    def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
        taps, offset, weights, stride, number, start, sums = args
        total = cgutils.alloca_once_value(b, ir.Constant(VEC, None))
        b.store(load(b, start), total)
        with cgutils.for_range(b, number, intp=I64) as loop:
            tap = load(b, b.add(taps, b.shl(loop.index, ir.Constant(I64, 3))), I64, 8)
            x = b.zext(load(b, b.add(tap, offset), BYTES, 1), VEC)
            w = load(b, b.add(weights, b.mul(loop.index, stride)))
            b.store(b.add(b.load(total), b.mul(x, w)), total)
        store(b, b.load(total), sums)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), generate


@intrinsic
def weighted_bits(ctx, bits, weights, vecs):  # type: ignore[no-untyped-def]
    """The sum of the weights (int32) whose bit is 1, over 16 * vecs bits."""

    def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
        bits, weights, vecs = args
        total = cgutils.alloca_once_value(b, ir.Constant(VEC, None))
        with cgutils.for_range(b, vecs, intp=I64) as loop:
            mask = load(b, b.add(bits, b.shl(loop.index, ir.Constant(I64, 1))), I16, 1)
            w = load(b, b.add(weights, b.shl(loop.index, ir.Constant(I64, 6))))
            w = b.select(b.bitcast(mask, MASK), w, ir.Constant(VEC, None))
            b.store(b.add(b.load(total), w), total)
        wide = b.sext(b.load(total), ir.VectorType(I64, LANES))
        return call(b, "llvm.vector.reduce.add.v16i64", I64, wide)

    return types.int64(types.int64, types.int64, types.int64), generate


@intrinsic
def weighted_ones(ctx, x, weights, flip, vecs):  # type: ignore[no-untyped-def]
    """The sum of weight (int32) times the ones of byte ^ flip, over 16 * vecs bytes; the sum of a
    lane must fit 32 bits."""

    def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
        x, weights, flip, vecs = args
        flips = splat(b, b.trunc(flip, I8), BYTES)
        total = cgutils.alloca_once_value(b, ir.Constant(VEC, None))
        with cgutils.for_range(b, vecs, intp=I64) as loop:
            held = load(b, b.add(x, b.shl(loop.index, ir.Constant(I64, 4))), BYTES, 1)
            ones = b.zext(call(b, "llvm.ctpop.v16i8", BYTES, b.xor(held, flips)), VEC)
            w = load(b, b.add(weights, b.shl(loop.index, ir.Constant(I64, 6))))
            b.store(b.add(b.load(total), b.mul(ones, w)), total)
        wide = b.sext(b.load(total), ir.VectorType(I64, LANES))
        return call(b, "llvm.vector.reduce.add.v16i64", I64, wide)

    return types.int64(*[types.int64] * 4), generate


@intrinsic
def compare_bytes(ctx, x, limit, vecs, out):  # type: ignore[no-untyped-def]
    """bit = x >= limit for 16 * vecs bytes, unsigned; 16 of them to two bytes."""

    def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
        x, limit, vecs, out = args
        least = splat(b, b.trunc(limit, I8), BYTES)
        with cgutils.for_range(b, vecs, intp=I64) as loop:
            held = load(b, b.add(x, b.shl(loop.index, ir.Constant(I64, 4))), BYTES, 1)
            mask = b.bitcast(b.icmp_unsigned(">=", held, least), I16)
            store(b, mask, b.add(out, b.shl(loop.index, ir.Constant(I64, 1))), 1)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


def turn_tile(bits: int) -> Any:
    """(src, rows, to, columns, plus): a square of 16 x 16 elements with rows and columns changed,
    plus a number; `rows` and `columns` bytes from row to row there and here."""
    vec = ir.VectorType(ir.IntType(bits), LANES)

    @intrinsic
    def tile(ctx, src, rows, to, columns, plus):  # type: ignore[no-untyped-def]
        def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
            src, rows, to, columns, plus = args
            lines = []
            for _ in range(LANES):
                lines.append(load(b, src, vec, 1))
                src = b.add(src, rows)
            for step in (8, 4, 2, 1):
                low = [i if not i & step else LANES + i - step for i in range(LANES)]
                high = [i + step if not i & step else LANES + i for i in range(LANES)]
                for i in [i for i in range(LANES) if not i & step]:
                    pair = lines[i], lines[i + step]
                    lines[i] = b.shuffle_vector(*pair, ir.Constant(VEC, low))
                    lines[i + step] = b.shuffle_vector(*pair, ir.Constant(VEC, high))
            number = splat(b, b.trunc(plus, vec.element), vec)
            for line in lines:
                store(b, b.add(line, number), to, 1)
                to = b.add(to, columns)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), generate

    return tile
