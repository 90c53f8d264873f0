"""What the search for similar kernels inside the array costs, and what it would cost to read the
kernels out and compare them in a processor.

In the array: all that `.update` counts in a layer. Time: rows are read one after the other, and so
are elements stored, added, compared; popcount and accumulation overlap with the next row.

In a processor: each row of kernels is read once, moved in words of 32 bits, and each pair compared
by XOR, popcount and addition for a word, then 5 operations for the sums, the comparison and the
counts. The figures are the target's, those of its table `[search]` for this comparison alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import fsum, isqrt
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from cimc.cost.energy import energy
from cimc.cost.report import engineering, make_console, quantity
from cimc.cost.target import Target
from cimc.isa.control import WORD
from cimc.sim.counters import Counts

_PER_WORD = 3  # XOR, popcount, add
_PER_PAIR = 5  # sum; square, sum; compare; count
_SECTION = "update"


@dataclass(frozen=True)
class Way:
    """rows read, words of 32 bits moved off the array, operations one after the other (of the
    control and post-processing units, or of a processor), energy in pJ and time in ns."""

    rows: int
    words: int
    operations: int
    pj: float
    ns: float


@dataclass(frozen=True)
class SearchCost:
    """The search of one layer: kernels of so many cells, pairs, bits that XOR compared."""

    layer: str
    kernels: int
    cells: int
    pairs: int
    xor_bits: int
    array: Way
    processor: Way

    def to_json(self) -> dict[str, Any]:
        """Plain dicts."""
        return asdict(self)


def search_costs(counts: Counts, target: Target) -> list[SearchCost]:
    """One for each layer of `.update` that compares all pairs of some kernels."""
    layers = dict.fromkeys(layer for layer, _, _ in counts.sections[_SECTION])
    found = (_layer(layer, counts, target) for layer in layers)
    return [cost for cost in found if cost is not None]


def _layer(layer: str, counts: Counts, target: Target) -> SearchCost | None:
    table = {
        (op, name): number
        for (at, op, name), number in counts.sections[_SECTION].items()
        if at == layer
    }
    pairs, bits = table.get(("ctl.squares", "ops"), 0), table.get(("read.xor", "bits"), 0)
    reads = table.get(("read.xor", "rows"), 0)
    kernels = (1 + isqrt(1 + 8 * pairs)) // 2
    whole = pairs and bits % pairs == 0 and reads % pairs == 0
    if not whole or kernels * (kernels - 1) // 2 != pairs:
        return None  # not the search that the compiler writes
    cells = bits // pairs
    array = _in_array(layer, counts, target, table)
    processor = _in_processor(kernels, cells, reads // pairs, pairs, target)
    return SearchCost(layer, kernels, cells, pairs, bits, array, processor)


def _in_array(layer: str, counts: Counts, target: Target, table: dict[tuple[str, str], int]) -> Way:
    rows = table["read.xor", "rows"] + table.get(("ld.row", "rows"), 0)
    families = ("st", "pp", "ctl")
    steps = sum(number for (op, _), number in table.items() if op.split(".")[0] in families)
    items = energy(counts, target).items
    pj = fsum(item.pj for item in items if (item.section, item.layer) == (_SECTION, layer))
    ns = rows * target.search["row_time"] + steps * target.search["control_time"]
    return Way(rows, 0, steps, pj, ns)


def _in_processor(kernels: int, cells: int, blocks: int, pairs: int, target: Target) -> Way:
    """blocks: rows that each kernel takes."""
    rows, words = kernels * blocks, -(-cells // WORD)
    moved, steps = kernels * words, pairs * (_PER_WORD * words + _PER_PAIR)
    figures = target.search
    pj = fsum(
        (
            rows * target.energy["word_line"],
            kernels * cells * target.energy["sense"],
            moved * figures["transfer_energy"],
            steps * figures["host_energy"],
        )
    )
    ns = fsum(
        (
            rows * figures["row_time"],
            moved * figures["transfer_time"],
            steps * figures["host_time"],
        )
    )
    return Way(rows, moved, steps, pj, ns)


def print_search(
    costs: Sequence[SearchCost], target: Target, console: Console | None = None
) -> None:
    """A line for each layer, the array beside a processor; nothing without layers."""
    if not costs:
        return
    console = console or make_console()
    title = "Search for similar kernels: in the array, and in a processor after reading them out"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", overflow="fold")
    for heading in ("kernels", "pairs", "bits XORed"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("reads", "energy", "time", "reads", "words", "ops", "energy", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for cost in costs:
        table.add_row(cost.layer, *_cells(cost))
    console.print(table)
    figures = [f for path, f in target.figures.items() if path.startswith("search.")]
    assumed = sum(figure.status == "assumed" for figure in figures)
    bits = sum(cost.xor_bits for cost in costs)
    array, processor = (_sum([c.array for c in costs]), _sum([c.processor for c in costs]))
    console.print(
        f"{bits:,} bits XORed; in the array {array}; in a processor {processor}\n"
        f"{assumed} of the {len(figures)} figures of [search] of target {target.name} are assumed",
        highlight=False,
        markup=False,
    )


def _sum(ways: Sequence[Way]) -> str:
    pj, ns = fsum(way.pj for way in ways), fsum(way.ns for way in ways)
    return f"{engineering(pj * 1e-12, 'J')}, {engineering(ns * 1e-9, 's')}"


def _cells(cost: SearchCost) -> list[str]:
    array, processor = cost.array, cost.processor
    return [
        str(cost.kernels), quantity(cost.pairs), quantity(cost.xor_bits),
        quantity(array.rows), *_both(array),
        quantity(processor.rows), quantity(processor.words), quantity(processor.operations),
        *_both(processor),
    ]  # fmt: skip


def _both(way: Way) -> tuple[str, str]:
    return engineering(way.pj * 1e-12, "J"), engineering(way.ns * 1e-9, "s")
