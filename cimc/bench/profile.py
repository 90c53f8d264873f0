"""Where the time of a program goes: by layer and step of the packed engine, and how near to the
processor's roofline that is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from math import prod
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

from cimc import api
from cimc.bench.programs import Feeds, engine
from cimc.bench.roofline import available, roofline_work
from cimc.bench.timing import Effort, in_turns, median_of
from cimc.cost.report import engineering, make_console
from cimc.ir.types import container
from cimc.isa.program import Program
from cimc.sim.feed import Feed
from cimc.sim.packed.engine import StepTime

_ROOM = 64 << 20  # bytes of buffers of all samples together: steps are timed in one chunk
_MOST = 64
_ROUNDS = 100_000  # of the roofline: less than a millisecond, as most steps
_REPEATS = 5
EFFORT = Effort(repeats=9, least=0.02, most=20.0, processes=0)


@dataclass(frozen=True)
class Profile:
    """What was measured.

    steps:     of one run of all samples on one thread.
    rooflines: multiply-accumulates a second of one core, by unit.
    run:       seconds of whole runs on `threads` threads."""

    samples: int
    threads: int
    steps: list[StepTime]
    rooflines: dict[str, float]
    run: list[float]

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return sum(step.seconds for step in self.steps)

    def layers(self) -> Iterator[tuple[str, list[StepTime]]]:
        """Steps by layer, in order; those of one instruction as one."""
        for layer, steps in groupby(self.steps, key=lambda step: step.layer):
            yield layer, list(_merged(list(steps)))

    def rate(self, step: StepTime) -> float:
        """Work a second; 0 where there is none."""
        return step.work * self.samples / step.seconds if step.seconds else 0.0

    def share_of_roofline(self, step: StepTime) -> float | None:
        """None for steps that aren't products of bits or bytes."""
        roofline = self.rooflines.get(step.unit)
        return self.rate(step) / roofline if roofline and step.work else None

    def to_json(self) -> dict[str, object]:
        return {
            "samples": self.samples,
            "threads_of_run": self.threads,
            "run_seconds": self.run,
            "roofline_macs_per_s": self.rooflines,
            "steps": [
                {
                    "layer": step.layer,
                    "step": step.what,
                    "how": step.how,
                    "seconds": step.seconds,
                    "work_of_a_sample": step.work,
                    "unit": step.unit,
                    "work_per_s": self.rate(step),
                    "share_of_roofline": self.share_of_roofline(step),
                }
                for step in self.steps
            ],
        }


def _merged(steps: list[StepTime]) -> Iterator[StepTime]:
    """Neighbours of one kind as one step."""
    for (what, how, unit), same in groupby(steps, key=lambda s: (s.what, s.how, s.unit)):
        parts = list(same)
        seconds, work = sum(s.seconds for s in parts), sum(s.work for s in parts)
        yield StepTime(parts[0].layer, what, how, seconds, work, unit)


def default_batch(program: Program) -> int:
    """So many samples that their buffers stay small, at most 64."""
    sizes = (
        prod(mem.shape) * container(mem.type).itemsize
        for mem in program.mems.values()
        if mem.shape is not None
    )
    return max(1, min(_MOST, _ROOM // max(1, sum(sizes))))


def profile(compiled: api.Compiled, feeds: Feeds, threads: int, effort: Effort) -> Profile:
    """Time the steps of a program on one thread, its whole run on some, and the processor, in
    turns.

    feeds: inputs by ONNX name, all samples in one chunk. Raises CompileError as a run does."""
    samples = Feed(compiled.program, feeds).samples
    units = {step.unit for step in compiled.profile(feeds, repeats=1)}
    run, rounds = engine(compiled, threads), list[list[StepTime]]()
    works = {unit: roofline_work(1, _ROUNDS, unit) for unit in sorted(filter(available, units))}
    macs = {unit: number for unit, (_, number) in works.items()}

    def steps() -> float:
        rounds.append(compiled.profile(feeds, repeats=_REPEATS))
        return sum(step.seconds for step in rounds[-1])

    probes = {unit: median_of(work, _REPEATS) for unit, (work, _) in works.items()}
    series = in_turns({"run": lambda: run(feeds)}, effort, {"steps": steps, **probes})
    rooflines = {unit: number / series.median(unit) for unit, number in macs.items()}
    return Profile(samples, threads, _medians(rounds), rooflines, series.seconds["run"])


def _medians(rounds: list[list[StepTime]]) -> list[StepTime]:
    return [
        replace(same[0], seconds=median(step.seconds for step in same)) for same in zip(*rounds)
    ]


def print_profile(found: Profile, console: Console | None = None) -> None:
    """A table of layers and their steps, and the whole run."""
    console = console or make_console()
    samples = "1 sample" if found.samples == 1 else f"{found.samples} samples"
    title = f"Time of a sample by layer and step; {samples} at once, one thread"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("layer", overflow="fold")
    table.add_column("step")
    table.add_column("way")
    for heading in ("time", "share", "speed", "of roofline"):
        table.add_column(heading, justify="right")
    for layer, steps in found.layers():
        total = sum(step.seconds for step in steps)
        if len(steps) > 1:
            table.add_row(layer, "", "", *_time(found, total), "", "", style="bold")
        for step in steps:
            table.add_row("" if len(steps) > 1 else layer, *_cells(found, step))
    console.print(table)
    for line in _totals(found):
        console.print(line, highlight=False)


def _time(found: Profile, seconds: float) -> tuple[str, str]:
    share = f"{100 * seconds / found.seconds if found.seconds else 0:.1f} %"
    return engineering(seconds / found.samples, "s"), share


def _cells(found: Profile, step: StepTime) -> list[str]:
    share = found.share_of_roofline(step)
    speed = "" if not step.work else f"{found.rate(step) / 1e9:.3g} G {_WORK[step.unit]}/s"
    roofline = "" if share is None else f"{100 * share:.0f} %"
    return [step.what, step.how, *_time(found, step.seconds), speed, roofline]


_WORK = {"bit": "bit-MAC", "byte": "MAC", "element": "elements"}


def _totals(found: Profile) -> Iterator[str]:
    names = {"bit": "products of bits", "byte": "products of bytes"}
    for unit, rate in found.rooflines.items():
        yield f"roofline of {names[unit]}, one core: {rate / 1e9:,.0f} G {_WORK[unit]}/s"
    seconds = median(found.run)
    threads = "1 thread" if found.threads == 1 else f"{found.threads} threads"
    yield (
        f"whole run, {threads}: {engineering(seconds / found.samples, 's')} a sample, "
        f"{found.samples / seconds:,.0f} samples/s"
    )
