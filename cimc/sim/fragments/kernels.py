"""Compiled kernels for the float work of host fragments: one call runs many samples.

The native part of a fragment is a list of steps over the tensors of one sample, which
`lower.py` makes. A step of element-wise operations runs block by block: the values of a
block stay in registers, vectors of up to `BLOCK` float32 or float64, while the operations follow
one another. Each is the IEEE operation that onnxruntime's kernel does. Where its result may hang
on how onnxruntime was built, or on a value's place in memory (not-a-number, division by zero,
conversions out of range), the sample is marked: onnxruntime has to run it.

All in one file, codes too: numba's cache looks at the file of the compiled function only. Few
functions: each one costs a tenth of a second to compile.

A step is a row of `STEP_FIELDS` integers:
ELEMENTWISE: kind, first, body and end row of code, elements, run
DYNAMIC_QUANTIZE: kind, 0, 0, 0, elements, 0, then the tensors x, y, scale, zero

A row of code has `CODE_FIELDS` integers: operation, to, a, b, c. Registers are vectors, float32 or
float64 (operations that begin with W), or single float32 numbers; each kind is numbered apart.
LOAD: a vector, tensor. SPLAT, SINGLE: a vector or a single number, tensor, ONE or RUN, period.
STORE: tensor, vector. TIMES and PLUS take a vector and a single number, TIMES_PLUS two of them.
CLIP and TRUNC take their numbers from row b. SELECT takes a truth value a. Truth values are
float32 0 and 1.
"""

# Kernels have no types of their own: numba infers them.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic

from cimc.sim.packed.jit import compiled

# -- codes, which `lower.py` and `operators.py` write ----------------------------------

STEP_FIELDS = 10
CODE_FIELDS = 5
BLOCK = 1024  # elements of a register: a few of them stay in the first-level cache
STRIDE = BLOCK + 80  # from one to the next: loads and stores a page apart wait for each other

ELEMENTWISE, DYNAMIC_QUANTIZE = range(2)

# element types of tensors; vectors of float32 hold the first four, of float64 the last two
BOOL, I8, U8, F32, I32, F64 = range(6)

# the element that stands for a whole block: the only one, or one for each run of elements
ONE, RUN = range(2)

LOAD, WLOAD, STORE, WSTORE, SPLAT, WSPLAT, SINGLE, WIDEN, NARROW = range(9)
ADD, SUB, MUL, DIV, MIN, MAX, LESS, LESS_EQUAL, EQUAL = range(9, 18)
FLOOR, ROUND, CLIP, TRUNC, RELU, TIMES, PLUS, TIMES_PLUS, SELECT = range(18, 27)
WADD, WSUB, WMUL, WDIV, WLESS, WLESS_EQUAL, WEQUAL = range(27, 34)
WFLOOR, WROUND, WCLIP, WTRUNC = range(34, 38)


# -- kernels ---------------------------------------------------------------------------

# without counts of references to arrays, which cost more than the operations on a short block
_OPTIONS: dict[str, Any] = {"nopython": True, "nogil": True, "boundscheck": False, "_nrt": False}
_inlined: Any = numba.jit(**_OPTIONS)

_INFINITY = 0x7F800000  # the bits of float32 infinity


