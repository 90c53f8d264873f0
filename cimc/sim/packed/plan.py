"""How each part of `.infer` runs: by kernels where the analysis proves that they give the same,
else by the reference's own effects, with the reason.

`.load` has run when a plan is made: weights come from the cells as they are. Buffers are kept
packed or flat (as the reference has them); the plan says where one form becomes the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from cimc.errors import CompileError
from cimc.isa.check import check
from cimc.isa.program import Instr, Layer, Loop, Program, Ref, Section, walk
from cimc.isa.sections import buffers_of
from cimc.isa.state import Buffer, HostBuffer
from cimc.sim.lanes import independent, with_later
from cimc.sim.packed import flow
from cimc.sim.packed.between import Between
from cimc.sim.packed.context import Context
from cimc.sim.packed.flow import Flow, Refused
from cimc.sim.packed.layout import Layout
from cimc.sim.packed.matrix import Cells
from cimc.sim.packed.ones import ones_of
from cimc.sim.packed.step import Step
from cimc.sim.packed.stores import Out, Target, outs_of
from cimc.sim.packed.sums import steps_of
from cimc.sim.packed.terms import Reader

STORES = ("st.acc", "st.ge", "st.rq")


@dataclass
class Item:
    """A loop or instruction of a layer. With `steps`, kernels run it; else `how` says which of
    the reference's ways, and `why`.

    reads, writes: roots of buffers; `covers` those that it writes wholly."""

    layer: Layer
    item: Instr | Loop
    otherwise: str  # "lanes" or "reference"
    how: str = "packed"  # or "lanes", "reference", "host"
    why: str = ""
    steps: list[Step] = field(default_factory=list)
    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)
    covers: set[str] = field(default_factory=set)

    def refuse(self, why: str) -> None:
        """Leave it to the reference's effects."""
        self.how, self.why, self.steps, self.covers = self.otherwise, why, [], set()


@dataclass
class Convert:
    """Bring a buffer into the other form before the next item: to "packed" or "flat"."""

    root: str
    to: str


@dataclass
class Plan:
    """Items of `.infer` in order, with conversions between them.

    packed, flat: buffers that start in that form with what `.load` left; `given` are inputs
    that a packed item reads first."""

    layout: Layout
    items: list[Item | Convert] = field(default_factory=list)
    packed: set[str] = field(default_factory=set)
    flat: set[str] = field(default_factory=set)

    @property
    def steps(self) -> Iterator[Step]:
        for item in self.items:
            if isinstance(item, Item):
                yield from item.steps


def make_plan(
    program: Program,
    buffers: Mapping[str, Buffer | HostBuffer],
    cells: Cells,
    contract: bool = True,
) -> Plan:
    """The plan of `.infer` for a program whose `.load` has run."""
    section = program.section("infer")
    layout = Layout(program, buffers, _preferred(program, section))
    plan = Plan(layout)
    if section is None:
        return plan
    found = [
        _item(program, section, layer, item, layout, cells, contract, later)
        for layer, item, later in with_later(section)
    ]
    _forms(plan, program, found)
    return plan


def _preferred(program: Program, section: Section | None) -> dict[str, str]:
    """Whose order the storage of each root takes: that of the buffer that windows are taken of."""
    found: dict[str, str] = {}
    for layer in section.layers if section else []:
        for instr in walk(layer.body):
            if instr.op not in ("ld.window", "pp.max", "pp.sum"):
                continue
            ref = instr.args[1]
            assert isinstance(ref, Ref)
            name = ref.name
            while name in program.views:
                name = program.views[name].source
            found.setdefault(name, ref.name)
    return found


# -- one item --------------------------------------------------------------------------


def _item(
    program: Program,
    section: Section,
    layer: Layer,
    item: Instr | Loop,
    layout: Layout,
    cells: Cells,
    contract: bool,
    later: set[str],
) -> Item:
    lanes = isinstance(item, Loop) and independent(program, section, layer, item, later)
    made = Item(layer, item, "lanes" if lanes else "reference")
    for instr in walk([item]):
        for name, role in buffers_of(instr):
            (made.writes if role == "w" else made.reads).add(layout.root(name))
    if isinstance(item, Instr) and item.op == "host":
        made.how, made.why, made.covers = "host", "a host fragment", set(made.writes)
        return made
    try:
        _packed(made, program, layout, cells, contract, later)
    except Refused as refused:
        made.refuse(str(refused))
    return made


