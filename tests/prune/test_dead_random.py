"""Removal of dead channels on random networks: the function stays, and nothing dead is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from random_networks import Network
from removal_check import assert_same, exported, imported, run, to_the_end

from cimc.ir.graph import layer_name
from cimc.ir.printer import print_graph
from cimc.prune.dead import remove_dead_channels
from cimc.prune.spaces import Spaces

PLAIN = (
    "conv", "depthwise", "norm", "activation", "pool", "residual", "concat", "split", "shuffle",
)  # fmt: skip


def check_function(seed, integers):
    net = Network(seed, integers)
    samples = net.feeds()
    expected = run(net.model, samples)
    graph = imported(net.model)
    count = remove_dead_channels(graph).channels
    assert_same(expected, run(exported(graph), samples), exact=integers)
    count += to_the_end(graph)
    text = print_graph(graph)
    assert_same(expected, run(exported(graph), samples), exact=integers)
    assert to_the_end(graph) == 0
    assert print_graph(graph) == text
    return count


@pytest.mark.parametrize("integers", [True, False])
@pytest.mark.parametrize("first", range(0, 120, 20))
def test_function_stays(first, integers):
    removed = [check_function(seed, integers) for seed in range(first, first + 20)]
    assert sum(removed) > 20  # most networks lose some


@pytest.mark.slow
@pytest.mark.parametrize("integers", [True, False])
@pytest.mark.parametrize("first", range(1000, 4000, 100))
def test_function_stays_on_many(first, integers):
    for seed in range(first, first + 100):
        check_function(seed, integers)


def zero_kernels(layer):
    rows = np.moveaxis(layer.weights.const, layer.layer.out_axis, 0)
    return ~rows.reshape(len(rows), -1).any(axis=1)


def constant_channels(spaces):
    """Channels that only kernels of zeros make, and no input: what goes through operations on
    each element and pools stays a constant then."""
    made = np.zeros(spaces.count, bool)
    live = np.zeros(spaces.count, bool)
    for layer in spaces.kernels:
        depthwise = layer.groups > 1 and layer.columns.shape[1] == 1
        made[layer.out[[False] * len(layer.out) if depthwise else slice(None)]] = True
        if not depthwise:
            live[layer.out[~zero_kernels(layer)]] = True
    return made & ~live


@pytest.mark.parametrize("first", range(0, 100, 25))
def test_all_that_is_dead_goes(first):
    """By layer: what is left is what was alive, locked, or needed so that one is left."""
    gone = 0
    for seed in range(first, first + 25):
        net = Network(seed, True, blocks=PLAIN)
        graph = imported(net.model)
        spaces = Spaces(graph)
        dead = set(np.nonzero(constant_channels(spaces))[0].tolist()) - set(spaces.locked)
        dead -= spaces.spared(dead)
        expected = {
            layer_name(k.node): int((~np.isin(k.out, list(dead))).sum()) for k in spaces.kernels
        }
        gone += len(dead)
        to_the_end(graph)
        found = {layer_name(k.node): len(k.out) for k in Spaces(graph).kernels}
        assert all(found[name] <= count for name, count in expected.items() if name in found), seed
    assert gone > 20


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from random_networks import Network
from removal_check import imported, to_the_end
from cimc.ir.printer import print_graph
import hashlib
digest = hashlib.sha256()
for seed in range(12):
    graph = imported(Network(seed).model)
    to_the_end(graph)
    digest.update(print_graph(graph).encode())
print(digest.hexdigest())
"""


def test_the_same_whatever_the_hash_seed():
    found = set()
    for seed in ("0", "1", "77"):
        call = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent)]
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(call, env=env, capture_output=True, text=True, check=True)
        found.add(done.stdout)
    assert len(found) == 1
