"""Short ways to write programs for the tests of the interpreter and the counters."""

from __future__ import annotations

import numpy as np

from cimc.isa.program import (
    Affine,
    Data,
    Instr,
    Layer,
    Loop,
    Mem,
    Program,
    Range,
    Ref,
    Refs,
    Reg,
    Rows,
    Section,
    TargetLine,
)

FUNCTIONS = ("and", "nand", "or", "xor")


def x(name="x", field=None):
    """A latch `%x`, or a field of it."""
    return Reg(name, None, field)


def reg(name, size, start=0):
    """`%name[start +: size]`."""
    return Reg(name, Range.of(Affine.of(start), size))


def rows(size, start=0, tile=0):
    """`t[tile][start +: size]`."""
    return Rows(Affine.of(tile), Range.of(Affine.of(start), size))


def vec(name, position=0, lo=None, size=None):
    """`name[position]` or `name[position, lo +: size]`."""
    span = None if lo is None else Range.of(Affine.of(lo), size)
    return Ref(name, Affine.of(position), span)


def data(name, size=None, start=0):
    """`name` or `name[start +: size]`."""
    return Ref(name, None, None if size is None else Range.of(Affine.of(start), size))


def bufs(*names):
    return Refs(names)


def i(op, *args, **opts):
    """An instruction; options are numbers, loop variables, ranges `(lo, hi)` or data."""
    made = {}
    for name, value in opts.items():
        if isinstance(value, tuple):
            made[name] = Range.of(value[0], value[1] - value[0])
        else:
            made[name] = value if isinstance(value, Ref) else Affine.of(value)
    return Instr(op, args, made)


def loop(var, count, *body, kind="for", start=0):
    return Loop(kind, var, Affine.of(start), Affine.of(count), list(body))


def cells(name, array, seg=0):
    return Data(name, "cells", np.asarray(array, dtype=np.uint8), seg)


def ints(name, array, kind="i32"):
    return Data(name, kind, np.asarray(array))


def program(
    decls=(), infer=(), load=(), update=(), items=(), rows=8, cols=16, tiles=1, acc_bits=32
):
    """A program of one layer `l` a section."""
    target = TargetLine("test", rows, cols, tiles, FUNCTIONS, acc_bits)
    bodies = {"load": load, "infer": infer, "update": update}
    sections = [
        Section(name, [Layer("l", list(body))]) for name, body in bodies.items() if len(body)
    ]
    return Program(target, "exact", list(decls), sections, list(items))


def image(name, type, shape, axis=1):
    """An input with batch axis 0."""
    return Mem(name, type, shape, axis, input=name, batch=0)


def result(name, type, shape, axis=1):
    """An output with batch axis 0."""
    return Mem(name, type, shape, axis, output=name, batch=0)


def write(image_name, size, start=0, tile=0, **opts):
    """Program rows whatever they hold: reset, then set."""
    target, source = rows(size, start, tile), data(image_name, size)
    return [i("reset", target, source, **opts), i("set", target, source, **opts)]
