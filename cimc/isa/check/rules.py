"""Static checks that are special to one instruction.

Called by `operands.py` once operands and options have the right kind, range and size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cimc.ir.types import int_range, is_float, is_integer, planes
from cimc.isa.check.scope import Scope, Site
from cimc.isa.geometry import segment, segments, win_columns, win_out, win_packs
from cimc.isa.loops import extent
from cimc.isa.program import Affine, Data, Mem, Ref, Reg, View, Win

MAX_SHIFT = 61
"""Largest `shl=`; sums of 62 bits are the widest accumulators."""


def option(site: Site, name: str) -> Affine:
    """The value of a number option, or its default."""
    value = site.instr.opts.get(name)
    if isinstance(value, Affine):
        return value
    default = next(opt.default for opt in site.row.opts if opt.name == name)
    return Affine(default or 0)


def longest(site: Site, columns: int, seg: int) -> int:
    """Most columns of the segments that `seg=` of the instruction reaches: only the last
    segment of an item may be shorter, so the first one reached is the longest."""
    return segment(columns, seg, extent(option(site, "seg"), site.loops)[0])[1]


def loaded(scope: Scope, site: Site) -> int:
    """Most columns that a load instruction makes valid at once."""
    instr = site.instr
    if instr.op == "ld.window":
        win = _win(scope, site)
        return win.pack * longest(site, win_columns(win), win.seg)
    if instr.op == "ld.vector":
        return longest(site, _vector_size(scope, site), option(site, "width").const)
    cols = instr.opts.get("cols")
    limit = scope.program.target.cols
    if cols is None or isinstance(cols, (Affine, Ref)):
        return limit
    return min(limit, extent(cols.size, site.loops)[1])


def _within(scope: Scope, site: Site, name: str, count: int, what: str) -> bool:
    """Whether the option lies in [0, count); a problem otherwise."""
    low, high = extent(option(site, name), site.loops)
    if low >= 0 and high < count:
        return True
    found = str(low) if low == high else f"{low} … {high}"
    scope.at(site, f"`{name}` is {found}; {what}: 0 … {count - 1}", name)
    return False


def _columns_fit(scope: Scope, site: Site, columns: int, seg: int) -> None:
    """Segment in range, and its columns inside the tile from `col` on."""
    count = segments(columns, seg)
    if not _within(scope, site, "seg", count, f"{count} segments"):
        return
    length = longest(site, columns, seg)
    low, high = extent(option(site, "col"), site.loops)
    cols = scope.program.target.cols
    if low < 0 or high + length > cols:
        text = f"columns {low}:{high + length} are outside the {cols} columns of a tile"
        key = "col" if "col" in site.instr.opts else None
        scope.at(site, text, key, "cut the item into segments with `seg=` (vectors: `width=`)")


def _program(scope: Scope, site: Site) -> None:
    """set, reset."""
    data = _item(scope, site, 1)
    assert isinstance(data, Data)
    _columns_fit(scope, site, data.array.shape[1], data.seg)


def _ld_window(scope: Scope, site: Site) -> None:
    if not _window_fits(scope, site):
        return
    ref = site.instr.args[1]
    assert isinstance(ref, Ref)
    if ref.range is not None:
        scope.at(site, "a window takes all channels; `group=` selects one group", 1)
    win = _win(scope, site)
    _columns_fit(scope, site, win.pack * win_columns(win), win.seg)
    packs = win_packs(win)
    what = f"{win.groups} groups" if win.pack == 1 else f"{packs} packs of groups"
    _within(scope, site, "group", packs, what)
    _plane(scope, site)
    _pad(scope, site)


def _pad(scope: Scope, site: Site) -> None:
    """What taps outside hold: a value of the buffer's type."""
    value, elem = site.instr.opts.get("pad"), _elem(scope, site, 1)
    if value is None:
        return
    if elem[0] not in "ui":
        scope.at(
            site, f"`pad` is for integers; taps outside a buffer of {elem} are not valid", "pad"
        )
        return
    low, high = int_range(elem)
    if isinstance(value, Affine):
        least, most = extent(value, site.loops)
    else:
        assert isinstance(value, Ref)
        item = scope.names[value.name]
        assert isinstance(item, (Mem, View))
        least, most = int_range(item.type)
    if least < low or most > high:
        found = str(least) if least == most else f"{least} … {most}"
        scope.at(site, f"`pad` is {found}; {elem} holds {low} … {high}", "pad")


