"""Program files: read line by line and written so, with the errors of the whole text."""

from __future__ import annotations

import copy
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cimc.errors import CompileError
from cimc.isa import load, parse, print_program, save
from cimc.isa.cells import Cells
from cimc.isa.program import Data, Program, TargetLine

_rng = np.random.default_rng(0)
DATA = [
    Data("w", "cells", _rng.integers(0, 2, (300, 250)), seg=128),
    Data("th", "i32", _rng.integers(-(2**31), 2**31, 2000).astype(np.int32)),
    Data("code", "onnx", _rng.integers(0, 256, 5000).astype(np.uint8), macs=3, why='say "no" # é'),
    Data("flip", "bip", np.where(_rng.random(64_000) < 0.5, -1, 1).astype(np.int8)),
    Data("few", "cells", np.eye(4)),
]  # fmt: skip


def _program(data: list[Data]) -> Program:
    target = TargetLine("toy", rows=4, cols=6, tiles=1, functions=("xor",), acc_bits=8)
    return Program(target, "exact", [], [], data)


TEXT = print_program(_program(DATA))
LONG = max(TEXT.splitlines(), key=len)


def _written(folder: Path, text: str | bytes) -> Path:
    path = folder / "p.cim"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_long_data_is_read_as_in_a_whole_text(tmp_path):
    path = _written(tmp_path, TEXT)
    program, whole = load(path), parse(TEXT, str(path))
    assert program == whole
    assert program.data == DATA
    assert [data.span for data in program.data] == [data.span for data in whole.data]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\n", "\r\n"),
        (".data w", "\t.data  w"),
        (LONG, LONG + "  # behind the data"),
        (LONG, LONG + '  # with a "text"'),
        (".data w", "# above\n\n.data w"),
    ],
)
def test_other_ways_to_write_it(tmp_path, old, new):
    text = TEXT.replace(old, new)
    path = _written(tmp_path, text)
    program, whole = load(path), parse(text, str(path))
    assert program == whole
    assert [data.span for data in program.data] == [data.span for data in whole.data]


def _both(path: Path, text: str) -> tuple[str, str]:
    """What `load` and `parse` say of a text: an error, or the program printed."""
    found = []
    for read in (lambda: load(path), lambda: parse(text, str(path))):
        try:
            found.append(print_program(read()))
        except CompileError as error:
            found.append(str(error))
    return found[0], found[1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (LONG, LONG[:-9] + '!"', "holds about"),
        (LONG, LONG[:-9] + '!!!!!!!!"', "isn't base64"),
        (LONG, LONG[:-9] + '########"', "isn't base64"),
        (LONG, LONG[:-9] + '\\"ABCDE"', "holds about"),
        (LONG, LONG[:-9] + 'ééééAAAA"', "isn't base64"),
        (LONG, LONG[:-9] + ("BBBBBBBB" if "AAAAAAAA" in LONG[-9:] else "AAAAAAAA") + '"', "sha256"),
        (LONG, LONG[:-1], "no end"),
        (LONG, LONG + " more", "found `more`"),
        (LONG, LONG + '"', "no end"),
        (LONG, LONG.replace('" "', '""'), None),
        (LONG, LONG.replace(" sha256", " sha255"), "no setting `sha255`"),
        (LONG, " " * 250 + LONG.replace(" sha256", " sha255"), "no setting `sha255`"),
        (LONG, "# " + LONG, None),
        (".pipeline", LONG + "\n.pipeline", "this line stands too late"),
        (".cim 1", LONG, "not a .cim program"),
        ("i32[2000]", "i32[2001]", "takes 8004 bytes"),
        ("cells[300,250]", "cells[75000]", "expected `cells[rows,columns]`"),
        ("cells[300,250]", "cells[250,300]", None),
    ],
)  # fmt: skip
def test_a_mistake_reads_the_same_from_a_file(tmp_path, old, new, message):
    assert old in TEXT
    text = TEXT.replace(old, new, 1)
    of_file, of_text = _both(_written(tmp_path, text), text)
    assert of_file == of_text
    assert ("error:" in of_file) == (message is not None)
    assert message is None or message in of_file


