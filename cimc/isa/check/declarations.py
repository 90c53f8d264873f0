"""Static checks of the declarations: target, buffers, views, windows, remaps, data.

First part of `check`; what it lets pass, the checks of the code may rely on.
"""

from __future__ import annotations

import re
from math import prod

from cimc.errors import Span
from cimc.ir.types import is_elem
from cimc.isa.cells import Cells
from cimc.isa.check.scope import Scope
from cimc.isa.encoding import is_data_kind, value_problem
from cimc.isa.program import Data, Mem, Remap, View, Win

FUNCTIONS = ("and", "nand", "or", "xor")
MAX_SIDE = 1 << 16
"""Most rows or columns of a tile."""
MAX_CELLS = 1 << 36
MAX_ELEMENTS = 1 << 31
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")


def check_declarations(scope: Scope) -> None:
    """Add the problems of all declarations to `scope`."""
    _target(scope)
    _names(scope)
    for decl in scope.program.decls:
        if isinstance(decl, Mem):
            _mem(scope, decl)
        elif isinstance(decl, View):
            _view(scope, decl)
        elif isinstance(decl, Win):
            _win(scope, decl)
    _interface(scope)
    _remaps(scope)
    for data in scope.program.data:
        _data(scope, data)


def _target(scope: Scope) -> None:
    t = scope.program.target
    for name, value in (("rows", t.rows), ("cols", t.cols)):
        if not 1 <= value <= MAX_SIDE:
            scope.add(f"`{name}` is {value}; it must lie in 1 … {MAX_SIDE}", t.span)
    if t.tiles < 0 or t.tiles * t.rows * t.cols > MAX_CELLS:
        scope.add(f"`tiles` is {t.tiles}; at most 2**36 cells are possible", t.span)
    if not 2 <= t.acc_bits <= 62:
        scope.add(f"`acc_bits` is {t.acc_bits}; it must lie in 2 … 62", t.span)
    for function in t.functions:
        if function not in FUNCTIONS:
            known = ", ".join(FUNCTIONS)
            scope.add(f"unknown function `{function}`", t.span, f"known: {known}")
    if len(set(t.functions)) < len(t.functions):
        scope.add("a function stands twice in `functions`", t.span)


def _names(scope: Scope) -> None:
    for item in (*scope.program.decls, *scope.program.data):
        if isinstance(item, Remap):
            continue
        if not NAME.match(item.name):
            help = "letters, digits, `_` and `.`, no digit first"
            scope.add(f"`{item.name}` is not a name", item.span, help)
        first = scope.names[item.name]
        if first is not item:
            place = f"first at {first.span}" if first.span else None
            scope.add(f"the name `{item.name}` is declared twice", item.span, place)


def _buffer(scope: Scope, decl: Mem | View, shape: tuple[int, ...]) -> None:
    """What buffers and views have in common."""
    name, rank = decl.name, len(shape)
    if not is_elem(decl.type):
        scope.add(f"unknown element type `{decl.type}`", decl.span)
    if any(size < 0 for size in shape) or prod(shape) > MAX_ELEMENTS:
        scope.add(f"`{name}` has {prod(shape)} elements; at most 2**31 are possible", decl.span)
    # axis 1 is the default, which buffers without vectors leave as it is; a scalar has axis 0
    if decl.axis != 1 and not 0 <= decl.axis < max(1, rank):
        scope.add(f"axis {decl.axis} of `{name}` is outside its {rank} axes", decl.span)


def _mem(scope: Scope, mem: Mem) -> None:
    if mem.shape is None:
        if mem.type != "host":
            scope.add(f"`{mem.name}` has no shape", mem.span)
        if mem.batch is not None:
            scope.add(f"`{mem.name}` is `host` and has no batch axis", mem.span)
        return
    _buffer(scope, mem, mem.shape)
    if mem.batch is not None and not 0 <= mem.batch < len(mem.shape):
        scope.add(f"batch axis {mem.batch} is outside the axes of `{mem.name}`", mem.span)
    if mem.batch is not None and mem.input is None and mem.output is None:
        help = "only a buffer with `input=` or `output=` takes samples"
        scope.add(f"`{mem.name}` has a batch axis but is no input or output", mem.span, help)


