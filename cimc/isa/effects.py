"""What each instruction does to the machine, one function a row of `table.py`.

This is the executable specification of the instruction set. Each function takes a tally to
add its counters to, then the instruction's operands in order, resolved to the values of
`state.py` by the interpreter, then the options by name. It knows nothing of loops, sections
or text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from cimc.ir.meaning import level_value, quantised_sum, requantise
from cimc.ir.types import int_range, is_float, planes
from cimc.isa.geometry import segment, win_load, win_taps
from cimc.isa.state import (
    Accumulators,
    Addend,
    Bools,
    Buffer,
    Fragment,
    HostBuffer,
    Image,
    Ints,
    Latch,
    ResultBits,
    StoredRows,
    Trap,
    Values,
    Vec,
    Window,
    Words,
    column_mask,
    exact,
    ones_in,
    unpack,
)

Tally = Counter[str]
Columns = tuple[int, int]  # columns [lo, hi) of a tile

# -- program cells ---------------------------------------------------------------------


def set_(n: Tally, t: StoredRows, w: Image, seg: int = 0, col: int = 0) -> None:
    """cell = 1 where the data bit is 1; one pulse for each cell that changes."""
    data, mask = _image_words(n, t, w, seg, col)
    old = t.words
    pulses = data & mask & ~old
    n["pulses"] += int(np.bitwise_count(pulses).sum())
    t.store(old | pulses)


def reset(n: Tally, t: StoredRows, w: Image, seg: int = 0, col: int = 0) -> None:
    """cell = 0 where the data bit is 0; one pulse for each cell that changes."""
    data, mask = _image_words(n, t, w, seg, col)
    old = t.words
    pulses = ~data & mask & old
    n["pulses"] += int(np.bitwise_count(pulses).sum())
    t.store(old & ~pulses)


def _image_words(n: Tally, t: StoredRows, w: Image, seg: int, col: int) -> tuple[Words, Words]:
    """Data bits [W, n] and the mask [W, 1] of the columns they cover."""
    start, length = segment(w.cells.shape[1], w.seg, seg)
    words, rows = len(t.cells), w.hi - w.lo
    n["rows"] += rows
    n["verify"] += rows * length
    return w.words(start, length, col, words), column_mask(col, length, words)[:, None]


# -- fill input latches ----------------------------------------------------------------


def ld_window(
    n: Tally,
    x: Latch,
    v: Vec,
    win: Window,
    seg: int = 0,
    plane: int = 0,
    group: int = 0,
    col: int = 0,
    pad: Values | None = None,
) -> None:
    """One bit plane of segment `seg` of the window of `group` (or pack of groups) at position
    `v.position`, from tile column `col` on; taps outside the buffer are not valid, or hold
    `pad` [1 or S, 1]."""
    first, count, start, length = win_load(win.win, group, seg)
    values, taps = v.window(win, slice(first, first + count), slice(start, start + length))
    if pad is not None:
        values, taps = np.where(taps, values, exact(pad, v.buffer.elem)), np.ones_like(taps)
    x.load(_plane(values, v.buffer.elem, plane), _valid(values, v.buffer.elem, taps), col)
    n["bits"] += count * length


def ld_vector(
    n: Tally,
    x: Latch,
    v: Vec,
    seg: int = 0,
    plane: int = 0,
    width: int | None = None,
    col: int = 0,
) -> None:
    """One bit plane of the channels [seg*width, (seg+1)*width) of the vector, from tile
    column `col` on; without a width the whole vector is the one segment."""
    start, length = segment(v.size, width or 0, seg)
    values = v.values[:, start : start + length]
    everywhere = np.ones((1, length), dtype=np.bool_)
    x.load(_plane(values, v.buffer.elem, plane), _valid(values, v.buffer.elem, everywhere), col)
    n["bits"] += length


def _plane(values: Values, elem: str, plane: int) -> Bools:
    """bip, tern: 1 for +1. uN, iN: bit `plane` of the two's complement."""
    if not 0 <= plane < planes(elem):
        raise Trap(f"{elem} has no bit plane {plane}")
    if elem in ("bip", "tern"):
        return values > 0
    return ((values >> plane) & 1).astype(np.bool_)


