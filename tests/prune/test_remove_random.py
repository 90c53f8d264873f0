"""Any channel that isn't locked can be taken out: what is left computes what the network does
when the columns behind that channel are zeros."""

from __future__ import annotations

import numpy as np
import pytest
from random_networks import Network
from removal_check import assert_same, exported, imported, run

from cimc.frontend.export import to_onnx
from cimc.prune.remove import remove_channels
from cimc.prune.spaces import Spaces


def without_columns(graph, spaces, gone):
    """Zeros in place of the weights that meet channels of `gone`, each layer's own."""
    for layer in spaces.kernels:
        meant = np.isin(layer.columns, list(gone))
        if not meant.any():
            continue
        form, node = layer.layer, layer.node
        w = np.array(layer.weights.const)
        out, inner = form.out_axis % w.ndim, form.in_axis % w.ndim
        rows = np.moveaxis(w, (out, inner), (0, 1))
        parts = rows.reshape(layer.groups, -1, *rows.shape[1:]).copy()
        for group, columns in enumerate(meant):
            parts[group][:, columns] = 0
        w = np.moveaxis(parts.reshape(rows.shape), (0, 1), (out, inner))
        slot = form.weights
        made = graph.const(f"{node.outputs[0].name}.less", w, layer.weights.type)
        node.inputs[slot] = made


def check_removal(seed, integers):
    net = Network(seed, integers)
    rng = np.random.default_rng(seed)
    graph = imported(net.model)
    spaces = Spaces(graph)
    free = {c for k in spaces.kernels for c in k.out.tolist() if c not in spaces.locked}
    gone = {c for c in sorted(free) if rng.random() < 0.5}
    gone -= spaces.spared(gone)
    reference = imported(net.model)
    without_columns(reference, Spaces(reference), gone)
    remove_channels(graph, spaces, gone)
    samples = net.feeds()
    expected = run(to_onnx(reference), samples)
    assert_same(expected, run(exported(graph), samples), exact=integers)
    for before, after in zip(spaces.kernels, Spaces(graph).kernels, strict=True):
        assert len(after.out) == int((~np.isin(before.out, list(gone))).sum())
    return len(gone)


@pytest.mark.parametrize("integers", [True, False])
@pytest.mark.parametrize("first", range(0, 80, 20))
def test_removal_is_that_of_columns(first, integers):
    assert sum(check_removal(seed, integers) for seed in range(first, first + 20)) > 20


@pytest.mark.slow
@pytest.mark.parametrize("integers", [True, False])
@pytest.mark.parametrize("first", range(1000, 3000, 100))
def test_removal_is_that_of_columns_in_many(first, integers):
    for seed in range(first, first + 100):
        check_removal(seed, integers)