@given(st.integers(0, len(TEXT) - 1), st.sampled_from('"#\\ =A\n\r.0é'))
def test_any_changed_character_reads_the_same_from_a_file(tmp_path_factory, place, character):
    text = TEXT[:place] + character + TEXT[place + 1 :]
    path = _written(tmp_path_factory.getbasetemp(), text)
    of_file, of_text = _both(path, text)
    assert of_file == of_text


@pytest.mark.parametrize("before", ["", "nonsense\n", ".cim 1\nnonsense\n", TEXT, TEXT + "bad\n"])
def test_bytes_that_are_no_text_are_said_before_any_other_mistake(tmp_path, before):
    path = _written(tmp_path, before.encode() + b"# \xff\n")
    with pytest.raises(CompileError) as error:
        load(path)
    assert str(error.value) == f"{path}: error: not a .cim program: the file isn't text"


def test_a_character_that_the_file_breaks_off_is_no_text(tmp_path):
    path = _written(tmp_path, b"nonsense\n" + "é".encode()[:1])
    with pytest.raises(CompileError, match="isn't text"):
        load(path)


def test_a_program_from_a_pipe():
    read, write = os.pipe()
    os.write(write, TEXT[:60_000].rsplit("\n", 1)[0].encode() + b"\n")
    os.close(write)
    try:
        program = load(f"/dev/fd/{read}")
    finally:
        os.close(read)
    cells = program.data[0].cells
    cells.release()
    assert cells.nbytes > 0
    assert cells == DATA[0].cells


# -- reading again ---------------------------------------------------------------------


def _release(program: Program) -> list[Cells]:
    cells = [data.cells for data in program.data if data.kind == "cells"]
    for item in cells:
        item.release()
    return cells


def test_released_cells_come_back_from_the_file(tmp_path):
    path = _written(tmp_path, TEXT)
    program = load(path)
    long, short = _release(program)
    assert long.nbytes == 0
    assert short.nbytes == 2
    assert program.data == DATA


def test_they_come_back_after_the_file_was_replaced_or_deleted(tmp_path):
    path = _written(tmp_path, TEXT)
    program = load(path)
    _release(program)
    save(_program([]), path)
    path.unlink()
    assert program.data == DATA


def test_a_copy_of_a_program_needs_no_file(tmp_path):
    path = _written(tmp_path, TEXT)
    program = load(path)
    twin = copy.deepcopy(program)
    with path.open("r+b") as file:
        file.truncate(100)
    _release(twin)
    assert twin.data == DATA


def test_a_program_can_be_saved_over_its_own_file(tmp_path):
    path = _written(tmp_path, "# a comment\n" + TEXT)
    program = replace(load(path), before=())
    _release(program)
    save(program, path)
    assert path.read_text() == TEXT


def test_a_file_that_was_changed_in_its_place_is_an_error(tmp_path):
    path = _written(tmp_path, TEXT)
    program = load(path)
    cells, _ = _release(program)
    with path.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(CompileError) as error:
        cells.rows(0, 1)
    assert str(error.value) == (
        f"{path}: error: the program changed since it was loaded\nhelp: load it again"
    )


# -- memory ----------------------------------------------------------------------------


def test_reading_and_writing_take_memory_for_one_item_besides_the_program(tmp_path):
    items, size = 32, 1 << 17
    rng = np.random.default_rng(0)
    bits = [Data(f"d{i}", "cells", Cells(rng.bytes(size), (size // 16, 128))) for i in range(items)]
    path = tmp_path / "p.cim"
    parse(TEXT)  # loads the grammar
    tracemalloc.start()
    try:
        save(_program(bits), path)
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        program = load(path)
        held, peak = (n - before for n in tracemalloc.get_traced_memory())
    finally:
        tracemalloc.stop()
    assert program.data == bits
    assert written < 6 * size
    assert held < (items + 0.5) * size
    assert peak < (items + 6) * size