def _valid(values: Values, elem: str, inside: Bools) -> Bools:
    """A ternary 0 is not valid, like a tap outside the buffer."""
    return inside & (values != 0) if elem == "tern" else inside


def ld_fill(n: Tally, y: Latch, x: Latch, value: int = 0) -> None:
    """The same valid mask as x, every valid bit = value."""
    y.valid = x.valid
    y.bits = x.valid if value else np.zeros_like(x.valid)
    y.col, y.length = x.col, x.length
    n["bits"] += x.length


def ld_row(n: Tally, x: Latch, t: StoredRows, cols: Columns | None = None) -> None:
    """A stored row on its own columns, or only the columns `cols` of it."""
    lo, hi = cols or (0, t.columns)
    x.valid = column_mask(lo, hi - lo, x.words)[None]
    x.bits = t.words.T & x.valid
    x.col, x.length = lo, hi - lo
    n["rows"] += 1
    n["cells"] += x.length
    n["bits"] += x.length


# -- read rows -------------------------------------------------------------------------


def read_and(n: Tally, d: ResultBits, t: StoredRows, x: Latch, cols: Columns | None = None) -> None:
    """d = cell AND bit, 0 where not valid."""
    _read(n, d, t, x, cols, np.bitwise_and)


def read_nand(
    n: Tally, d: ResultBits, t: StoredRows, x: Latch, cols: Columns | None = None
) -> None:
    """d = NOT (cell AND bit), 0 where not valid."""
    _read(n, d, t, x, cols, lambda cell, bit, out: np.invert(np.bitwise_and(cell, bit, out), out))


def read_or(n: Tally, d: ResultBits, t: StoredRows, x: Latch, cols: Columns | None = None) -> None:
    """d = cell OR bit, 0 where not valid."""
    _read(n, d, t, x, cols, np.bitwise_or)


def read_xor(n: Tally, d: ResultBits, t: StoredRows, x: Latch, cols: Columns | None = None) -> None:
    """d = cell XOR bit, 0 where not valid."""
    _read(n, d, t, x, cols, np.bitwise_xor)


def _read(
    n: Tally,
    d: ResultBits,
    t: StoredRows,
    x: Latch,
    cols: Columns | None,
    function: Callable[[Words, Words, Words], Any],
) -> None:
    valid, width = x.valid, x.length
    if cols is not None:
        lo, hi = cols
        valid, width = valid & column_mask(lo, hi - lo, x.words), hi - lo
    function(t.words, x.bits[:, :, None], d.words)
    np.bitwise_and(d.words, valid[:, :, None], d.words)
    d.ones[...] = ones_in(d.words)
    d.width[...] = width
    n["rows"] += d.width.size
    n["bits"] += d.width.size * width
    n["ones"] += int(d.ones.sum())


# -- count and accumulate --------------------------------------------------------------


def popc(n: Tally, c: Ints, d: ResultBits, width: int = 0) -> None:
    """c = number of ones in each row of d; with a width in each `width` columns from the first
    on, all rows of the first columns before those of the next."""
    n["bits"] += int(d.width.sum())
    if not width:
        c[...] = d.ones
        return
    parts, rows = c.shape[1] // len(d.width), len(d.width)
    bits = unpack(np.moveaxis(d.words, 1, 2).reshape(-1, d.words.shape[1]), parts * width)
    ones = bits.reshape(len(d.words), rows, parts, width).sum(axis=3, dtype=np.int64)
    c[...] = ones.swapaxes(1, 2).reshape(len(ones), -1)


def acc_clr(n: Tally, a: Accumulators) -> None:
    """a = 0."""
    a.values[...] = 0
    n["ops"] += a.values.shape[1]


def acc_add(n: Tally, a: Accumulators, s: Addend, shl: int = 0) -> None:
    """a += s << shl; a scalar is added to each accumulator of the range."""
    np.add(a.values, _shifted(a, s, shl), out=a.values)
    a.check()
    n["ops"] += a.values.shape[1]


