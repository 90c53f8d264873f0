"""Accuracy of the binarised MNIST network against the convolutions' operations removed.

Four ways to choose channels: by their effect, with the layers behind fitted to calibration images
(`prune-similar{criterion=budget}`); at random, with and without that; by the published criterion.
Nothing is trained. The calibration images are the first 1,000 for training; test images are used
for the figures alone. Writes [{"label": …, "points": [[share removed, accuracy], …]}, …].
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from cimc.api import read_graph
from cimc.driver import PassContext
from cimc.driver.clone import clone
from cimc.driver.trial import run_pipeline
from cimc.ir.graph import Graph
from cimc.prune.activations import Batches, batches
from cimc.prune.budget import Search, guessed
from cimc.prune.compensate import Original, prune
from cimc.prune.costs import Costs
from cimc.prune.dead import remove_dead_channels
from cimc.prune.known import Known
from cimc.prune.published import set_kernels
from cimc.prune.schedule import outputs
from cimc.prune.spaces import Spaces

SHARES = [n / 10 for n in range(9)]
Points = list[tuple[float, float]]


def samples(images: Any) -> list[dict[str, Any]]:
    return [{"image": image[None, None]} for image in images]


class Test:
    """Test images and their labels."""

    def __init__(self, graph: Graph, images: Any, labels: Any) -> None:
        self.data: Batches = batches(graph, samples(images))
        self.labels = labels.astype(np.int64)

    def accuracy(self, graph: Graph) -> float:
        return guessed(outputs(graph, self.data)[0], self.labels) / len(self.labels)


def by_effect(graph: Graph, images: Any, test: Test) -> Points:
    search = Search(graph, samples(images))
    search.run(max(SHARES))
    points = []
    for share in SHARES:
        count = search.count_for(share)
        points.append((search.removed(count), test.accuracy(search.pruned(count))))
        print(f"by effect: {points[-1][0]:.1%} removed, {points[-1][1]:.2%} right", flush=True)
    return points


def at_random(graph: Graph, seed: int, cut: Callable[[set[int]], Graph], test: Test) -> Points:
    """Channels of the convolutions in random order; no layer loses its last."""
    spaces = Spaces(graph)
    costs = Costs(spaces)
    free = [c for c in range(spaces.count) if c not in spaces.locked and costs.removed([c]) > 0]
    order = np.random.default_rng(seed).permutation(free).tolist()
    gone: set[int] = set()
    points = []
    for share in SHARES:
        while costs.removed(gone) < share:
            channel = order.pop(0)
            if not spaces.spared({*gone, channel}):
                gone.add(channel)
        points.append((costs.removed(gone), test.accuracy(cut(gone))))
        print(f"random, seed {seed}: {points[-1][0]:.1%}, {points[-1][1]:.2%} right", flush=True)
    return points


def without(graph: Graph, gone: set[int]) -> Graph:
    """Kernels set to zero, and what is constant then folded: nothing is fitted."""
    twin, _ = clone(graph)
    spaces, known = Spaces(twin), Known(twin)
    for layer in spaces.kernels:
        mask = np.isin(layer.out, list(gone))
        if layer.layer.spatial and mask.any():
            set_kernels(twin, layer, mask, known)
    remove_dead_channels(twin)
    return twin


def published(graph: Graph, test: Test) -> Points:
    """The published criterion with its b = 0.146, over the range of c."""
    dense = Costs(Spaces(graph)).total
    points = [(0.0, test.accuracy(graph))]
    for c in [Fraction(n, 40) for n in range(30, 3, -1)]:
        twin, _ = clone(graph)
        option = f"prune-similar{{criterion=published-binary,c={c.numerator}/{c.denominator}}}"
        run_pipeline(twin, option, PassContext())
        share = 1 - Costs(Spaces(twin)).total / dense
        if share > points[-1][0]:
            points.append((share, test.accuracy(twin)))
            print(f"published, c={float(c):.3f}: {share:.1%}, {points[-1][1]:.2%}", flush=True)
    return points


def mean(curves: list[Points]) -> Points:
    return [(float(a), float(b)) for a, b in np.mean(np.array(curves), axis=0)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="mnist.npz")
    parser.add_argument("--model", default=str(Path(__file__).with_name("mnist_bnn.onnx")))
    parser.add_argument("--out", default="prune_curve.json")
    parser.add_argument("--seeds", type=int, default=3, help="random orders, averaged")
    parser.add_argument("--images", type=int, default=1000, help="for calibration")
    options = parser.parse_args()
    with np.load(options.data) as data:
        images = data["x_train"][: options.images]
        graph = read_graph(options.model)
        test = Test(graph, data["x_test"], data["y_test"])
    original = Original(graph, Spaces(graph), batches(graph, samples(images)))
    seeds = range(options.seeds)
    ways: dict[str, Callable[[], Points]] = {
        "budget": lambda: by_effect(graph, images, test),
        "random, fitted as budget": lambda: mean(
            [at_random(graph, s, lambda g: prune(original, g).graph, test) for s in seeds]
        ),
        "published-binary": lambda: published(graph, test),
        "random": lambda: mean(
            [at_random(graph, s, lambda g: without(graph, g), test) for s in seeds]
        ),
    }
    curves = []
    for label, way in ways.items():
        curves.append({"label": label, "points": way()})
        Path(options.out).write_text(json.dumps(curves, indent=1) + "\n")


if __name__ == "__main__":
    main()
