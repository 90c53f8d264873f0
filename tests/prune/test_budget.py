"""Pruning to a budget: what goes first, and what the layers behind make up for."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import budget_nets as nets
import numpy as np
import pytest

from cimc.driver.clone import clone
from cimc.frontend.evaluate import Evaluator
from cimc.frontend.export import to_onnx
from cimc.frontend.session import call, open_session
from cimc.ir.graph import Graph
from cimc.ir.verify import verify
from cimc.prune.budget import Budget, Search, prune_to_budget
from cimc.prune.spaces import Spaces


def _channels(graph: Graph, name: str) -> list[int]:
    (layer,) = (k for k in Spaces(graph).kernels if k.node.source == name)
    return layer.out.tolist()


def _weights(graph: Graph, name: str) -> np.ndarray:
    (node,) = (n for n in graph.nodes if n.source == name)
    assert node.arg(1).const is not None
    return node.arg(1).const


def _difference(a: Graph, b: Graph, samples: list) -> float:
    runs = [np.concatenate([Evaluator(g)(s)["fc.out"] for s in samples]) for g in (a, b)]
    return float(np.abs(runs[0] - runs[1]).max() / np.abs(runs[0]).max())


@pytest.mark.parametrize("batch", ["N", 1])
def test_copies_and_complements_go_first_and_are_made_up_for(batch: int | str) -> None:
    graph = nets.odd(batch)
    dense, _ = clone(graph)
    first = _channels(graph, "first")
    search = Search(graph, nets.samples(graph, 30), allowed=first, step=0.01)
    search.run(search.schedule.costs.removed(first[:2]))
    gone = {first.index(c) for c in search.channels}
    assert len(gone) == 2
    assert len(gone & {0, 3}) == len(gone & {1, 4}) == 1
    pruned = search.pruned(2)
    assert _weights(pruned, "first").shape == (4, 2, 3, 3)
    assert pruned.inputs[0].type == dense.inputs[0].type
    assert _difference(dense, pruned, nets.samples(graph, 5, seed=9)) < 1e-4


def test_signs_stay_signs_and_the_complement_goes_first() -> None:
    graph = nets.signs()
    dense, _ = clone(graph)
    first = _channels(graph, "first")
    search = Search(graph, nets.samples(graph, 60), allowed=first, step=0.01)
    search.run(search.schedule.costs.removed(first[:1]))
    assert {first.index(c) for c in search.channels} <= {2, 5}
    search.run(search.schedule.costs.removed(first[:4]))
    pruned = search.pruned(len(search.channels))
    assert _weights(pruned, "first").shape[0] == 4
    for name in ("first", "second"):
        assert set(np.unique(_weights(pruned, name))) == {-1.0, 1.0}
    assert [n.op for n in pruned.nodes] == [n.op for n in dense.nodes]


@pytest.mark.parametrize("make", [nets.odd, nets.residual, nets.depthwise, nets.signs])
def test_the_share_is_reached_within_a_channel(make: Callable[[], Graph]) -> None:
    graph = make()
    samples = nets.samples(graph, 24)
    search = Search(graph, samples)
    search.run(0.4)
    count = len(search.channels)
    assert search.removed(count) >= 0.4 > search.removed(count - 1)
    report = prune_to_budget(graph, samples, Budget(remove_macs=0.4))
    verify(graph)
    assert report.channels == count
    assert report.removed == pytest.approx(1 - _macs(graph) / _macs(make()))
    (sample, *_) = samples
    session = open_session(to_onnx(graph).SerializeToString(), "pruned")
    (found,) = call(session, sample, "pruned")
    assert np.isfinite(found).all()


def _macs(graph: Graph) -> int:
    convs = [n for n in graph.nodes if n.op == "onnx.Conv"]
    return sum(
        prod(d for d in n.output.tensor.shape[2:]) * prod(n.arg(1).tensor.static) for n in convs
    )


@pytest.mark.parametrize("make", [nets.odd, nets.residual, nets.depthwise, nets.signs])
def test_fitted_layers_are_nearer_than_bare_ones(make: Callable[[], Graph]) -> None:
    """On samples that nothing was fitted to."""
    from cimc.prune.activations import batches
    from cimc.prune.remove import remove_channels
    from cimc.prune.schedule import outputs, relative_error

    graph = make()
    search = Search(graph, nets.samples(graph, 120))
    search.run(0.4)
    fresh = batches(graph, nets.samples(graph, 60, seed=5))
    wanted = outputs(graph, fresh)
    bare, _ = clone(graph)
    remove_channels(bare, Spaces(bare), set(search.channels))
    fitted = search.pruned(len(search.channels))
    errors = [relative_error(outputs(g, fresh), wanted) for g in (fitted, bare)]
    assert errors[0] < 0.5 * errors[1]


def test_a_drop_is_kept_on_held_out_samples() -> None:
    graph = nets.odd()
    samples = nets.samples(graph, 200)
    labels = np.array([int(Evaluator(graph)(s)["fc.out"].argmax()) for s in samples])
    dense, _ = clone(graph)
    report = prune_to_budget(graph, samples, Budget(max_drop=0.05), labels)
    assert report.before == 1.0
    assert report.after is not None
    assert report.after >= 0.95
    assert report.channels >= 2
    assert report.removed > 0
    search = Search(dense, samples)
    search.run(1.0)
    assert search.right(report.channels, labels) == round(report.after * 200)
    assert search.right(report.channels + 1, labels) < 190


def test_no_drop_at_all_still_takes_copies() -> None:
    graph = nets.odd()
    samples = nets.samples(graph, 60)
    labels = np.array([int(Evaluator(graph)(s)["fc.out"].argmax()) for s in samples])
    allowed = _channels(graph, "first")
    report = prune_to_budget(graph, samples, Budget(max_drop=0.0), labels, allowed)
    assert (report.before, report.after) == (1.0, 1.0)
    assert report.channels >= 2


def test_every_layer_keeps_a_channel() -> None:
    graph = nets.residual()
    report = prune_to_budget(graph, nets.samples(graph, 10), Budget(remove_macs=1.0))
    assert report.removed < 1.0
    assert all(_weights(graph, n).shape[0] == 1 for n in ("stem", "branch", "last"))


def test_a_single_sample_is_enough() -> None:
    graph = nets.odd()
    report = prune_to_budget(graph, nets.samples(graph, 1), Budget(remove_macs=0.2), np.array([0]))
    assert report.removed >= 0.2
    assert report.after in (0.0, 1.0)
