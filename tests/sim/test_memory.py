"""What a run holds of a program's cells: the tiles, and no image of them besides."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from build_program import cells, i, image, reg, result, rows, vec, write, x

from cimc.isa import load, save
from cimc.isa.check import check
from cimc.isa.program import Layer, Program, Section, TargetLine
from cimc.sim.reference import run

LAYERS, ROWS, COLS = 16, 1024, 1024
BYTES = LAYERS * ROWS * COLS // 8
"""Of all cells of a program: each layer fills a tile."""


@pytest.fixture
def path(tmp_path):
    """A program in a file whose layers each read the rows of their tile."""
    rng = np.random.default_rng(0)
    target = TargetLine("test", ROWS, COLS, LAYERS, ("xor",), 32)
    decls = [image("a", "bip", (1, COLS))]
    decls += [result(f"y{n}", "i32", (1, ROWS)) for n in range(LAYERS)]
    programming, reading, items = [], [], []
    for n in range(LAYERS):
        items.append(cells(f"w{n}", rng.integers(0, 2, (ROWS, COLS))))
        programming.append(Layer(f"l{n}", write(f"w{n}", ROWS, tile=n)))
        body = [
            i("ld.vector", x(), vec("a")),
            i("read.xor", reg("d", ROWS), rows(ROWS, tile=n), x()),
            i("popc", reg("c", ROWS), reg("d", ROWS)),
            i("acc.clr", reg("s", ROWS)),
            i("acc.add", reg("s", ROWS), reg("c", ROWS)),
            i("st.acc", vec(f"y{n}"), reg("s", ROWS)),
        ]
        reading.append(Layer(f"l{n}", body))
    sections = [Section("load", programming), Section("infer", reading)]
    program = Program(target, "exact", decls, sections, items)
    check(program)
    save(program, tmp_path / "p.cim")
    return tmp_path / "p.cim"


def test_images_are_gone_after_a_run_and_come_back_for_the_next(path):
    program = load(path)
    feeds = {"a": np.ones((2, COLS), np.int8)}
    first = run(program, feeds)
    assert [item.cells.nbytes for item in program.data] == [0] * LAYERS
    again = run(program, feeds)
    assert again.counts == first.counts
    for name, values in first.outputs.items():
        np.testing.assert_array_equal(again.outputs[name], values)
    np.testing.assert_array_equal(again.tiles, first.tiles)


def test_a_run_takes_the_cells_twice_at_most_and_leaves_them_once(path):
    feeds = {"a": np.ones((1, COLS), np.int8)}
    run(load(path), feeds)  # what is loaded once, such as the grammar
    tracemalloc.start()
    try:
        program = load(path)
        loaded = tracemalloc.get_traced_memory()[0]
        outcome = run(program, feeds)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert outcome.tiles.size == 8 * BYTES
    assert BYTES < loaded < 1.25 * BYTES
    assert peak < 2.75 * BYTES
    assert held < 1.25 * BYTES
