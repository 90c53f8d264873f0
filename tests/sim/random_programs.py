"""Random valid programs with inputs and tile states, each from one seed.

Half of them look like what the compiler emits, most of these with a few mutations. Of the others,
some have layers that stand apart, the rest is wild. `cases()` is the hypothesis strategy,
`random_case(seed)` gives one of them again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st
from random_draws import Draw, bits, values
from random_layers import own_layer
from random_mutations import bodies, mutate
from random_nets import random_net
from random_shapes import layer
from random_wild import Scope, Wild

from cimc.errors import CompileError
from cimc.isa.check import check
from cimc.isa.check.scope import sites
from cimc.isa.loops import iteration_count
from cimc.isa.printer import print_instr, print_program
from cimc.isa.program import Instr, Loop, Program
from cimc.isa.sections import interface, roots, uses
from cimc.isa.text import parse

WAYS = {"plain": 2, "mutated": 3, "apart": 3, "wild": 3}
"""How a program comes about, and how often."""
MOST_STEPS = 4000  # instructions of one run, so that the reference takes milliseconds


@dataclass
class Case:
    """A program, its inputs by ONNX name, and the cells to start from (None: all 0).

    made: the call that makes it again.
    plain: how many of its `.infer` loops outside any other stand as the compiler wrote them;
    loops: how many there are."""

    program: Program
    feeds: dict[str, np.ndarray]
    tiles: np.ndarray | None
    way: str
    made: str = ""
    plain: int = 0
    loops: int = 0


def cases(ways=tuple(WAYS), first=0):
    """A strategy of cases, from seed `first` on. A case doesn't shrink; `program_reducer.py`
    makes it small."""
    return st.integers(0, 2**32 - 1).map(lambda seed: random_case(first + seed, ways))


def random_case(seed, ways=tuple(WAYS)):
    """The case of a seed."""
    draw = Draw(seed)
    way = draw.weighted({name: WAYS[name] for name in ways})
    while True:
        base = _MAKERS[way](draw)
        changed = way == "mutated" or (way == "apart" and draw.chance(0.3))
        program = mutate(draw, base, draw.randint(1, 5)) if changed else base
        if _is_valid(program) and steps(program) <= MOST_STEPS:
            break
    written = top_loops(base) if way in ("plain", "mutated") else []
    loops = top_loops(program)
    if draw.chance(0.1):  # with places in a text
        program = parse(print_program(program))
    feeds = random_feeds(draw, program)
    target = program.target
    tiles = None
    if draw.chance(0.5 if way in ("apart", "wild") else 0.3):
        tiles = bits(draw, (target.tiles, target.rows, target.cols))
    plain = sum(loop in written for loop in loops)
    made = f"random_case({seed}, {ways})"
    return Case(program, feeds, tiles, way, made, plain, len(loops))


def steps(program):
    """Instructions that one run of each section executes, at most."""
    return sum(iteration_count(site.loops) for site in sites(program))


def top_loops(program):
    """The loops of `.infer` outside any other."""
    section = program.section("infer")
    found = [item for la in section.layers for item in la.body] if section else []
    return [item for item in found if isinstance(item, Loop)]


def random_feeds(draw, program):
    """Inputs for some samples; those without a batch axis are shared, or one a sample."""
    samples = draw.choice([0, 1, 1, 2, 2, 3, 4, 5, 8, 17, 33, 40])
    if steps(program) < 300 and draw.chance(0.15):
        samples = draw.choice([64, 65, 130, 257, 300])
    if not any(mem.batch is not None for mem in program.inputs):
        samples = draw.choice([1, samples])
    feeds = {}
    for mem in program.inputs:
        if mem.batch is None:
            stacked = draw.chance(0.3) and samples
            feeds[mem.input] = values(draw, mem.type, (samples, *mem.shape)[not stacked :])
            continue
        shape = list(mem.shape)
        shape[mem.batch] *= samples
        feeds[mem.input] = values(draw, mem.type, tuple(shape))
    return feeds


# -- wild programs -----------------------------------------------------------------------


def _wild(draw):
    wild = Wild(draw)
    if draw.chance(0.8):
        layer(wild, "load", 25)
        wild.bodies["load"][0].body = wild.cells(Scope("load"))
    for section, share in (("load", 0.3), ("infer", 1), ("infer", 0.7), ("infer", 0.4),
                           ("update", 0.25), ("update", 0.25)):  # fmt: skip
        if draw.chance(share):
            layer(wild, section, 80 if section == "load" else 300)
    return _repaired(wild.program())


def _apart(draw):
    """Layers and steps that share no registers, and store to buffers of their own."""
    wild = Wild(draw)
    if draw.chance(0.7):
        layer(wild, "load", 25)
        wild.bodies["load"][0].body = wild.cells(Scope("load"))
    wild.apart = True
    for _ in range(draw.randint(1, 3)):
        own_layer(wild)
    return _repaired(wild.program())


def _is_valid(program):
    try:
        check(program)
    except CompileError:
        return False
    return True


def _repaired(program):
    """The program without the statements that the checker refuses, as far as that helps."""
    behind = roots(program)
    sampled = {behind[name] for name, role in uses(program, "infer") if role == "w"}
    for mem in interface(program).call:  # one value a call
        mem.batch, mem.output = None, None if mem.name in sampled else mem.output
    for _ in range(12):
        try:
            check(program)
        except CompileError as error:
            for one in getattr(error, "errors", [error]):
                program = _without(program, one)
            continue
        break
    return program


def _without(program, error):
    """The program with one problem less: `par` becomes `for`, accumulators get wider, or the
    statement goes."""
    target = program.target
    if "acc_bits" in error.message and target.acc_bits < 62:
        return replace(program, target=replace(target, acc_bits=62))
    text = str(error.where)
    where = re.search(r"layer '([^']*)'", text)
    for one in (la for section in program.sections for la in section.layers):
        if where and one.name == where[1] and not _mend(one, error, text):
            one.body = []
    return program


def _mend(layer, error, text):
    """Change the layer where the error is; False if the place isn't found."""
    stack, found = [layer.body], False
    while stack:
        body = stack.pop()
        for item in list(body):
            if isinstance(item, Loop):
                stack.append(item.body)
                if "`par`" in f"{error.message}{error.help}":
                    found |= item.kind == "par"
                    item.kind = "for"
            elif f"`{print_instr(item)}`" in text and not found:
                body[:] = [other for other in body if other is not item]
                found = True
    return found


_MAKERS = {"plain": random_net, "mutated": random_net, "apart": _apart, "wild": _wild}


def readable(program):
    """The text of a program, without the base64 of its data."""
    lines = print_program(program).splitlines()
    return "\n".join(line.split(" sha256=")[0] for line in lines)


def instructions(program):
    """The instructions of a program, once each, whatever loops there are around."""
    return [item for body in bodies(program) for item in body if isinstance(item, Instr)]
