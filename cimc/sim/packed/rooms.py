"""Memory of the packed buffers of some samples: buffers that are never needed at the same time
share it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cimc.sim.packed.plan import Item, Plan

Bytes = npt.NDArray[np.uint8]

_LEAD = 64  # bytes before the first sample that kernels may look at


def packed_rooms(plan: Plan, samples: int) -> dict[str, Bytes]:
    """Storage [samples, stride] of each buffer that the plan has packed."""
    spans = _spans(plan)
    slots = {name: plan.layout.slot(name) for name in spans}
    sizes = {name: _LEAD + samples * slot.stride for name, slot in slots.items()}
    free: list[int] = []  # slabs that nobody holds
    slabs: list[int] = []  # their sizes
    held: list[tuple[int, int]] = []  # last item that needs a slab, slab
    chosen: dict[str, int] = {}
    for name in sorted(spans, key=lambda name: spans[name][0]):
        first, last = spans[name]
        free += [slab for end, slab in held if end < first]
        held = [(end, slab) for end, slab in held if end >= first]
        fitting = sorted(free, key=lambda slab: (slabs[slab] < sizes[name], slabs[slab]))
        slab = fitting[0] if fitting else len(slabs)
        if slab == len(slabs):
            slabs.append(0)
        else:
            free.remove(slab)
        slabs[slab] = max(slabs[slab], sizes[name])
        chosen[name] = slab
        held.append((last, slab))
    memory = [np.zeros(size, np.uint8) for size in slabs]
    return {
        name: memory[slab][_LEAD : sizes[name]].reshape(samples, slots[name].stride)
        for name, slab in chosen.items()
    }


def room_bytes(plan: Plan) -> int:
    """Bytes that the packed buffers of one sample take."""
    bases = {id(room.base): room.base for room in packed_rooms(plan, 1).values()}
    return sum(base.nbytes for base in bases.values() if base is not None)


def _spans(plan: Plan) -> dict[str, tuple[int, int]]:
    """The first and the last item that needs each packed buffer."""
    found: dict[str, tuple[int, int]] = dict.fromkeys(sorted(plan.packed), (-1, -1))
    for at, item in enumerate(plan.items):
        if isinstance(item, Item):
            names = {name for step in item.steps for _, name, _ in step.bases}
        else:
            names = {item.root}
        for name in sorted(names):
            first, last = found.get(name, (at, at))
            found[name] = min(first, at), max(last, at)
    return found
