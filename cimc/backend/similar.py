"""Code of the search for similar kernels: `.update` of one layer.

Every pair of kernels is compared once: the first is loaded into the latch, the rows of the others
are read with XOR, and the ones are counted and summed over segments and planes. From the sums of
the distances and of their squares follows the threshold, in exact integers; from it how many
others each kernel is near to, and the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from cimc.backend.layers import Body, loops
from cimc.backend.nest import Head
from cimc.backend.pairs import Pairs, Run, Walk
from cimc.ir.graph import Node, Place
from cimc.ir.kernels import kernel_shape
from cimc.ir.ops import TABLE
from cimc.ir.planes import plane_weights
from cimc.ir.similar import fractions
from cimc.ir.types import narrowest
from cimc.isa.program import Affine, Instr, Loop, Option, Range, Ref, Reg, Rows

Scratch = Callable[[str, str, tuple[int, ...]], str]
"""Declares a buffer by suffix, element type and shape; returns its name."""


@dataclass(frozen=True)
class Criterion:
    """mode, b and c of a `cim.similar`; of: the encoding of its kernels."""

    of: str
    mode: str
    b: Fraction
    c: Fraction

    @property
    def all_live(self) -> bool:
        """Whether every kernel is compared: signs have no zeros."""
        return self.of == "bip" and self.mode == "intent"


def search(
    node: Node, layer: Node, places: Sequence[Place], tile_columns: int, mask: str, scratch: Scratch
) -> tuple[Body, str]:
    """The code of a `cim.similar` of a layer's kernels, and a comment for its label. places: of
    the kernels, with tiles; mask: the buffer of the result, bool[N]."""
    shape = kernel_shape(layer, places[0].width)
    attrs = TABLE[node.op].full_attrs(node.attrs)
    given = Criterion(attrs["of"], attrs["mode"], *fractions(attrs["b"], attrs["c"]))
    made = _Search(Pairs(places, shape), shape.columns, tile_columns, given, mask, scratch)
    what = f"# {shape.channels} kernels of {shape.columns} {given.of}"
    return made.body(), f"{what}: {given.mode}, b = {given.b}, c = {given.c}"


class _Search:
    def __init__(
        self,
        pairs: Pairs,
        columns: int,
        columns_of_tile: int,
        given: Criterion,
        mask: str,
        scratch: Scratch,
    ) -> None:
        self.pairs, self.cols, self.given, self.mask = pairs, columns_of_tile, given, mask
        last = pairs.runs[-1]
        self.count = last.channel + last.size * last.count
        self.weights = plane_weights(given.of)
        n, largest = self.count, columns * sum(self.weights)
        self.near = scratch("near", narrowest(0, largest), (n, n))
        self.hit = scratch("hit", "u1", (1, n))
        self.number = scratch("count", narrowest(0, n), (1, n))
        if not given.all_live:
            self.sum = scratch("sum", narrowest(-largest - 1, largest), (1, n))
            self.live = scratch("live", "u1", (1, n))
            self.pair = scratch("pair", "u1", (n, n))

    def body(self) -> Body:
        live = [] if self.given.all_live else self._live()
        return [*live, *self._distances(), *self._threshold(), *self._counts(), *self._decision()]

    # -- distances --

    def _distances(self) -> Body:
        body: Body = []
        for at, run in enumerate(self.pairs.runs):
            m = _variable("m", run.count)
            inner: Body = []
            if run.size > 1:
                i = _variable("i", run.size - 1)
                rows = Range(i + 1, Affine(run.size - 1) - i)
                inner += _loop("i", run.size - 1, self._compare(run, m, run, m, rows, i))
            i = _variable("i", run.size)
            if run.count > 1:
                n, rows = Affine.of("n"), Range.of(0, run.size)
                alike = _loop("i", run.size, self._compare(run, m, run, n, rows, i))
                inner.append(Loop("for", "n", m + 1, Affine(run.count), alike))
            for other in self.pairs.runs[at + 1 :]:
                n, rows = _variable("n", other.count), Range.of(0, other.size)
                cross = _loop("i", run.size, self._compare(run, m, other, n, rows, i))
                inner += _loop("n", other.count, cross)
            body += _loop("m", run.count, inner)
        return body

    def _compare(self, run: Run, m: Affine, other: Run, n: Affine, rows: Range, i: Affine) -> Body:
        """Kernel i of chunk m with some kernels of chunk n."""
        sums = Reg("a", rows)
        body: Body = [Instr("acc.clr", (sums,))]
        for walk in self.pairs.walks([(run, m), (other, n)]):
            (tile, first), (other_tile, other_first) = walk.at
            bits, counts = Reg("d", rows), Reg("c", rows)
            there = Rows(other_tile, Range(other_first + rows.start, rows.size))
            read: Body = [
                self._load(tile, first + i, walk),
                Instr("read.xor", (bits, there, Reg("x"))),
                Instr("popc", (counts, bits)),
                Instr("acc.add", (sums, counts), self._shift(walk.plane)),
            ]
            body += loops(walk.heads, read)
        place = Range(other.kernel(n) + rows.start, rows.size)
        body.append(Instr("st.acc", (Ref(self.near, run.kernel(m) + i, place), sums)))
        return body

    def _load(self, tile: Affine, row: Affine, walk: Walk) -> Instr:
        opts: dict[str, Option] = {}
        if walk.width < self.cols:
            opts["cols"] = Range.of(0, walk.width)
        return Instr("ld.row", (Reg("x"), Rows(tile, Range.of(row, 1))), opts)

    def _shift(self, plane: Affine) -> dict[str, Option]:
        """A cell of plane j of an integer counts 2**j."""
        weighted = self.weights[-1] > 1 and plane != Affine()
        return {"shl": plane} if weighted else {}

    # -- which kernels are compared --

    def _live(self) -> Body:
        """Kernels whose weights don't sum to 0, or with mode=intent any that aren't all 0."""
        body: Body = []
        for run in self.pairs.runs:
            m = _variable("m", run.count)
            i = _variable("i", run.size)
            total = Reg("b", Range.of(0, 1))
            one: Body = [Instr("acc.clr", (total,))]
            for low, high, op in self._signs():
                for walk in self.pairs.walks([(run, m)], low, high):
                    ((tile, first),) = walk.at
                    read: Body = [self._load(tile, first + i, walk)]
                    read += self._weigh(total, op, walk.plane)
                    one += loops(walk.heads, read)
            one.append(Instr("st.acc", (self._at(self.sum, run.kernel(m) + i), total)))
            body += _loop("m", run.count, _loop("i", run.size, one))
        body += [_set("zero", 0), _set("one", 1)]
        values, live = self._all(self.sum), self._all(self.live)
        body.append(Instr("ctl.gt", (live, values, Reg("zero"))))
        if self.given.mode == "literal":
            body += [
                Instr("ctl.lt", (self._all(self.hit), values, Reg("zero"))),
                Instr("pp.add", (live, live, self._all(self.hit))),
            ]
        here, i = self._at(self.live, self._i), self._i
        behind = Ref(self.live, Affine(), self._behind)
        row = [
            _set("n", 0),
            Instr("ctl.sum", (Reg("n"), here)),
            Instr("ctl.sub", (Reg("n"), Reg("one"), Reg("n"))),
            Instr("ctl.gt", (Ref(self.pair, i, self._behind), behind, Reg("n"))),
        ]
        return [*body, *_loop("i", self.count - 1, [*row])]

    def _signs(self) -> list[tuple[int, int, str]]:
        """Runs of planes, and whether their ones add to the sum or subtract from it."""
        planes = len(self.weights)
        if self.given.mode == "intent" or self.given.of == "bip" or self.given.of[0] == "u":
            return [(0, planes, "acc.add")]
        top = [(planes - 1, planes, "acc.sub")]
        return [(0, planes - 1, "acc.add"), *top] if planes > 1 else top

    def _weigh(self, total: Reg, op: str, plane: Affine) -> Body:
        ones = Reg("x", field="ones")
        if self.given.of == "bip":  # ones less zeros
            less = Instr("acc.sub", (total, Reg("x", field="valid")))
            return [less, Instr("acc.add", (total, ones), {"shl": Affine(1)})]
        opts = self._shift(plane) if self.given.mode == "literal" else {}
        return [Instr(op, (total, ones), opts)]

    # -- the decision --

    def _threshold(self) -> Body:
        """Near: d < t, t being (S1 * P * bd - bn * (P * S2 - S1^2)) / (P^2 * bd), rounded up, and
        b being bn / bd. Rounded up is the negative, rounded down and negated."""
        sums: Body = [_set("zero", 0), _set("s1", 0), _set("s2", 0)]
        near, opts = Ref(self.near, self._i, self._behind), self._pair_mask()
        row: Body = [
            Instr("ctl.sum", (Reg("s1"), near), dict(opts)),
            Instr("ctl.squares", (Reg("s2"), near), dict(opts)),
        ]
        if self.given.all_live:
            sums.append(_set("p", self.count * (self.count - 1) // 2))
        else:
            sums.append(_set("p", 0))
            row.append(Instr("ctl.sum", (Reg("p"), Ref(self.pair, self._i, self._behind))))
        sums += _loop("i", self.count - 1, row)
        sums += [_set("bn", self.given.b.numerator), _set("bd", self.given.b.denominator)]
        steps = (
            ("mul", "v", "p", "s2"),
            ("mul", "q", "s1", "s1"),
            ("sub", "v", "v", "q"),
            ("mul", "v", "v", "bn"),
            ("mul", "bd", "bd", "p"),
            ("mul", "t", "s1", "bd"),
            ("sub", "t", "v", "t"),
            ("mul", "bd", "bd", "p"),
            ("div", "t", "t", "bd"),
            ("sub", "t", "zero", "t"),
        )
        code = [Instr(f"ctl.{op}", tuple(map(Reg, names))) for op, *names in steps]
        code[0].before = ("# near: d < t = ceil((S1*P*bd - bn * (P*S2 - S1*S1)) / (P*P*bd))",)
        return [*sums, *code]

    def _counts(self) -> Body:
        """To how many others each kernel is near; each pair counts for both."""
        near = Ref(self.near, self._i, self._behind)
        hit, others = (Ref(name, Affine(), self._behind) for name in (self.hit, self.number))
        own = self._at(self.number, self._i)
        row: Body = [
            Instr("ctl.lt", (hit, near, Reg("t")), self._pair_mask()),
            Instr("pp.add", (others, others, hit)),
            _set("n", 0),
            Instr("ctl.sum", (Reg("n"), hit)),
            Instr("ctl.sum", (Reg("n"), own)),
            Instr("ctl.st", (own, Reg("n"))),
        ]
        return _loop("i", self.count - 1, row)

    def _decision(self) -> Body:
        """Gone: count > c * others, rounded down, c being cn / cd."""
        c, body = self.given.c, list[Instr]()
        if self.given.mode == "literal" or self.given.all_live:
            body.append(_set("t", int(c * (self.count - 1))))
        else:
            body += [
                _set("t", -1),
                Instr("ctl.sum", (Reg("t"), self._all(self.live))),
                _set("cn", c.numerator),
                _set("cd", c.denominator),
                Instr("ctl.mul", (Reg("t"), Reg("t"), Reg("cn"))),
                Instr("ctl.div", (Reg("t"), Reg("t"), Reg("cd"))),
            ]
        body[0].before = ("# gone: near to more than c of the others",)
        opts: dict[str, Option] = {} if self.given.all_live else {"mask": self._all(self.live)}
        result = Ref(self.mask, Affine())
        return [*body, Instr("ctl.gt", (result, self._all(self.number), Reg("t")), opts)]

    # -- operands --

    @property
    def _i(self) -> Affine:
        """The kernel of a loop over all but the last."""
        return _variable("i", self.count - 1)

    @property
    def _behind(self) -> Range:
        """The kernels behind kernel i."""
        return Range(self._i + 1, Affine(self.count - 1) - self._i)

    def _pair_mask(self) -> dict[str, Option]:
        if self.given.all_live:
            return {}
        return {"mask": Ref(self.pair, self._i, self._behind)}

    def _all(self, name: str) -> Ref:
        return Ref(name, Affine())

    def _at(self, name: str, kernel: Affine) -> Ref:
        return Ref(name, Affine(), Range(kernel, Affine(1)))


def _variable(name: str, count: int) -> Affine:
    """A loop's variable, or 0 where it has one iteration."""
    return Affine.of(name) if count > 1 else Affine()


def _loop(var: str, count: int, body: Body) -> Body:
    """`count` iterations; one is no loop."""
    return loops([Head("for", var, count)], body) if count > 1 else body


def _set(name: str, value: int) -> Instr:
    opts: dict[str, Option] = {"value": Affine(value)} if value else {}
    return Instr("ctl.set", (Reg(name),), opts)
