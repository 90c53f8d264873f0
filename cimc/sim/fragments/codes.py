"""Numbers that `lower.py` writes into steps and `kernels.py` reads.

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