def _popc(scope: Scope, site: Site) -> None:
    counts, bits = site.instr.args
    assert isinstance(counts, Reg)
    assert isinstance(bits, Reg)
    assert counts.range is not None
    assert bits.range is not None
    wide, rows, width = counts.range.size, bits.range.size, option(site, "width")
    if width == Affine(0):
        if wide != rows:
            scope.at(
                site, f"sizes differ: {_text(rows)} here, {_text(wide)} in the first operand", 1
            )
        return
    if not (width.is_const and wide.is_const and rows.is_const):
        scope.at(site, "with `width`, all sizes must be constant", "width")
        return
    parts, rest = divmod(wide.const, rows.const)
    if rest:
        scope.at(site, f"{wide.const} counts are no multiple of {rows.const} rows", 0)
    elif width.const < 1 or parts * width.const > scope.program.target.cols:
        scope.at(site, f"{parts} times {width.const} columns; a tile has "
                 f"{scope.program.target.cols}", "width")  # fmt: skip


def _text(size: Affine) -> str:
    return str(size.const) if size.is_const else "a size that varies"


def _acc_mac(scope: Scope, site: Site) -> None:
    data = _item(scope, site, 2)
    assert isinstance(data, Data)
    if data.array.ndim != 1 or not is_integer(data.kind):
        scope.at(site, f"`{data.name}` must be a vector of integers", 2)


def _requantise(scope: Scope, site: Site) -> None:
    """st.rq, pp.rq: scales f32 [C] above zero, a zero point of the buffer's type."""
    elem, data = _elem(scope, site, 0), _item(scope, site, 2)
    assert isinstance(data, Data)
    if data.kind != "f32" or data.array.ndim != 1 or not _positive(data.array):
        scope.at(site, f"`{data.name}` must be a vector of finite f32 numbers above 0", 2)
    if site.instr.op == "pp.rq" and not is_integer(_elem(scope, site, 1)):
        scope.at(site, f"integers are requantised, not {_elem(scope, site, 1)}", 1)
    _zero(scope, site, elem)


def _zero(scope: Scope, site: Site, elem: str) -> None:
    if elem[0] not in "ui" or elem not in _INTEGERS:
        scope.at(site, f"the result must be uN or iN of at most 32 bits, not {elem}", 0)
        return
    low, high = int_range(elem)
    least, most = extent(option(site, "zero"), site.loops)
    if least < low or most > high:
        found = str(least) if least == most else f"{least} … {most}"
        scope.at(site, f"`zero` is {found}; {elem} holds {low} … {high}", "zero")


_INTEGERS = {f"{sign}{bits}" for sign in "ui" for bits in range(1, 33)}


def _positive(array: Any) -> bool:
    return bool((np.isfinite(array) & (array > 0)).all())


def _pp_lut(scope: Scope, site: Site) -> None:
    source, target, table = _elem(scope, site, 1), _elem(scope, site, 0), _item(scope, site, 2)
    assert isinstance(table, Data)
    if source not in _INTEGERS or planes(source) > 16:
        scope.at(site, f"a table is for integers of at most 16 bits, not {source}", 1)
    elif len(table.array) != 2 ** planes(source):
        need = 2 ** planes(source)
        scope.at(site, f"`{table.name}` has {len(table.array)} elements, {source} {need} values", 2)
    if table.kind != target:
        scope.at(site, f"`{table.name}` is {table.kind}, the buffer {target}", 2)


def _pp_sum(scope: Scope, site: Site) -> None:
    if not _window_fits(scope, site):
        return
    for key in (0, 1):
        if not is_integer(_elem(scope, site, key)):
            scope.at(site, f"integers are summed, not {_elem(scope, site, key)}", key)


