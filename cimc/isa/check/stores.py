"""Static checks of the instructions that store: from accumulators, and between buffers.

Called by `rules.py`, whose table has them by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cimc.ir.types import int_range, is_float, is_integer, planes
from cimc.isa.check.lookup import (
    data,
    elem,
    shape,
    span,
    value_of,
    window,
    window_fits,
    within,
)
from cimc.isa.check.scope import Scope, Site
from cimc.isa.loops import extent
from cimc.isa.program import Data, Ref, Reg

MAX_BITS = 16
"""Most bits of the integers that `pp.lut` takes, and of requantised ones."""
_WIDEST = 8  # bits of what `pp.qadd` adds: its float32 steps are those of bytes
_SCALES = "x_scale, x_zero, y_scale, y_zero, scale, zero"


def _take(scope: Scope, site: Site) -> None:
    """st.*: which of the operand's accumulators each channel stores."""
    ref = site.instr.opts.get("take")
    if not isinstance(ref, Ref):
        return
    table, sums = scope.names[ref.name], site.instr.args[1]
    assert isinstance(table, Data)
    assert isinstance(sums, Reg)
    assert sums.range is not None
    if not is_integer(table.kind) or len(table.shape) != 1:
        scope.at(site, f"`{ref.name}` must be a vector of integers", "take")
        return
    entries, size = table.array, extent(sums.range.size, site.loops)[0]
    if ref.range is not None:
        end = ref.range.start + ref.range.size
        entries = entries[extent(ref.range.start, site.loops)[0] : extent(end, site.loops)[1]]
    low, high = int(np.min(entries)), int(np.max(entries))
    if low < 0 or high >= size:
        text = f"`{ref.name}` takes accumulator {span(low, high)} of {size}"
        scope.at(site, text, "take", f"the first of %{sums.name} here is 0")


def st_acc(scope: Scope, site: Site) -> None:
    """Any integer type, or a float type that holds some."""
    _take(scope, site)
    kind = elem(scope, site, 0)
    if not is_integer(kind) and kind not in ("f16", "bf16", "f32", "f64"):
        scope.at(site, f"integers can't be stored as {kind}", 0)


def level(scope: Scope, site: Site) -> None:
    """st.ge, pp.ge: thresholds [C] or [C, T], flip [C] of +1 and -1."""
    kind, th = elem(scope, site, 0), data(scope, site, 2)
    if len(th.shape) > 2:
        scope.at(site, f"`{th.name}` must have the shape [C] or [C, T]", 2)
        return
    levels = th.shape[1] if len(th.shape) == 2 else 1
    source = elem(scope, site, 1) if site.instr.op == "pp.ge" else "i64"
    if th.kind != source and not (is_integer(th.kind) and is_integer(source)):
        scope.at(site, f"{th.kind} thresholds can't be compared with {source} values", 2)
    wanted = {"bip": 1, "tern": 2}.get(kind)
    if wanted is not None and levels != wanted:
        text = f"{kind} needs {wanted} thresholds a channel, `{th.name}` has {levels}"
        scope.at(site, text, 2)
    if wanted is None and not (is_integer(kind) and levels < 2 ** planes(kind)):
        scope.at(site, f"a level of {levels} thresholds doesn't fit {kind}", 0)
    _flip(scope, site)
    _take(scope, site)


def _flip(scope: Scope, site: Site) -> None:
    ref = site.instr.opts.get("flip")
    if not isinstance(ref, Ref):
        return
    signs = scope.names[ref.name]
    assert isinstance(signs, Data)
    integers = is_integer(signs.kind) and len(signs.shape) == 1
    if not integers or not np.isin(signs.array, (-1, 1)).all():
        scope.at(site, f"`{ref.name}` must be a vector of +1 and -1", "flip")


def requantise(scope: Scope, site: Site) -> None:
    """st.rq, pp.rq: f32 scales [C] above 0, a zero point of the result's type."""
    kind, scales = elem(scope, site, 0), data(scope, site, 2)
    if scales.kind != "f32" or len(scales.shape) != 1 or not _are_scales(scales.array):
        scope.at(site, f"`{scales.name}` must be a vector of finite f32 numbers above 0", 2)
    _take(scope, site)
    if site.instr.op == "pp.rq" and not is_integer(elem(scope, site, 1)):
        scope.at(site, f"integers are requantised, not {elem(scope, site, 1)}", 1)
    if _bits(kind) > MAX_BITS:
        scope.at(site, f"the result is uN or iN of at most {MAX_BITS} bits, not {kind}", 0)
        return
    value_of(scope, site, "zero", kind)


