"""Random changes of a valid program: what the compiler emits, and a little beside it.

Each mutation changes a program in place; one that the checker refuses is taken back. What is
left is valid, and differs from the shapes that an engine expects in ways nobody thought of.
"""

from __future__ import annotations

import itertools
from copy import deepcopy
from dataclasses import replace

import numpy as np
from random_draws import bits, scales, values

from cimc.errors import CompileError
from cimc.ir.types import int_range, is_integer
from cimc.isa.check import check
from cimc.isa.loops import substitute
from cimc.isa.program import (
    Affine,
    Data,
    Instr,
    Loop,
    Mem,
    Range,
    Ref,
    Reg,
    Remap,
    Rows,
    walk,
)

_P = Affine.of("p")


# -- places ------------------------------------------------------------------------------


def bodies(program, sections=("load", "infer", "update")):
    """Every list of statements: of layers and of loops."""
    waiting = [la.body for s in program.sections if s.name in sections for la in s.layers]
    while waiting:
        body = waiting.pop()
        yield body
        waiting += [item.body for item in body if isinstance(item, Loop)]


def _spots(program, wanted):
    """(body, index) of each statement for which `wanted` holds."""
    return [
        (body, i) for body in bodies(program) for i, item in enumerate(body) if wanted(item)
    ]  # fmt: skip


def _instrs(program, *prefixes):
    return _spots(program, lambda item: isinstance(item, Instr) and item.op.startswith(prefixes))


def _loops(program, wanted=lambda loop: True):
    return _spots(program, lambda item: isinstance(item, Loop) and wanted(item))


def _renamed(item, change):
    """A copy of a statement with `change` applied to each expression."""
    if isinstance(item, Loop):
        body = [_renamed(inner, change) for inner in item.body]
        return replace(item, lo=change(item.lo), hi=change(item.hi), body=body)
    args = tuple(_changed(arg, change) for arg in item.args)
    return replace(item, args=args, opts={k: _changed(v, change) for k, v in item.opts.items()})


def _changed(value, change):
    match value:
        case Affine():
            return change(value)
        case Range():
            return Range(change(value.start), change(value.size))
        case Rows():
            return Rows(change(value.tile), _changed(value.range, change))
        case Reg(range=Range()):
            return replace(value, range=_changed(value.range, change))
        case Ref():
            index = None if value.index is None else change(value.index)
            span = None if value.range is None else _changed(value.range, change)
            return Ref(value.name, index, span)
    return value


def with_var(item, var, expr):
    """A statement with an expression in place of a loop variable."""
    return _renamed(item, lambda e: substitute(e, var, expr))


# -- statements --------------------------------------------------------------------------


def drop(draw, program):
    """An instruction less."""
    for body, i in draw.sample(found := _instrs(program, ""), min(1, len(found))):
        del body[i : i + (len(body) > 1)]


def again(draw, program):
    """A statement twice, perhaps at another place of its body."""
    for body, i in draw.sample(found := _spots(program, bool), min(1, len(found))):
        body.insert(draw.randint(0, len(body)), deepcopy(body[i]))


def swap(draw, program):
    """Two neighbours in the other order."""
    body = draw.choice([b for b in bodies(program) if len(b) > 1] or [[0, 0]])
    i = draw.randint(0, len(body) - 2)
    body[i], body[i + 1] = body[i + 1], body[i]


def function(draw, program):
    """Another function of a read."""
    for body, i in draw.sample(found := _instrs(program, "read."), min(1, len(found))):
        body[i].op = f"read.{draw.choice(program.target.functions)}"


def sign(draw, program):
    """An addition as a subtraction, or the other way round."""
    for body, i in draw.sample(found := _instrs(program, "acc.add", "acc.sub"), min(1, len(found))):
        body[i].op = {"acc.add": "acc.sub", "acc.sub": "acc.add"}[body[i].op]


def shift(draw, program):
    """Another coefficient."""
    for body, i in draw.sample(found := _instrs(program, "acc.add", "acc.sub"), min(1, len(found))):
        old = body[i].opts.pop("shl", Affine())
        body[i].opts["shl"] = draw.choice([old + 1, old - 1, Affine(draw.randint(0, 9)), old * 2])
        if body[i].opts["shl"] == Affine():
            del body[i].opts["shl"]


