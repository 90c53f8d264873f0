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
from numba.extending import intrinsic as _intrinsic

from cimc.sim.packed.jit import features

intrinsic: Any = _intrinsic
LANES = 16
I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32 = ir.FloatType()
VEC = ir.VectorType(I32, LANES)
VECF = ir.VectorType(F32, LANES)
BYTES = ir.VectorType(I8, LANES)
MASK = ir.VectorType(I1, LANES)
HALVES = ir.VectorType(I16, 2 * LANES)

Builder = Any


def _at(b: Builder, address: Any, kind: Any) -> Any:
    return b.inttoptr(address, kind.as_pointer())


def _plus(b: Builder, address: Any, number: int) -> Any:
    return b.add(address, ir.Constant(I64, number)) if number else address


def _load(b: Builder, address: Any, kind: Any = VEC, align: int = 4) -> Any:
    found = b.load(_at(b, address, kind))
    found.align = align
    return found


def _store(b: Builder, value: Any, address: Any, align: int = 4) -> None:
    b.store(value, _at(b, address, value.type)).align = align


def _splat(b: Builder, scalar: Any, kind: Any = VEC) -> Any:
    none = ir.Constant(kind, ir.Undefined)
    one = b.insert_element(none, scalar, ir.Constant(I32, 0))
    return b.shuffle_vector(one, none, ir.Constant(VEC, None))


def _call(b: Builder, name: str, kind: Any, *args: Any) -> Any:
    made = ir.FunctionType(kind, [a.type for a in args])
    return b.call(cgutils.get_or_insert_function(b.module, made, name), args)


# -- what one word of input and weights adds to the sums -----------------------------------


def _xor(b: Builder, total: Any, x: Any, w: Any) -> Any:
    return b.add(total, _call(b, "llvm.ctpop.v16i32", VEC, b.xor(x, w)))


def _and(b: Builder, total: Any, x: Any, w: Any) -> Any:
    return b.add(total, _call(b, "llvm.ctpop.v16i32", VEC, b.and_(x, w)))


def _dot_vnni(b: Builder, total: Any, x: Any, w: Any) -> Any:
    return _call(b, "llvm.x86.avx512.vpdpbusd.512", VEC, total, x, w)


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
    starts = [_load(b, _plus(b, table, 8 * r), I64, 8) for r in range(rows)]
    zero = ir.Constant(VEC, None)
    sums = [[cgutils.alloca_once(b, VEC) for _ in range(vecs * unroll)] for _ in range(rows)]
    for row in sums:
        for slot in row:
            b.store(zero, slot)

    def body(k: Any, number: int) -> None:
        kx = b.shl(k, ir.Constant(I64, 2))
        kw = b.add(weights, b.mul(k, ir.Constant(I64, 64 * vecs)))
        for u in range(number):
            ws = [_load(b, _plus(b, kw, 64 * (u * vecs + v))) for v in range(vecs)]
            for r in range(rows):
                x = _splat(b, _load(b, _plus(b, b.add(starts[r], kx), 4 * u), I32, 1))
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
            factor = _splat(b, b.trunc(args[3], I32))
            address = args[6]
            for r, row in enumerate(found):
                start = b.add(_load(b, _plus(b, args[4], 8 * r), I64, 8), args[5])
                for v, total in enumerate(row):
                    before = _load(b, _plus(b, start, 64 * v))
                    value = b.add(before, b.mul(total, factor))
                    _store(b, value, _plus(b, address, 64 * v))
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
            flips = [_load(b, _plus(b, args[5], 2 * v), I16, 1) for v in range(vecs)]
            for r, row in enumerate(found):
                limit = b.add(_load(b, _plus(b, args[3], 8 * r), I64, 8), args[4])
                out = b.add(_load(b, _plus(b, args[6], 8 * r), I64, 8), args[7])
                for v, total in enumerate(row):
                    below = b.icmp_signed("<=", total, _load(b, _plus(b, limit, 64 * v)))
                    bits = b.xor(b.bitcast(below, I16), flips[v])
                    _store(b, bits, _plus(b, out, 2 * v), 1)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), generate

    return tile


# -- after the sums --------------------------------------------------------------------


def _requantised(b: Builder, sums: Any, scale: Any, numbers: Any) -> Any:
    """16 bytes: round(clamp(f32(sum) * scale, least, most)) + plus, halves to even."""
    least, most, plus = numbers
    value = b.fmul(b.sitofp(sums, VECF), scale)
    value = b.select(b.fcmp_ordered("<", value, least), least, value)
    value = b.select(b.fcmp_ordered(">", value, most), most, value)
    value = _call(b, "llvm.nearbyint.v16f32", VECF, value)
    return b.trunc(b.add(b.fptosi(value, VEC), plus), BYTES)