def acc_sub(n: Tally, a: Accumulators, s: Addend, shl: int = 0) -> None:
    """a -= s << shl; a scalar is subtracted from each accumulator of the range."""
    np.subtract(a.values, _shifted(a, s, shl), out=a.values)
    a.check()
    n["ops"] += a.values.shape[1]


def _shifted(a: Accumulators, s: Addend, shl: int) -> Ints:
    """s << shl, refused where the 64-bit arithmetic of this interpreter could overflow."""
    if s.bound << shl < 1 << 62:
        return s.values << shl if shl else s.values
    largest = max(abs(int(v)) for v in (s.values.min(initial=0), s.values.max(initial=0)))
    if largest << shl >= 1 << 62:
        raise Trap(f"{largest} << {shl} is outside [{a.low}, {a.high}]")
    return s.values << shl


def acc_mac(n: Tally, a: Accumulators, s: Ints, t: Values) -> None:
    """a += s * t: one integer [1 or S, 1] times a constant for each accumulator."""
    largest = max(abs(int(v)) for v in (s.min(initial=0), s.max(initial=0)))
    factor = max(abs(int(v)) for v in (t.min(initial=0), t.max(initial=0)))
    if largest * factor >= 1 << 62:
        raise Trap(f"{largest} * {factor} is outside [{a.low}, {a.high}]")
    np.add(a.values, s.astype(np.int64) * t.astype(np.int64), out=a.values)
    a.check()
    n["ops"] += a.values.shape[1]


# -- store -----------------------------------------------------------------------------


def st_acc(n: Tally, v: Vec, a: Accumulators, take: Values | None = None) -> None:
    """Store the integers; a value outside the buffer's element type is refused."""
    v.store(_taken(a, take))
    n["elements"] += v.size


def _taken(a: Accumulators, take: Values | None) -> Ints:
    """The accumulator of each stored channel [S, C]: `take` [C] says which of the operand's it
    is; without it, each has its own."""
    return a.values if take is None else a.values[:, take]


def st_ge(
    n: Tally,
    v: Vec,
    a: Accumulators,
    th: Values,
    flip: Values | None = None,
    take: Values | None = None,
) -> None:
    """Store the level: how many thresholds each accumulator reaches."""
    v.store(_level(_taken(a, take), th, flip, v.buffer.elem))
    n["elements"] += v.size * compares(th.shape)


def compares(shape: tuple[int, ...]) -> int:
    """Comparisons that find a level among T thresholds [C, T] by halving: one for one."""
    return int(np.prod(shape[1:])).bit_length()


def _level(values: Values, th: Values, flip: Values | None, elem: str) -> Ints:
    """n = number of thresholds that a value [S, C] reaches, of T thresholds [C, T] or [C].

    bip (T = 1): 2n - 1. tern (T = 2): n - 1. uN: n. iN: n - 2^(N-1). Where `flip` [C] is -1,
    the level counts down, T - n."""
    limits = th.reshape(len(th), -1)
    if not {values.dtype.kind, limits.dtype.kind} <= set("iu"):
        values, limits = exact(values, "f64"), exact(limits, "f64")
    level: Ints = np.zeros(values.shape, dtype=np.int64)
    for i in range(limits.shape[1]):
        level += values >= limits[:, i]
    if flip is not None:
        level = np.where(flip < 0, limits.shape[1] - level, level)
    wanted = {"bip": 1, "tern": 2}.get(elem, limits.shape[1])
    if limits.shape[1] != wanted:
        raise Trap(f"{elem} levels need {wanted} thresholds a channel, not {limits.shape[1]}")
    value: Ints = level_value(level, elem)
    return value


def st_rq(
    n: Tally, v: Vec, a: Accumulators, s: Values, zero: int = 0, take: Values | None = None
) -> None:
    """Store the requantised sums: see `requantise`."""
    v.store(requantise(_taken(a, take), s, zero, v.buffer.elem))
    n["elements"] += v.size


# -- between buffers -------------------------------------------------------------------


