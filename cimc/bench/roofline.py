"""The most that this processor can do: products of bits or of bytes, sums in registers.

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
_TURNS = 16  # vectors that come from the first-level cache in turns
WORDS = (_SUMS + _TURNS) * _LANES
"""Of an input: a vector for each sum, then those that take turns."""

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
            total = _added(builder, _loop(builder, combine, base, args[1]))
            lanes = [ir.Constant(_INDEX, i) for i in range(_LANES)]
            return _added(builder, [builder.extract_element(total, lane) for lane in lanes])

        return types.uint32(words, types.int64), generate

    return typed


def _loop(builder: Any, combine: Combine, base: Any, rounds: Any) -> list[Any]:
    """The loop over rounds in LLVM's terms; its sums."""
    kept = [_load(builder, base, ir.Constant(_INDEX, i)) for i in range(_SUMS)]
    before, loop = builder.block, builder.append_basic_block("rounds")
    builder.branch(loop)
    builder.position_at_end(loop)
    index = builder.phi(_INDEX)
    starts = [builder.phi(_VECTOR) for _ in kept]
    # loading is no work for the units that compute; one value for all rounds would be computed once
    turn = builder.and_(index, ir.Constant(_INDEX, _TURNS - 1))
    moving = _load(builder, base, builder.add(turn, ir.Constant(_INDEX, _SUMS)))
    sums = [combine(builder, start, moving, vector) for start, vector in zip(starts, kept)]
    following = builder.add(index, ir.Constant(_INDEX, 1))
    zero = ir.Constant(_VECTOR, [0] * _LANES)
    values = [(index, ir.Constant(_INDEX, 0), following)]
    for phi, start, end in [*values, *((s, zero, total) for s, total in zip(starts, sums))]:
        phi.add_incoming(start, before)
        phi.add_incoming(end, loop)
    after = builder.append_basic_block("after")
    builder.cbranch(builder.icmp_signed("<", following, rounds), loop, after)
    builder.position_at_end(after)
    return sums


def _load(builder: Any, base: Any, number: Any) -> Any:
    return builder.load(builder.gep(base, [number]), align=4)


def _added(builder: Any, values: list[Any]) -> Any:
    total = values[0]
    for value in values[1:]:
        total = builder.add(total, value)
    return total
