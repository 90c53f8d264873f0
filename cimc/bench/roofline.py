"""The most that this processor can do: products of bits or of bytes, everything in registers.

Bits: XOR, popcount and addition; without VPOPCNTDQ the same code becomes what the processor has
instead. Bytes: the dot products of VNNI, where there are any. No GEMM can be faster; its share of
this is what it makes of the processor.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from cimc.bench.timing import Work
from cimc.sim.packed.micro import has_dot

_LANES = 16  # 32-bit words of a vector
_SUMS = 8  # independent chains: additions wait for each other
_VECTOR = ir.VectorType(ir.IntType(32), _LANES)
_INDEX = ir.IntType(64)
MACS_OF_A_ROUND = {"bit": 32 * _SUMS * _LANES, "byte": 4 * _SUMS * _LANES}
WORDS = (_SUMS + 1) * _LANES
"""Of an input: the first vector, which moves on from round to round, and one for each sum."""

Combine = Callable[[Any, Any, Any, Any], Any]


def available(kind: str) -> bool:
    """Whether there is a roofline for products of `bit` or `byte`."""
    return kind == "bit" or (kind == "byte" and has_dot())


def counted(words: Any, rounds: int, kind: str = "bit") -> int:
    """All sums added up, modulo 2**32. words: uint32 [WORDS]; rounds: at least 1."""
    return int(_kernel(kind)(words, rounds))


def counts_vectors() -> bool:
    """Whether the processor counts the ones of vectors of words, and numba may use that."""
    counted(np.zeros(WORDS, np.uint32), 1)
    return any("vpopcnt" in code for code in _kernel("bit").inspect_asm().values())


def roofline_work(threads: int, rounds: int, kind: str = "bit") -> tuple[Work, int]:
    """A function to time, and how many multiply-accumulates one call is worth."""
    run = _kernel(kind)
    words = np.random.default_rng(0).integers(0, 2**32, WORDS, dtype=np.uint32)
    macs = rounds * MACS_OF_A_ROUND[kind]
    if threads == 1:
        return (lambda: run(words, rounds)), macs
    pool = ThreadPoolExecutor(threads)

    def together() -> None:
        list(pool.map(lambda _: run(words, rounds), range(threads)))

    return together, threads * macs


@cache
def _kernel(kind: str) -> Any:
    counting: Any = intrinsic(_counting(_bits if kind == "bit" else _bytes))

    @njit(nogil=True)
    def run(words: Any, rounds: int) -> Any:
        return counting(words, rounds)

    return run


def _bits(builder: Any, total: Any, x: Any, w: Any) -> Any:
    ones = _function(builder, f"llvm.ctpop.v{_LANES}i32", 1)
    return builder.add(total, builder.call(ones, [builder.xor(x, w)]))


def _bytes(builder: Any, total: Any, x: Any, w: Any) -> Any:
    return builder.call(_function(builder, "llvm.x86.avx512.vpdpbusd.512", 3), [total, x, w])


def _function(builder: Any, name: str, operands: int) -> Any:
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * operands)
    return builder.module.globals.get(name) or ir.Function(builder.module, kind, name)


def _counting(combine: Combine) -> Callable[..., Any]:
    def typed(typingctx: Any, words: Any, rounds: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            array = context.make_array(signature.args[0])(context, builder, args[0])
            base = builder.bitcast(array.data, _VECTOR.as_pointer())
            pointers = [builder.gep(base, [ir.Constant(_INDEX, i)]) for i in range(_SUMS + 1)]
            moving, *vectors = (builder.load(pointer, align=4) for pointer in pointers)
            sums = _loop(builder, combine, moving, vectors, args[1])
            total = _added(builder, sums)
            lanes = [ir.Constant(_INDEX, i) for i in range(_LANES)]
            return _added(builder, [builder.extract_element(total, lane) for lane in lanes])

        return types.uint32(words, types.int64), generate

    return typed


def _loop(builder: Any, combine: Combine, first: Any, vectors: list[Any], rounds: Any) -> list[Any]:
    """The loop over rounds in LLVM's terms; its sums."""
    before, loop = builder.block, builder.append_basic_block("rounds")
    builder.branch(loop)
    builder.position_at_end(loop)
    index, moving = builder.phi(_INDEX), builder.phi(_VECTOR)
    starts = [builder.phi(_VECTOR) for _ in vectors]
    sums = [combine(builder, start, moving, vector) for start, vector in zip(starts, vectors)]
    following = builder.add(index, ir.Constant(_INDEX, 1))
    # `moving` differs from round to round, or the compiler would compute one of them for all
    moved = builder.add(moving, ir.Constant(_VECTOR, [0x9E3779B9] * _LANES))
    zero = ir.Constant(_VECTOR, [0] * _LANES)
    values = [(index, ir.Constant(_INDEX, 0), following), (moving, first, moved)]
    for phi, start, end in [*values, *((s, zero, total) for s, total in zip(starts, sums))]:
        phi.add_incoming(start, before)
        phi.add_incoming(end, loop)
    after = builder.append_basic_block("after")
    builder.cbranch(builder.icmp_signed("<", following, rounds), loop, after)
    builder.position_at_end(after)
    return sums


def _added(builder: Any, values: list[Any]) -> Any:
    total = values[0]
    for value in values[1:]:
        total = builder.add(total, value)
    return total
