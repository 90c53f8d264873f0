"""The `ones` that reads find, without making their result bits.

The ones of a read are a sum over the bits b and valid marks v of what was loaded (matrix.py), all
rows together: sum alpha[k] b[k] + beta[k] v[k]. Over all positions that is one weight for each
element of the buffer and each bit plane, so one pass over the buffer counts all reads of a loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cimc.ir.types import planes
from cimc.isa.program import Ref
from cimc.sim.packed import matrix, pointwise
from cimc.sim.packed.context import Context
from cimc.sim.packed.elements import BIT, BYTE, TERN
from cimc.sim.packed.flow import Flow, Refused
from cimc.sim.packed.jit import Kernel
from cimc.sim.packed.layout import Slot
from cimc.sim.packed.loads import TERM, Source
from cimc.sim.packed.source import Taps, kinds, taps
from cimc.sim.packed.step import Step
from cimc.sim.packed.terms import Reader

Ints = npt.NDArray[np.int64]
Terms = npt.NDArray[np.void]

_LIMIT = 1 << 31


@dataclass
class _Reads:
    """The rows that reads of one operation read against one source at certain positions."""

    source: Source
    line: tuple[int, int]
    terms: list[Terms] = field(default_factory=list)


def ones_of(ctx: Context, reader: Reader, flow: Flow) -> Iterator[Step]:
    """Steps that count the ones of all reads of a loop. Raises Refused."""
    found: dict[tuple[str, Source, tuple[int, int]], _Reads] = {}
    for site in flow.sites:
        if not site.op.startswith("read."):
            continue
        load, terms = reader.reads(site)
        _, env = reader.enumerate(site.path)
        split = terms["out"]
        for out in np.unique(_lines(ctx, load.position, env, split)):
            line = ctx.line(load.position, env, int(out))
            key = site.op, load.source, line
            mine = terms[_lines(ctx, load.position, env, split) == out]
            found.setdefault(key, _Reads(load.source, line)).terms.append(mine)
    for (op, _, _), reads in found.items():
        yield from _count(ctx, op, reads)


def _lines(ctx: Context, position: object, env: dict[str, Ints], outs: Ints) -> Ints:
    """For each term the first inner iteration with the same position."""
    names = [name for name, _ in position.terms if name != ctx.var]  # type: ignore[attr-defined]
    if not names or not len(outs):
        return np.zeros(len(outs), np.int64)
    keys = np.stack([env[name] for name in names], axis=1)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    found: Ints = first[inverse.reshape(-1)][outs]
    return found


def _count(ctx: Context, op: str, reads: _Reads) -> Iterator[Step]:
    source, terms = reads.source, np.concatenate([*reads.terms, np.zeros(0, TERM)])
    slot = ctx.layout.slot(source.buffer)
    positions = reads.line[0] + reads.line[1] * ctx.values
    weights = _Weights(ctx, slot, op)
    for group in np.unique(terms["group"]):
        mine = terms[terms["group"] == group]
        places = taps(ctx.layout.access(source.buffer), source, positions, int(group))
        weights.add(mine, source, places)
    yield from weights.steps(source)


@dataclass
class _Weights:
    """The weights of a buffer's elements: `planes` int64 [elements], `valid` those of valid marks
    (TERN), `fixed` ones that don't depend on values, `outside` those of padding's planes."""

    ctx: Context
    slot: Slot
    op: str
    planes: dict[int, Ints] = field(default_factory=dict)
    outside: dict[int, int] = field(default_factory=dict)
    valid: Ints | None = None
    fixed: int = 0
    alike: bool = True
    size: int = 0  # runs of elements of one kind have equal weights; 0: none yet, -1: not so
    kind: Ints = field(default_factory=lambda: np.zeros(0, np.int64))

    def add(self, terms: Terms, source: Source, places: Taps) -> None:
        """Add the reads of one group of the source."""
        terms["out"] = 0
        bits, valid = matrix.uses_bits(terms), matrix.uses_valid(terms)
        shape = 1, source.size
        if valid.any():
            u = matrix.matrices(terms[valid], self.ctx.cells, shape, [], together=True)[1]
            self._add_valid(self._ordered(u, places), places, source)
        numbers = list(range(planes(self.slot.elem)))
        alike = len(numbers) > 1 and matrix.planes_alike(terms, [1] * len(numbers))
        self.alike &= alike or not bits.any()
        chosen = [0] if alike else np.unique(terms["plane"][bits]).tolist()
        for plane in chosen:
            mine = terms[bits & (terms["plane"] == plane)]
            v = matrix.matrices(mine, self.ctx.cells, shape, [], together=True)[0]
            spread, missing = self._spread(self._ordered(v, places), places)
            for number in numbers if alike else [plane]:
                before = self.planes.get(number)
                # planes alike share one array
                self.planes[number] = spread if before is None else before + spread
                self.outside[number] = self.outside.get(number, 0) + missing

    def _ordered(self, m: matrix.Matrix, places: Taps) -> Ints:
        row: Ints = m[0].astype(np.int64)
        return row if places.order is None else row[places.order]

    def _add_valid(self, u: Ints, places: Taps, source: Source) -> None:
        if self.slot.format.kind == TERN:
            spread, _ = self._spread(u, places)
            self.valid = spread if self.valid is None else self.valid + spread
        elif source.pad is not None:
            self.fixed += int(u.sum()) * len(places.elements)
        else:
            by_tap = u.reshape(-1, places.size).sum(axis=1)
            self.fixed += int((places.inside.sum(axis=0) * by_tap).sum())

    def _spread(self, v: Ints, places: Taps) -> tuple[Ints, int]:
        """Weights of columns as weights of elements, and the weight of columns outside."""
        elements, size = self.slot.elements, places.size
        by_tap = v.reshape(-1, size)
        found = np.zeros(elements, np.int64)
        there = places.elements[places.inside]
        start = int(there[0]) % size if len(there) else 0
        if size > 1 and elements % size == 0 and (there % size == start).all():
            # taps at whole positions: positions with the same taps share their weights
            cells = elements // size
            times = np.zeros((cells, len(by_tap)), np.int64)
            np.add.at(times, (there // size, np.nonzero(places.inside)[1]), 1)
            first, kind = kinds(times)
            weights = (times[first] @ by_tap)[kind].reshape(-1)
            found[start:] = weights[: elements - start]
            self._split(size, kind, start == 0)
        else:
            for t, weights in enumerate(by_tap):
                at = places.elements[places.inside[:, t], t]
                np.add.at(found, at[:, None] + np.arange(size), weights)
            self._split(size, np.zeros(0, np.int64), False)
        missing = (~places.inside).sum(axis=0) @ by_tap.sum(axis=1)
        return found, int(missing)

    def _split(self, size: int, kind: Ints, whole: bool) -> None:
        """Note which runs of `size` elements have equal weights."""
        if not whole or self.size not in (0, size):
            self.size = -1
        elif self.size == 0:
            self.size, self.kind = size, kind
        else:
            self.kind = self.kind * (int(kind.max(initial=0)) + 1) + kind

    # -- steps -------------------------------------------------------------------------

    def steps(self, source: Source) -> Iterator[Step]:
        if isinstance(source.pad, Ref) and any(self.outside.values()):
            yield self._of_padding(source.pad)
        elif isinstance(source.pad, int):
            bits = {i: (source.pad >> i) & 1 for i in self.outside}
            self.fixed += sum(bits[i] * n for i, n in self.outside.items())
        made = [self._elements(weights, 0) for weights in self._small()]
        if self.valid is not None:
            made.append(self._elements(self.valid, self.slot.second))
        if self.planes and not made[: 1 if self._small() else 0]:
            made.append(self._whole())
        if not made:
            made = [self._nothing()]
        made[0].fixed = self.fixed
        yield from made

    def _small(self) -> list[Ints]:
        """The weights, where the buffer has one plane of bits."""
        kind = self.slot.format.kind
        return [self.planes[0]] if kind in (BIT, TERN) and 0 in self.planes else []

    def _step(self, kernel: Kernel) -> Step:
        params = np.zeros(pointwise.SIZE, np.int64)
        step = Step(self.ctx.layer, "ones", kernel, params, 1, 64, counts=self.op)
        step.work = self.slot.elements
        step.operand(pointwise.X, self.slot, np.zeros(1, np.int64), 1)
        params[pointwise.POSITIONS], params[pointwise.WHOLE] = 1, self.slot.elements
        return step

    def _nothing(self) -> Step:
        step = self._step(pointwise.ones_in_bits)
        step.params[pointwise.WHOLE] = 0
        return step

    def _elements(self, weights: Ints, offset: int) -> Step:
        """Single bits, `offset` bytes into a sample."""
        if np.abs(weights).max(initial=0) * (len(weights) // 16 + 1) >= _LIMIT:
            raise Refused("more ones than 32 bits count")
        step = self._step(pointwise.ones_in_bits)
        step.bases = [(i, name, base + offset) for i, name, base in step.bases]
        wide = np.zeros(-(-len(weights) // 16) * 16, np.int32)
        wide[: len(weights)] = weights
        step.params[pointwise.A] = step.address(wide)
        return step

    def _whole(self) -> Step:
        """Bit planes of integers: all with the same weights, or each with its own."""
        form, elements = self.slot.format, self.slot.elements
        size = self.size if self.size >= 16 else elements  # what the kernel takes at a time
        fits = (
            np.abs(self.planes.get(0, np.zeros(1))).max(initial=0) * 8 * (size // 16 + 1) < _LIMIT
        )
        if form.kind == BYTE and self.alike and len(self.planes) > 1 and fits:
            return self._bytes(self.planes[0], size)
        numbers = sorted(self.planes)
        weights = np.stack([self.planes[i] for i in numbers], axis=1)
        if np.abs(weights).max(initial=0) >= _LIMIT:
            raise Refused("more ones than 32 bits count")
        step = self._step(pointwise.ones_in_planes)
        params = step.params
        params[pointwise.A], params[pointwise.B] = (
            step.address(weights.astype(np.int32)),
            len(numbers),
        )
        params[pointwise.C] = step.address(np.array(numbers, np.int32))
        step.work = elements * len(numbers)
        return step

    def _bytes(self, weights: Ints, size: int) -> Step:
        """Weight times ones of each byte; runs of `size` with equal weights share them."""
        step = self._step(pointwise.ones_in_bytes)
        rows = kind = np.zeros(1, np.int64)
        if size == self.size:
            _, rows, kind = np.unique(self.kind, return_index=True, return_inverse=True)
        wide = np.zeros((len(rows), -(-size // 16) * 16), np.int32)
        wide[:, :size] = weights.reshape(-1, size)[rows]
        params = step.params
        params[pointwise.A], params[pointwise.B] = step.address(wide), size
        params[pointwise.C] = step.address(kind.reshape(-1).astype(np.int32))
        params[pointwise.POSITIONS] = self.slot.elements // size
        params[pointwise.D] = -self.slot.format.low
        return step

    def _of_padding(self, pad: Ref) -> Step:
        """The planes of a run-time padding value, for all columns outside."""
        access = self.ctx.layout.access(pad.name)
        assert pad.index is not None
        lo = 0 if pad.range is None else pad.range.start.const
        first, _ = access.vectors(np.array([pad.index.const]), lo, 1)
        weights = np.zeros((access.slot.elements, len(self.outside)), np.int32)
        if max(map(abs, self.outside.values())) >= _LIMIT:
            raise Refused("more ones than 32 bits count")
        weights[int(first[0])] = list(self.outside.values())
        own = _Weights(self.ctx, access.slot, self.op)
        step = own._step(pointwise.ones_in_planes)
        params = step.params
        params[pointwise.A], params[pointwise.B] = step.address(weights), weights.shape[1]
        params[pointwise.C] = step.address(np.array(list(self.outside), np.int32))
        return step