def _pointers(elem: Any) -> Any:
    """A function of kernels: an address as a pointer to elements of a type."""

    @intrinsic
    def pointer(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        pointer_type: Any = types.CPointer
        return pointer_type(elem)(types.int64), codegen

    return pointer


_floats, _doubles = _pointers(types.float32), _pointers(types.float64)
_ints, _signed, _unsigned = _pointers(types.int32), _pointers(types.int8), _pointers(types.uint8)
_rows = _pointers(types.int64)


@intrinsic
def _as_float(typingctx: Any, bits: Any) -> Any:
    """The float32 of some bits."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(types.float32))

    return types.float32(types.int32), codegen


_float: Any = _as_float


@_inlined
def _move(op, row, vectors, wides, singles, tensors, sample, start, run, n, most):
    """Values between tensors and registers, and from one kind of register to another."""
    to, at = row[1], row[2]
    stores = op in (STORE, WSTORE)
    register = at if stores else to
    vector = _floats(vectors + 4 * STRIDE * register)
    wide = _doubles(wides + 8 * STRIDE * register)
    if op == WIDEN:
        vector = _floats(vectors + 4 * STRIDE * at)
        for k in range(n):
            wide[k] = vector[k]
        return
    if op == NARROW:
        wide = _doubles(wides + 8 * STRIDE * at)
        for k in range(n):
            vector[k] = np.float32(wide[k])
        return
    tensor = _rows(tensors + 24 * (to if stores else at))
    address, elem = tensor[0] + sample * tensor[1], tensor[2]
    size = 1 if elem <= U8 else 8 if elem == F64 else 4
    if op in (SINGLE, SPLAT, WSPLAT):
        address += 0 if row[3] == ONE else size * (run % row[4])
    else:
        address += size * start
    floats, doubles, ints = _floats(address), _doubles(address), _ints(address)
    signed, unsigned = _signed(address), _unsigned(address)
    if op == LOAD and elem == F32:
        for k in range(n):
            vector[k] = floats[k]
    elif op == LOAD and elem == I32:
        for k in range(n):
            vector[k] = np.float32(ints[k])
    elif op == LOAD and elem == I8:
        for k in range(n):
            vector[k] = signed[k]
    elif op == LOAD:
        for k in range(n):
            vector[k] = unsigned[k]
    elif op == WLOAD and elem == F64:
        for k in range(n):
            wide[k] = doubles[k]
    elif op == WLOAD:
        for k in range(n):
            wide[k] = ints[k]
    elif op == STORE and elem == F32:
        for k in range(n):
            floats[k] = vector[k]
    elif op == STORE and elem == I8:
        for k in range(n):
            signed[k] = np.int8(np.int32(vector[k]))
    elif op == STORE:
        for k in range(n):
            unsigned[k] = np.uint8(np.int32(vector[k]))
    elif op == WSTORE and elem == F64:
        for k in range(n):
            doubles[k] = wide[k]
    elif op == WSTORE:
        for k in range(n):
            ints[k] = np.int32(wide[k])
    else:
        if elem == F32:
            value = np.float64(floats[0])
        elif elem == F64:
            value = doubles[0]
        elif elem == I32:
            value = np.float64(ints[0])
        elif elem == I8:
            value = np.float64(signed[0])
        else:
            value = np.float64(unsigned[0])
        if op == SINGLE:
            _floats(singles)[to] = np.float32(value)
        elif op == SPLAT:
            number = np.float32(value)
            for k in range(most):
                vector[k] = number
        else:
            for k in range(most):
                wide[k] = value


@_inlined
def _calculate(op, row, numbers, vectors, singles, n):
    """An operation on float32; whether the sample is to be marked."""
    marked = False
    to, a = _floats(vectors + 4 * STRIDE * row[1]), _floats(vectors + 4 * STRIDE * row[2])
    b = _floats(vectors + 4 * STRIDE * row[3])
    single, number = _floats(singles), _doubles(numbers + 16 * row[3])
    if op == ADD:
        for k in range(n):
            to[k] = a[k] + b[k]
    elif op == SUB:
        for k in range(n):
            to[k] = a[k] - b[k]
    elif op == MUL:
        for k in range(n):
            to[k] = a[k] * b[k]
    elif op == DIV:
        for k in range(n):
            marked |= b[k] == 0
            to[k] = np.divide(a[k], b[k])
    elif op == MIN:
        for k in range(n):
            marked |= (a[k] != a[k]) | (b[k] != b[k])
            to[k] = b[k] if b[k] < a[k] else a[k]
    elif op == MAX:
        for k in range(n):
            marked |= (a[k] != a[k]) | (b[k] != b[k])
            to[k] = b[k] if b[k] > a[k] else a[k]
    elif op == LESS:
        for k in range(n):
            to[k] = np.float32(a[k] < b[k])
    elif op == LESS_EQUAL:
        for k in range(n):
            to[k] = np.float32(a[k] <= b[k])
    elif op == EQUAL:
        for k in range(n):
            to[k] = np.float32(a[k] == b[k])
    elif op == FLOOR:
        for k in range(n):
            to[k] = np.floor(a[k])
    elif op == ROUND:
        for k in range(n):
            to[k] = np.rint(a[k])
    elif op == CLIP:
        low, high = np.float32(number[0]), np.float32(number[1])
        for k in range(n):
            marked |= a[k] != a[k]
            least = low if a[k] < low else a[k]
            to[k] = high if least > high else least
    elif op == TRUNC:
        low, high = np.float32(number[0]), np.float32(number[1])
        for k in range(n):
            whole = np.trunc(a[k]) + np.float32(0)  # one zero of both
            marked |= not ((whole >= low) & (whole <= high))
            to[k] = whole
    elif op == RELU:
        for k in range(n):
            marked |= a[k] != a[k]
            to[k] = np.float32(0) if a[k] < 0 else a[k]
    elif op == TIMES:
        factor = single[row[3]]
        for k in range(n):
            to[k] = a[k] * factor
    elif op == PLUS:
        term = single[row[3]]
        for k in range(n):
            to[k] = a[k] + term
    elif op == TIMES_PLUS:
        factor, term = single[row[3]], single[row[4]]
        for k in range(n):
            to[k] = a[k] * factor + term
    else:
        other = _floats(vectors + 4 * STRIDE * row[4])
        for k in range(n):
            chosen, rest = b[k], other[k]  # both read: a branch would not be vector code
            to[k] = chosen if a[k] != 0 else rest
    return marked


@_inlined
def _calculate_wide(op, row, numbers, vectors, wides, n):
    """An operation on float64; whether the sample is to be marked."""
    marked = False
    to, a = _doubles(wides + 8 * STRIDE * row[1]), _doubles(wides + 8 * STRIDE * row[2])
    b, number = _doubles(wides + 8 * STRIDE * row[3]), _doubles(numbers + 16 * row[3])
    truth = _floats(vectors + 4 * STRIDE * row[1])
    if op == WADD:
        for k in range(n):
            to[k] = a[k] + b[k]
    elif op == WSUB:
        for k in range(n):
            to[k] = a[k] - b[k]
    elif op == WMUL:
        for k in range(n):
            to[k] = a[k] * b[k]
    elif op == WDIV:
        for k in range(n):
            marked |= b[k] == 0
            to[k] = np.divide(a[k], b[k])
    elif op == WLESS:
        for k in range(n):
            truth[k] = np.float32(a[k] < b[k])
    elif op == WLESS_EQUAL:
        for k in range(n):
            truth[k] = np.float32(a[k] <= b[k])
    elif op == WEQUAL:
        for k in range(n):
            truth[k] = np.float32(a[k] == b[k])
    elif op == WFLOOR:
        for k in range(n):
            to[k] = np.floor(a[k])
    elif op == WROUND:
        for k in range(n):
            to[k] = np.rint(a[k])
    elif op == WCLIP:
        low, high = number[0], number[1]
        for k in range(n):
            marked |= a[k] != a[k]
            least = low if a[k] < low else a[k]
            to[k] = high if least > high else least
    else:
        low, high = number[0], number[1]
        for k in range(n):
            whole = np.trunc(a[k]) + 0.0
            marked |= not ((whole >= low) & (whole <= high))
            to[k] = whole
    return marked


@_inlined
def _dynamic_quantize(step, tensors, sample):
    """DynamicQuantizeLinear: x float32 to y uint8, its scale and its zero point; whether the
    sample is to be marked."""
    n = step[4]
    x, y = _rows(tensors + 24 * step[6]), _rows(tensors + 24 * step[7])
    to_scale, to_zero = _rows(tensors + 24 * step[8]), _rows(tensors + 24 * step[9])
    bits, floats = _ints(x[0] + sample * x[1]), _floats(x[0] + sample * x[1])
    # the bits of float32 as integers of the same order: their extremes are vector code
    low, high = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
    for k in range(n):
        value = bits[k] ^ ((bits[k] >> np.int32(31)) & np.int32(0x7FFFFFFF))
        low = min(low, value)
        high = max(high, value)
    if high >= _INFINITY or low <= -_INFINITY - 1:
        return True
    least = min(_float(low ^ ((low >> np.int32(31)) & np.int32(0x7FFFFFFF))), np.float32(0))
    most = _float(max(high, np.int32(0)))
    scale = np.float32(1) if most == least else np.divide(most - least, np.float32(255))
    if scale == 0 or scale == np.inf:
        return True
    zero = np.rint(min(np.float32(255), max(np.float32(0), -np.divide(least, scale))))
    _floats(to_scale[0] + sample * to_scale[1])[0] = scale
    _unsigned(to_zero[0] + sample * to_zero[1])[0] = np.uint8(zero)
    target = _unsigned(y[0] + sample * y[1])
    lowest, highest = np.float32(0) - zero, np.float32(255) - zero
    for k in range(n):
        number = np.divide(floats[k], scale)
        number = number if number > lowest else lowest
        number = number if number < highest else highest
        target[k] = np.uint8(np.int32(np.rint(number) + zero))
    return False


@_inlined
def _elementwise(step, code, numbers, tensors, registers, sample):
    """Rows before `body` once, the others block by block, no block across a run; whether the
    sample is to be marked."""
    first, body, end, elements, length = step[1], step[2], step[3], step[4], step[5]
    vectors, wides, singles = registers
    most = min(BLOCK, elements)
    marked = False
    start = 0
    while start < elements:
        run = start // length
        n = min(BLOCK, (run + 1) * length - start)
        for at in range(first, end):
            row = _rows(code + 8 * CODE_FIELDS * at)
            op = row[0]
            if op <= NARROW:
                _move(op, row, vectors, wides, singles, tensors, sample, start, run, n, most)
            elif op < WADD:
                marked |= _calculate(op, row, numbers, vectors, singles, n)
            else:
                marked |= _calculate_wide(op, row, numbers, vectors, wides, n)
        start += n
        first = body
    return marked


@compiled
def run_steps(samples, steps, code, numbers, tensors, vectors, wides, singles, marks):
    """Run all steps for each sample; marks[s] = 1 where onnxruntime has to run sample s. Returns
    how many those are.

    steps, code: int64, as above; numbers: float64 [n, 2]; tensors: int64 [n, 3],
    address, bytes from one sample to the next, element type; registers vectors: float32
    [n, BLOCK], wides: float64 [n, BLOCK], singles: float32 [n]; marks: uint8 [samples]."""
    count = 0
    rows, constants, places = code.ctypes.data, numbers.ctypes.data, tensors.ctypes.data
    registers = vectors.ctypes.data, wides.ctypes.data, singles.ctypes.data
    for sample in range(samples):
        marked = False
        for number in range(len(steps)):
            step = _rows(steps.ctypes.data + 8 * STEP_FIELDS * number)
            if step[0] == DYNAMIC_QUANTIZE:
                marked |= _dynamic_quantize(step, places, sample)
            else:
                marked |= _elementwise(step, rows, constants, places, registers, sample)
        if marked:
            marks[sample] = 1
            count += 1
    return count
