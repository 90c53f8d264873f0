"""Calls kernels by address: one, or all of a table, without going through Python."""

from __future__ import annotations

from cimc.sim.packed.jit import compiled
from cimc.sim.packed.memory import call_address, get_i64, put_i64

KERNEL, PARAMS, ROWS, PAIRS, COUNTS, RESULT, ENTRY = range(7)
"""An entry of a table: addresses of kernel and parameters, rows of a sample, pairs of lane
vectors, 1 if the kernel counts, and the sum of what it returned; ENTRY numbers in all."""


@compiled
def call_kernel(
    kernel: int, p: int, scratch: int, first: int, last: int, low: int, high: int
) -> int:
    """Call one kernel."""
    found: int = call_address(kernel, p, scratch, first, last, low, high)
    return found


@compiled
def run_table(table: int, number: int, samples: int, scratch: int) -> int:
    """Call `number` kernels in order; what they count is added to their entries. Returns how many
    values the others refused."""
    bad = 0
    for i in range(number):
        entry = table + 8 * ENTRY * i
        found = call_address(
            get_i64(entry + 8 * KERNEL),
            get_i64(entry + 8 * PARAMS),
            scratch,
            0,
            get_i64(entry + 8 * ROWS) * samples,
            0,
            get_i64(entry + 8 * PAIRS),
        )
        if get_i64(entry + 8 * COUNTS):
            put_i64(entry + 8 * RESULT, get_i64(entry + 8 * RESULT) + found)
        else:
            bad += found
    return bad
