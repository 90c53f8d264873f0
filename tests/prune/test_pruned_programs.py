"""Programs of pruned networks: the oracle's bits, and for exact integers those of the network
before it lost anything."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from random_networks import Network
from removal_check import exported, imported, run, to_the_end

import cimc
from cimc.oracle import compare, open_oracle

KINDS = ("equal", "rounding")


def joined(samples):
    return {name: np.concatenate([s[name] for s in samples]) for name in samples[0]}


def check_program(seed, pipeline, folder, as_pass):
    """Pruned as ONNX and compiled, or by the pass in front of or behind the pipeline."""
    net = Network(seed, integers=seed % 2 == 0)
    samples = net.feeds(2)
    path = folder / "case.onnx"
    model = net.model
    if not as_pass:
        graph = imported(model)
        to_the_end(graph)
        model = exported(graph)
    onnx.save(model, path)
    program = cimc.compile(path, pipeline=as_pass or pipeline, target="ideal")
    feeds = joined(samples)
    found = program.run(feeds, engine="reference").outputs
    kinds = [c.kind for c in compare(open_oracle(path, program.program)(feeds), found)]
    assert set(kinds) <= set(KINDS), (seed, kinds)
    if pipeline == "exact" and net.integers:
        for name, array in joined(run(net.model, samples)).items():
            np.testing.assert_array_equal(found[name], array, err_msg=f"{seed}: {name}")


@pytest.mark.parametrize("pipeline", ["exact", "auto"])
@pytest.mark.parametrize("first", range(0, 12, 6))
def test_program_of_a_pruned_network(pipeline, first, tmp_path):
    for seed in range(first, first + 6):
        check_program(seed, pipeline, tmp_path, "")


@pytest.mark.parametrize("where", ["remove-dead-channels,exact", "exact,remove-dead-channels"])
@pytest.mark.parametrize("first", range(12, 24, 6))
def test_pruned_before_and_after_layers_are_recognised(where, first, tmp_path):
    for seed in range(first, first + 6):
        check_program(seed, "exact", tmp_path, where)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["", "remove-dead-channels,auto", "exact,remove-dead-channels"])
@pytest.mark.parametrize("first", range(100, 200, 10))
def test_many_programs(where, first, tmp_path):
    pipeline = "auto" if "auto" in where else "exact"
    for seed in range(first, first + 10):
        check_program(seed, pipeline, tmp_path, where)
