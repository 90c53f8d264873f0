"""What moves in a loop: registers that it writes, expressions that change with its variable.

`widths.py` asks it how a loop may be followed: once for all iterations, or one by one.
"""

from __future__ import annotations

from collections.abc import Iterator

from cimc.isa.program import Affine, Instr, Loop, Range, Reg, walk


def written(loop: Loop) -> set[str]:
    """Names of the registers that a loop writes."""
    return {
        instr.args[0].name
        for instr in walk(loop.body)
        if instr.args and isinstance(instr.args[0], Reg)
    }


def sensitive(body: list[Instr | Loop]) -> Iterator[tuple[Affine, bool]]:
    """Expressions that must be numbers for an exact result, and whether they are those of register
    ranges: these, shifts, columns, bounds of loops."""
    for item in body:
        if isinstance(item, Loop):
            yield from ((item.lo, False), (item.hi, False))
            yield from sensitive(item.body)
            continue
        for arg in item.args:
            if isinstance(arg, Reg) and arg.range is not None:
                yield from ((arg.range.start, True), (arg.range.size, True))
        shift, cols = item.opts.get("shl"), item.opts.get("cols")
        if isinstance(shift, Affine):
            yield shift, False
        if isinstance(cols, Range):
            yield cols.size, False


def own_range(loop: Loop) -> frozenset[str]:
    """Names of the accumulators whose range moves with the variable of a loop, if the range is the
    same in all of its body and cleared first: each element goes through the same in every
    iteration that changes it. Empty where one moves in another way, or the variable changes
    shifts, columns or bounds."""
    ranges: dict[str, set[Range]] = {}
    for instr in walk(loop.body):
        acc = instr.args[0] if instr.args else None
        if instr.op.startswith("acc.") and isinstance(acc, Reg) and acc.range is not None:
            ranges.setdefault(acc.name, set()).add(acc.range)
    moving = {
        name: found for name, found in ranges.items() if any(_uses(r, loop.var) for r in found)
    }
    inner = [item.var for item in _loops(loop.body)]
    for found in moving.values():
        if len(found) > 1 or any(_uses(part, var) for part in found for var in inner):
            return frozenset()
    cleared = {i.args[0].name for i in _before_loops(loop.body) if isinstance(i.args[0], Reg)}
    others = [expr for expr, of_register in sensitive(loop.body) if not of_register]
    if any(expr.uses(loop.var) for expr in others) or not moving.keys() <= cleared:
        return frozenset()
    return frozenset(moving)


def _uses(part: Range, var: str) -> bool:
    return part.start.uses(var) or part.size.uses(var)


def _loops(body: list[Instr | Loop]) -> Iterator[Loop]:
    for item in body:
        if isinstance(item, Loop):
            yield item
            yield from _loops(item.body)


def _before_loops(body: list[Instr | Loop]) -> Iterator[Instr]:
    """The clears at the start of a body, before any loop or other change of an accumulator."""
    for item in body:
        if isinstance(item, Loop) or (item.op.startswith("acc.") and item.op != "acc.clr"):
            return
        if item.op == "acc.clr":
            yield item


def segments(body: list[Instr | Loop]) -> Iterator[Affine]:
    """The segments that latches are loaded with."""
    for instr in walk(body):
        seg = instr.opts.get("seg")
        if isinstance(seg, Affine):
            yield seg
