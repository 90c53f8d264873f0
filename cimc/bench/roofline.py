"""How fast this processor counts: XOR, popcount and addition with everything in registers.

No GEMM of bits can be faster; its share of this is what it makes of the processor. Where the
processor has no VPOPCNTDQ, the same code becomes what it has instead.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from cimc.bench.timing import Work

_LANES = 16  # 32-bit words of a vector
_SUMS = 8  # independent chains: additions wait for each other, counts don't
_BITS_A_ROUND = _SUMS * _LANES * 32
_VECTOR = ir.VectorType(ir.IntType(32), _LANES)
_INDEX = ir.IntType(64)


def _count(typingctx: Any, words: Any, rounds: Any) -> Any:
    """`rounds` times: each of eight sums of vectors += popcount(moving ^ word).

    words: the first `moving`, then a vector for each sum. Gives the sum of all lanes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        base = builder.bitcast(array.data, _VECTOR.as_pointer())
        pointers = [builder.gep(base, [ir.Constant(_INDEX, i)]) for i in range(_SUMS + 1)]
        moving, *vectors = (builder.load(pointer, align=4) for pointer in pointers)
        return _lanes(builder, _loop(builder, moving, vectors, args[1]))

    return types.uint32(words, types.int64), codegen


def _loop(builder: Any, first: Any, vectors: list[Any], rounds: Any) -> Any:
    """The loop in LLVM's terms; gives the sum of the eight vectors."""
    name = f"llvm.ctpop.v{_LANES}i32"
    popcount = builder.module.globals.get(name)
    popcount = popcount or ir.Function(builder.module, ir.FunctionType(_VECTOR, [_VECTOR]), name)
    before, loop = builder.block, builder.append_basic_block("rounds")
    builder.branch(loop)
    builder.position_at_end(loop)
    index, moving = builder.phi(_INDEX), builder.phi(_VECTOR)
    sums = [builder.phi(_VECTOR) for _ in vectors]
    totals = [
        builder.add(total, builder.call(popcount, [builder.xor(moving, vector)]))
        for total, vector in zip(sums, vectors)
    ]
    # `moving` differs from round to round, or the compiler would count once for all of them
    values = [
        (index, ir.Constant(_INDEX, 0), builder.add(index, ir.Constant(_INDEX, 1))),
        (moving, first, builder.add(moving, ir.Constant(_VECTOR, [0x9E3779B9] * _LANES))),
        *((phi, ir.Constant(_VECTOR, [0] * _LANES), total) for phi, total in zip(sums, totals)),
    ]
    for phi, start, following in values:
        phi.add_incoming(start, before)
        phi.add_incoming(following, loop)
    after = builder.append_basic_block("after")
    builder.cbranch(builder.icmp_signed("<", values[0][2], rounds), loop, after)
    builder.position_at_end(after)
    total = totals[0]
    for other in totals[1:]:
        total = builder.add(total, other)
    return total


def _lanes(builder: Any, vector: Any) -> Any:
    lanes = [builder.extract_element(vector, ir.Constant(_INDEX, i)) for i in range(_LANES)]
    total = lanes[0]
    for lane in lanes[1:]:
        total = builder.add(total, lane)
    return total


_counting: Any = intrinsic(_count)


@njit(nogil=True)
def _rounds(words: Any, rounds: int) -> Any:
    return _counting(words, rounds)


def counted(words: Any, rounds: int) -> int:
    """The sum of all counts, modulo 2**32. words: uint32 [9*16]; rounds: at least 1."""
    return int(_rounds(words, rounds))


def counts_vectors() -> bool:
    """Whether the processor counts the ones of vectors of words, and numba may use that."""
    counted(np.zeros((_SUMS + 1) * _LANES, np.uint32), 1)
    return any("vpopcnt" in code for code in _rounds.inspect_asm().values())


def roofline_work(threads: int, rounds: int) -> tuple[Work, int]:
    """A function to time, and how many multiply-accumulates of bits one call is worth."""
    words = np.random.default_rng(0).integers(0, 2**32, (_SUMS + 1) * _LANES, dtype=np.uint32)
    if threads == 1:
        return (lambda: _rounds(words, rounds)), rounds * _BITS_A_ROUND
    pool = ThreadPoolExecutor(threads)

    def together() -> None:
        list(pool.map(lambda _: _rounds(words, rounds), range(threads)))

    return together, threads * rounds * _BITS_A_ROUND
