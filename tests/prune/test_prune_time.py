"""How long pruning takes on a network of ResNet-50's shape, against plain matrix products."""

from __future__ import annotations

import time

import numpy as np
import pytest

from cimc.bench.resnet import resnet50_float
from cimc.driver import PassContext
from cimc.driver.pipeline import parse_pipeline
from cimc.driver.registry import load_registry
from cimc.frontend.importer import import_model
from cimc.prune.known import Known
from cimc.prune.published import kernel_matrix
from cimc.prune.spaces import Spaces


def seconds(function):
    """Processor time, of all threads: other work on the machine does not count."""
    start = time.process_time()
    function()
    return time.process_time() - start


@pytest.mark.slow
def test_all_pairs_of_a_large_network_cost_little_more_than_products():
    """Judging all pairs in all layers, and taking out what goes, against one product of each
    layer's kernels with themselves in double precision."""
    graph = import_model(resnet50_float(), "resnet50")
    known = Known(graph)
    layers = [kernel_matrix(k, known) for k in Spaces(graph).kernels if k.layer.spatial]
    assert sum(len(rows) * (len(rows) - 1) // 2 for rows in layers) > 10_000_000  # pairs
    doubles = [rows.astype(np.float64) for rows in layers]
    base = seconds(lambda: [rows @ rows.T for rows in doubles])
    (prune,) = parse_pipeline("prune-similar{criterion=published-float}", load_registry())
    before = sum(len(rows) for rows in layers)
    taken = seconds(lambda: prune.run(graph, PassContext()))
    after = sum(len(k.out) for k in Spaces(graph).kernels if k.layer.spatial)
    print(f"products {base:.2f} s, pruned in {taken:.2f} s, {taken / base:.1f} times as much")
    assert after < 0.9 * before
    assert taken < 20 * base
