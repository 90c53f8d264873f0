"""The integer layer of the specification gives the sums that its comments promise, and a zero
point that is known at run time is each sample's own."""

import re
from pathlib import Path

import numpy as np

import cimc.isa
from cimc.isa.check import check
from cimc.isa.text import parse
from cimc.sim.counters import static_counts
from cimc.sim.reference import run

SPEC = (Path(cimc.isa.__file__).parent / "SPEC.md").read_text(encoding="utf-8")
(TEXT,) = (t for t in re.findall(r"```cim\n(.*?)```", SPEC, re.DOTALL) if "acc.mac" in t)


def test_each_sample_has_its_own_zero_point():
    program = parse(TEXT)
    check(program)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (5, 1, 4, 4)).astype(np.uint8)
    zero = np.array([[0], [7], [128], [200], [255]], np.uint8)
    result = run(program, {"x": x, "zero": zero})

    low, high = np.split(program.datas["conv1.w"].array.astype(int), 2)
    w = (low - 2 * high).reshape(2, 3, 3)
    wide = np.pad(x[:, 0].astype(int) - zero[:, :, None], ((0, 0), (1, 1), (1, 1)))
    sums = np.zeros((5, 2, 4, 4), int) + program.datas["conv1.bias"].array[:, None, None]
    for i, j in np.ndindex(3, 3):
        sums += wide[:, None, i : i + 4, j : j + 4] * w[:, i, j, None, None]
    scaled = sums.astype(np.float32) * program.datas["conv1.scale"].array[:, None, None]
    expected = np.rint(np.clip(scaled, -3, 252)).astype(int) + 3
    assert np.array_equal(result.outputs["y"], expected)
    assert result.counts.static() == static_counts(program, 5).static()
    assert result.counts.sections["infer"]["conv1", "acc.mac", "ops"] == 5 * 16 * 2
    assert result.counts.sections["infer"]["conv1", "st.rq", "elements"] == 5 * 16 * 2
