"""A layout for people: tables of layers and tiles, and what runs on the host and why.

Takes a `Layout`; computes nothing new. The picture is in `floorplan.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cimc.cost.floorplan import bars, color, letter
from cimc.cost.layout import Fragment, LayerUse, Layout
from cimc.cost.report import quantity

_COUNTS = ("positions", "row reads", "bits read", "MACs", "rows", "cells")


def print_layers(plan: Layout, console: Console) -> None:
    """A line for each layer: what it is, where, and what it needs for one sample."""
    title = "Layers, for one sample"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "layer", "what", "where"):
        table.add_column(heading, overflow="fold")
    for heading in _COUNTS:
        table.add_column(heading, justify="right", no_wrap=True)
    index = {name: i for i, name in enumerate(plan.names)}
    for layer in plan.layers:
        mark = ""
        if layer.name in index:
            number = index[layer.name]
            mark = f"[#ffffff on {color(number)}]{letter(number)}[/]"
        counts = (
            layer.positions, layer.row_reads, layer.bits, layer.macs, layer.rows, layer.cells,
        )  # fmt: skip
        shown = [quantity(count) if count else "" for count in counts]
        table.add_row(mark, escape(layer.name), escape(layer.what), _where(layer), *shown)
    console.print(table)


def print_tiles(plan: Layout, console: Console) -> None:
    """A bar for each tile, and the totals."""
    target = plan.target
    if not plan.tiles:
        console.print("No tiles: nothing of this program is on the array.", highlight=False)
        return
    console.print("Tiles; a bar shows the rows of a tile, a letter the layer in them")
    for line in bars(plan):
        console.print(line, soft_wrap=True)
    rows, cells = target.tiles * target.rows, target.tiles * target.rows * target.cols
    console.print(
        f"{_number(target.tiles, 'tile')} of {target.rows} rows x {target.cols} columns; kernels "
        f"take rows {_of(plan.rows, rows)}, cells {_of(plan.cells, cells)}",
        highlight=False,
        soft_wrap=True,
    )


def print_host(plan: Layout, console: Console) -> None:
    """Share of MACs on tiles and on the host, then each host fragment with its reason."""
    total = plan.tile_macs + plan.host_macs
    if total:
        console.print(
            f"MACs: {_of(plan.tile_macs, total)} on tiles, {plan.host_macs:,} on the host",
            highlight=False,
            soft_wrap=True,
        )
    for fragment in plan.fragments:
        for line in _fragment(fragment):
            console.print(line, highlight=False, markup=False, soft_wrap=True)


def _fragment(fragment: Fragment) -> list[str]:
    operators = [name if count == 1 else f"{count} {name}" for name, count in fragment.operators]
    macs = f"; {quantity(fragment.macs)} MACs" if fragment.macs else ""
    lines = [f"host {fragment.name}: {', '.join(operators)}{macs}"]
    return lines + [f"  {reason}" for reason in fragment.why.split("; ") if reason]


def _where(layer: LayerUse) -> str:
    return _ranges(layer.tiles) if layer.where == "tiles" else layer.where


def _ranges(tiles: Sequence[int]) -> str:
    """`t0`, `t1-t18`, `t0,t2-t3`; tiles in order, followers joined."""
    runs: list[list[int]] = []
    for tile in tiles:
        if runs and runs[-1][1] == tile - 1:
            runs[-1][1] = tile
        else:
            runs.append([tile, tile])
    return ",".join(f"t{a}" if a == b else f"t{a}-t{b}" for a, b in runs)


def _of(part: int, whole: int) -> str:
    """`27,936 of 65,536 (42.6 %)`."""
    return f"{part:,} of {whole:,} ({100 * part / whole:.1f} %)"


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