@intrinsic
def requantise_rows(ctx, sums, number, vecs, scales, least, most, plus, outs, place):  # type: ignore[no-untyped-def]
    """Rows of sums, 128 bytes each, to bytes at `place` beyond each address of the table `outs`,
    16 * vecs of them; `least` and `most` are float32."""

    def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
        sums, number, vecs, scales, least, most, plus, outs, place = args
        numbers = _splat(b, least, VECF), _splat(b, most, VECF), _splat(b, b.trunc(plus, I32))
        with cgutils.for_range(b, vecs, intp=I64) as vec:
            at = b.shl(vec.index, ir.Constant(I64, 6))
            scale = _load(b, b.add(scales, at), VECF)
            shift = b.add(place, b.shl(vec.index, ir.Constant(I64, 4)))
            with cgutils.for_range(b, number, intp=I64) as row:
                source = b.add(b.add(sums, at), b.shl(row.index, ir.Constant(I64, 7)))
                held = _requantised(b, _load(b, source), scale, numbers)
                out = _load(b, b.add(outs, b.shl(row.index, ir.Constant(I64, 3))), I64, 8)
                _store(b, held, b.add(out, shift), 1)
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
            out = _load(b, b.add(outs, b.shl(row.index, ir.Constant(I64, 3))), I64, 8)
            out = b.add(out, place)
            with cgutils.for_range(b, vecs, intp=I64) as vec:
                at = b.shl(vec.index, ir.Constant(I64, 6))
                _store(b, _load(b, b.add(source, at)), b.add(out, at))
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
        steps = b.mul(lanes, _splat(b, step, wide))
        shifts = _splat(b, b.trunc(shift, I32))
        blocks = b.lshr(b.add(number, ir.Constant(I64, 15)), ir.Constant(I64, 4))
        far = b.shl(step, ir.Constant(I64, 4))
        with cgutils.for_range(b, blocks, intp=I64) as loop:
            start = b.add(first, b.mul(loop.index, far))
            held = _load(b, b.add(src, b.ashr(start, ir.Constant(I64, 3))), I64, 1)
            low = b.and_(start, ir.Constant(I64, 7))
            bits = b.lshr(_splat(b, held, wide), b.add(steps, _splat(b, low, wide)))
            at = b.shl(loop.index, ir.Constant(I64, 6))
            bits = b.and_(b.trunc(bits, VEC), _load(b, b.add(masks, at)))
            place = b.add(out, at)
            _store(b, b.or_(_load(b, place), b.shl(bits, shifts)), place)
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
                    x = _load(b, b.add(_load(b, place, I64, 8), at), BYTES, 1)
                    b.store(_fold(b, how, x, b.load(best)), best)
                _store(b, b.load(best), b.add(out, at), 1)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), generate

    return tile


@intrinsic
def clamp_bytes(ctx, x, low, high, vecs, out):  # type: ignore[no-untyped-def]
    """out = min(max(x, low), high) for 16 * vecs bytes, unsigned."""

    def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
        x, low, high, vecs, out = args
        least, most = (_splat(b, b.trunc(a, I8), BYTES) for a in (low, high))
        with cgutils.for_range(b, vecs, intp=I64) as loop:
            at = b.shl(loop.index, ir.Constant(I64, 4))
            held = _load(b, b.add(x, at), BYTES, 1)
            held = b.select(b.icmp_unsigned("<", held, least), least, held)
            held = b.select(b.icmp_unsigned(">", held, most), most, held)
            _store(b, held, b.add(out, at), 1)
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
            n = [_splat(b, _load(b, _plus(b, numbers, 4 * i), F32), VECF) for i in range(10)]
            with cgutils.for_range(b, vecs, intp=I64) as loop:
                at = b.shl(loop.index, ir.Constant(I64, 4))
                first, second = (
                    b.fadd(b.uitofp(_load(b, b.add(a, at), BYTES, 1), VECF), low)
                    for a, low in ((x, n[0]), (y, n[1]))
                )
                if fused:
                    inner = _call(b, "llvm.fma.v16f32", VECF, second, n[3], n[4])
                    value = _call(b, "llvm.fma.v16f32", VECF, first, n[2], inner)
                    low, high, plus = n[5:8]
                else:
                    first = b.fmul(b.fsub(first, n[3]), n[2])
                    second = b.fmul(b.fsub(second, n[5]), n[4])
                    value = b.fdiv(b.fadd(first, second), n[6])
                    low, high, plus = n[7:10]
                value = b.select(b.fcmp_ordered("<", value, low), low, value)
                value = b.select(b.fcmp_ordered(">", value, high), high, value)
                value = b.fadd(_call(b, "llvm.nearbyint.v16f32", VECF, value), plus)
                held = b.trunc(b.fptosi(value, VEC), BYTES)
                _store(b, held, b.add(out, at), 1)
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
        b.store(_load(b, start), total)
        with cgutils.for_range(b, number, intp=I64) as loop:
            tap = _load(b, b.add(taps, b.shl(loop.index, ir.Constant(I64, 3))), I64, 8)
            x = b.zext(_load(b, b.add(tap, offset), BYTES, 1), VEC)
            w = _load(b, b.add(weights, b.mul(loop.index, stride)))
            b.store(b.add(b.load(total), b.mul(x, w)), total)
        _store(b, b.load(total), sums)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), generate