def _packed(
    made: Item,
    program: Program,
    layout: Layout,
    cells: Cells,
    contract: bool,
    later: set[str],
) -> None:
    item = made.item
    if isinstance(item, Instr):
        raise Refused("an instruction outside of loops")
    if not (item.lo.is_const and item.hi.is_const):
        raise Refused("a loop whose bounds change")
    if made.reads & made.writes:
        raise Refused("it reads a buffer that it writes")
    inner = Flow.read(item.body)
    if later & set(inner.writes):
        raise Refused("later instructions read its registers")
    unknown = [s.op for s in inner.sites if s.op in ("set", "reset", "host", "ld.row")]
    if unknown:
        raise Refused(f"{unknown[0]} in a loop")
    ctx = Context(
        program,
        layout,
        cells,
        contract,
        _proof(program),
        made.layer.name,
        item.var,
        item.lo.const,
        item.hi.const,
    )
    reader = Reader(program, inner, item.var)
    if ctx.high <= ctx.low:
        return
    written = _Written(ctx)
    stores: list[tuple[Target, list[Out]]] = []
    for site in inner.sites:
        if site.op in STORES:
            found = reader.sum_of(site, flow.register(site, 1))
            written.add(site.instr.args[0], found.env, found.outs)
            stores.append(outs_of(ctx, site, found))
        elif site.op.startswith("pp."):
            between = Between(ctx, reader, site)
            written.add(site.instr.args[0], between.env, between.outs)
            made.steps += between.steps()
    made.covers = written.covered()
    made.steps += steps_of(ctx, stores)
    made.steps += ones_of(ctx, reader, inner)
    used = {name for step in made.steps for _, name, _ in step.bases}
    made.reads = used - made.writes


def _proof(program: Program) -> Callable[[], bool]:
    """Whether the program passes the checks, found out when it is asked for."""

    @cache
    def proved() -> bool:
        try:
            check(program, "program")
        except CompileError:
            return False
        return True

    return proved


class _Written:
    """The elements that a loop writes: each once, or the order of iterations would matter."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.marks: dict[str, np.ndarray[tuple[int], np.dtype[np.bool_]]] = {}

    def add(self, target: object, env: dict[str, np.ndarray], outs: int) -> None:
        assert isinstance(target, Ref)
        assert target.index is not None
        access = self.ctx.access(target)
        root = access.slot.name
        mark = self.marks.setdefault(root, np.zeros(access.slot.elements, np.bool_))
        lo, size = self.ctx.channels(target, env, outs)
        for o in range(outs):
            positions = self.ctx.positions(target.index, env, o)
            places = access.elements(positions, int(lo[o]), int(size[o])).reshape(-1)
            before = np.count_nonzero(mark)
            mark[places] = True
            if np.count_nonzero(mark) != before + len(places):
                raise Refused(f"it writes elements of {root} more than once")

    def covered(self) -> set[str]:
        return {root for root, mark in self.marks.items() if mark.all()}


# -- forms of buffers ------------------------------------------------------------------


def _forms(plan: Plan, program: Program, items: list[Item]) -> None:
    """Insert conversions where an item needs a buffer in the form that it isn't in."""
    held: dict[str, set[str]] = {}  # forms that hold the buffer's value
    mems = program.mems
    inputs = {mem.name for mem in program.inputs}
    whole = set(inputs)  # every element has been written

    def need(root: str, form: str) -> None:
        if mems[root].shape is None:
            return
        if root not in held:
            # as it starts: what `.load` left, or the input, which comes flat
            (plan.flat if root in inputs or form == "flat" else plan.packed).add(root)
            held[root] = {"flat"} if root in inputs else {form}
        if form not in held[root]:
            plan.items.append(Convert(root, form))
            held[root].add(form)

    for item in items:
        needed = sorted(item.reads | (item.writes - item.covers))
        blank = [root for root in needed if mems[root].type == "bip" and root not in whole]
        if item.how == "packed" and blank:
            # an element that nothing has written holds 0, for which bip has no bit
            item.refuse(f"not all of {blank[0]} has been written")
            needed = sorted(item.reads | item.writes)
        form = "packed" if item.how == "packed" else "flat"
        for root in needed:
            need(root, form)
        for root in item.writes:
            held[root] = {form}
        whole |= item.covers
        plan.items.append(item)
    for mem in program.outputs:
        need(mem.name, "flat")