def _pp_qadd(scope: Scope, site: Site) -> None:
    for key in (0, 1, 2):
        elem = _elem(scope, site, key)
        if elem not in _INTEGERS or planes(elem) > 8:
            scope.at(site, f"quantised values have at most 8 bits; the buffer is {elem}", key)
    data = _item(scope, site, 3)
    assert isinstance(data, Data)
    scales = data.array[[0, 2, 4]] if data.array.shape == (6,) else None
    if data.kind != "f32" or scales is None or not _positive(scales):
        scope.at(site, f"`{data.name}` must be f32[6]: x_scale, x_zero, y_scale, y_zero, scale, "
                 "zero, with scales above 0", 3)  # fmt: skip
    _within(scope, site, "fused", 2, "a flag")


def _ld_vector(scope: Scope, site: Site) -> None:
    width = site.instr.opts.get("width")
    if width is not None and (not isinstance(width, Affine) or not width.is_const):
        scope.at(site, "`width` must be a constant", "width")
        return
    if isinstance(width, Affine) and width.const < 1:
        scope.at(site, "`width` must be positive", "width")
        return
    ref = site.instr.args[1]
    assert isinstance(ref, Ref)
    if ref.range is not None and not ref.range.size.is_const:
        scope.at(site, "the range must have a constant size", 1)
        return
    _columns_fit(scope, site, _vector_size(scope, site), option(site, "width").const)
    _plane(scope, site)


def _plane(scope: Scope, site: Site) -> None:
    elem = _elem(scope, site, 1)
    if not is_integer(elem):
        scope.at(site, f"a latch takes integers, bip or tern; the buffer is {elem}", 1)
        return
    _within(scope, site, "plane", planes(elem), f"{elem} has {planes(elem)} bit planes")


def _ld_fill(scope: Scope, site: Site) -> None:
    _within(scope, site, "value", 2, "a bit")


def _read(scope: Scope, site: Site) -> None:
    function = site.instr.op.removeprefix("read.")
    functions = scope.program.target.functions
    if function not in functions:
        help = f"the target has: {', '.join(functions)}"
        scope.at(site, f"the target has no function `{function}`", None, help)


def _accumulate(scope: Scope, site: Site) -> None:
    _within(scope, site, "shl", MAX_SHIFT + 1, "a shift")
    arg = site.instr.args[1]
    if isinstance(arg, Ref):
        data = _item(scope, site, 1)
        assert isinstance(data, Data)
        if data.array.ndim != 1 or not is_integer(data.kind):
            scope.at(site, f"`{data.name}` must be a vector of integers", 1)


def _st_acc(scope: Scope, site: Site) -> None:
    elem = _elem(scope, site, 0)
    if not is_integer(elem) and elem not in ("f16", "bf16", "f32", "f64"):
        scope.at(site, f"integers can't be stored as {elem}", 0)


def _level(scope: Scope, site: Site) -> None:
    """st.ge, pp.ge: thresholds [C] or [C, T], flip [C] of +1 and -1."""
    elem, th = _elem(scope, site, 0), _item(scope, site, 2)
    assert isinstance(th, Data)
    if th.array.ndim > 2:
        scope.at(site, f"`{th.name}` must have the shape [C] or [C, T]", 2)
        return
    levels = th.array.shape[1] if th.array.ndim == 2 else 1
    source = _elem(scope, site, 1) if site.instr.op == "pp.ge" else "i64"
    if th.kind != source and not (is_integer(th.kind) and is_integer(source)):
        scope.at(site, f"{th.kind} thresholds can't be compared with {source} values", 2)
    wanted = {"bip": 1, "tern": 2}.get(elem)
    if wanted is not None and levels != wanted:
        text = f"{elem} needs {wanted} thresholds a channel, `{th.name}` has {levels}"
        scope.at(site, text, 2)
    if wanted is None and (
        not is_integer(elem) or levels > int_range(elem)[1] - int_range(elem)[0]
    ):
        scope.at(site, f"a level of {levels} thresholds doesn't fit {elem}", 0)
    _flip(scope, site)


def _flip(scope: Scope, site: Site) -> None:
    ref = site.instr.opts.get("flip")
    if not isinstance(ref, Ref):
        return
    data = scope.names[ref.name]
    assert isinstance(data, Data)
    signs = is_integer(data.kind) and data.array.ndim == 1
    if not signs or not np.isin(data.array, (-1, 1)).all():
        scope.at(site, f"`{ref.name}` must be a vector of +1 and -1", "flip")


