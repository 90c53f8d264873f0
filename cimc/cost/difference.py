"""Two programs side by side: what each layer takes of the chip and does for one sample.

Reads programs alone, and their targets' costs; static counts, nothing is run. `cimc inspect
--diff` shows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import fsum
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cimc.cost.energy import energy
from cimc.cost.layout import Layout, layout
from cimc.cost.report import engineering, quantity
from cimc.cost.target import Target
from cimc.isa.program import Instr, Loop, Program, Ref, Reg, Rows
from cimc.sim.counters import static_counts

Env = dict[str, int]


@dataclass
class Use:
    """What a layer of `.infer` takes and does for one sample.

    tiles, rows, cells: of the array, as in `cimc.cost.layout`.
    row_reads, bits:    rows activated, and columns evaluated in them.
    instructions:       how many are executed, by family (`read`, `popc`, `acc`, …).
    micro_ops:          what they do one after the other or side by side, by family: rows read,
                        popcounts taken, accumulators updated, elements stored, latches loaded,
                        fragments called.
    energy:             pJ.
    """

    tiles: int = 0
    rows: int = 0
    cells: int = 0
    row_reads: int = 0
    bits: int = 0
    instructions: Counter[str] = field(default_factory=Counter)
    micro_ops: Counter[str] = field(default_factory=Counter)
    energy: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and numbers; energy as `energy_pj`."""
        found = {name: number(self) for name, number, _ in QUANTITIES}
        found["energy_pj"] = found.pop("energy")
        return found | {
            "instructions_by_family": dict(self.instructions),
            "micro_ops_by_family": dict(self.micro_ops),
        }


def _count(number: float) -> str:
    return quantity(round(number))


def _joule(number: float) -> str:
    return engineering(number * 1e-12, "J")


QUANTITIES: tuple[tuple[str, Callable[[Use], float], Callable[[float], str]], ...] = (
    ("tiles", lambda u: u.tiles, _count),
    ("rows", lambda u: u.rows, _count),
    ("cells", lambda u: u.cells, _count),
    ("row reads", lambda u: u.row_reads, _count),
    ("bits read", lambda u: u.bits, _count),
    ("instructions", lambda u: u.instructions.total(), _count),
    ("micro-ops", lambda u: u.micro_ops.total(), _count),
    ("energy", lambda u: u.energy, _joule),
)


@dataclass(frozen=True)
class Profile:
    """A program by layer, and its totals: the chip's tiles, rows and cells that hold kernels,
    the rest summed over the layers. load: energy of programming the cells, pJ."""

    layers: dict[str, Use]
    total: Use
    load: float


def profile(program: Program, target: Target) -> Profile:
    """What a checked program takes and does."""
    plan = layout(program)
    report = energy(static_counts(program), target)
    costs: dict[str, list[float]] = {}
    for item in report.items:
        if item.section == "infer":
            costs.setdefault(item.layer, []).append(item.pj)
    layers = {
        use.name: Use(
            len(use.tiles), use.rows, use.cells, use.row_reads, use.bits,
            energy=fsum(costs.get(use.name, [])),
        )
        for use in plan.layers
    }  # fmt: skip
    section = program.section("infer")
    for layer in section.layers if section is not None else []:
        use = layers[layer.name]
        _Walk(program, use.instructions, use.micro_ops).body(layer.body, {}, 1)
    return Profile(layers, _total(plan, layers), report.load)


def _total(plan: Layout, layers: dict[str, Use]) -> Use:
    total = Use(sum(tile.rows > 0 for tile in plan.tiles), plan.rows, plan.cells)
    for use in layers.values():
        total.row_reads += use.row_reads
        total.bits += use.bits
        total.instructions += use.instructions
        total.micro_ops += use.micro_ops
    total.energy = fsum(use.energy for use in layers.values())
    return total


@dataclass(frozen=True)
class _Walk:
    """Adds up executions. A loop whose variable changes no count inside is entered once."""

    program: Program
    instructions: Counter[str]
    micro_ops: Counter[str]

    def body(self, body: list[Instr | Loop], env: Env, times: int) -> None:
        for item in body:
            if isinstance(item, Loop):
                self.loop(item, env, times)
                continue
            family = item.op.split(".")[0]
            self.instructions[family] += times
            self.micro_ops[family] += times * self.size(item, env)

    def loop(self, loop: Loop, env: Env, times: int) -> None:
        values = range(loop.lo.value(env), loop.hi.value(env))
        if not values:
            return
        if not _decides(loop.var, loop.body):
            self.body(loop.body, {**env, loop.var: values[0]}, times * len(values))
            return
        for value in values:
            self.body(loop.body, {**env, loop.var: value}, times)

    def size(self, instr: Instr, env: Env) -> int:
        """Rows, registers or elements that one execution works through."""
        result = instr.args[0] if instr.args else None
        if isinstance(result, Reg | Rows) and result.range is not None:
            return result.range.size.value(env)
        if not isinstance(result, Ref) or instr.op == "host":
            return 1
        if result.range is not None:
            return result.range.size.value(env)
        buffer = self.program.mems.get(result.name) or self.program.views.get(result.name)
        return buffer.shape[buffer.axis] if buffer is not None and buffer.shape else 1