def plane(draw, program):
    """Another bit plane in a load."""
    for body, i in draw.sample(found := _instrs(program, "ld.w", "ld.v"), min(1, len(found))):
        old = body[i].opts.pop("plane", Affine())
        new = draw.choice([Affine(), Affine(draw.randint(0, 7)), old + 1, old - 1])
        body[i].opts |= {} if new == Affine() else {"plane": new}


def columns(draw, program):
    """A read of some columns, or of all."""
    for body, i in draw.sample(found := _instrs(program, "read."), min(1, len(found))):
        lo = draw.randint(0, program.target.cols - 1)
        size = draw.randint(1, program.target.cols - lo)
        if body[i].opts.pop("cols", None) is None:
            body[i].opts["cols"] = Range.of(draw.choice([0, lo]), size)


def pad(draw, program):
    """Taps outside that hold something, or are not valid."""
    for body, i in draw.sample(found := _instrs(program, "ld.window"), min(1, len(found))):
        if body[i].opts.pop("pad", None) is None:
            body[i].opts["pad"] = Affine(draw.choice([0, 1, 3, 200, -1, -7]))


def addend(draw, program):
    """One more thing that is added to the sums: ones or valid columns of the latch, constants, or
    those of a position."""
    spots = _instrs(program, "acc.add", "acc.sub")
    for body, i in draw.sample(spots, min(1, len(spots))):
        acc, arg = body[i].args
        latches = {a.name for la in walk(body) for a in la.args if isinstance(a, Reg)} & {"x"}
        kinds = [*(["valid", "ones"] if latches else []), "table", "row"]
        kind = draw.choice(kinds)
        if kind in ("table", "row"):
            places = [s.args[0].index for s in walk(body) if s.op.startswith("st.")] or [Affine()]
            shape = [draw.choice([4, 144])] * (kind == "row") + [acc.range.size.const]
            array = draw.arrays.integers(-9, 9, shape).astype("i")
            program.data.append(table := Data(_fresh(program, "k"), "i32", array))
            arg = Ref(table.name, draw.choice(places) if kind == "row" else None)
        else:
            arg = Reg("x", None, kind)
        op = draw.choice(["acc.add", "acc.sub"])
        body.insert(i + 1, Instr(op, (acc, arg), _shl(draw.choice([0, 0, 1, 2]))))


def _shl(count):
    return {"shl": Affine(count)} if count else {}


def fill(draw, program):
    """A latch filled with zeros or ones in place of what was loaded."""
    spots = _instrs(program, "ld.window", "ld.vector")
    for body, i in draw.sample(spots, min(1, len(spots))):
        value = {"value": Affine(1)} if draw.chance(0.5) else {}
        body.insert(i + 1, Instr("ld.fill", (body[i].args[0], body[i].args[0]), value))


# -- stores ------------------------------------------------------------------------------


def store(draw, program):
    """A second store of the same accumulators, into a buffer of its own or the same one."""
    spots = _instrs(program, "st.")
    for body, i in draw.sample(spots, min(1, len(spots))):
        place, acc = body[i].args[:2]
        shape = _buffer(program, place.name).shape
        kind = draw.choice(["acc", "ge", "rq"])
        elem = draw.choice({"acc": ["i32", "i64", "f32", "i16"], "ge": ["bip", "u1", "i4"],
                            "rq": ["u8", "i8", "u16", "i13"]}[kind])  # fmt: skip
        mem = Mem(_fresh(program, "more"), elem, shape, _buffer(program, place.name).axis)
        mem.output = mem.name
        mem.batch = draw.choice([0, None])
        program.decls.append(mem)
        new = _stored(draw, program, kind, elem, Ref(mem.name, place.index, place.range), acc)
        body.insert(draw.choice([i, i + 1, i + 1, len(body)]), new)


def _stored(draw, program, kind, elem, place, acc):
    """A store of accumulators, with constants of its own."""
    if kind == "acc":
        return Instr("st.acc", (place, acc))
    size = acc.range.size.const
    name = _fresh(program, f"for_{kind}")
    if kind == "rq":
        program.data.append(Data(name, "f32", scales(draw, size, elem, 100)))
        zero = int(values(draw, elem, ()))
        return Instr("st.rq", (place, acc, Ref(name)), {"zero": Affine(zero)} if zero else {})
    program.data.append(Data(name, "i32", draw.arrays.integers(-9, 30, size).astype(np.int32)))
    return Instr("st.ge", (place, acc, Ref(name)))


