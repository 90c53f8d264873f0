"""Sums in which only one of several loaded bit planes counts."""

import numpy as np

from cimc.isa.program import Data
from cimc.isa.text import parse
from cimc.sim import reference
from cimc.sim.packed.engine import Engine

# rows 0 to 15 hold zeros, rows 16 to 31 hold w: plane 0 meets nothing, plane 2 meets w
TEXT = """.cim 1
.target toy rows=32 cols=32 tiles=1 functions=[and] acc_bits=16
.pipeline "exact"

.mem x u4[1,32] input="x" batch=0
.mem y bip[1,16] output="y" batch=0

.load
l:
  set t[0][16:32], w

.infer
l:
  for p in 0:1
    acc.clr %a[0:16]
    ld.vector %x, x[p]
    read.and %d[0:16], t[0][0:16], %x
    popc %c[0:16], %d[0:16]
    acc.add %a[0:16], %c[0:16]
    ld.vector %x, x[p], plane=2
    read.and %d[0:16], t[0][16:32], %x
    popc %c[0:16], %d[0:16]
    acc.add %a[0:16], %c[0:16]
    st.ge y[p], %a[0:16], th
  end
"""


def test_signs_of_a_plane_that_is_not_the_first():
    rng = np.random.default_rng(0)
    program = parse(TEXT)
    program.data += [
        Data("w", "cells", rng.integers(0, 2, (16, 32), dtype=np.uint8)),
        Data("th", "i32", np.full(16, 8, np.int32)),
    ]
    x = rng.integers(0, 16, (9, 32), dtype=np.uint8)
    right = reference.run(program, {"x": x}).outputs["y"]
    assert {-1, 1} == set(right.reshape(-1).tolist())
    assert np.array_equal(Engine(program).run({"x": x}).outputs["y"], right)
