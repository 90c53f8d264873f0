"""Two programs side by side: counts against those of the interpreter, and loops one by one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import cimc
from cimc.cost.difference import Difference, profile
from cimc.cost.energy import energy
from cimc.cost.layout import layout
from cimc.ir.types import container
from cimc.isa.program import Instr, Loop
from cimc.isa.text import parse

EXAMPLES = Path(__file__).parents[2] / "examples"
DIGITS = EXAMPLES / "digits" / "digits_bnn.onnx"


@pytest.fixture(scope="module")
def compiled() -> cimc.api.Compiled:
    return cimc.compile(DIGITS, overrides={"cols": "64"})


def test_sums_are_those_of_the_counters(compiled: cimc.api.Compiled) -> None:
    """Rows read and accumulators updated are micro-operations, and counters have them too."""
    found = profile(compiled.program, compiled.target)
    counts: Counter[tuple[str, str]] = Counter()
    for (_, op, counter), number in compiled.counts.sections["infer"].items():
        counts[op.split(".")[0], counter] += number
    assert found.total.micro_ops["read"] == found.total.row_reads == counts["read", "rows"]
    assert found.total.micro_ops["acc"] == counts["acc", "ops"]
    assert found.total.micro_ops["popc"] == counts["read", "rows"]
    assert found.total.micro_ops["host"] == counts["host", "calls"]
    report = energy(compiled.counts, compiled.target)
    assert found.total.energy == pytest.approx(report.infer_per_sample)
    assert found.load == report.load


def test_rows_are_those_of_the_layout(compiled: cimc.api.Compiled) -> None:
    found, plan = profile(compiled.program, compiled.target), layout(compiled.program)
    assert (found.total.rows, found.total.cells) == (plan.rows, plan.cells)
    assert [use.rows for use in found.layers.values()] == [layer.rows for layer in plan.layers]


def test_instructions_one_by_one(compiled: cimc.api.Compiled) -> None:
    """The executed instructions of each family, counted by stepping through every loop."""

    def step(body: list[Instr | Loop], env: dict[str, int], seen: Counter[str]) -> None:
        for item in body:
            if isinstance(item, Instr):
                seen[item.op.split(".")[0]] += 1
                continue
            for value in range(item.lo.value(env), item.hi.value(env)):
                step(item.body, {**env, item.var: value}, seen)

    found = profile(compiled.program, compiled.target)
    section = compiled.program.section("infer")
    assert section is not None
    for layer in section.layers:
        seen: Counter[str] = Counter()
        step(layer.body, {}, seen)
        assert found.layers[layer.name].instructions == seen


TRIANGLE = """.cim 1
.target digital-rram-180nm rows=256 cols=128 tiles=1 functions=[and] acc_bits=32
.pipeline "exact"
.mem x u1[1,8] input="x"
.mem y i32[3,4] output="y"

.infer
tri:
  for i in 0:3
    acc.clr %a[0:4]
    for j in 0:i + 1
      ld.vector %x, x[0]
      read.and %d[0:j + 1], t[0][0:j + 1], %x
      popc %c[0:j + 1], %d[0:j + 1]
      acc.add %a[0:j + 1], %c[0:j + 1]
    end
    st.acc y[i, 0:4], %a[0:4]
  end
"""


def test_sizes_that_depend_on_loop_variables() -> None:
    """j runs 1, 2 and 3 times, over 1, 2 and 3 rows: 1 + (1 + 2) + (1 + 2 + 3) = 10."""
    target = cimc.cost.target.load_target("digital-rram-180nm", {})
    use = profile(parse(TRIANGLE, "tri.cim"), target).layers["tri"]
    assert use.instructions == {"acc": 3 + 6, "ld": 6, "read": 6, "popc": 6, "st": 3}
    assert use.micro_ops == {"acc": 12 + 10, "ld": 6, "read": 10, "popc": 10, "st": 12}
    assert use.row_reads == 10


def test_ratio_and_layers_of_one_program(compiled: cimc.api.Compiled) -> None:
    before = profile(compiled.program, compiled.target)
    target = cimc.cost.target.load_target("digital-rram-180nm", {})
    after = profile(parse(TRIANGLE, "tri.cim"), target)
    found = Difference(before, after)
    assert [name for name, _, _ in found.layers] == [*before.layers, "tri"]
    assert found.layers[-1][1] is None
    ratio = found.to_json()["ratio"]
    assert ratio["row reads"] == 10 / before.total.row_reads
    assert Difference(after, after).to_json()["ratio"]["cells"] is None, "no cells before"


def test_kernels_that_are_alike_are_read_once() -> None:
    """Of the 32 first kernels of the network for MNIST, 27 differ from all others and their
    negatives: rows, reads and updates are 27/32, stores and outputs what they were."""
    model = EXAMPLES / "mnist" / "mnist_bnn.onnx"
    found = [cimc.compile(model, pipeline=p) for p in ("exact", "exact,merge-duplicates")]
    uses = [profile(made.program, made.target).layers["conv1"] for made in found]
    assert [use.rows for use in uses] == [32, 27]
    assert [use.row_reads for use in uses] == [784 * 32, 784 * 27]
    assert [use.micro_ops["acc"] for use in uses] == [784 * 32 * 3, 784 * 27 * 3]
    assert uses[0].micro_ops["st"] == uses[1].micro_ops["st"]
    assert uses[1].energy < uses[0].energy
    (image,) = (mem for mem in found[0].program.inputs)
    pixels = np.random.default_rng(1).integers(0, 256, (6, *image.shape[1:]))
    feeds = {image.input: pixels.astype(container(image.type))}
    before, after = (made.run(feeds).outputs for made in found)
    assert [*before] == [*after]
    assert all(np.array_equal(before[name], after[name]) for name in before)
