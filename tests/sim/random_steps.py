"""Random stores, steps between buffers and host fragments, for the programs of `random_wild.py`.

Each function makes statements for a place in a program, or None where nothing fits.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
from onnx import helper, numpy_helper
from random_declarations import INPUTS, RESULTS
from random_draws import FLOATS, PLANES, scales, values

from cimc.ir.types import container, int_range, is_float, is_integer, planes
from cimc.isa.program import Data, Instr, Mem, Ref, Refs, Reg

_SMALL = [e for e in PLANES if e[0] in "ui"]
_LEVELS = ("bip", "bip", "tern", "u1", "u2", "u3", "i2", "i4", "u8", "i16", "i32")


def is_exact(elem, into):
    """Whether every value of an element type is one of another."""
    if is_float(into) and not is_float(elem):
        return planes(elem) <= {"f16": 11, "bf16": 8, "f32": 24, "f64": 53}[into]
    if is_float(elem):
        return elem == into or (into == "f64" and elem in FLOATS)
    (a, b), (low, high) = int_range(elem), int_range(into)
    return low <= a and b <= high and into != "bip"


# -- stores ------------------------------------------------------------------------------


def store(wild, scope):
    """Accumulators stored as they are, as levels, or requantised."""
    known = wild.known(scope, "acc")
    if known is None:
        return wild.clear(scope)
    name, part = known
    return [stored(wild, scope, Reg(name, part), part.size.const)]


def stored(wild, scope, acc, size):
    """A store of `size` accumulators, or of some of them, in any order, some of them twice."""
    make = wild.draw.choice(_STORES)
    if wild.draw.chance(0.7):
        return make(wild, scope, acc, size)
    count = wild.draw.randint(1, size + 3)
    instr = make(wild, scope, acc, count)
    more = wild.draw.choice([0, 0, 2])
    kind = wild.draw.choice(["i32", "u8", "i64"])
    table = wild.draw.arrays.integers(0, size, count + more).astype(container(kind))
    name = wild.constant(kind, table)
    instr.opts["take"] = Ref(name, None, wild.ranges(scope, count + more, count))
    return instr


def _st_acc(wild, scope, acc, size):
    usual = ("i32", "i32", "i32", "f32", "i24") if wild.apart else RESULTS
    elem = wild.draw.choice(usual if wild.draw.chance(0.9) else INPUTS)
    return Instr("st.acc", (wild.place(scope, elem, size), acc))


def _st_ge(wild, scope, acc, size):
    elem = wild.draw.choice(_LEVELS)
    th, opts = _thresholds(wild, scope, elem, size, wild.draw.choice(["i32", "i32", "i8", "i64"]))
    return Instr("st.ge", (wild.place(scope, elem, size), acc, th), opts)


def _st_rq(wild, scope, acc, size):
    elem, table, opts = _scaled(wild, scope, size)
    return Instr("st.rq", (wild.place(scope, elem, size), acc, table), opts)


_STORES = (_st_acc, _st_acc, _st_ge, _st_ge, _st_rq)


def _thresholds(wild, scope, elem, size, kind):
    """Thresholds of a kind for levels of type `elem`, and options with flips or none."""
    draw = wild.draw
    count = {"bip": 1, "tern": 2}.get(elem) or draw.randint(1, min(9, 2 ** planes(elem) - 1))
    more = draw.choice([0, 0, 3])
    shape = (size + more,) if count == 1 and draw.chance(0.6) else (size + more, count)
    limits = values(draw, kind, shape)
    if is_integer(kind) and draw.chance(0.8):
        low, high = int_range(kind)
        limits = np.clip(draw.arrays.integers(-40, 60, shape), low, high).astype(limits.dtype)
        if kind == "i64" and draw.chance(0.2):  # ends of 32 bits, and one beyond
            ends = [n + k for n in (1 << 31, -1 << 31, 1 << 32) for k in (-1, 0, 1)]
            limits = draw.arrays.choice(np.array(ends), shape)
        if draw.chance(0.8):
            limits = np.sort(limits, axis=-1) if len(shape) == 2 else limits
    ref = Ref(wild.constant(kind, limits), None, wild.ranges(scope, size + more, size))
    if not draw.chance(0.3):
        return ref, {}
    return ref, {"flip": Ref(wild.constant("bip", values(draw, "bip", (size,))))}


def _scaled(wild, scope, size):
    """A requantised type, scales for each channel, and options with a zero point or none."""
    draw = wild.draw
    elem = draw.choice([*_SMALL, "u8", "i8", "u16", "i16", "u12", "i9"])
    table = scales(draw, size + 2, elem, draw.choice([3, 30, 300]))
    zero = int(values(draw, elem, ())) if draw.chance(0.5) else 0
    ref = Ref(wild.constant("f32", table), None, wild.ranges(scope, size + 2, size))
    return elem, ref, wild.opts(zero=zero)


# -- between buffers ---------------------------------------------------------------------


def between(wild, scope):
    """An operation from one or two vectors to another."""
    for _ in range(4):
        made = wild.draw.choice(_STEPS)(wild, scope)
        if made is not None:
            return [made]
    return []


def _source(wild, scope, elem=lambda elem: True):
    """A vector to read, its element type and its size; None if there is none."""
    found = wild.buffers(elem=elem)
    if not found:
        return None
    buffer = wild.draw.choice(found)
    ref = wild.vec(scope, buffer)
    return ref, buffer.type, wild.size_of(ref)


def _into(wild, scope, elem, size, *sources):
    """Where a result goes; at times back to where an operand of its type came from."""
    own = [ref for ref, kind, _ in sources if kind == elem and not ref.name.startswith("in")]
    if own and not wild.apart and wild.draw.chance(0.3):
        return wild.draw.choice(own)
    return wild.place(scope, elem, size)


def _type(wild, elem, among=RESULTS):
    """A type that holds what `elem` does; one that may not, now and then."""
    fitting = [e for e in (*among, elem) if is_exact(elem, e)]
    if wild.apart and wild.draw.chance(0.9):
        fitting = [e for e in fitting if is_integer(e) and planes(e) <= 32] or fitting
    return wild.draw.choice(fitting if fitting and wild.draw.chance(0.93) else among)


def _mov(wild, scope):
    found = _source(wild, scope)
    ref, elem, size = found
    if elem == "bool":
        return None
    into = _type(wild, elem, (*RESULTS, *INPUTS))
    return Instr("pp.mov", (_into(wild, scope, into, size, found), ref))


def _relu(wild, scope):
    found = _source(wild, scope)
    ref, elem, size = found
    into = _type(wild, "u1" if elem == "bip" else elem, (*RESULTS, *INPUTS))
    return Instr("pp.relu", (_into(wild, scope, into, size, found), ref))


def _add(wild, scope):
    """Two vectors of one size: integers into something wider, floats of one type."""
    first = _source(wild, scope)
    ref, elem, size = first
    alike = [
        b for b in wild.buffers(elem=lambda e: e == elem if is_float(elem) else is_integer(e))
        if b.shape[b.axis] >= size
    ]  # fmt: skip
    other = wild.draw.choice(alike)
    second = wild.vec(scope, other, size)
    widest = max(planes(e) for e in (elem, other.type)) if is_integer(elem) else 0
    into = elem if not widest else "i64" if widest > 30 else wild.draw.choice(["i32", "i32", "i64"])
    if widest and wild.draw.chance(0.1):
        into = wild.draw.choice([elem, other.type, "i16"])
    operands = (first, (second, other.type, size))
    return Instr("pp.add", (_into(wild, scope, into, size, *operands), ref, second))


def _ge(wild, scope):
    ref, elem, size = _source(wild, scope)
    kind = elem if is_float(elem) else wild.draw.choice(["i32", "i16", "i64", elem])
    into = wild.draw.choice(_LEVELS)
    th, opts = _thresholds(wild, scope, into, size, kind)
    return Instr("pp.ge", (wild.place(scope, into, size), ref, th), opts)


def _rq(wild, scope):
    found = _source(wild, scope, is_integer)
    if found is None:
        return None
    ref, _, size = found
    into, table, opts = _scaled(wild, scope, size)
    return Instr("pp.rq", (_into(wild, scope, into, size, found), ref, table), opts)


def _lut(wild, scope):
    most = 8 if wild.draw.chance(0.97) else 12
    found = _source(wild, scope, lambda e: e[0] in "ui" and planes(e) <= most)
    if found is None:
        return None
    ref, elem, size = found
    into = wild.draw.choice([*PLANES, "i16", "i32", "f32", "u8", "f64"])
    table = wild.constant(into, values(wild.draw, into, (2 ** planes(elem),)))
    return Instr("pp.lut", (_into(wild, scope, into, size, found), ref, Ref(table)))


def _qadd(wild, scope):
    draw = wild.draw
    first = _source(wild, scope, lambda e: e in _SMALL)
    if first is None:
        return None
    ref, elem, size = first
    alike = [b for b in wild.buffers(elem=lambda e: e in _SMALL) if b.shape[b.axis] >= size]
    other = draw.choice(alike)
    second, into = wild.vec(scope, other, size), draw.choice(_SMALL)
    zeros = [float(values(draw, e, ())) for e in (elem, other.type, into)]
    s = [draw.choice([0.5, 0.25, 0.1, 0.03, 1.7, 3e-3, 1e-5, 1e4]) for _ in range(3)]
    table = np.array([s[0], zeros[0], s[1], zeros[1], s[2], zeros[2]], np.float32)
    operands = (first, (second, other.type, size))
    args = (_into(wild, scope, into, size, *operands), ref, second, wild_ref(wild, table))
    return Instr("pp.qadd", args, wild.opts(fused=draw.randint(0, 1)))


def wild_ref(wild, table):
    """A whole data item of float32 numbers."""
    return Ref(wild.constant("f32", table))


def _windowed(wild, scope, elem):
    """A vector of windows, its type and size, and the window; None if there is none."""
    found = [b for b in wild.buffers(elem=elem, rank=3) if b.axis == 1]
    buffer = wild.draw.choice(found) if found else None
    win = buffer and wild.window(buffer.shape)
    if win is None:
        return None
    index = wild.affine(scope, buffer.shape[0] * prod(win.out))
    ref = wild.vec(scope, buffer)
    return Ref(buffer.name, index, ref.range), buffer.type, wild.size_of(ref), Ref(win.name)


def _max(wild, scope):
    found = _windowed(wild, scope, lambda elem: True)
    if found is None:
        return None
    ref, elem, size, win = found
    return Instr("pp.max", (wild.place(scope, elem, size), ref, win))


def _sum(wild, scope):
    found = _windowed(wild, scope, lambda e: is_integer(e) and planes(e) <= 32)
    if found is None:
        return None
    ref, elem, size, win = found
    zero = int(values(wild.draw, elem, ())) if wild.draw.chance(0.5) else 0
    into = "i64" if planes(elem) > 24 else wild.draw.choice(["i32", "i32", "i64", "i16"])
    return Instr("pp.sum", (wild.place(scope, into, size), ref, win), wild.opts(zero=zero))


_STEPS = (_mov, _mov, _relu, _add, _add, _ge, _rq, _lut, _qadd, _max, _max, _sum)


# -- host --------------------------------------------------------------------------------

_ONNX = {"f32": 1, "u8": 2, "f16": 10, "i32": 6}


def host(wild, scope):
    """A fragment from a buffer to one of its own; some work on single samples only."""
    found = wild.buffers(elem=lambda e: e == "f32" or (is_integer(e) and planes(e) <= 24))
    if not found or scope.section != "infer":
        return []
    x = wild.draw.choice(found)
    make = wild.draw.choice(_FRAGMENTS)
    nodes, shape, elem, consts = make(wild.draw, x.shape)
    name = f"h{len(wild.data)}"
    model = _model(nodes, x.shape, shape, elem, consts)
    macs = wild.draw.choice([0, 7])
    wild.data.append(Data(name, "onnx", np.frombuffer(model, np.uint8), macs=macs))
    y = Mem(f"{name}.y", "host" if wild.draw.chance(0.2) else elem, tuple(shape))
    if y.type == "host":
        y.shape = None
    if y.axis >= len(shape):
        y.axis = 0 if shape else 1
    if wild.draw.chance(0.7) or y.type == "host":
        y.output = y.name
        y.batch = 0 if shape and y.type != "host" else None
    wild.decls.append(y)
    return [Instr("host", (Ref(name), Refs((x.name,)), Refs((y.name,))))]


def _model(nodes, shape, out, elem, consts):
    inputs = [helper.make_tensor_value_info("x", 1, shape)]
    outputs = [helper.make_tensor_value_info("y", _ONNX[elem], out)]
    made = [helper.make_node(op, ins, outs, **attrs) for op, ins, outs, attrs in nodes]
    held = [numpy_helper.from_array(array, name) for name, array in consts.items()]
    graph = helper.make_graph(made, "g", inputs, outputs, held)
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    assert isinstance(model, onnx.ModelProto)
    return model.SerializeToString()


def _one(op, **attrs):
    """A fragment of one operation that keeps the shape."""
    return lambda draw, shape: ([(op, ["x"], ["y"], attrs)], list(shape), "f32", {})


def _largest(draw, shape):
    """The largest value along the batch axis, which isn't that of all samples."""
    nodes = [("ReduceMax", ["x"], ["m"], {"axes": [0]}), ("Sub", ["x", "m"], ["y"], {})]
    return nodes, list(shape), "f32", {}


def _all(draw, shape):
    return [("ReduceSum", ["x"], ["y"], {"keepdims": 0})], [], "f32", {}


def _twice(draw, shape):
    """Along the batch axis: each sample's values twice, not all samples' twice."""
    nodes = [("Concat", ["x", "x"], ["y"], {"axis": 0})]
    return nodes, [2 * shape[0], *shape[1:]], "f32", {}


def _flat(draw, shape):
    nodes = [("Reshape", ["x", "n"], ["y"], {})]
    return nodes, [1, prod(shape)], "f32", {"n": np.array([1, prod(shape)])}


def _product(draw, shape):
    w = draw.arrays.standard_normal((shape[-1], 3)).astype(np.float32)
    return [("MatMul", ["x", "w"], ["y"], {})], [*shape[:-1], 3], "f32", {"w": w}


def _bytes(draw, shape):
    """Quantised by the range of each sample."""
    nodes = [("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"], {})]
    return nodes, list(shape), "u8", {}


_FRAGMENTS = (
    _one("Neg"), _one("Softmax", axis=-1), _one("Sigmoid"), _largest, _all, _twice, _flat,
    _product, _bytes,
)  # fmt: skip
