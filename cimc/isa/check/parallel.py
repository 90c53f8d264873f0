"""Static checks of what the iterations of a `par` do with buffers.

Fourth part of `check`: no two iterations write the same element, and none reads what
another may write. Writes are compared element by element where they are few enough to be
enumerated; else only a place that doesn't depend on the `par` variable counts as shared.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import prod

import numpy as np

from cimc.isa.check.scope import Scope, Site, body_sites
from cimc.isa.loops import IntArray, extent, iteration_count, iterations, substitute, trips, values
from cimc.isa.program import Affine, Instr, Layer, Loop, Range, Ref, Refs, Section, View

MAX_ENUMERATED = 1 << 21
"""Most element writes of one `par` that are enumerated."""


@dataclass(frozen=True)
class _Use:
    """A buffer used by one operand; `ref` is None where the whole buffer is used."""

    site: Site
    key: int | str
    name: str
    ref: Ref | None


def check_buffers(scope: Scope) -> None:
    """Add the buffer elements that iterations of a `par` share to `scope`."""
    for section in scope.program.sections:
        for layer in section.layers:
            _walk(scope, section, layer, layer.body, ())


def _walk(
    scope: Scope, section: Section, layer: Layer, body: list[Instr | Loop], loops: tuple[Loop, ...]
) -> None:
    for item in body:
        if isinstance(item, Instr):
            continue
        inside = (*loops, item)
        if item.kind == "par" and trips(item, loops)[1] > 1:
            _par(scope, item, loops, list(body_sites(section, layer, item.body, inside)))
        _walk(scope, section, layer, item.body, inside)


def _par(scope: Scope, par: Loop, outer: tuple[Loop, ...], inside: list[Site]) -> None:
    writes: dict[str, list[_Use]] = defaultdict(list)
    reads: dict[str, list[_Use]] = defaultdict(list)
    for site in inside:
        for role, use in _buffer_uses(site):
            (writes if role == "w" else reads)[scope.root(use.name).name].append(use)
    for root, uses in writes.items():
        for use in reads[root]:
            if not any(_same_place(use, write) for write in uses):
                scope.at(use.site, f"`{use.name}` is read here while other iterations of the "
                         "`par` write it", use.key)  # fmt: skip
        shared = _shared_write(scope, par, outer, uses)
        if shared is not None:
            scope.at(shared.site, f"iterations of the `par` write the same elements of "
                     f"`{shared.name}`", shared.key)  # fmt: skip


def _buffer_uses(site: Site) -> list[tuple[str, _Use]]:
    """Role and place of each buffer operand."""
    found: list[tuple[str, _Use]] = []
    windowed = any(param.kind == "win" for param in site.row.params)
    for key, (param, arg) in enumerate(zip(site.row.params, site.instr.args, strict=True)):
        if isinstance(arg, Refs):
            found += [(param.role, _Use(site, key, name, None)) for name in arg.names]
        elif param.kind == "vec" and isinstance(arg, Ref):
            # a window reaches beyond its position
            whole = windowed and param.role == "r"
            found.append((param.role, _Use(site, key, arg.name, None if whole else arg)))
        elif param.kind == "scalar" and isinstance(arg, Ref):
            found.append(("r", _Use(site, key, arg.name, arg)))
    for name, value in site.instr.opts.items():
        if isinstance(value, Ref) and value.index is not None:
            found.append(("r", _Use(site, name, value.name, value)))
    return found


def _same_place(read: _Use, write: _Use) -> bool:
    """Whether the iteration that reads has the place to itself: it is the one it writes."""
    if read.ref is None or write.ref is None or read.name != write.name:
        return False
    if read.ref.index != write.ref.index:
        return False
    return write.ref.range is None or write.ref.range == read.ref.range


def _shared_write(
    scope: Scope, par: Loop, outer: tuple[Loop, ...], uses: list[_Use]
) -> _Use | None:
    """A write whose elements another iteration writes as well."""
    for use in uses:
        if use.ref is None or not _depends(use, par):
            return use
    root = scope.root(uses[0].name)
    assert root.shape is not None
    cost = prod(root.shape)
    for use in uses:
        inner = _fixed_outside(use.site.loops, outer)
        size = _box(scope, use)[1].size
        cost += iteration_count(inner) * max(1, extent(size, use.site.loops)[1])
    if cost > MAX_ENUMERATED:
        return None
    return _enumerate(scope, par, outer, uses, prod(root.shape))


def _depends(use: _Use, par: Loop) -> bool:
    """Whether the place changes with the variable of the `par`, directly or through a loop."""
    assert use.ref is not None
    assert use.ref.index is not None
    ranged = use.ref.range
    exprs = [use.ref.index, *((ranged.start, ranged.size) if ranged else ())]
    used = {name for expr in exprs for name, _ in expr.terms}
    for loop in reversed(use.site.loops):
        if loop.var == par.var:
            break
        if loop.var in used:
            used |= {name for bound in (loop.lo, loop.hi) for name, _ in bound.terms}
    return par.var in used


def _enumerate(
    scope: Scope, par: Loop, outer: tuple[Loop, ...], uses: list[_Use], count: int
) -> _Use | None:
    """Compare the iterations element by element, in the first iteration of the outer loops."""
    first = np.full(count, np.iinfo(np.int64).max)
    last = np.full(count, -1 - np.iinfo(np.int64).max)
    for use in uses:
        elements, owner = _elements(scope, par, outer, use)
        np.minimum.at(first, elements, owner)
        np.maximum.at(last, elements, owner)
        if (first[elements] < last[elements]).any():
            return use
    return None


def _elements(
    scope: Scope, par: Loop, outer: tuple[Loop, ...], use: _Use
) -> tuple[IntArray, IntArray]:
    """Flat elements of the root buffer that a write reaches, and the `par` index of each."""
    inner = _fixed_outside(use.site.loops, outer)
    count, env = iterations(inner)
    index, part = _box(scope, use)
    rows, start, size = (
        values(_first_outside(expr, outer), env, count) for expr in (index, part.start, part.size)
    )
    iteration = np.repeat(np.arange(count), size)
    channel = np.arange(len(iteration)) - np.repeat(np.cumsum(size) - size, size) + start[iteration]
    return _ids(scope, use.name)[rows[iteration], channel], env[par.var][iteration]


def _box(scope: Scope, use: _Use) -> tuple[Affine, Range]:
    """Position and channels of a vector operand."""
    assert use.ref is not None
    assert use.ref.index is not None
    return use.ref.index, use.ref.range or Range.of(0, scope.vectors(use.name)[1])


def _ids(scope: Scope, name: str) -> IntArray:
    """The flat element of the root buffer behind [position, channel] of a buffer or view."""
    item = scope.names[name]
    chain: list[View] = []
    while isinstance(item, View):
        chain.append(item)
        item = scope.names[item.source]
    root = scope.root(name)
    assert root.shape is not None
    ids = np.arange(prod(root.shape), dtype=np.int64).reshape(root.shape)
    for view in reversed(chain):
        ids = ids.reshape(view.shape) if view.perm is None else ids.transpose(view.perm)
    axis = (chain[0] if chain else root).axis
    return np.moveaxis(ids, axis, -1).reshape(-1, ids.shape[axis])


def _first_outside(expr: Affine, outer: tuple[Loop, ...]) -> Affine:
    """`expr` in the first iteration of the loops outside the `par`."""
    for loop in reversed(outer):
        expr = substitute(expr, loop.var, loop.lo)
    return expr


def _fixed_outside(loops: tuple[Loop, ...], outer: tuple[Loop, ...]) -> list[Loop]:
    """The `par` and the loops inside it, with the loops outside in their first iteration."""
    inner: list[Loop] = []
    for loop in loops[len(outer) :]:
        lo, hi = (_first_outside(bound, outer) for bound in (loop.lo, loop.hi))
        inner.append(Loop(loop.kind, loop.var, lo, hi, []))
    return inner
