"""Energy is the sum of counts times costs, and reports show that sum."""

import io
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console

from cimc.cost.energy import energy
from cimc.cost.report import engineering, print_counts_and_energy, quantity, to_json
from cimc.cost.target import load_target
from cimc.sim.counters import Counts

FOLDER = Path(__file__).parents[2] / "targets"
COUNTS = Counts(
    2,
    {
        "load": {
            ("conv1", "set", "rows"): 4,
            ("conv1", "set", "verify"): 36,
            ("conv1", "set", "pulses"): 17,
        },
        "infer": {
            ("conv1", "ld.window", "bits"): 90,
            ("conv1", "read.xor", "rows"): 40,
            ("conv1", "read.xor", "bits"): 360,
            ("conv1", "read.xor", "ones"): 171,
            ("conv1", "popc", "bits"): 360,
            ("conv1", "acc.sub", "ops"): 40,
            ("conv1", "st.ge", "elements"): 40,
            ("fc", "host", "calls"): 2,
            ("fc", "host", "macs"): 2000,
        },
        "update": {("prune", "reset", "pulses"): 3},
    },
)


@dataclass
class Outcome:
    counts: Counts


@pytest.fixture
def target():
    return load_target(str(FOLDER / "digital-rram-180nm.toml"))


def test_energy_by_hand(target):
    cost = target.energy
    load = 4 * cost["word_line"] + 36 * cost["sense"] + 17 * cost["set"]
    conv = (
        90 * cost["latch"] + 40 * cost["word_line"] + 360 * cost["sense"] + 360 * cost["popcount"]
        + 40 * cost["accumulate"] + 40 * cost["store"]
    )  # fmt: skip
    host = 2 * cost["host_call"] + 2000 * cost["host_mac"]
    update = 3 * cost["reset"]
    report = energy(COUNTS, target)
    assert report.load == pytest.approx(load)
    assert report.section("infer") == pytest.approx(conv + host)
    assert report.infer_per_sample == pytest.approx((conv + host) / 2)
    assert report.section("update") == pytest.approx(update)
    assert report.total == pytest.approx(load + conv + host + update)
    assert report.by_layer() == pytest.approx({"conv1": load + conv, "fc": host, "prune": update})
    assert report.by_component() == pytest.approx({
        "programming": load + update,
        "input latch": 90 * cost["latch"],
        "array read": 40 * cost["word_line"] + 360 * cost["sense"],
        "popcount": 360 * cost["popcount"],
        "accumulator": 40 * cost["accumulate"],
        "store and post-processing": 40 * cost["store"],
        "host": host,
    })  # fmt: skip
    cited = 17 * cost["set"] + 3 * cost["reset"]
    assert report.assumed_share == pytest.approx(1 - cited / report.total)


def test_a_unit_cost_counts_events():
    report = energy(COUNTS, load_target(str(FOLDER / "ideal.toml")))
    events = sum(n for (_, _, counter), n in COUNTS.total().items() if counter != "ones")
    assert report.total == events
    assert report.assumed_share == 1.0


def test_nothing_counted(target):
    report = energy(Counts(0), target)
    assert (report.total, report.infer_per_sample, report.assumed_share) == (0.0, 0.0, 0.0)
    print_counts_and_energy(Outcome(Counts(0)), report, Console(file=io.StringIO()))


def test_the_printed_report(target):
    out = io.StringIO()
    report = energy(COUNTS, target)
    print_counts_and_energy(Outcome(COUNTS), report, Console(file=out, width=100))
    text = out.getvalue()
    layer = next(line for line in text.splitlines() if "conv1" in line)
    assert [cell.strip() for cell in re.split(r"\s{2,}", layer.strip())] == [
        "conv1", "40", "360", "40", "17",
        engineering(report.by_layer()["conv1"] * 1e-12, "J"),
        f"{100 * report.by_layer()['conv1'] / report.total:.1f} %",
    ]  # fmt: skip
    assert "programming" in text
    assert "of the total rests on assumed figures of target digital-rram-180nm" in " ".join(
        text.split()
    )


def test_json_is_plain(target):
    report = energy(COUNTS, target)
    made = json.loads(json.dumps(to_json(Outcome(COUNTS), report)))
    assert made["samples"] == 2
    assert made["counts"]["infer"]["conv1.read.xor.rows"] == 40
    assert made["energy_pj"]["total"] == pytest.approx(report.total)
    assert made["energy_pj"]["by_layer"]["fc"] == pytest.approx(report.by_layer()["fc"])
    assert made["target"]["figures"]["energy.set"]["status"] == "cited"


def test_expected_values_are_labelled(target):
    counts = replace(COUNTS, expected=frozenset([("conv1", "read.xor", "ones")]))
    label = "expected values, not counted: read.xor.ones"
    for given, shown in ((COUNTS, False), (counts, True)):
        report, out = energy(given, target), io.StringIO()
        print_counts_and_energy(Outcome(given), report, Console(file=out, width=100))
        assert (label in out.getvalue()) == shown
        made = to_json(Outcome(given), report)["counts"]
        assert made.get("expected") == (["conv1.read.xor.ones"] if shown else None)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 pJ"),
        (9.994e-13, "0.999 pJ"),
        (1.234e-9, "1.23 nJ"),
        (9.999e-7, "1 µJ"),
        (5e6, "5 MJ"),
    ],
)
def test_engineering(value, text):
    assert engineering(value, "J") == text


def test_quantity():
    shown = [quantity(n) for n in (0, 815, 1234, 45_600_000, 10**15)]
    assert shown == ["0", "815", "1.23k", "45.6M", "1e+03T"]