def narrow(draw, program):
    """A buffer of another type: some stores then hold values that it doesn't."""
    mems = [m for m in program.mems.values() if m.input is None and m.shape is not None]
    if not mems:
        return
    mem = draw.choice(mems)
    new = ["i8", "u8", "i4", "u16", "f16", "f32", "i64"] if mem.type == "i32" else ["i16", "i8"]
    elem = draw.choice(new)
    users = [v for v in program.views.values() if v.type == mem.type]
    for item in [mem, *users]:
        item.type = elem


def position(draw, program):
    """The positions of a store or a load in the other order, or another place."""
    for body, i in draw.sample(found := _instrs(program, "st.", "ld.", "pp."), min(1, len(found))):
        for loop in (lo for b, k in _loops(program) if body is (lo := b[k]).body):
            var, last = Affine.of(loop.var), loop.lo + loop.hi - 1
            body[i] = with_var(body[i], loop.var, draw.choice([last - var, loop.lo, last, var]))


def source(draw, program):
    """A load from another buffer."""
    for body, i in draw.sample(found := _instrs(program, "ld.w", "ld.v"), min(1, len(found))):
        old = body[i].args[1]
        names = [*program.mems, *program.views]
        alike = [n for n in names if _buffer(program, n).shape == _buffer(program, old.name).shape]
        new = Ref(draw.choice(alike), old.index, old.range)
        body[i].args = (body[i].args[0], new, *body[i].args[2:])


# -- loops -------------------------------------------------------------------------------


def bound(draw, program):
    """An iteration less at an end of a loop."""
    for body, i in draw.sample(found := _loops(program), min(1, len(found))):
        loop = body[i]
        body[i] = draw.choice([replace(loop, lo=loop.lo + 1), replace(loop, hi=loop.hi - 1)])


def kind(draw, program):
    """A `for` as `par`, or the other way round."""
    for body, i in draw.sample(found := _loops(program), min(1, len(found))):
        body[i].kind = {"for": "par", "par": "for"}[body[i].kind]


def cut(draw, program):
    """A loop in two, one after the other."""
    for body, i in draw.sample(found := _loops(program), min(1, len(found))):
        loop = body[i]
        if not (loop.lo.is_const and loop.hi.is_const) or loop.hi.const - loop.lo.const < 2:
            continue
        middle = Affine(draw.randint(loop.lo.const + 1, loop.hi.const - 1))
        body[i : i + 1] = [replace(loop, hi=middle), deepcopy(replace(loop, lo=middle))]


def unroll(draw, program):
    """A short loop written out."""
    for body, i in draw.sample(found := _loops(program), min(1, len(found))):
        loop = body[i]
        if not (loop.lo.is_const and loop.hi.is_const) or loop.hi.const - loop.lo.const > 6:
            continue
        numbers = range(loop.lo.const, loop.hi.const)
        body[i : i + 1] = [
            with_var(item, loop.var, Affine(v)) for v in numbers for item in loop.body
        ]


