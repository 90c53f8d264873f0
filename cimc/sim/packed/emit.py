"""Writing LLVM IR for kernels: types, addresses, vectors.

A vector has 16 lanes. Kernels are intrinsics of numba whose arguments are addresses and numbers
of 64 bits.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic

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


def pointer(b: Builder, address: Any, kind: Any) -> Any:
    return b.inttoptr(address, kind.as_pointer())


def beyond(b: Builder, address: Any, number: int) -> Any:
    return b.add(address, ir.Constant(I64, number)) if number else address


def load(b: Builder, address: Any, kind: Any = VEC, align: int = 4) -> Any:
    found = b.load(pointer(b, address, kind))
    found.align = align
    return found


def store(b: Builder, value: Any, address: Any, align: int = 4) -> None:
    b.store(value, pointer(b, address, value.type)).align = align


def splat(b: Builder, scalar: Any, kind: Any = VEC) -> Any:
    none = ir.Constant(kind, ir.Undefined)
    one = b.insert_element(none, scalar, ir.Constant(I32, 0))
    return b.shuffle_vector(one, none, ir.Constant(VEC, None))


def call(b: Builder, name: str, kind: Any, *args: Any) -> Any:
    made = ir.FunctionType(kind, [a.type for a in args])
    return b.call(cgutils.get_or_insert_function(b.module, made, name), args)
