"""Runs programs by an engine, on random inputs. Imports nothing of the compiler: the process
whose memory is measured holds no more than one that only runs a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from cimc import api
from cimc.errors import CompileError
from cimc.ir.types import Array, random_array
from cimc.isa.program import Program

Feeds = Mapping[str, Array]
Runner = Callable[[Feeds], dict[str, Array]]
ENGINE = api.ENGINES[0]


def engine(compiled: api.Compiled, threads: int, name: str = ENGINE) -> Runner:
    """Runs the program by an engine."""

    def run(feeds: Feeds) -> dict[str, Array]:
        return compiled.run(feeds, engine=name, threads=threads).outputs

    return run


def random_feeds(program: Program, samples: int, seed: int = 0) -> dict[str, Array]:
    """Seeded inputs of a program, `samples` along each batch axis. Raises CompileError for an
    input that is no tensor."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for mem in program.inputs:
        if mem.shape is None:
            raise CompileError(f"input '{mem.input}' is no tensor")
        shape = list(mem.shape)
        if mem.batch is not None:
            shape[mem.batch] *= samples
        feeds[str(mem.input)] = random_array(rng, mem.type, tuple(shape))
    return feeds


def first(program: Program, feeds: Feeds, samples: int) -> dict[str, Array]:
    """The first samples of inputs, or all that there are."""
    axes = {mem.input: (mem.batch, mem.shape) for mem in program.inputs}
    found = {}
    for name, value in feeds.items():
        batch, shape = axes[name]
        if batch is None or shape is None:
            found[name] = value
            continue
        found[name] = value[(slice(None),) * batch + (slice(samples * shape[batch]),)]
    return found