def pp_lut(scope: Scope, site: Site) -> None:
    """A table with an element of the result's type for each value of the operand's."""
    source, target, table = elem(scope, site, 1), elem(scope, site, 0), data(scope, site, 2)
    if _bits(source) > MAX_BITS:
        scope.at(site, f"a table is for uN and iN of at most {MAX_BITS} bits, not {source}", 1)
    elif len(table.array) != 2 ** planes(source):
        text = f"{len(table.array)} elements; {source} has {2 ** planes(source)} values"
        scope.at(site, f"`{table.name}` has {text}", 2)
    if table.kind != target:
        scope.at(site, f"`{table.name}` is {table.kind}, the buffer {target}", 2)


def pp_sum(scope: Scope, site: Site) -> None:
    """Integers whose sums can't leave 64 bits, less a value of their type."""
    if not window_fits(scope, site):
        return
    source, target = elem(scope, site, 1), elem(scope, site, 0)
    if not is_integer(source) or planes(source) > 32:
        scope.at(site, f"integers of at most 32 bits are summed, not {source}", 1)
        return
    if not is_integer(target):
        scope.at(site, f"a sum of integers can't be stored as {target}", 0)
    value_of(scope, site, "zero", source)


def pp_qadd(scope: Scope, site: Site) -> None:
    """Bytes, and the six numbers: scales above 0, zero points of the three types."""
    for key in (0, 1, 2):
        if _bits(elem(scope, site, key)) > _WIDEST:
            scope.at(site, f"quantised values are uN or iN of at most {_WIDEST} bits, not "
                     f"{elem(scope, site, key)}", key)  # fmt: skip
            return
    numbers = data(scope, site, 3)
    array: Any = numbers.array
    if numbers.kind != "f32" or array.shape != (6,) or not _are_scales(array[[0, 2, 4]]):
        scope.at(site, f"`{numbers.name}` must be f32[6]: {_SCALES}; scales finite and above 0", 3)
        return
    for place, key in ((1, 1), (3, 2), (5, 0)):
        kind, zero = elem(scope, site, key), float(array[place])
        low, high = int_range(kind)
        if not (zero.is_integer() and low <= zero <= high):
            scope.at(site, f"{_SCALES.split(', ')[place]} of `{numbers.name}` is {zero:g}; "
                     f"{kind} holds {low} … {high}", 3)  # fmt: skip
    within(scope, site, "fused", 2, "0 as written, 1 fused")


def _bits(kind: str) -> int:
    """Bits of uN and iN; more than any limit for other types."""
    return planes(kind) if is_integer(kind) and kind[0] in "ui" else 1 << 16


def _are_scales(array: Any) -> bool:
    return bool((np.isfinite(array) & (array > 0)).all())


def pp_max(scope: Scope, site: Site) -> None:
    """One type, and no window wholly outside."""
    if not window_fits(scope, site):
        return
    if elem(scope, site, 0) != elem(scope, site, 1):
        scope.at(site, "both buffers must have the same type", 0)
    win = window(scope, site)
    sizes = shape(scope, site, 1)[2:]
    for axis, (size, step) in enumerate(zip(sizes, win.spread, strict=True)):
        taps = np.arange(win.kernel[axis]) * win.dilations[axis] - win.pads[axis]
        places = np.arange(win.out[axis])[:, None] * win.strides[axis] + taps
        place, gap = np.divmod(places, step)
        if not ((place >= 0) & (place < size) & (gap == 0)).any(axis=1).all():
            scope.at(site, f"a window of `{win.name}` lies wholly outside the buffer", 2)
            return


def pp_add(scope: Scope, site: Site) -> None:
    """Integers, or floats of one type."""
    kinds = [elem(scope, site, key) for key in (0, 1, 2)]
    if any(map(is_float, kinds)) and len(set(kinds)) > 1:
        scope.at(site, f"can't add {kinds[1]} and {kinds[2]} to {kinds[0]}", 0)
