"""Steps of the instructions between buffers (`pp.*`).

What takes at most 256 codes, or two times 256, becomes a table made by running the instruction's
own definition on each of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.ir.types import container
from cimc.isa.program import Affine, Ref
from cimc.isa.state import Buffer, Trap, Vec
from cimc.isa.table import TABLE
from cimc.sim.packed import parameters, pointwise, products
from cimc.sim.packed.context import Context, together
from cimc.sim.packed.elements import BIT, BYTE, TERN
from cimc.sim.packed.finish import integers_at_least
from cimc.sim.packed.flow import Refused, Site
from cimc.sim.packed.layout import Access, Slot
from cimc.sim.packed.parameters import P
from cimc.sim.packed.source import tap_positions
from cimc.sim.packed.step import Step, float_bits
from cimc.sim.packed.terms import Reader

Ints = npt.NDArray[np.int64]
Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Operands:
    """The vectors of an instruction, the first is written: positions [rows], (first channel,
    channels); `whole` elements of a sample where all lie alike one behind the other, else 0."""

    access: list[Access]
    places: list[Ints]
    channels: tuple[tuple[int, int], ...]
    whole: int


class Between:
    """One instruction between buffers, in all its iterations. `steps` raises Refused."""

    def __init__(self, ctx: Context, reader: Reader, site: Site) -> None:
        self.ctx, self.site, self.op = ctx, site, site.op
        kinds = [param.kind for param in TABLE[site.op].params]
        refs = [arg for arg, kind in zip(site.instr.args, kinds) if kind == "vec"]
        self.refs: list[Ref] = [ref for ref in refs if isinstance(ref, Ref)]
        self.outs, self.env = reader.enumerate(site.path)

    def steps(self) -> Iterator[Step]:
        """A step for all iterations with the same channels."""
        ranges = [self.ctx.channels(ref, self.env, self.outs) for ref in self.refs]
        keys = [tuple((int(lo[o]), int(n[o])) for lo, n in ranges) for o in range(self.outs)]
        for outs in together(list(keys)):
            yield self._step(outs, keys[outs[0]])

    def _step(self, outs: list[int], channels: tuple[tuple[int, int], ...]) -> Step:
        access = [self.ctx.access(ref) for ref in self.refs]
        places = [self._positions(ref, outs) for ref in self.refs]
        step = Step(self.ctx.layer, self.op, pointwise.move, np.zeros(pointwise.SIZE, np.int64),
                    len(places[0]), 1024)  # fmt: skip
        windowed = self.op in ("pp.max", "pp.sum")
        strides = []
        for at, a, positions, (lo, n) in zip(
            (0, pointwise.X, pointwise.Y), access, places, channels
        ):
            if windowed and at:
                step.operand(at, a.slot, np.zeros(1, np.int64), 1)
                continue
            first, stride = a.vectors(positions, lo, n)
            step.operand(at, a.slot, first, stride)
            strides.append((first, stride))
        params, size = step.params, channels[0][1]
        params[pointwise.POSITIONS], params[pointwise.CHANNELS] = len(places[0]), size
        step.work = len(places[0]) * size
        whole = self._whole(access, strides, size)
        aligned = not (strides[0][0] % 8).any() and size % 8 == 0 and strides[0][1] == 1
        step.shared = access[0].slot.format.kind not in (BIT, TERN) or aligned
        getattr(self, self.op.replace("pp.", "_"))(step, Operands(access, places, channels, whole))
        if step.kernel in _SAMPLES:
            step.rows = 1
        return step

    def _positions(self, ref: Ref, outs: list[int]) -> Ints:
        assert ref.index is not None
        return np.concatenate([self.ctx.positions(ref.index, self.env, o) for o in outs])

    def _whole(self, access: list[Access], strides: list[tuple[Ints, int]], size: int) -> int:
        """Elements of a sample, where all operands lie alike, one behind the other."""
        elements = access[0].slot.elements
        if any(a.slot.elements != elements for a in access) or len(strides) != len(access):
            return 0
        first = strides[0][0]
        alike = all(s == 1 or size == 1 for _, s in strides)
        alike = alike and all(np.array_equal(f, first) for f, _ in strides)
        if not alike or len(first) * size != elements:
            return 0
        return elements if np.array_equal(first, np.arange(len(first)) * size) else 0

    # -- tables ------------------------------------------------------------------------

    def _table(self, step: Step, at: Operands) -> None:
        """out = table[x], made by the instruction's definition."""
        out, x = at.access[0].slot, at.access[1].slot
        size = at.channels[0][1]
        codes = np.arange(x.format.codes) * x.format.factor + x.format.low
        given = np.repeat(codes[:, None], size, axis=1)
        made = self._run(out.elem, [(x.elem, given)], size)
        params = step.params
        if not out.format.is_small:
            if out.elem[0] == "u" and out.elem != "u16":
                raise Refused(f"{self.op} to {out.elem}")
            table, kernel = np.zeros((size, 256), np.int32), pointwise.table_values
        else:
            made = (made.astype(np.int64) - out.format.low) // out.format.factor
            table, kernel = np.zeros((size, 256), np.uint8), pointwise.table_codes
        table[:, : len(codes)] = made.T
        alike = bool((table == table[:1]).all())
        step.kernel = kernel
        params[pointwise.A] = step.address(table[:1] if alike else table)
        params[pointwise.B] = 0 if alike else 256
        if at.whole and alike and x.format.kind == BYTE and out.format.is_small:
            _shortcut(step, table[0, : len(codes)].astype(np.uint8), out.format.kind, at.whole)

    def _run(self, elem: str, given: list[tuple[str, Values]], size: int) -> Values:
        """The instruction on samples of one vector each [S, size]; channels are those of the
        operands. Raises Refused where it refuses a value."""
        samples = len(given[0][1])
        buffers = [Buffer(elem, (1, size), 1, np.zeros((samples, size), container(elem)))]
        for kind, values in given:
            buffers.append(Buffer(kind, (1, size), 1, values.astype(container(kind))))
        constants = [self._constant(arg) for arg in self.site.instr.args[len(buffers) :]]
        vectors = [Vec(buffer, 0, 0, size) for buffer in buffers]
        options: dict[str, Any] = {}
        for name, value in self.site.instr.opts.items():
            if isinstance(value, Affine):
                if not value.is_const:
                    raise Refused(f"{self.op} with an option that changes")
                options[name] = value.const
            else:
                options[name] = self._constant(value)
        try:
            TABLE[self.op].effect(Counter(), *vectors, *constants, **options)
        except Trap:
            raise Refused(f"{self.op} refuses some values of its input") from None
        return buffers[0].flat

    def _constant(self, arg: object) -> Any:
        assert isinstance(arg, Ref)
        data = self.ctx.data(arg.name)
        if arg.range is None:
            return data
        start, size = arg.range.start, arg.range.size
        if not (start.is_const and size.is_const):
            raise Refused(f"{self.op} with a table that moves")
        return data[start.const : start.const + size.const]

    # -- one method for each instruction -----------------------------------------------

    def _lut(self, step: Step, at: Operands) -> None:
        if not at.access[1].slot.format.is_small:
            raise Refused("a table of more than 256 entries")
        self._table(step, at)

    def _ge(self, step: Step, at: Operands) -> None:
        out = at.access[0].slot.format
        if not out.is_small:
            raise Refused("levels of more than a byte")
        if at.access[1].slot.format.is_small:
            self._table(step, at)
            return
        table, flip = self.site.instr.args[2], self.site.instr.opts.get("flip")
        limits = self._constant(table)
        limits = integers_at_least(limits.reshape(len(limits), -1))
        if limits.shape[1] > 255:
            raise Refused("more than 255 thresholds")
        flips = np.zeros(len(limits), np.uint8)
        if flip is not None:
            flips = (self._constant(flip).astype(np.int64) < 0).astype(np.uint8)
        step.kernel = pointwise.levels
        step.params[pointwise.A] = step.address(limits.astype(np.int32))
        step.params[pointwise.B], step.params[pointwise.C] = limits.shape[1], step.address(flips)

    def _rq(self, step: Step, at: Operands) -> None:
        out = at.access[0].slot.format
        if at.access[1].slot.format.is_small:
            self._table(step, at)
            return
        if out.kind != BYTE:
            raise Refused("requantised to more than a byte")
        zero = self.site.instr.opts.get("zero", Affine())
        if not isinstance(zero, Affine) or not zero.is_const:
            raise Refused("a zero point that changes")
        scales = self._constant(self.site.instr.args[2])
        wide = np.zeros(-(-len(scales) // 16) * 16, np.float32)
        wide[: len(scales)] = scales
        params = step.params
        step.kernel = pointwise.requantise
        params[pointwise.A] = step.address(wide)
        params[pointwise.B] = float_bits(out.least - zero.const)
        params[pointwise.C] = float_bits(out.most - zero.const)
        params[pointwise.D] = zero.const - out.low

    def _relu(self, step: Step, at: Operands) -> None:
        self._copy(step, at, 0)

    def _mov(self, step: Step, at: Operands) -> None:
        self._copy(step, at, -(1 << 40))

    def _copy(self, step: Step, at: Operands, low: int) -> None:
        out, x = (a.slot.format for a in at.access)
        if x.is_small and out.is_small and x.kind == BYTE:
            try:
                self._table(step, at)
                return
            except Refused:
                pass  # not every value fits: each is looked at
        step.kernel = pointwise.move
        step.params[pointwise.A] = low

    def _add(self, step: Step, at: Operands) -> None:
        step.kernel = pointwise.add

    def _qadd(self, step: Step, at: Operands) -> None:
        out, x, y = (a.slot for a in at.access)
        if not all(s.format.is_small for s in (out, x, y)):
            raise Refused("quantised sums of more than bytes")
        first = np.arange(x.format.codes) * x.format.factor + x.format.low
        second = np.arange(y.format.codes) * y.format.factor + y.format.low
        pairs = [np.repeat(first, len(second))[:, None], np.tile(second, len(first))[:, None]]
        made = self._run(out.elem, [(x.elem, pairs[0]), (y.elem, pairs[1])], 1)
        codes = (made[:, 0].astype(np.int64) - out.format.low) // out.format.factor
        table = np.zeros((256, 256), np.uint8)
        table[: len(first), : len(second)] = codes.reshape(len(first), len(second))
        step.kernel = pointwise.table_pairs
        step.params[pointwise.A] = step.address(table)
        numbers = self._constant(self.site.instr.args[3])
        fused = self.site.instr.opts.get("fused", Affine())
        if at.whole and all(s.format.kind == BYTE for s in (out, x, y)):
            assert isinstance(fused, Affine)
            quick = _sum_numbers(numbers, bool(fused.const), out, x, y)
            if _same_sums(quick, bool(fused.const), table[: len(first), : len(second)]):
                step.kernel = pointwise.quantised_sum
                step.params[pointwise.B] = fused.const
                step.params[pointwise.A] = step.address(quick)
                step.params[pointwise.WHOLE] = at.whole

    def _max(self, step: Step, at: Operands) -> None:
        taps, inside = self._taps(at)
        if not inside.any(axis=1).all():
            raise Refused("a window wholly outside")
        out, x = (a.slot.format for a in at.access)
        size, params = at.channels[0][1], step.params
        params[pointwise.B] = taps.shape[1]
        step.scratch = 8 * taps.shape[1] + size + 64
        _, stride = at.access[1].vectors(at.places[1][:1] * 0, *at.channels[1])
        params[pointwise.X + 9] = stride
        to = step.kept[0]
        lies_alike = out == x and stride == 1 and params[pointwise.OUT + 9] == 1
        unit = {BIT: 8, BYTE: 1}.get(x.kind, 0)
        if (
            lies_alike
            and unit
            and not (taps[inside] % unit).any()
            and not (to % unit).any()
            and (size % unit == 0)
        ):
            step.kernel = pointwise.pool
            params[pointwise.C] = int(x.kind == BIT)
            params[pointwise.CHANNELS] = size // unit
            params[pointwise.OUT + 8] = step.address((to // unit).astype(np.int32))
            taps = taps // unit
        else:
            step.kernel = pointwise.pool_any
        params[pointwise.A] = step.address(np.where(inside, taps, -1).astype(np.int32))

    def _taps(self, at: Operands) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """The first element of each tap of each window."""
        name = self.site.instr.args[2]
        assert isinstance(name, Ref)
        x = at.access[1]
        places, inside = tap_positions(self.ctx.program.wins[name.name], x, at.places[1])
        first, _ = x.vectors(places.reshape(-1), *at.channels[1])
        return first.reshape(places.shape), inside

    def _sum(self, step: Step, at: Operands) -> None:
        """A depthwise product whose weights are 1."""
        taps, inside = self._taps(at)
        slot, size = at.access[1].slot, at.channels[1][1]
        _, stride = at.access[1].vectors(at.places[1][:1] * 0, *at.channels[1])
        zero = self.site.instr.opts.get("zero", Affine())
        if slot.format.kind != BYTE or (stride != 1 and size > 1):
            raise Refused("sums over windows of other than bytes that lie together")
        if not isinstance(zero, Affine) or not zero.is_const:
            raise Refused("a zero point that changes")
        out, first = at.access[0].slot, step.kept[0].astype(np.int64)
        out_stride = int(step.params[pointwise.OUT + 9])
        vecs, rows = -(-size // 16), len(at.places[0])
        step.params = np.zeros(parameters.SIZE, np.int64)
        step.bases, step.kernel, step.pairs = [], products.depthwise, -(-vecs // 2)
        p = step.params
        p[P.POSITIONS], p[P.CHANNELS], p[P.VECS] = rows, size, vecs
        step.operand(P.OUT, out, first, out_stride)
        step.point(P.SRC, slot)
        p[P.TAPS] = taps.shape[1]
        p[P.TAP_AT] = step.address(np.where(inside, taps, -1).astype(np.int32))
        p[P.WEIGHTS] = step.address(np.ones((taps.shape[1], 16 * vecs), np.int32))
        # a tap outside reads the code 0; only those inside have a value and a zero point
        number, classes = np.unique(inside.sum(axis=1), return_inverse=True)
        start = number * (slot.format.low - zero.const)
        if max(abs(int(start.min(initial=0))), int(number.max(initial=0)) * 512) >= 1 << 31:
            raise Refused("sums that may need more than 32 bits")
        p[P.START] = step.address(np.repeat(start[:, None], 16 * vecs, axis=1).astype(np.int32))
        p[P.CLASS] = step.address(classes.astype(np.int32))
        p[P.FINISH] = parameters.STORE
        step.scratch = products.depthwise_scratch(taps.shape[1], vecs)
        p[P.OUT_BITS] = out.format.bits
        step.work = rows * size * taps.shape[1]


_SAMPLES = (pointwise.clamp, pointwise.compare, pointwise.quantised_sum)


def _shortcut(step: Step, table: npt.NDArray[np.uint8], kind: int, whole: int) -> None:
    """Tables that clamp or compare: 16 bytes at a time."""
    codes, params = np.arange(len(table)), step.params
    low, high = int(table[0]), int(table[-1])
    if kind == BYTE and np.array_equal(table, codes.clip(low, high)):
        step.kernel = pointwise.clamp
        params[pointwise.A], params[pointwise.B], params[pointwise.WHOLE] = low, high, whole
    elif kind == BIT and (low, high) == (0, 1) and (np.diff(table.astype(np.int8)) >= 0).all():
        step.kernel = pointwise.compare
        params[pointwise.A], params[pointwise.WHOLE] = int(np.argmax(table)), whole


def _sum_numbers(t: Values, fused: bool, out: Slot, x: Slot, y: Slot) -> Values:
    """The numbers of `add_tile`, by the steps of `quantised_sum`."""
    sx, zx, sy, zy, s, zero = t.astype(np.float32)
    low, high, plus = out.format.least, out.format.most, -out.format.low
    if fused:
        a, b = sx / s, sy / s
        rest = [a, b, zero - (a * zx + b * zy), low, high, plus, 0, 0]
    else:
        rest = [sx, zx, sy, zy, s, low - int(zero), high - int(zero), plus + int(zero)]
    return np.array([x.format.low, y.format.low, *rest], np.float32)


def _same_sums(numbers: Values, fused: bool, table: Values) -> bool:
    """Whether the kernel gives the table's results for all pairs of codes."""
    first, second = table.shape
    x = np.zeros(65536 + 64, np.uint8)
    y, found = x.copy(), x.copy()
    x[: table.size] = np.repeat(np.arange(first), second)
    y[: table.size] = np.tile(np.arange(second), first)
    params = np.zeros(pointwise.SIZE, np.int64)
    for at, array in ((0, found), (pointwise.X, x), (pointwise.Y, y), (pointwise.A, numbers)):
        params[at] = array.ctypes.data
    params[pointwise.WHOLE], params[pointwise.B] = table.size, int(fused)
    pointwise.quantised_sum(params.ctypes.data, 0, 0, 1, 0, 1)
    return np.array_equal(found[: table.size], table.reshape(-1))
