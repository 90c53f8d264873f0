"""From the sum behind a store to steps: sums of products and what is done with them.

Iterations of the inner loops that read and write the same positions become channels of one
product. Then numbers decide: a sum over all bit planes of a byte with the same weights is a
product of bytes; weights of one magnitude against single bits are XOR and popcount; whatever else
is a few AND and popcount with coefficients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.ir.types import planes
from cimc.isa.program import Ref
from cimc.sim.packed import matrix, parameters, products
from cimc.sim.packed.context import Context
from cimc.sim.packed.elements import BIT, BYTE, FIELDS, TERN
from cimc.sim.packed.finish import Outcome, finish
from cimc.sim.packed.flow import Refused
from cimc.sim.packed.layout import Access, Slot
from cimc.sim.packed.loads import Source
from cimc.sim.packed.parameters import P
from cimc.sim.packed.source import Taps, kinds, taps
from cimc.sim.packed.step import Step
from cimc.sim.packed.stores import Out, Part, Target, groups, parts_of

Ints = npt.NDArray[np.int64]

_LIMIT = (1 << 31) - 1
_ROWS_BYTES = 24 << 10  # gathered rows at a time: what stays in a first-level cache
_WIDE_BYTES = 192 << 10  # the same where weights are larger than that anyway
_MOST_ROWS = 512


def steps_of(ctx: Context, stores: Sequence[tuple[Target, list[Out]]]) -> Iterator[Step]:
    """The steps of all stores of sums in a loop. Raises Refused."""
    for part in parts_of(ctx, stores):
        for piece in groups(ctx, part, lambda part: _is_product(ctx, part)):
            yield _step(ctx, *piece)


def _is_product(ctx: Context, part: Part) -> bool:
    """Whether bit planes become a product of bytes."""
    source = part.target.source
    if source is None or not ctx.contract:
        return False
    slot = ctx.layout.slot(source.buffer)
    return slot.format.kind == BYTE and matrix.planes_alike(part.terms, worth(slot.elem))


def worth(elem: str) -> list[int]:
    """What each bit of the two's complement counts for."""
    number = planes(elem)
    bits = [1 << i for i in range(number)]
    return [*bits[:-1], -bits[-1]] if elem[0] == "i" else bits


# -- a product -------------------------------------------------------------------------