def _decides(var: str, body: list[Instr | Loop]) -> bool:
    """Whether a loop variable changes how often or on how much the body's instructions work."""
    for item in body:
        if isinstance(item, Loop):
            found = item.lo.uses(var) or item.hi.uses(var) or _decides(var, item.body)
        else:
            span = getattr(item.args[0], "range", None) if item.args else None
            found = span is not None and span.size.uses(var)
        if found:
            return True
    return False


# -- two of them -----------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """Two programs, the layers of both in the order of the first; one missing is None."""

    before: Profile
    after: Profile

    @property
    def layers(self) -> list[tuple[str, Use | None, Use | None]]:
        names = dict.fromkeys([*self.before.layers, *self.after.layers])
        return [(n, self.before.layers.get(n), self.after.layers.get(n)) for n in names]

    def to_json(self) -> dict[str, Any]:
        """Both programs and, for each quantity of the totals, after / before (None for 0)."""
        sides = {"before": self.before, "after": self.after}
        found: dict[str, Any] = {
            side: {
                "layers": {name: use.to_json() for name, use in p.layers.items()},
                "total": p.total.to_json(),
                "load_pj": p.load,
            }
            for side, p in sides.items()
        }
        found["ratio"] = {
            name: _ratio(number(self.before.total), number(self.after.total))
            for name, number, _ in QUANTITIES
        }
        return found


def _ratio(before: float, after: float) -> float | None:
    return after / before if before else None


_SHOWN = tuple(row for row in QUANTITIES if row[0] != "instructions")  # those are shown by family


def print_difference(found: Difference, console: Console) -> None:
    """By layer, before → after and the ratio below it; then by family of instructions."""
    table = Table(
        title="Layers, for one sample: before → after, and after / before",
        title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1),
    )  # fmt: skip
    table.add_column("layer", overflow="fold", no_wrap=False)
    for name, _, _ in _SHOWN:
        table.add_column(name, justify="right", no_wrap=True)
    for name, before, after in found.layers:
        table.add_row(escape(name), *_cells(before, after))
    table.add_section()
    table.add_row("total", *_cells(found.before.total, found.after.total))
    console.print(table)
    console.print(_families(found))
    loads = _change(found.before.load, found.after.load, _joule).replace("\n", " ")
    console.print(f"programming the cells: {loads}", highlight=False)


def _cells(before: Use | None, after: Use | None) -> list[str]:
    if before is None or after is None:
        there = before or after
        assert there is not None
        mark = "{}→–" if after is None else "–→{}"
        shown = [(number(there), text) for _, number, text in _SHOWN]
        return [mark.format(text(value)) if value else "" for value, text in shown]
    return [_change(number(before), number(after), text) for _, number, text in _SHOWN]


def _change(before: float, after: float, text: Callable[[float], str]) -> str:
    """`25.1k→12.5k` and `x 0.5` in two lines; one number where no digit of it changed."""
    if text(before) == text(after):
        return text(before) if before else ""
    ratio = _ratio(before, after)
    below = "" if ratio is None else f"\nx {ratio:.3g}"
    return f"{text(before)}→{text(after)}{below}"


_FAMILIES = {
    "ld": "latches loaded",
    "read": "rows read",
    "popc": "popcounts",
    "acc": "accumulator updates",
    "st": "elements compared, requantised or stored",
    "pp": "elements post-processed",
    "host": "calls of the host",
}


def _families(found: Difference) -> Table:
    before, after = found.before.total, found.after.total
    table = Table(
        title="Micro-operations by family of instructions",
        title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
    )  # fmt: skip
    for heading in ("family", "micro-operations are"):
        table.add_column(heading)
    for heading in ("instructions", "micro-ops"):
        table.add_column(heading, justify="right")
    there = {**_FAMILIES, **dict.fromkeys([*before.instructions, *after.instructions], "")}
    for family in there:
        if not before.instructions[family] and not after.instructions[family]:
            continue
        table.add_row(
            family,
            _FAMILIES.get(family, "values computed"),
            _change(before.instructions[family], after.instructions[family], _count),
            _change(before.micro_ops[family], after.micro_ops[family], _count),
        )
    return table