def tile(draw, program):
    """A loop over positions as two nested ones."""
    flat = _loops(program, lambda loop: loop.lo == Affine() and loop.hi.is_const)
    for body, i in draw.sample(flat, min(1, len(flat))):
        loop, count = body[i], body[i].hi.const
        inner = draw.choice([k for k in range(1, count + 1) if count % k == 0])
        var = Affine.of("u") * inner + Affine.of("v")
        rest = [with_var(item, loop.var, var) for item in loop.body]
        nest = Loop(draw.choice(["for", loop.kind]), "v", Affine(), Affine(inner), rest)
        body[i] = Loop(loop.kind, "u", Affine(), Affine(count // inner), [nest])


def turn(draw, program):
    """Two nested loops with the inner one outside."""
    nested = _loops(program, lambda lo: len(lo.body) == 1 and isinstance(lo.body[0], Loop))
    for body, i in draw.sample(nested, min(1, len(nested))):
        outer, inner = body[i], body[i].body[0]
        body[i] = replace(inner, body=[replace(outer, body=inner.body)])


def hoist(draw, program):
    """The first statement of a loop before it, or the last one behind it."""
    for body, i in draw.sample(found := _loops(program), min(1, len(found))):
        loop = body[i]
        if len(loop.body) < 2:
            continue
        if draw.chance(0.6):
            body.insert(i, with_var(loop.body.pop(0), loop.var, loop.lo))
        else:
            body.insert(i + 1, with_var(loop.body.pop(), loop.var, loop.hi - 1))


def join(draw, program):
    """Two neighbouring loops of one count as one."""
    for body in draw.sample(found := list(bodies(program)), len(found)):
        for i, (a, b) in enumerate(itertools.pairwise(body)):
            alike = isinstance(a, Loop) and isinstance(b, Loop) and (a.lo, a.hi) == (b.lo, b.hi)
            if alike and draw.chance(0.7):
                rest = [with_var(item, b.var, Affine.of(a.var)) for item in b.body]
                body[i : i + 2] = [replace(a, body=[*a.body, *rest])]
                return


# -- data, rows --------------------------------------------------------------------------


def constants(draw, program):
    """Other constants: thresholds in no order, scales, cells."""
    items = [d for d in program.data if d.kind == "cells" or is_integer(d.kind)]
    if not items:
        return
    item = draw.choice(items)
    new = bits(draw, item.array.shape)
    if item.kind != "cells":
        low, high = int_range(item.kind)
        new = values(draw, item.kind, item.array.shape) if draw.chance(0.3) else item.array
        new = np.clip(draw.arrays.permutation(new), max(low, -(1 << 20)), min(high, 1 << 20))
    other = Data(item.name, item.kind, new.astype(item.array.dtype), item.seg)
    program.data[program.data.index(item)] = other


def remap(draw, program):
    """Some rows on other physical rows."""
    t = program.target
    if not t.tiles or program.remaps:
        return
    number = draw.randint(0, t.tiles - 1)
    rows = draw.sample(range(t.rows), draw.randint(1, min(4, t.rows)))
    moved = draw.sample(rows, len(rows))
    program.decls += [Remap(number, a, b) for a, b in zip(rows, moved)]


def unprogrammed(draw, program):
    """`.load` without some of its writes: rows keep what the tiles held before."""
    section = program.section("load")
    for layer in section.layers if section else ():
        layer.body = [item for item in layer.body if draw.chance(0.5)]


def update(draw, program):
    """A section that changes cells after the samples and reads them."""
    if program.section("update") or not program.section("load"):
        return
    layers = [la for la in deepcopy(program.section("load").layers) if draw.chance(0.7)]
    for layer in layers:
        for instr in walk(layer.body):
            instr.op = draw.choice(["set", "reset"])
    reads = [la for la in deepcopy(program.section("infer").layers) if draw.chance(0.6)]
    reads = [la for la in reads if not any(i.op == "host" for i in walk(la.body))]
    for i, layer in enumerate(reads):
        layer.name = f"again{i}"
    section = replace(program.section("infer"), name="update", layers=[*layers, *reads, *[]])
    program.sections.append(section)


def _buffer(program, name):
    return program.mems.get(name) or program.views[name]


def _fresh(program, stem):
    taken = {d.name for d in (*program.decls, *program.data) if not isinstance(d, Remap)}
    return next(n for i in range(len(taken) + 1) if (n := f"{stem}{i}") not in taken)


MUTATIONS = {
    drop: 3, again: 2, swap: 3, function: 3, sign: 2, shift: 3, plane: 2, columns: 2, pad: 1,
    addend: 2, fill: 1, store: 4, narrow: 2, position: 3, source: 2, bound: 3, kind: 2, cut: 2,
    unroll: 2, tile: 2, turn: 2, hoist: 4, join: 2, constants: 2, remap: 1, unprogrammed: 1,
    update: 1,
}  # fmt: skip


def copied(program):
    """A copy that mutations may change: everything but expressions and constants."""
    sections = [
        replace(s, layers=[replace(la, body=_copied(la.body)) for la in s.layers])
        for s in program.sections
    ]
    decls = [replace(d) for d in program.decls]
    return replace(program, decls=decls, sections=sections, data=list(program.data))


def _copied(body):
    return [
        replace(item, body=_copied(item.body))
        if isinstance(item, Loop)
        else replace(item, opts=dict(item.opts))
        for item in body
    ]


def mutate(draw, program, count):
    """The program after `count` mutations; those that make it invalid are left out."""
    for _ in range(count):
        changed = copied(program)
        draw.weighted(MUTATIONS)(draw, changed)
        try:
            check(changed)
        except CompileError:
            continue
        program = changed
    return program