def _step(ctx: Context, part: Part, group: int, depthwise: bool) -> Step:
    target, source = part.target, part.target.source
    rows, vecs = len(ctx.values), -(-part.size // 16)
    step = Step(ctx.layer, target.op, products.product, np.zeros(parameters.SIZE, np.int64), rows,
                0, max(1, -(-vecs // 2)), unit="bit")  # fmt: skip
    p = step.params
    p[P.POSITIONS], p[P.CHANNELS], p[P.VECS] = rows, part.size, vecs
    out = ctx.layout.access(target.buffer)
    first, stride = out.vectors(_line(ctx, part.out), part.lo, part.size)
    step.operand(P.OUT, out.slot, first, stride)
    p[P.OUT_BITS] = out.slot.format.bits
    aligned = stride == 1 and not (first % 8).any() and part.size % 8 == 0
    step.shared = out.slot.format.kind not in (BIT, TERN) or aligned
    _check_bound(ctx, part)
    _scalars(ctx, step, part, vecs)
    if source is None or not len(part.terms):
        outcome = Outcome(np.zeros((1, part.size), np.int64), [])
        p[P.GATHER], p[P.BLOCK] = parameters.IN_PLACE, 64
        p[P.STARTS] = step.address(np.zeros(rows, np.int32))
    else:
        assert part.at is not None
        access = ctx.layout.access(source.buffer)
        places = taps(access, source, _line(ctx, part.at), group)
        outcome = _inputs(ctx, step, source, part, places, depthwise)
    _add_base(outcome, part.base)
    outcome.aligned, step.by_place = aligned, len(part.base) > 1
    finish(ctx, step, part, outcome)
    _classes(step, outcome, vecs)
    if depthwise:
        step.kernel = products.depthwise
        step.scratch = products.depthwise_scratch(int(p[P.TAPS]), vecs)
    else:
        block, words = int(p[P.BLOCK]), int(p[P.WORDS])
        step.scratch = block * (24 + 128 + 4 * words) + 1024 + 64
    return step


def _line(ctx: Context, line: tuple[int, int]) -> Ints:
    return line[0] + line[1] * ctx.values


def _check_bound(ctx: Context, part: Part) -> None:
    """No sum may need more than 32 bits: kernels wrap around."""
    terms = part.terms
    size = np.abs(terms["coef"].astype(np.float64)) * terms["size"]
    factors = [float(np.abs(f).max(initial=0)) for f in part.factors]
    scale = np.array([*factors, 1.0])[terms["factor"]]
    mark = np.zeros(part.sums + 1)
    np.add.at(mark, terms["acc"], size * scale)
    np.add.at(mark, terms["acc"] + terms["n"], -size * scale)
    bound = part.taken(np.cumsum(mark[:-1])) + np.abs(part.base).max(axis=0, initial=0)
    for ref, factor in part.scalars:
        form = ctx.layout.slot(ref.name).format
        bound = bound + np.abs(factor) * max(abs(form.least), abs(form.most))
    largest = bound.max(initial=0)
    if largest >= _LIMIT:
        raise Refused("sums that may need more than 32 bits")
    if largest >= 1 << (ctx.program.target.acc_bits - 1) and not ctx.proved():
        raise Refused("sums that may leave the accumulator")


def _scalars(ctx: Context, step: Step, part: Part, vecs: int) -> None:
    """Scalars of buffers, each an operand of its own behind the parameters."""
    if not part.scalars:
        return
    table = step.extra(2 * len(part.scalars))
    step.params[P.SCALARS] = len(part.scalars)
    step.inner.append((P.SCALAR_TABLE, table))
    for i, (ref, factor) in enumerate(part.scalars):
        operand = _scalar(ctx, step, ref)
        step.inner.append((table + 2 * i, operand))
        step.params[table + 2 * i + 1] = step.address(_padded(factor, vecs))


def _scalar(ctx: Context, step: Step, ref: Ref) -> int:
    """A scalar as an operand behind the parameters; where it stands."""
    access = ctx.access(ref)
    assert ref.index is not None
    lo = 0
    if ref.range is not None:
        if not ref.range.start.is_const:
            raise Refused("a scalar whose channel changes")
        lo = ref.range.start.const
    if any(name != ctx.var for name, _ in ref.index.terms):
        raise Refused("a scalar whose place changes in an inner loop")
    first, stride = access.vectors(ctx.positions(ref.index, {}, 0), lo, 1)
    at = step.extra(FIELDS)
    step.operand(at, access.slot, first, stride)
    return at


def _padded(values: npt.NDArray[np.generic], vecs: int, kind: type = np.int32) -> Ints:
    """Values along the last axis, padded with zeros to 16 * vecs."""
    wide = np.zeros((*values.shape[:-1], 16 * vecs), kind)
    wide[..., : values.shape[-1]] = values
    return wide


def _classes(step: Step, outcome: Outcome, vecs: int) -> None:
    """What sums start with, a row for each class of positions."""
    step.params[P.START] = step.address(_padded(outcome.start.astype(np.int32), vecs))
    if len(outcome.start) > 1:
        step.params[P.CLASS] = step.address(np.asarray(outcome.classes).astype(np.int32))


def _inputs(
    ctx: Context, step: Step, source: Source, part: Part, places: Taps, depthwise: bool
) -> Outcome:
    """Fill in what rows read and which weights meet them."""
    access = ctx.layout.access(source.buffer)
    slot, p = access.slot, step.params
    product = _is_product(ctx, part)
    step.point(P.SRC, slot)
    p[P.SRC_FORMAT], p[P.SRC_LOW] = slot.format.kind, slot.format.low
    p[P.SRC_SECOND], p[P.COLUMNS] = slot.second, places.columns
    p[P.WHOLE] = int(places.inside.all())
    _fill(ctx, step, source.pad, slot)
    bits, valid = matrix.uses_bits(part.terms), matrix.uses_valid(part.terms)
    shape = part.size, source.size
    u = _matrices(ctx, part, valid, places)[1] if valid.any() else None
    u = u if u is not None and u.any() else None
    by_plane = {
        int(plane): _matrices(ctx, part, bits & (part.terms["plane"] == plane), places)[0]
        for plane in ([0] if product else np.unique(part.terms["plane"][bits]))
    }
    outcome = Outcome(np.zeros((1, part.size), np.int64), [])
    if u is not None and slot.format.kind != TERN:
        _add_valid(outcome, u, places, source.pad is not None)
    step.work = len(ctx.values) * part.size * places.columns
    if product:
        by_plane[0] //= worth(slot.elem)[0]  # i1: its one bit counts -1
        low = slot.format.low * by_plane[0].sum(axis=1, dtype=np.int64)
        outcome.start = outcome.start + low
        outcome.matrices = [(by_plane[0], 0, slot.format.codes - 1)]
        step.unit = "byte"
        if depthwise:
            _depthwise(step, by_plane[0], places)
        else:
            _bytes(step, by_plane[0], places)
        return outcome
    if slot.format.kind == TERN:
        by_plane = {0: by_plane.get(0, np.zeros(shape, np.int32))}
        by_plane[1] = u if u is not None else np.zeros(shape, np.int32)
    outcome.matrices = [(v, 0, 1) for v in by_plane.values()]
    _bits(step, by_plane, places, access, outcome)
    return outcome


def _matrices(
    ctx: Context, part: Part, some: npt.NDArray[np.bool_], places: Taps
) -> tuple[matrix.Matrix, matrix.Matrix]:
    """V and U of some of the terms: a row for each channel, columns in the input's order."""
    source = part.target.source
    assert source is not None
    v, u = matrix.matrices(part.terms[some], ctx.cells, (part.sums, source.size), part.factors)
    return _ordered(part.taken(v), places), _ordered(part.taken(u), places)


def _ordered(m: matrix.Matrix, places: Taps) -> matrix.Matrix:
    return m if places.order is None else np.ascontiguousarray(m[:, places.order])


def _fill(ctx: Context, step: Step, pad: int | Ref | None, slot: Slot) -> None:
    """What columns outside the buffer hold."""
    p, form = step.params, slot.format
    if isinstance(pad, Ref):
        if form.kind == BIT:
            raise Refused("bits padded with a value of run time")
        if ctx.layout.slot(pad.name).format != form:
            raise Refused("padding of another type than the input")
        if pad.index is None or not pad.index.is_const:
            raise Refused("padding that changes with the position")
        step.inner.append((P.FILL_AT, _scalar(ctx, step, pad)))
    elif not form.is_small or form.kind == BYTE:
        p[P.FILL] = (pad or 0) - form.low
    elif pad:
        raise Refused("bits padded with ones")


def _add_valid(outcome: Outcome, u: matrix.Matrix, places: Taps, padded: bool) -> None:
    """U times the valid columns, which depend on the position only."""
    if padded or places.inside.all():
        outcome.start = outcome.start + u.sum(axis=1, dtype=np.int64)
        return
    first, classes = kinds(places.inside.astype(np.int64))
    inside = places.inside[first]
    by_tap = u.reshape(u.shape[0], -1, places.size).sum(axis=2, dtype=np.int64)
    outcome.start = outcome.start + inside.astype(np.int64) @ by_tap.T
    outcome.classes = classes


def _add_base(outcome: Outcome, base: Ints) -> None:
    """Constants, the same for all positions or others for each: then positions that start with
    the same sums make a class."""
    if len(base) > 1:
        start = outcome.start if outcome.classes is None else outcome.start[outcome.classes]
        start = start + base
        first, outcome.classes = kinds(start)
        outcome.start = start[first]
    else:
        outcome.start = outcome.start + base


def _gather(step: Step, places: Taps, how: int, unit: int) -> None:
    """Let rows be read in place where each is one run at whole units of elements, else gathered.
    `unit`: elements to a byte, 0 if rows must be gathered."""
    p = step.params
    runs, ends = places.runs()
    rows = len(places.elements)
    single = len(runs) == rows and (runs[:, 2] == places.columns).all()
    if unit and single and places.inside.all() and not (runs[:, 0] % unit).any():
        p[P.GATHER] = parameters.IN_PLACE
        p[P.STARTS] = step.address((runs[:, 0] // unit).astype(np.int32))
    else:
        if how == parameters.BITS and p[P.PLANES] == 1:
            if places.columns <= 32:
                how = parameters.WORD
                if _slides(step, places):
                    return
            elif not (runs % 32).any():
                how, runs = parameters.BYTES, runs // 8
        p[P.GATHER] = how
        p[P.RUNS] = step.address(runs.astype(np.int32))
        p[P.RUNS_AT] = step.address(ends.astype(np.int32))
        if how == parameters.BYTES:
            _pattern(step, runs, ends, np.asarray(places.inside.all(axis=1)))


def _pattern(step: Step, runs: Ints, ends: Ints, whole: npt.NDArray[np.bool_]) -> None:
    """The runs of rows that lie wholly in the buffer, where they are alike."""
    p, rows = step.params, np.flatnonzero(whole)
    bases = np.full(len(whole), -1, np.int64)
    number = int(ends[rows[0] + 1] - ends[rows[0]]) if len(rows) else 0
    rows = rows[ends[rows + 1] - ends[rows] == number]
    if number:
        own = runs[ends[rows][:, None] + np.arange(number)]
        first = own[:, 0, 0].copy()
        own[:, :, 0] -= first[:, None]
        alike = (own == own[0]).all(axis=(1, 2))
        bases[rows[alike]] = first[alike]
        p[P.PATTERN], p[P.PATTERN_RUNS] = step.address(own[0].astype(np.int32)), number
        p[P.PATTERN_SHORT] = int(own[0, :, 2].max() <= 16)
    p[P.BASES] = step.address(bases.astype(np.int32))


_MOST_SLID = 1 << 12  # positions of a sample


def _slides(step: Step, places: Taps) -> bool:
    """Rows of at most 32 bits, where neighbouring positions read bits a few further: all
    positions of a sample at once, 16 at a time."""
    p = step.params
    rows, size = len(places.elements), places.size
    if rows > _MOST_SLID or rows < 16:
        return False
    found: list[tuple[int, ...]] = []
    masks: list[int] = []
    steps = np.diff(places.elements[:, 0])[places.inside[1:, 0] & places.inside[:-1, 0]]
    if not len(steps):
        return False
    step_bits = int(np.bincount(steps.clip(0, 64)).argmax())
    for low, high in _tap_rows(places):
        width = (high - low) * size
        if step_bits < 1 or 16 * step_bits + width > 56:
            return False
        inside = np.asarray(places.inside[:, low:high])
        some: Any = inside.any(axis=1)
        first = inside.argmax(axis=1)
        start = places.elements[np.arange(rows), low + first] - first * size
        bits: Any = inside @ (((1 << size) - 1) << (size * np.arange(high - low)))
        breaks = np.flatnonzero(
            np.r_[True, (np.diff(start) != step_bits) | (some[1:] != some[:-1]), True]
        )
        for a, b in pairwise(breaks.tolist()):
            if some[a]:
                found.append((int(start[a]), a, low * size, b - a, len(masks)))
                masks += [*bits[a:b].tolist(), *[0] * 16]
    p[P.GATHER], p[P.SLIDES], p[P.SLIDE_STEP] = parameters.SLIDES, len(found), step_bits
    p[P.RUNS] = step.address(np.array(found, np.int32).reshape(-1, 5))
    p[P.MASKS] = step.address(np.array(masks, np.int64).astype(np.uint32))
    step.shared = False
    return True


def _tap_rows(places: Taps) -> Iterator[tuple[int, int]]:
    """Taps whose elements follow each other wherever they are inside."""
    number = places.elements.shape[1]
    low = 0
    for t in range(1, number + 1):
        if t < number:
            both = places.inside[:, t] & places.inside[:, t - 1]
            apart = places.elements[both, t] - places.elements[both, t - 1]
            if both.any() and (apart == places.size).all():
                continue
        yield low, t
        low = t


def _block(step: Step, words: int, weights: int) -> None:
    """How many rows to take at a time."""
    room = _WIDE_BYTES if weights > _ROWS_BYTES else _ROWS_BYTES
    p = step.params
    if p[P.GATHER] == parameters.SLIDES:  # whole samples
        p[P.BLOCK] = p[P.POSITIONS] * max(1, _MOST_ROWS // int(p[P.POSITIONS]))
        return
    p[P.BLOCK] = max(8, min(_MOST_ROWS, room // (4 * max(1, words)) // 8 * 8))


def _groups(step: Step, groups: list[tuple[int, int, int, npt.NDArray[np.uint32]]]) -> None:
    table = np.array(
        [(start, words, coef, step.address(held)) for start, words, coef, held in groups],
        np.int64,
    ).reshape(-1, 4)
    step.params[P.GROUPS] = len(table)
    step.params[P.GROUP_TABLE] = step.address(table)


def _bytes(step: Step, v: matrix.Matrix, places: Taps) -> None:
    """A product of bytes."""
    p, words = step.params, -(-places.columns // 4)
    vecs = int(p[P.VECS])
    p[P.WORDS] = p[P.PLANE_WORDS] = words
    _gather(step, places, parameters.BYTES, 1)
    digits = matrix.digits(v)
    _groups(step, [(0, words, coef, matrix.lanes_of_bytes(d, vecs, words)) for coef, d in digits])
    _block(step, words, 4 * words * 16 * vecs)
    p[P.OP] = parameters.DOT


def _depthwise(step: Step, v: matrix.Matrix, places: Taps) -> None:
    """Channel c reads element c behind the first of each tap."""
    p = step.params
    number = v.shape[1]
    p[P.TAPS] = number
    p[P.TAP_AT] = step.address(np.where(places.inside, places.elements, -1).astype(np.int32))
    p[P.WEIGHTS] = step.address(_padded(v.T, int(p[P.VECS])))


def _bits(
    step: Step, by_plane: dict[int, matrix.Matrix], places: Taps, access: Access, outcome: Outcome
) -> None:
    """Popcounts: one group for each coefficient and plane."""
    p, kind = step.params, access.slot.format.kind
    words, vecs = -(-places.columns // 32), int(p[P.VECS])
    c = matrix.signs(by_plane[0]) if kind == BIT and len(by_plane) == 1 else 0
    groups, op = _and_groups(by_plane, words, vecs), parameters.AND
    if c:
        w = by_plane[0] > 0
        outcome.start = outcome.start + c * w.sum(axis=1, dtype=np.int64)
        groups = [(0, words, -c, matrix.lanes_of_bits(w, vecs, words))]
        op = parameters.XOR
        outcome.matrices = [(np.full_like(by_plane[0], -c), 0, 1)]
    p[P.PLANES], p[P.PLANE_WORDS], p[P.WORDS] = len(by_plane), words, words * len(by_plane)
    whole = not c or places.columns % 32 == 0
    if kind in (BIT, TERN):
        _gather(step, places, parameters.BITS, 8 if kind == BIT and whole else 0)
    else:
        _gather(step, places, parameters.PLANES, 0)
        p[P.PLANE_LIST] = step.address(np.array(list(by_plane), np.int32))
    outcome.groups = groups
    _groups(step, groups)
    step.work = step.work * max(1, len(groups))
    _block(step, words * len(by_plane), 4 * words * 16 * vecs)
    p[P.OP] = op


def _and_groups(
    by_plane: dict[int, matrix.Matrix], words: int, vecs: int
) -> list[tuple[int, int, int, npt.NDArray[np.uint32]]]:
    found = []
    for i, v in enumerate(by_plane.values()):
        for coef, bits in matrix.bit_planes(v):
            found.append((i * words, words, coef, matrix.lanes_of_bits(bits, vecs, words)))
    return found
