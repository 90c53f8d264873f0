"""Intervals of accumulators: how a stretch of program changes one, and how changes combine.

The arithmetic of `widths.py`; knows nothing of instructions.

Bits that one latch load makes visible bound each other: with v valid columns out of at most
W, every count taken from it and its number of ones lie in 0 … v. So a sum
alpha*v + beta_1*c_1 + beta_2*c_2 + … lies exactly in
[W*min(0, alpha + negative betas), W*max(0, alpha + positive betas)].
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cimc.isa.check.scope import Site

Interval = tuple[int, int]


@dataclass(slots=True)
class Hull:
    """The smallest and the largest value seen, and where."""

    low: int
    low_at: Site
    high: int
    high_at: Site

    def shift(self, by: Interval) -> Hull:
        """The hull when the value it starts from lies in `by` instead of at zero."""
        return Hull(self.low + by[0], self.low_at, self.high + by[1], self.high_at)


def join(a: Hull | None, b: Hull | None) -> Hull | None:
    """The hull of both."""
    if a is None or b is None:
        return a or b
    low = a if a.low <= b.low else b
    high = a if a.high >= b.high else b
    return Hull(low.low, low.low_at, high.high, high.high_at)


@dataclass(slots=True)
class Change:
    """What a stretch of program does to an accumulator.

    net:   sum of what it adds; the value itself if the stretch clears it (`reset`).
    rel:   values passed before the first clear, as differences to the value at the start.
    fixed: values passed after it.
    """

    reset: bool = False
    net: Interval = (0, 0)
    rel: Hull | None = None
    fixed: Hull | None = None


def then(a: Change, b: Change) -> Change:
    """First `a`, then `b`."""
    passed = b.rel.shift(a.net) if b.rel else None
    rel = a.rel if a.reset else join(a.rel, passed)
    fixed = join(join(a.fixed, passed if a.reset else None), b.fixed)
    if b.reset:
        return Change(True, b.net, rel, fixed)
    net = (a.net[0] + b.net[0], a.net[1] + b.net[1])
    return Change(a.reset, net, rel, fixed)


def repeat(change: Change, least: int, most: int, limit: int) -> Change:
    """`change` from `least` to `most` times; `limit` bounds any value that can be proved."""
    total = _power(change, least)
    if most == least:
        return total
    if not change.reset:
        low, high = change.net
        maybe = Change(False, (min(0, low), max(0, high)), change.rel, change.fixed)
        return then(total, _power(maybe, most - least))
    if least > 0:
        return then(total, change)
    return Change(True, (-limit, limit), change.rel, change.fixed)


def _power(change: Change, times: int) -> Change:
    """`change` that many times, by squaring."""
    result = Change()
    while times:
        if times & 1:
            result = then(result, change)
        change = then(change, change)
        times >>= 1
    return result


@dataclass
class Group:
    """A sum over one latch load of at most `width` columns: alpha*valid + betas*counts."""

    width: int
    alpha: int = 0
    negative: int = 0
    positive: int = 0

    def interval(self) -> Interval:
        """The exact range of the sum."""
        low = self.width * min(0, self.alpha + self.negative)
        return low, self.width * max(0, self.alpha + self.positive)


@dataclass
class Piece:
    """Accumulators lo … hi-1 of one register, which all went through the same."""

    lo: int
    hi: int
    reset: bool = False
    closed: Interval = (0, 0)
    groups: dict[int, Group] = field(default_factory=dict)  # by latch load
    rel: Hull | None = None
    fixed: Hull | None = None

    def split(self, at: int) -> Piece:
        """Keep what lies below `at`; returns the rest."""
        groups = {load: Group(**vars(group)) for load, group in self.groups.items()}
        rest = Piece(at, self.hi, self.reset, self.closed, groups, self.rel, self.fixed)
        self.hi = at
        return rest

    def total(self) -> Interval:
        """What has been added so far, or the value after a clear."""
        low, high = self.closed
        for group in self.groups.values():
            a, b = group.interval()
            low, high = low + a, high + b
        return low, high

    def add(self, part: Interval) -> None:
        """Add a value of an interval, independent of all others."""
        self.closed = (self.closed[0] + part[0], self.closed[1] + part[1])

    def clear(self, value: Interval = (0, 0)) -> None:
        """Forget what was, and start from a value of an interval."""
        self.reset, self.closed, self.groups = True, value, {}

    def close(self, load: int) -> None:
        """A latch is loaded anew: its sum is independent of what comes."""
        group = self.groups.pop(load, None)
        if group is not None:
            self.add(group.interval())

    def see(self, site: Site) -> None:
        """Note the present value as one that the accumulator passes."""
        low, high = self.total()
        hull = Hull(low, site, high, site)
        if self.reset:
            self.fixed = join(self.fixed, hull)
        else:
            self.rel = join(self.rel, hull)

    def apply(self, change: Change) -> None:
        """Let a whole stretch of program act."""
        both = then(Change(self.reset, self.total(), self.rel, self.fixed), change)
        self.rel, self.fixed = both.rel, both.fixed
        if change.reset:
            self.clear(change.net)
        else:
            self.add(change.net)

    def change(self) -> Change:
        """All that happened, as a change."""
        return Change(self.reset, self.total(), self.rel, self.fixed)
