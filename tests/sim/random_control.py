"""Random work of the control unit, for the programs of `random_wild.py`."""

from __future__ import annotations

from cimc.ir.types import is_integer, planes
from cimc.isa.program import Affine, Instr, Reg

_SCALARS = ("m", "n", "o")


def control(wild, scope):
    """Scalars that are set, summed up, combined and stored or compared with: whole in itself."""
    draw = wild.draw
    found = [_set(draw, name) for name in _SCALARS]
    for _ in range(draw.randint(3, 8)):
        found += _step(wild, scope)
    return found


def _set(draw, name):
    value = draw.choice([0, 1, -1, 3, draw.randint(-300, 300), draw.randint(-(10**17), 10**17)])
    return Instr("ctl.set", (Reg(name),), {"value": Affine(value)} if value else {})


def _step(wild, scope):
    way = wild.draw.choice([_sum, _sum, _combine, _combine, _compare, _compare, _st, _st])
    made = way(wild, scope)
    return [] if made is None else [made]


def _scalar(wild):
    return Reg(wild.draw.choice(_SCALARS))


def _few(elem):
    return elem == "bool" or (is_integer(elem) and planes(elem) <= 32)


def _source(wild, scope):
    """A vector, and a mask for it in some cases."""
    known = wild.buffers(elem=_few)
    if not known:
        return None
    x = wild.vec(scope, wild.draw.choice(known))
    size = wild.size_of(x)
    masks = [b for b in known if b.shape[b.axis] >= size]
    if wild.draw.chance(0.4):
        return x, {}
    return x, {"mask": wild.vec(scope, wild.draw.choice(masks), size)}


def _sum(wild, scope):
    found = _source(wild, scope)
    if found is None:
        return None
    op = wild.draw.choice(["ctl.sum", "ctl.squares"])
    return Instr(op, (_scalar(wild), found[0]), found[1])


def _combine(wild, scope):
    op = wild.draw.choice(["ctl.mul", "ctl.sub", "ctl.div"])
    return Instr(op, tuple(_scalar(wild) for _ in range(3)))


def _compare(wild, scope):
    found = _source(wild, scope)
    if found is None:
        return None
    x, opts = found
    elem = wild.draw.choice(["u1", "bool", "u8", "tern", "i32"])
    place = wild.place(scope, elem, wild.size_of(x))
    op = wild.draw.choice(["ctl.lt", "ctl.gt"])
    return Instr(op, (place, x, _scalar(wild)), opts)


def _st(wild, scope):
    elem = wild.draw.choice(["i64", "i64", "i32", "u8"])
    return Instr("ctl.st", (wild.place(scope, elem, 1), _scalar(wild)))
