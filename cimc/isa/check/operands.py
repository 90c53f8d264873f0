"""Static checks of single instructions: names, kinds, ranges, options, sizes.

Second part of `check`, after the declarations were found valid. Each instruction is
judged alone, with the bounds of the loops around it; what flows from one to the next is
checked in `registers.py`, `cells.py` and `widths.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from cimc.ir.types import is_integer
from cimc.isa.check.frame import check_frame
from cimc.isa.check.lookup import size_text, span
from cimc.isa.check.rules import RULES
from cimc.isa.check.scope import KIND_NAMES, Named, Scope, Site, sites
from cimc.isa.loops import extent
from cimc.isa.program import (
    Affine,
    Data,
    Mem,
    Operand,
    Option,
    Range,
    Ref,
    Refs,
    Reg,
    Rows,
    View,
    Win,
)
from cimc.isa.table import TABLE

MAX_BANK = 1 << 20
"""Most elements of a register bank."""
_SIZES_DIFFER = ("ld.", "popc")  # what must agree there, rules.py says

_EXPECTED = {
    "latch": "a latch such as `%x`",
    "bits": "result bits such as `%d[0:32]`",
    "counts": "counts such as `%c[0:32]`",
    "acc": "accumulators such as `%a[0:32]`",
    "addend": "counts `%c[0:32]`, `%x.valid`, `%x.ones`, or constants `data[0:32]` or "
    "`data[p, 0:32]`",
    "rows": "rows such as `t[0][0:32]`",
    "row": "one row such as `t[0][5]`",
    "vec": "a buffer at a position, such as `act1[p]`",
    "win": "the name of a window",
    "table": "constants such as `conv1.th[0:32]`",
    "cells": "rows of cells such as `conv1.w[0:32]`",
    "code": "the name of an `onnx` item",
    "bufs": "a list of buffers such as `(a, b)`",
    "scalar": "one integer: `zero[0]` of a buffer or an accumulator `%s[0:1]`",
    "number": "a number, or one integer of a buffer such as `zero[0]`",
    "whole": "the name of a data item",
    "ctl": "a scalar such as `%s`",
}
_WITHOUT_RANGE = ("latch", "ctl")


def check_code(scope: Scope) -> None:
    """Add the problems of sections, labels, loops and single instructions to `scope`."""
    check_frame(scope)
    if scope.errors:
        return
    for site in sites(scope.program):
        _instruction(scope, site)
    _register_kinds(scope)


def _instruction(scope: Scope, site: Site) -> None:
    instr = site.instr
    row = TABLE.get(instr.op)
    if row is None:
        scope.at(site, f"unknown instruction `{instr.op}`", None,
                 scope.suggest(instr.op, list(TABLE)))  # fmt: skip
        return
    if site.section not in row.sections:
        allowed = " or ".join(f"`.{name}`" for name in row.sections)
        scope.at(site, f"`{instr.op}` can't stand in `.{site.section}`, only in {allowed}")
    if len(instr.args) != len(row.params):
        wanted = ", ".join(f"{param.name} ({param.kind})" for param in row.params)
        help = f"`{instr.op}` takes {wanted}"
        scope.at(site, f"{len(instr.args)} operands, expected {len(row.params)}", None, help)
        return
    before = len(scope.errors)
    sizes: list[tuple[int | str, Affine]] = []
    for key, (param, arg) in enumerate(zip(row.params, instr.args, strict=True)):
        size = _CHECKS[param.kind](scope, site, key, arg, param.kind)
        taken = param.kind == "acc" and "take" in instr.opts  # which of them is free
        if size is not None and not taken and not instr.op.startswith(_SIZES_DIFFER):
            sizes.append((key, size))
    sizes += _options(scope, site)
    if len(scope.errors) > before:
        return
    for place, size in sizes[1:]:
        if size != sizes[0][1]:
            scope.at(site, f"sizes differ: {size_text(size)} here, {size_text(sizes[0][1])} "
                     "in the first operand", place)  # fmt: skip
    if len(scope.errors) == before and instr.op in RULES:
        RULES[instr.op](scope, site)


# -- options -----------------------------------------------------------------------------


def _options(scope: Scope, site: Site) -> list[tuple[int | str, Affine]]:
    """Check names and kinds of the options; returns the size of those that have one."""
    known = {opt.name: opt for opt in site.row.opts}
    sizes: list[tuple[int | str, Affine]] = []
    for name, value in site.instr.opts.items():
        if name not in known:
            help = "known: " + ", ".join(known) if known else None
            scope.at(site, f"`{site.instr.op}` has no option `{name}`", name, help)
        elif known[name].kind == "int" and not isinstance(value, Affine):
            scope.at(site, f"`{name}` must be a number", name)
        elif known[name].kind == "range":
            _columns(scope, site, name, value)
        elif known[name].kind == "table":
            size = _constants(scope, site, name, value, "table")
            sizes += [] if size is None else [(name, size)]
        elif known[name].kind == "vec":
            size = _vector(scope, site, name, value, "vec")
            sizes += [] if size is None else [(name, size)]
        elif known[name].kind == "scalar" and not isinstance(value, Affine):
            _scalar(scope, site, name, value, "number")
    return sizes


def _columns(scope: Scope, site: Site, name: str, value: Option) -> None:
    if not isinstance(value, Range):
        scope.at(site, f"`{name}` must be a range such as `0:32`", name)
        return
    _range(scope, site, name, value, scope.program.target.cols, "columns of a tile")


# -- operands: each returns the number of elements, where that must agree with the others ----


def _register(
    scope: Scope, site: Site, key: int | str, arg: Operand | Option, kind: str
) -> Affine | None:
    if not isinstance(arg, Reg) or arg.field is not None or (arg.range is None) != (
        kind in _WITHOUT_RANGE
    ):  # fmt: skip
        _wrong(scope, site, key, kind)
        return None
    if arg.range is None:
        return None
    return _range(scope, site, key, arg.range, MAX_BANK, f"elements of %{arg.name}")


def _addend(
    scope: Scope, site: Site, key: int | str, arg: Operand | Option, kind: str
) -> Affine | None:
    if isinstance(arg, Ref):
        return _constants(scope, site, key, arg, kind)
    if isinstance(arg, Reg) and arg.field is not None:
        if arg.field not in ("valid", "ones") or arg.range is not None:
            _wrong(scope, site, key, kind)
        return None
    return _register(scope, site, key, arg, kind)


def _rows(
    scope: Scope, site: Site, key: int | str, arg: Operand | Option, kind: str
) -> Affine | None:
    single = isinstance(arg, Rows) and arg.range.size == Affine(1)
    if not isinstance(arg, Rows) or (kind == "row" and not single):
        _wrong(scope, site, key, kind)
        return None
    low, high = extent(arg.tile, site.loops)
    tiles = scope.program.target.tiles
    if low < 0 or high >= tiles:
        scope.at(site, f"tile {span(low, high)} is outside the {tiles} tiles of the target", key)
    return _range(scope, site, key, arg.range, scope.program.target.rows, "rows of a tile")


def _vector(
    scope: Scope, site: Site, key: int | str, arg: Operand | Option, kind: str
) -> Affine | None:
    item = _named(scope, site, key, arg, kind, (Mem, View))
    if item is None:
        return None
    assert isinstance(arg, Ref)
    assert isinstance(item, (Mem, View))
    if item.shape is None:
        scope.at(site, f"`{arg.name}` is `host`; only `host` fragments can use it", key)
        return None
    if item.axis >= len(item.shape):
        scope.at(site, f"`{arg.name}` has no channel axis {item.axis}", key,
                 f"declare one with `axis=`, or a view of `{arg.name}`")  # fmt: skip
        return None
    if arg.index is None:
        scope.at(site, f"which position of `{arg.name}`?", key, f"write `{arg.name}[0]`")
        return None
    positions, channels = scope.vectors(arg.name)
    # where a window is read, positions are those of the window: see rules.py
    windowed = any(param.kind == "win" for param in site.row.params) and key == 1
    low, high = extent(arg.index, site.loops)
    if not windowed and (low < 0 or high >= positions):
        text = f"position {span(low, high)} is outside the {positions} of `{arg.name}`"
        scope.at(site, text, key)
    if arg.range is None:
        return Affine(channels)
    return _range(scope, site, key, arg.range, channels, f"channels of `{arg.name}`")


def _window(scope: Scope, site: Site, key: int | str, arg: Operand | Option, kind: str) -> None:
    _bare(scope, site, key, arg, kind, Win)


def _constants(
    scope: Scope, site: Site, key: int | str, arg: Operand | Option, kind: str
) -> Affine | None:
    """Rows of a data item: `table` and `addend` are integers, `cells` are cells. An addend may
    be one row of a table of two axes, or a part of it."""
    item = _named(scope, site, key, arg, kind, (Data,))
    if item is None:
        return None
    assert isinstance(arg, Ref)
    assert isinstance(item, Data)
    cells = kind == "cells"
    if item.kind == "onnx" or (item.kind == "cells") != cells:
        scope.at(site, f"`{arg.name}` is `{item.kind}`, expected {_EXPECTED[kind]}", key)
        return None
    if arg.index is not None and kind == "addend" and len(item.shape) == 2:
        return _row(scope, site, key, arg, item)
    if arg.index is not None or not item.shape:
        _wrong(scope, site, key, kind)
        return None
    if arg.range is None:
        return Affine(item.shape[0])
    return _range(scope, site, key, arg.range, item.shape[0], f"rows of `{arg.name}`")


def _row(scope: Scope, site: Site, key: int | str, arg: Ref, item: Data) -> Affine | None:
    """One row of a table of two axes, or a part of it."""
    assert arg.index is not None
    rows, columns = item.shape
    low, high = extent(arg.index, site.loops)
    if low < 0 or high >= rows:
        text = f"position {span(low, high)} is outside the {rows} rows of `{arg.name}`"
        scope.at(site, text, key)
    if arg.range is None:
        return Affine(columns)
    return _range(scope, site, key, arg.range, columns, f"columns of `{arg.name}`")


def _scalar(scope: Scope, site: Site, key: int | str, arg: Operand | Option, kind: str) -> None:
    """One integer of a buffer, or one accumulator."""
    if isinstance(arg, Reg):
        size = _register(scope, site, key, arg, "acc")
        if size is not None and size != Affine(1):
            _wrong(scope, site, key, kind)
        return
    size = _vector(scope, site, key, arg, kind)
    if size is None:
        return
    assert isinstance(arg, Ref)
    item = scope.names[arg.name]
    assert isinstance(item, (Mem, View))
    if size != Affine(1) or not is_integer(item.type):
        _wrong(scope, site, key, kind)


def _whole(scope: Scope, site: Site, key: int | str, arg: Operand | Option, kind: str) -> None:
    item = _bare(scope, site, key, arg, kind, Data)
    if isinstance(item, Data) and (item.kind in ("onnx", "cells") or len(item.shape) != 1):
        scope.at(site, f"`{item.name}` must be a vector of constants", key)


def _code(scope: Scope, site: Site, key: int | str, arg: Operand | Option, kind: str) -> None:
    item = _bare(scope, site, key, arg, kind, Data)
    if isinstance(item, Data) and item.kind != "onnx":
        scope.at(site, f"`{item.name}` is `{item.kind}`, expected an `onnx` item", key)


def _buffers(scope: Scope, site: Site, key: int | str, arg: Operand | Option, kind: str) -> None:
    if not isinstance(arg, Refs):
        _wrong(scope, site, key, kind)
        return
    for name in arg.names:
        _named(scope, site, key, Ref(name), kind, (Mem, View))
    if key == 2 and len(set(arg.names)) < len(arg.names):
        scope.at(site, "a result stands twice in the list", key)


_Check = Callable[[Scope, Site, int | str, Operand | Option, str], Affine | None]
_CHECKS: dict[str, _Check] = {
    "latch": _register,
    "bits": _register,
    "counts": _register,
    "acc": _register,
    "addend": _addend,
    "rows": _rows,
    "row": _rows,
    "vec": _vector,
    "win": _window,
    "table": _constants,
    "cells": _constants,
    "code": _code,
    "bufs": _buffers,
    "scalar": _scalar,
    "whole": _whole,
    "ctl": _register,
}


# -- helpers -----------------------------------------------------------------------------


def _wrong(scope: Scope, site: Site, key: int | str, kind: str) -> None:
    scope.at(site, f"expected {_EXPECTED[kind]}", key)


def _named(
    scope: Scope, site: Site, key: int | str, arg: Operand | Option, kind: str,
    allowed: tuple[type, ...],
) -> Named | None:  # fmt: skip
    """The declaration that `arg` names, if it is one of the `allowed` classes."""
    if not isinstance(arg, Ref):
        _wrong(scope, site, key, kind)
        return None
    item = scope.names.get(arg.name)
    if item is None:
        known = [name for name, item in scope.names.items() if isinstance(item, allowed)]
        scope.at(site, f"unknown name `{arg.name}`", key, scope.suggest(arg.name, known))
        return None
    if not isinstance(item, allowed):
        found = KIND_NAMES[type(item)]
        scope.at(site, f"`{arg.name}` is {found}, expected {_EXPECTED[kind]}", key)
        return None
    return item


def _bare(
    scope: Scope, site: Site, key: int | str, arg: Operand | Option, kind: str, allowed: type
) -> Named | None:
    item = _named(scope, site, key, arg, kind, (allowed,))
    if item is not None and isinstance(arg, Ref) and (arg.index or arg.range):
        _wrong(scope, site, key, kind)
        return None
    return item


def _range(
    scope: Scope, site: Site, key: int | str, value: Range, limit: int, what: str
) -> Affine | None:
    """Check that a range lies in [0, limit) and isn't empty; returns its size."""
    low = extent(value.start, site.loops)[0]
    high = extent(value.start + value.size, site.loops)[1]
    least = extent(value.size, site.loops)[0]
    if least < 1:
        scope.at(site, f"the range has {least} elements", key)
        return None
    if low < 0 or high > limit:
        scope.at(site, f"{low}:{high} is outside the {limit} {what}", key)
        return None
    return value.size


def _register_kinds(scope: Scope) -> None:
    """A register name has one kind in the whole program."""
    first: dict[str, str] = {}
    for site in sites(scope.program):
        row = TABLE.get(site.instr.op)
        params = row.params if row else ()
        for key, (param, arg) in enumerate(zip(params, site.instr.args, strict=False)):
            if not isinstance(arg, Reg):
                continue
            kind = param.kind
            if kind == "addend":
                kind = "latch" if arg.field is not None else "counts"
            elif kind == "scalar":
                kind = "acc"
            if first.setdefault(arg.name, kind) != kind:
                text = f"`%{arg.name}` is used as {kind}, and as {first[arg.name]} before"
                scope.at(site, text, key)
