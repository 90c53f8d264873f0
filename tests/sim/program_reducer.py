"""Makes a failing case small: statements, loops, samples and declarations go while it still fails.

hypothesis can't shrink a program that follows from a seed; this cuts the program itself.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
from random_mutations import bodies, copied, with_var

from cimc.errors import CompileError
from cimc.isa.check import check
from cimc.isa.program import Affine, Loop, Mem, Ref, Refs, Remap, View, Win, walk


def reduced(case, fails, tries=600):
    """The smallest case found for which `fails(case)` still holds.

    fails: whether a case fails; an exception that isn't its business is no failure.
    tries: how many smaller cases are tried at most."""
    done = False
    while not done:
        done, number = True, 0
        while tries > 0 and (change := next(islice(_changes(case), number, None), None)):
            smaller = change()
            if smaller is not None and _valid(smaller):
                tries -= 1
                if fails(smaller):
                    case, done = smaller, False
                    continue  # with what is now at this place
            number += 1
    return case


def _valid(case):
    try:
        check(case.program)
    except (CompileError, AssertionError):
        return False
    return True


def _changes(case):
    """Functions that make a smaller case, or None; the most promising ones first."""
    program = case.program
    yield partial(_fewer_samples, case)
    if case.tiles is not None:
        yield partial(replace, case, tiles=None)
    yield partial(_unused, case)
    for remap in program.remaps:
        yield _with(case, lambda p, r=remap: p.decls.remove(r))
    if program.remaps:
        yield partial(_unmapped, case)
    for number in range(len(program.sections)):
        yield _with(case, lambda p, n=number: p.sections.pop(n))
    for s, section in enumerate(program.sections):
        for number in range(len(section.layers)):
            yield _with(case, lambda p, s=s, n=number: p.sections[s].layers.pop(n))
    for b, body in enumerate(bodies(program)):
        for number, item in enumerate(body):
            yield _with(case, lambda p, b=b, n=number: _body(p, b).pop(n))
            if isinstance(item, Loop):
                yield _with(case, lambda p, b=b, n=number: _inlined(_body(p, b), n))
                yield _with(case, lambda p, b=b, n=number: _once(_body(p, b), n))
                yield _with(case, lambda p, b=b, n=number: _halved(_body(p, b), n))
                continue
            for name in item.opts:
                yield _with(case, lambda p, b=b, n=number, o=name: _body(p, b)[n].opts.pop(o))


def _unmapped(case):
    decls = [d for d in case.program.decls if not isinstance(d, Remap)]
    return replace(case, program=replace(case.program, decls=decls))


def _with(case, change):
    def changed():
        program = copied(case.program)
        change(program)
        return None if program == case.program else replace(case, program=program)

    return changed


def _body(program, number):
    return list(bodies(program))[number]


def _inlined(body, number):
    """A loop's first iteration in its place."""
    loop = body[number]
    body[number : number + 1] = [with_var(item, loop.var, loop.lo) for item in loop.body]


def _once(body, number):
    body[number] = replace(body[number], hi=body[number].lo + 1)


def _halved(body, number):
    loop = body[number]
    if loop.hi.is_const and loop.lo.is_const:
        middle = (loop.lo.const + loop.hi.const) // 2
        body[number] = replace(loop, hi=Affine(middle))


def _fewer_samples(case):
    """Half of the samples; None if there is one, or none has a batch axis."""
    mems = {mem.input: mem for mem in case.program.inputs}
    batched = {n: mems[n] for n, a in case.feeds.items() if mems[n].batch is not None}
    if not batched:
        return None
    feeds = dict(case.feeds)
    for name, mem in mems.items():
        array = case.feeds[name]
        if mem.batch is None:
            feeds[name] = array[: (len(array) + 1) // 2] if array.ndim > len(mem.shape) else array
            continue
        size = mem.shape[mem.batch]
        count = array.shape[mem.batch] // size
        if count < 2:
            return None
        feeds[name] = np.take(array, range((count + 1) // 2 * size), mem.batch)
    return replace(case, feeds=feeds)


def _unused(case):
    """Without declarations and data that nothing uses; None if there are none."""
    program, used = case.program, set()
    for section in program.sections:
        for layer in section.layers:
            for instr in walk(layer.body):
                for value in (*instr.args, *instr.opts.values()):
                    used |= {value.name} if isinstance(value, Ref) else set()
                    used |= set(value.names) if isinstance(value, Refs) else set()
    for view in reversed(list(program.views.values())):
        if view.name in used:
            used.add(view.source)
    kept = [
        d for d in program.decls
        if not isinstance(d, (Mem, View, Win)) or d.name in used
    ]  # fmt: skip
    data = [d for d in program.data if d.name in used]
    if len(kept) == len(program.decls) and len(data) == len(program.data):
        return None
    small = replace(program, decls=kept, data=data)
    inputs = {mem.input for mem in small.inputs}
    feeds = {name: array for name, array in case.feeds.items() if name in inputs}
    return replace(case, program=small, feeds=feeds)