def pp_max(n: Tally, y: Vec, x: Vec, win: Window) -> None:
    """y = the largest value of the window of x; taps outside the buffer don't count."""
    values, taps = _taps(x, win)
    if not taps.any(axis=1).all():
        raise Trap(f"window {win.win.name} has no tap inside")
    inside = np.take_along_axis(values, taps.argmax(axis=1, keepdims=True), axis=1)
    y.store(np.where(taps, values, inside).max(axis=1))
    n["ops"] += y.size * win_taps(win.win)


def pp_sum(n: Tally, y: Vec, x: Vec, win: Window, zero: int = 0) -> None:
    """y = the sum of x - zero over the window; taps outside the buffer count 0."""
    values, taps = _taps(x, win)
    y.store(np.where(taps, values.astype(np.int64) - zero, 0).sum(axis=1))
    n["ops"] += y.size * win_taps(win.win)


def _taps(x: Vec, win: Window) -> tuple[Values, Bools]:
    """The values of a window by tap and channel [S, taps, n], and which lie inside."""
    setting, everything = win.win, slice(None)
    shape = setting.groups, win_taps(setting), setting.channels // setting.groups
    found = [
        part.reshape(-1, *shape).swapaxes(1, 2).reshape(len(part), shape[1], -1)
        for part in x.window(win, everything, everything)
    ]
    values, taps = (part[:, :, x.lo : x.hi] for part in found)
    return values, taps


def pp_add(n: Tally, z: Vec, x: Vec, y: Vec) -> None:
    """z = x + y: integers exactly, floats of one type with one rounding."""
    elems = {v.buffer.elem for v in (x, y, z)}
    if not any(map(is_float, elems)):
        z.store(_wide(x.values) + _wide(y.values))
    elif len(elems) == 1:
        z.store(x.values + y.values)
    else:
        raise Trap(f"can't add {x.buffer.elem} and {y.buffer.elem} to {z.buffer.elem}")
    n["ops"] += z.size


def _wide(values: Values) -> Ints:
    """Integers as int64, refused where a sum of two could overflow."""
    wide = values.astype(np.int64)
    if values.itemsize == 8 and values.size and (wide.max() >= 1 << 62 or wide.min() < -1 << 62):
        raise Trap("a 64-bit value is too large to add exactly")
    return wide


def pp_relu(n: Tally, y: Vec, x: Vec) -> None:
    """y = max(x, 0)."""
    y.store(np.maximum(x.values, x.values.dtype.type(0)))
    n["ops"] += y.size


def pp_ge(n: Tally, y: Vec, x: Vec, th: Values, flip: Values | None = None) -> None:
    """Store the level: how many thresholds each value of x reaches."""
    y.store(_level(x.values, th, flip, y.buffer.elem))
    n["ops"] += y.size * compares(th.shape)


def pp_mov(n: Tally, y: Vec, x: Vec) -> None:
    """The same values in another element type."""
    y.store(x.values)
    n["ops"] += y.size


def pp_rq(n: Tally, y: Vec, x: Vec, s: Values, zero: int = 0) -> None:
    """Store the requantised values: see `requantise`."""
    y.store(requantise(x.values, s, zero, y.buffer.elem))
    n["elements"] += y.size


def pp_lut(n: Tally, y: Vec, x: Vec, t: Values) -> None:
    """y = t[x - lowest value of x's type]."""
    low, _ = int_range(x.buffer.elem)
    y.store(t[x.values.astype(np.int64) - low])
    n["ops"] += y.size


def pp_qadd(n: Tally, z: Vec, x: Vec, y: Vec, t: Values, fused: int = 0) -> None:
    """Sum of two quantised values: see `quantised_sum`; t: float32 [6]."""
    z.store(quantised_sum(x.values, y.values, t, fused, z.buffer.elem))
    n["elements"] += z.size


# -- host ------------------------------------------------------------------------------


def host(n: Tally, f: Fragment, x: list[Buffer | HostBuffer], y: list[Buffer | HostBuffer]) -> None:
    """Run an ONNX fragment, one sample at a time; operands in the order of its graph."""
    for sample in range((x + y)[0].samples):
        results = f.run([buffer.get(sample) for buffer in x])
        for buffer, value in zip(y, results, strict=True):
            buffer.put(sample, value)
    n["calls"] += 1
    n["macs"] += f.macs