def _view(scope: Scope, view: View) -> None:
    _buffer(scope, view, view.shape)
    source = scope.names.get(view.source)
    if source is None:
        help = scope.suggest(view.source, list(scope.names))
        scope.add(f"unknown buffer `{view.source}`", view.span, help)
        return
    if not isinstance(source, (Mem, View)) or source.shape is None:
        scope.add(f"`{view.source}` is no buffer with a shape", view.span)
        return
    if _cyclic(scope, view):
        scope.add(f"`{view.name}` is a view of itself", view.span)
        return
    if view.type != source.type:
        scope.add(f"a view keeps the type: `{source.name}` is {source.type}", view.span)
    if view.perm is None:
        if prod(view.shape) != prod(source.shape):
            text = f"{prod(view.shape)} elements, `{source.name}` {prod(source.shape)}"
            scope.add(f"`{view.name}` has {text}", view.span)
        return
    if sorted(view.perm) != list(range(len(source.shape))):
        scope.add(f"`perm` must list the {len(source.shape)} axes once each", view.span)
        return
    shape = tuple(source.shape[axis] for axis in view.perm)
    if view.shape != shape:
        text = ",".join(map(str, shape))
        scope.add(f"`perm` makes the shape [{text}]", view.span)


def _cyclic(scope: Scope, view: View) -> bool:
    seen = {view.name}
    item = scope.names.get(view.source)
    while isinstance(item, View):
        if item.name in seen:
            return True
        seen.add(item.name)
        item = scope.names.get(item.source)
    return False


def _win(scope: Scope, win: Win) -> None:
    rank = len(win.kernel)
    lists = {"out": win.out, "strides": win.strides, "dilations": win.dilations}
    for name, sizes in {"kernel": win.kernel, **lists}.items():
        if len(sizes) != rank or rank == 0:
            scope.add(f"`{name}` needs {max(rank, 1)} numbers, as `kernel` has", win.span)
        if any(size < 1 for size in sizes):
            scope.add(f"every number of `{name}` must be positive", win.span)
    if len(win.pads) != 2 * rank or any(pad < 0 for pad in win.pads):
        scope.add(f"`pads` needs {2 * rank} numbers, none negative: all begins, all ends", win.span)
    if win.channels < 1 or win.groups < 1 or win.channels % win.groups:
        text = f"{win.channels} channels don't divide into {win.groups} groups"
        scope.add(text, win.span)
    if win.seg < 0:
        scope.add("`seg` is negative", win.span)
    if not 1 <= win.pack <= max(1, win.groups):
        scope.add(f"`pack` is {win.pack}; the window has {win.groups} groups", win.span)
    if win.pack > 1 and win.seg:
        scope.add("a window with `pack` has no segments", win.span)
    if win.up and (len(win.up) != rank or any(k < 1 for k in win.up)):
        scope.add(f"`up` needs {rank} positive numbers, as `kernel` has", win.span)
    if prod(win.out) * prod(win.kernel) * win.channels > MAX_ELEMENTS * 64:
        scope.add(f"the windows of `{win.name}` are too many to compute", win.span)


def _interface(scope: Scope) -> None:
    seen: dict[tuple[str, str], Span | None] = {}
    for mem in scope.program.mems.values():
        for role, name in (("input", mem.input), ("output", mem.output)):
            if name is None:
                continue
            if (role, name) in seen:
                scope.add(f"the {role} {name!r} is declared twice", mem.span)
            seen[role, name] = mem.span


def _remaps(scope: Scope) -> None:
    target = scope.program.target
    seen: set[tuple[str, int, int]] = set()
    for remap in scope.program.remaps:
        if not 0 <= remap.tile < target.tiles:
            scope.add(f"tile {remap.tile}: the target has {target.tiles} tiles", remap.span)
        for side, row in (("logical", remap.logical), ("physical", remap.physical)):
            if not 0 <= row < target.rows:
                scope.add(f"row {row}: a tile has {target.rows} rows", remap.span)
            if (side, remap.tile, row) in seen:
                scope.add(f"the {side} row {row} is mapped twice", remap.span)
            seen.add((side, remap.tile, row))


def _data(scope: Scope, data: Data) -> None:
    rank = {"cells": 2, "onnx": 1}.get(data.kind)
    if not is_data_kind(data.kind):
        scope.add(f"unknown kind of data `{data.kind}`", data.span)
        return
    if rank is not None and len(data.shape) != rank:
        scope.add(f"`{data.name}` must have rank {rank}", data.span)
    problem = "" if isinstance(data.content, Cells) else value_problem(data.kind, data.content)
    if problem:
        scope.add(f"`{data.name}`: {problem}", data.span)
    if data.seg < 0 or (data.seg and data.kind != "cells"):
        scope.add("`seg` is a positive number of columns of a `cells` item", data.span)
    if data.macs < 0 or (data.macs and data.kind != "onnx"):
        scope.add("`macs` counts the multiply-accumulates of an `onnx` item", data.span)
    if data.why and data.kind != "onnx":
        scope.add("`why` belongs to an `onnx` item", data.span)
