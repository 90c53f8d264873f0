"""Where the time goes, on numbers that are known."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from cimc.bench.mnist import mnist_binary
from cimc.bench.profile import Profile, default_batch, print_profile, profile
from cimc.bench.programs import random_feeds
from cimc.bench.resnet import resnet50
from cimc.bench.runners import compile_network
from cimc.bench.timing import Effort
from cimc.sim.packed.engine import StepTime

STEPS = [
    StepTime("conv", "st.ge", "packed", 2e-6, 1_000_000, "bit"),
    StepTime("conv", "ones", "packed", 1e-6, 500, "element"),
    StepTime("fc", "st.rq", "packed", 1e-6, 20_000, "byte"),
    StepTime("fc", "st.rq", "packed", 1e-6, 20_000, "byte"),
    StepTime("host1", "", "host", 5e-6, 0, "element"),
]
FOUND = Profile(2, 1, STEPS, {"bit": 2e12}, [2e-5, 1e-5, 3e-5])


def _printed(found):
    stream = io.StringIO()
    print_profile(found, Console(file=stream, width=120))
    return stream.getvalue()


def _row(text, word):
    return next(line.split() for line in text.splitlines() if word in line)


def test_shares_of_the_roofline():
    assert FOUND.share_of_roofline(STEPS[0]) == pytest.approx(0.5)  # 2 samples in 2 µs
    assert FOUND.share_of_roofline(STEPS[1]) is None
    assert FOUND.share_of_roofline(STEPS[2]) is None, "no roofline of bytes here"


def test_the_table():
    text = _printed(FOUND)
    assert "2 samples at once, one thread" in text
    assert _row(text, "conv") == ["conv", "1.5", "µs", "30.0", "%"]
    assert _row(text, "st.ge") == [
        "st.ge", "packed", "1", "µs", "20.0", "%", "1e+03", "G", "bit-MAC/s", "50", "%",
    ]  # fmt: skip
    assert _row(text, "fc") == [  # two calls of one instruction are one step
        "fc", "st.rq", "packed", "1", "µs", "20.0", "%", "40", "G", "MAC/s",
    ]  # fmt: skip
    assert _row(text, "host1") == ["host1", "host", "2.5", "µs", "50.0", "%"]
    assert "roofline of products of bits, one core: 2,000 G bit-MAC/s" in text
    assert "whole run, 1 thread: 10 µs a sample, 100,000 samples/s" in text


def test_json_has_every_step():
    found = FOUND.to_json()
    assert found["run_seconds"] == [2e-5, 1e-5, 3e-5]
    first, *_, last = found["steps"]
    assert first["share_of_roofline"] == pytest.approx(0.5)
    assert first["work_per_s"] == pytest.approx(1e12)
    assert last["share_of_roofline"] is None
    assert len(found["steps"]) == 5


def test_every_layer_of_a_program_is_measured(tmp_path):
    network = compile_network(mnist_binary(), tmp_path)
    effort = Effort(repeats=3, least=0.0, most=1.0, processes=0)
    found = profile(network.compiled, random_feeds(network.program, 3), 2, effort)
    layers = {layer.name for layer in network.program.section("infer").layers}
    assert layers <= {step.layer for step in found.steps}
    assert (found.samples, found.threads, len(found.run)) == (3, 2, 3)
    products = [step for step in found.steps if step.unit == "bit"]
    assert sum(step.work for step in products) == 225_792 + 3_612_672 + 451_584
    assert all(0 < found.share_of_roofline(step) < 2 for step in products)


def test_the_batch_is_small_where_buffers_are_large(tmp_path):
    small = compile_network(mnist_binary(), tmp_path).program
    assert default_batch(small) == 64
    large = compile_network(resnet50(size=224), tmp_path).program
    sizes = [np.prod(mem.shape) for mem in large.mems.values()]
    assert default_batch(large) == max(1, (64 << 20) // sum(sizes)) < 64