@intrinsic
def weighted_bits(ctx, bits, weights, vecs):  # type: ignore[no-untyped-def]
    """The sum of the weights (int32) whose bit is 1, over 16 * vecs bits."""

    def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
        bits, weights, vecs = args
        total = cgutils.alloca_once_value(b, ir.Constant(VEC, None))
        with cgutils.for_range(b, vecs, intp=I64) as loop:
            mask = _load(b, b.add(bits, b.shl(loop.index, ir.Constant(I64, 1))), I16, 1)
            w = _load(b, b.add(weights, b.shl(loop.index, ir.Constant(I64, 6))))
            w = b.select(b.bitcast(mask, MASK), w, ir.Constant(VEC, None))
            b.store(b.add(b.load(total), w), total)
        wide = b.sext(b.load(total), ir.VectorType(I64, LANES))
        return _call(b, "llvm.vector.reduce.add.v16i64", I64, wide)

    return types.int64(types.int64, types.int64, types.int64), generate


@intrinsic
def weighted_ones(ctx, x, weights, flip, vecs):  # type: ignore[no-untyped-def]
    """The sum of weight (int32) times the ones of byte ^ flip, over 16 * vecs bytes."""

    def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
        x, weights, flip, vecs = args
        wide = ir.VectorType(I64, LANES)
        flips = _splat(b, b.trunc(flip, I8), BYTES)
        total = cgutils.alloca_once_value(b, ir.Constant(wide, None))
        with cgutils.for_range(b, vecs, intp=I64) as loop:
            held = _load(b, b.add(x, b.shl(loop.index, ir.Constant(I64, 4))), BYTES, 1)
            ones = b.zext(_call(b, "llvm.ctpop.v16i8", BYTES, b.xor(held, flips)), VEC)
            w = _load(b, b.add(weights, b.shl(loop.index, ir.Constant(I64, 6))))
            b.store(b.add(b.load(total), b.sext(b.mul(ones, w), wide)), total)
        return _call(b, "llvm.vector.reduce.add.v16i64", I64, b.load(total))

    return types.int64(*[types.int64] * 4), generate


@intrinsic
def compare_bytes(ctx, x, limit, vecs, out):  # type: ignore[no-untyped-def]
    """bit = x >= limit for 16 * vecs bytes, unsigned; 16 of them to two bytes."""

    def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
        x, limit, vecs, out = args
        least = _splat(b, b.trunc(limit, I8), BYTES)
        with cgutils.for_range(b, vecs, intp=I64) as loop:
            held = _load(b, b.add(x, b.shl(loop.index, ir.Constant(I64, 4))), BYTES, 1)
            mask = b.bitcast(b.icmp_unsigned(">=", held, least), I16)
            _store(b, mask, b.add(out, b.shl(loop.index, ir.Constant(I64, 1))), 1)
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
                lines.append(_load(b, src, vec, 1))
                src = b.add(src, rows)
            for step in (8, 4, 2, 1):
                low = [i if not i & step else LANES + i - step for i in range(LANES)]
                high = [i + step if not i & step else LANES + i for i in range(LANES)]
                for i in [i for i in range(LANES) if not i & step]:
                    pair = lines[i], lines[i + step]
                    lines[i] = b.shuffle_vector(*pair, ir.Constant(VEC, low))
                    lines[i + step] = b.shuffle_vector(*pair, ir.Constant(VEC, high))
            number = _splat(b, b.trunc(plus, vec.element), vec)
            for line in lines:
                _store(b, b.add(line, number), to, 1)
                to = b.add(to, columns)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), generate

    return tile


# -- memory ----------------------------------------------------------------------------

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
            found = _load(b, args[0], held, 1)
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
            _store(b, number, args[0], 1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return put


@intrinsic
def get_f32(ctx, address):  # type: ignore[no-untyped-def]
    """The float32 at an address."""

    def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
        return _load(b, args[0], F32, 4)

    return types.float32(types.int64), generate


@intrinsic
def copy_bytes(ctx, to, source, number):  # type: ignore[no-untyped-def]
    """Copy bytes between places that don't overlap."""

    def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
        to, source = (_at(b, a, I8) for a in args[:2])
        cgutils.raw_memcpy(b, to, source, args[2], 1)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


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
                _store(b, _load(b, b.add(source, at), kind, 1), b.add(to, at), 1)

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
        cgutils.memset(b, _at(b, args[0], I8), args[2], b.trunc(args[1], I8))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


@intrinsic
def call_address(ctx, kernel, p, scratch, first, last, low, high):  # type: ignore[no-untyped-def]
    """Call a kernel (a C function of six numbers) by its address."""

    def generate(context, b, signature, args):  # type: ignore[no-untyped-def]
        kind = ir.FunctionType(I64, [I64] * 6)
        return b.call(_at(b, args[0], kind), args[1:])

    return types.int64(*[types.int64] * 7), generate


get_u8, get_u16, get_i16, get_u32, get_i32, get_i64 = map(
    getter, ("u8", "u16", "i16", "u32", "i32", "i64")
)
put_u8, put_u16, put_u32, put_i64 = map(putter, ("u8", "u16", "u32", "i64"))