def _pp_max(scope: Scope, site: Site) -> None:
    if not _window_fits(scope, site):
        return
    if _elem(scope, site, 0) != _elem(scope, site, 1):
        scope.at(site, "both buffers must have the same type", 0)
    win = _win(scope, site)
    shape = _shape(scope, site, 1)
    for axis, size in enumerate(shape[2:]):
        taps = np.arange(win.kernel[axis]) * win.dilations[axis] - win.pads[axis]
        places = np.arange(win.out[axis])[:, None] * win.strides[axis] + taps
        if not ((places >= 0) & (places < size)).any(axis=1).all():
            scope.at(site, f"a window of `{win.name}` lies wholly outside the buffer", 2)
            return


def _pp_add(scope: Scope, site: Site) -> None:
    elems = {_elem(scope, site, key) for key in (0, 1, 2)}
    if any(map(is_float, elems)) and len(elems) > 1:
        scope.at(site, f"can't add {_elem(scope, site, 1)} and {_elem(scope, site, 2)} "
                 f"to {_elem(scope, site, 0)}", 0)  # fmt: skip


def _window_fits(scope: Scope, site: Site) -> bool:
    """Whether the buffer has the channels and size of the window, and the position exists."""
    win, ref = _win(scope, site), site.instr.args[1]
    assert isinstance(ref, Ref)
    assert ref.index is not None
    shape, before = _shape(scope, site, 1), len(scope.errors)
    item = _item(scope, site, 1)
    assert isinstance(item, (Mem, View))
    if len(shape) != len(win.kernel) + 2 or item.axis != 1:
        axes = len(win.kernel)
        scope.at(site, f"`{ref.name}` must have the shape [batch, channels, {axes} sizes] and "
                 "axis 1", 1)  # fmt: skip
        return False
    if shape[1] != win.channels:
        text = f"`{ref.name}` has {shape[1]} channels, `{win.name}` {win.channels}"
        scope.at(site, text, 1)
    out = win_out(win, shape[2:])
    if out != win.out:
        fits = ",".join(map(str, out))
        scope.at(site, f"`{win.name}` gives out=[{fits}] on `{ref.name}`, not "
                 f"[{','.join(map(str, win.out))}]", 2,
                 "sizes are rounded down; write larger end pads for the ceiling")  # fmt: skip
    windows = shape[0] * int(np.prod(win.out))
    low, high = extent(ref.index, site.loops)
    if low < 0 or high >= windows:
        found = str(low) if low == high else f"{low} … {high}"
        scope.at(site, f"position {found} is outside the {windows} windows", 1)
    return len(scope.errors) == before


def _item(scope: Scope, site: Site, key: int) -> object:
    ref = site.instr.args[key]
    assert isinstance(ref, Ref)
    return scope.names[ref.name]


def _win(scope: Scope, site: Site) -> Win:
    win = _item(scope, site, 2)
    assert isinstance(win, Win)
    return win


def _elem(scope: Scope, site: Site, key: int) -> str:
    item = _item(scope, site, key)
    assert isinstance(item, (Mem, View))
    return item.type


def _shape(scope: Scope, site: Site, key: int) -> tuple[int, ...]:
    item = _item(scope, site, key)
    assert isinstance(item, (Mem, View))
    assert item.shape is not None
    return item.shape


def _vector_size(scope: Scope, site: Site) -> int:
    ref = site.instr.args[1]
    assert isinstance(ref, Ref)
    return ref.range.size.const if ref.range is not None else scope.vectors(ref.name)[1]


RULES: dict[str, Callable[[Scope, Site], None]] = {
    "set": _program,
    "reset": _program,
    "ld.window": _ld_window,
    "ld.vector": _ld_vector,
    "ld.fill": _ld_fill,
    "read.and": _read,
    "read.nand": _read,
    "read.or": _read,
    "read.xor": _read,
    "acc.add": _accumulate,
    "acc.sub": _accumulate,
    "acc.mac": _acc_mac,
    "popc": _popc,
    "st.rq": _requantise,
    "pp.rq": _requantise,
    "pp.lut": _pp_lut,
    "pp.sum": _pp_sum,
    "pp.qadd": _pp_qadd,
    "st.acc": _st_acc,
    "st.ge": _level,
    "pp.ge": _level,
    "pp.max": _pp_max,
    "pp.add": _pp_add,
}
