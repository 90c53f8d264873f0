"""Programming pulses without a run: they follow from the cell images and what the cells hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cimc.isa.effects import Tally
from cimc.isa.program import Instr, Layer, Loop, Program
from cimc.sim.bind import Tallies, bind, execute
from cimc.sim.machine import Machine, Tiles, TileState, pack_tiles


def programming_pulses(
    program: Program, tiles: Tiles | TileState | None
) -> Iterator[tuple[str, Tallies]]:
    """The pulses of `.load`, then of `.update`, which programs on from there; `.infer` writes no
    cells. tiles: what the cells hold before (None: all 0)."""
    machine = Machine(program, 1, pack_tiles(tiles, program.target), {})
    for name in ("load", "update"):
        section = program.section(name)
        layers = section.layers if section else []
        programming = [Layer(layer.name, _programming(layer.body)) for layer in layers]
        tallies, pulses = Tallies(Tally), Tallies(Tally)
        execute(bind(machine, programming, tallies), {})
        for key, tally in tallies.items():
            pulses[key]["pulses"] = tally["pulses"]
        yield name, pulses


def _programming(body: list[Instr | Loop]) -> list[Instr | Loop]:
    """The `set` and `reset` instructions of a body, in their loops."""
    kept: list[Instr | Loop] = []
    for item in body:
        if isinstance(item, Loop):
            kept.append(replace(item, body=_programming(item.body)))
        elif item.op in ("set", "reset"):
            kept.append(item)
    return kept
