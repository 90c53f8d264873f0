"""Figures, the table, JSON and the comparison, on numbers that are known."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from cimc.bench.figures import Figure, Goal, written
from cimc.bench.report import print_comparison, print_report, read
from cimc.bench.run import Report
from cimc.errors import CompileError

MACHINE = {
    "processor": "Model T", "llvm_processor": "t1", "cores": 2, "system": "Linux x86_64",
    "features": {"AVX2": True, "AVX-512 VPOPCNTDQ": False}, "numba": {},
    "versions": {"python": "3.11.7", "numpy": "2.4.6"},
}  # fmt: skip


def _report(*figures, **changes):
    report = Report("2026-01-02T03:04:05+00:00", MACHINE, 1, False, {"all": list(figures)})
    return replace(report, **changes)


def _printed(show, *args):
    stream = io.StringIO()
    show(*args, Console(file=stream, width=120))
    return stream.getvalue()


def _row(text, label):
    (line,) = (line for line in text.splitlines() if label in line)
    return line.split()


FAST = Figure("fast", "fast row", [11.0, 12.5, 14.0], "times", Goal(6, 12))


@pytest.mark.parametrize(
    ("goal", "value", "verdict"),
    [
        (Goal(2, 6), 1.99, "no"),
        (Goal(2, 6), 2.01, "must"),
        (Goal(2, 6), 6.0, "aim"),
        (Goal(1, 3), 1.0, "no"),  # "faster" means faster
        (Goal(4, 2.5, at_most=True), 4.0, "no"),
        (Goal(4, 2.5, at_most=True), 3.9, "must"),
        (Goal(4, 2.5, at_most=True), 2.5, "aim"),
    ],
)
def test_what_a_value_reaches(goal, value, verdict):
    assert goal.verdict(value) == verdict
    assert Figure("k", "l", [value], "times", goal).verdict == verdict


def test_a_wrong_result_reaches_nothing():
    assert Figure("k", "l", [100.0], "times", Goal(1, 2), wrong="y differs").verdict == "no"


def test_a_figure_without_goal_has_no_verdict():
    assert Figure("k", "l", [100.0], "times").verdict == ""


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.8421, "share", "84.2 %"),
        (11.26, "times", "11.3x"),
        (0.00123, "times", "0.00123x"),
        (4321.0, "times", "4,321x"),
        (480_400.0, "images/s", "480 k/s"),
        (1_600.0, "images/s", "1.6 k/s"),
        (2.5, "weight bytes", "2.5x"),
    ],
)
def test_how_figures_are_written(value, unit, text):
    assert written(value, unit) == text


def test_the_table():
    slow = Figure("slow", "slow row", [1.0], "times", Goal(2, 6), feature="AVX-512 VPOPCNTDQ")
    memory = Figure("mem", "memory row", [3.0], "weight bytes", Goal(4, 2.5, at_most=True))
    info = Figure("info", "just so", [3.0], "times")
    text = _printed(print_report, _report(FAST, slow, memory, info))
    assert _row(text, "fast row") == ["fast", "row", "12.5x", "6", "%", "6x", "12x", "aim"]
    assert _row(text, "slow row") == ["slow", "row*", "1x", "0", "%", "2x", "6x", "no"]
    assert _row(text, "memory row")[2:] == ["3x", "0", "%", "<", "4x", "<", "2.5x", "must"]
    assert _row(text, "just so")[2:] == ["3x", "0", "%", "-"]
    assert "Model T (t1), 2 cores, Linux x86_64" in text
    assert "AVX2, no AVX-512 VPOPCNTDQ" in text
    assert "python 3.11.7, numpy 2.4.6" in text
    assert "* the goal assumes AVX-512 VPOPCNTDQ, which is missing here" in text
    assert "quick" not in text


def test_the_table_says_quick_and_wrong():
    broken = Figure("b", "broken", [9.0], "times", Goal(1, 2), wrong="y: 3 of 4 elements differ")
    text = _printed(print_report, _report(broken, quick=True, threads=2))
    assert "2 threads on each side" in text
    assert "quick: small networks" in text
    assert _row(text, "9x")[-2:] == ["wrong", "outputs"]
    assert "WRONG: broken: y: 3 of 4 elements differ" in text


def test_json_comes_back(tmp_path):
    file = tmp_path / "run.json"
    file.write_text(json.dumps(_report(FAST).to_json()))
    found = read(file)
    (figure,) = found["figures"]
    assert figure["value"] == 12.5
    assert figure["values"] == [11.0, 12.5, 14.0]
    assert (figure["must"], figure["aim"], figure["reached"]) == (6, 12, "aim")
    assert found["machine"]["processor"] == "Model T"


def test_the_comparison():
    earlier = _report(replace(FAST, values=[10.0])).to_json()
    new = Figure("new", "new row", [1.0], "times")
    changed = MACHINE | {"versions": {"python": "3.11.7", "numpy": "2.5.0"}}
    later = _report(FAST, new, threads=2, machine=changed)
    text = _printed(print_comparison, earlier, later)
    assert "2026-01-02T03:04:05" in text
    assert _row(text, "fast row")[2:] == ["10x", "12.5x", "1.250"]
    assert _row(text, "new row")[2:] == ["-", "1x"]
    assert "not the same: threads 1, now 2" in text
    assert "not the same: numpy 2.4.6, now 2.5.0" in text
    assert "python 3.11" not in text


@pytest.mark.parametrize("content", ["", "[1]", '{"cimc_bench": 2}', "{"])
def test_another_file_is_no_earlier_run(tmp_path, content):
    file = tmp_path / "run.json"
    file.write_text(content)
    with pytest.raises(CompileError) as caught:
        read(file)
    assert str(file) in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(CompileError, match="no such file"):
        read(tmp_path / "run.json")
