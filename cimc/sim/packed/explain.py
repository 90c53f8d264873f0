"""What a plan does with each part of `.infer`, in words. Reads plans and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from cimc.isa.printer import print_affine, print_instr
from cimc.isa.program import Instr, Loop
from cimc.sim.packed import parameters, pointwise, products
from cimc.sim.packed.parameters import P
from cimc.sim.packed.plan import Convert, Item, Plan
from cimc.sim.packed.step import Step

_OPERATIONS = {
    parameters.XOR: "popcount xor",
    parameters.AND: "popcount and",
    parameters.DOT: "product of bytes",
}
_ROWS = {
    parameters.IN_PLACE: "read in place",
    parameters.BYTES: "copied as bytes",
    parameters.BITS: "copied as bits",
    parameters.WORD: "one word each",
    parameters.SLIDES: "one word each, 16 at a time",
    parameters.PLANES: "taken apart into bit planes",
}
_RESULTS = {
    parameters.STORE: "stored",
    parameters.REQUANTISE: "requantised",
    parameters.LEVEL: "thresholds by halving",
    parameters.TABLE: "thresholds by a table",
    parameters.SIGN: "popcount compared",
}
BETWEEN = {
    pointwise.table_codes: "table of codes",
    pointwise.table_values: "table of values",
    pointwise.table_pairs: "table of pairs",
    pointwise.clamp: "clamp, 16 bytes at a time",
    pointwise.compare: "comparison, 16 bytes at a time",
    pointwise.quantised_sum: "quantised sum, 16 bytes at a time",
    pointwise.add: "sum",
    pointwise.move: "copy",
    pointwise.levels: "thresholds by halving",
    pointwise.requantise: "requantised, 16 at a time",
    pointwise.pool: "pool, 16 bytes at a time",
    pointwise.pool_any: "pool, one element at a time",
    pointwise.ones_in_bits: "ones of bits, weighted",
    pointwise.ones_in_bytes: "ones of bytes, weighted",
    pointwise.ones_in_planes: "ones of bit planes, weighted",
}
"""Kernels of pointwise.py by what they do."""


@dataclass(frozen=True)
class StepWords:
    """A call of a kernel. instruction: what it stands for; way: what the kernel does; rows: how
    it gets at the rows of a product, else ""; result: what becomes of sums, else "".

    work: multiply-accumulates of one sample, of bits or bytes as `unit` says, or elements."""

    instruction: str
    way: str
    rows: str
    result: str
    work: int
    unit: str

    @property
    def text(self) -> str:
        """Way, rows and result in one line."""
        rows = f"rows {self.rows}" if self.rows else ""
        return "; ".join(part for part in (self.way, rows, self.result) if part)


@dataclass(frozen=True)
class ItemWords:
    """A loop or instruction outside of loops. how: `packed`, `lanes`, `reference` or `host`; why:
    the reason if it isn't `packed`, else ""."""

    layer: str
    item: str
    how: str
    why: str
    steps: tuple[StepWords, ...]


@dataclass(frozen=True)
class Explanation:
    """Items in order; conversions: buffers and the form that they are brought into, `packed` or
    `flat`, in order."""

    items: tuple[ItemWords, ...]
    conversions: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        conversions = [{"buffer": name, "to": to} for name, to in self.conversions]
        return {"items": [asdict(item) for item in self.items], "conversions": conversions}


def explain(plan: Plan) -> Explanation:
    """A plan in words."""
    items = [item for item in plan.items if isinstance(item, Item)]
    conversions = [(item.root, item.to) for item in plan.items if isinstance(item, Convert)]
    return Explanation(tuple(map(_item, items)), tuple(conversions))


def _item(item: Item) -> ItemWords:
    steps = tuple(_joined([_step(step) for step in item.steps]))
    return ItemWords(item.layer.name, _head(item.item), item.how, item.why, steps)


def _head(item: Instr | Loop) -> str:
    """The first line of an item."""
    if isinstance(item, Instr):
        return print_instr(item)
    return f"{item.kind} {item.var} in {print_affine(item.lo)}:{print_affine(item.hi)}"


def _joined(steps: list[StepWords]) -> Iterator[StepWords]:
    """Steps that differ in nothing but their work as one: the groups of a convolution."""
    work: dict[StepWords, int] = {}
    for step in steps:
        key = StepWords(step.instruction, step.way, step.rows, step.result, 0, step.unit)
        work[key] = work.get(key, 0) + step.work
    for key, total in work.items():
        yield StepWords(key.instruction, key.way, key.rows, key.result, total, key.unit)


def _step(step: Step) -> StepWords:
    what = f"ones of {step.counts}" if step.counts else step.what
    if step.kernel in BETWEEN:
        return StepWords(what, BETWEEN[step.kernel], "", "", step.work, step.unit)
    result = _RESULTS[int(step.params[P.FINISH])]
    way, rows = _product(step)
    if step.by_place:
        way = "constants by position" if way == "constants" else f"{way} on constants by position"
    return StepWords(what, way, rows, result, step.work, step.unit)


def _product(step: Step) -> tuple[str, str]:
    """What a kernel of products.py does, and how it reads rows."""
    if step.kernel is products.depthwise:
        return ("sums of windows" if step.what == "pp.sum" else "depthwise product of bytes"), ""
    p = step.params
    if not p[P.GROUPS]:
        return "constants", ""
    times = "" if p[P.GROUPS] == 1 else f"{p[P.GROUPS]} x "
    return times + _OPERATIONS[int(p[P.OP])], _ROWS[int(p[P.GATHER])]
