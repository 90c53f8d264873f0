"""Static checks that are special to one instruction.

Called by `operands.py` once operands and options have the right kind, range and size.
"""

from __future__ import annotations

from collections.abc import Callable

from cimc.ir.types import is_integer, planes
from cimc.isa.check import control, stores
from cimc.isa.check.lookup import (
    data,
    elem,
    option,
    size_text,
    value_of,
    vector_size,
    window,
    window_fits,
    within,
)
from cimc.isa.check.scope import Scope, Site
from cimc.isa.geometry import segment, segments, win_columns, win_packs
from cimc.isa.loops import extent
from cimc.isa.program import Affine, Ref, Reg

MAX_SHIFT = 61
"""Largest `shl=`; sums of 62 bits are the widest accumulators."""


def longest(site: Site, columns: int, seg: int) -> int:
    """Most columns of the segments that `seg=` of the instruction reaches: only the last
    segment of an item may be shorter, so the first one reached is the longest."""
    return segment(columns, seg, extent(option(site, "seg"), site.loops)[0])[1]


def loaded(scope: Scope, site: Site) -> int:
    """Most columns that a load instruction makes valid at once."""
    instr = site.instr
    if instr.op == "ld.window":
        win = window(scope, site)
        return win.pack * longest(site, win_columns(win), win.seg)
    if instr.op == "ld.vector":
        return longest(site, vector_size(scope, site), option(site, "width").const)
    cols = instr.opts.get("cols")
    limit = scope.program.target.cols
    if cols is None or isinstance(cols, (Affine, Ref)):
        return limit
    return min(limit, extent(cols.size, site.loops)[1])


def _columns_fit(scope: Scope, site: Site, columns: int, seg: int) -> None:
    """Segment in range, and its columns inside the tile from `col` on."""
    count = segments(columns, seg)
    if not within(scope, site, "seg", count, f"{count} segments"):
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
    image = data(scope, site, 1)
    _columns_fit(scope, site, image.shape[1], image.seg)


def _ld_window(scope: Scope, site: Site) -> None:
    if not window_fits(scope, site):
        return
    ref = site.instr.args[1]
    assert isinstance(ref, Ref)
    if ref.range is not None:
        scope.at(site, "a window takes all channels; `group=` selects one group", 1)
    win = window(scope, site)
    _columns_fit(scope, site, win.pack * win_columns(win), win.seg)
    packs = win_packs(win)
    what = f"{win.groups} groups" if win.pack == 1 else f"{packs} packs of groups"
    within(scope, site, "group", packs, what)
    _plane(scope, site)
    _pad(scope, site)


def _pad(scope: Scope, site: Site) -> None:
    """What taps outside hold: a value of the buffer's type. One that is known at run time only
    is checked then."""
    if "pad" not in site.instr.opts:
        return
    kind = elem(scope, site, 1)
    if kind[0] not in "ui":
        text = f"`pad` is for uN and iN; taps outside a buffer of {kind} are not valid"
        scope.at(site, text, "pad")
    elif isinstance(site.instr.opts["pad"], Affine):
        value_of(scope, site, "pad", kind)


def _popc(scope: Scope, site: Site) -> None:
    """As many counts as rows; with `width`, for each of some column ranges."""
    counts, rows = (_size(arg) for arg in site.instr.args)
    width = option(site, "width")
    if width == Affine(0):
        if counts != rows:
            text = f"{size_text(rows)} here, {size_text(counts)} in the first operand"
            scope.at(site, f"sizes differ: {text}", 1)
        return
    if not (width.is_const and counts.is_const and rows.is_const):
        scope.at(site, "`width` and the sizes beside it must be constant", "width")
        return
    parts, rest = divmod(counts.const, rows.const)
    cols = scope.program.target.cols
    if rest:
        scope.at(site, f"{counts.const} counts for {rows.const} rows: not so many for each", 0)
    elif width.const < 1 or parts * width.const > cols:
        text = f"{parts} times {width.const} columns; a tile has {cols}"
        scope.at(site, text, "width")


def _size(arg: object) -> Affine:
    assert isinstance(arg, Reg)
    assert arg.range is not None
    return arg.range.size


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
    _columns_fit(scope, site, vector_size(scope, site), option(site, "width").const)
    _plane(scope, site)


def _plane(scope: Scope, site: Site) -> None:
    kind = elem(scope, site, 1)
    if not is_integer(kind):
        scope.at(site, f"a latch takes integers, bip or tern; the buffer is {kind}", 1)
        return
    within(scope, site, "plane", planes(kind), f"{kind} has {planes(kind)} bit planes")


def _ld_fill(scope: Scope, site: Site) -> None:
    within(scope, site, "value", 2, "a bit")


def _read(scope: Scope, site: Site) -> None:
    function = site.instr.op.removeprefix("read.")
    functions = scope.program.target.functions
    if function not in functions:
        help = f"the target has: {', '.join(functions)}"
        scope.at(site, f"the target has no function `{function}`", None, help)


def _accumulate(scope: Scope, site: Site) -> None:
    """acc.add, acc.sub."""
    within(scope, site, "shl", MAX_SHIFT + 1, "a shift")
    addend = site.instr.args[1]
    if not isinstance(addend, Ref):
        return
    constants = data(scope, site, 1)
    if addend.index is None:
        _integers(scope, site, 1)
    elif not is_integer(constants.kind):
        scope.at(site, f"`{constants.name}` must hold integers", 1)


def _acc_mac(scope: Scope, site: Site) -> None:
    _integers(scope, site, 2)


def _integers(scope: Scope, site: Site, key: int) -> None:
    constants = data(scope, site, key)
    if len(constants.shape) != 1 or not is_integer(constants.kind):
        two = len(constants.shape) == 2 and key == 1
        help = f"of a table of two axes, one row: `{constants.name}[p]`" if two else None
        scope.at(site, f"`{constants.name}` must be a vector of integers", key, help)


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
    "popc": _popc,
    "acc.add": _accumulate,
    "acc.sub": _accumulate,
    "acc.mac": _acc_mac,
    "st.acc": stores.st_acc,
    "st.ge": stores.level,
    "st.rq": stores.requantise,
    "pp.max": stores.pp_max,
    "pp.add": stores.pp_add,
    "pp.ge": stores.level,
    "pp.sum": stores.pp_sum,
    "pp.rq": stores.requantise,
    "pp.lut": stores.pp_lut,
    "pp.qadd": stores.pp_qadd,
    "ctl.set": control.constant,
    "ctl.sum": control.sums,
    "ctl.squares": control.sums,
    "ctl.lt": control.compare,
    "ctl.gt": control.compare,
    "ctl.st": control.store,
}
