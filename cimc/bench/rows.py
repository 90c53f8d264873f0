"""The rows of the table that run in this process: networks by the engine and by onnxruntime in
turns, and the engine against the roofline and the reference interpreter.

Each function measures one group and gives its figures; `processes.py` has the other rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cimc.bench.figures import Figure, Goal
from cimc.bench.mnist import mnist_binary, mnist_float, mnist_qdq
from cimc.bench.networks import binary_layer, ds_cnn, mobilenet_v2, tfc_1w1a
from cimc.bench.programs import Feeds, Runner, engine, first, random_feeds
from cimc.bench.resnet import resnet50, resnet50_float
from cimc.bench.roofline import MACS_OF_A_ROUND, roofline_work
from cimc.bench.runners import Network, agreement, compile_network, onnxruntime, wrong_outputs
from cimc.bench.same_model import quantised_export
from cimc.bench.timing import Effort, Series, Work, in_turns, median_of


@dataclass(frozen=True)
class Setup:
    """How to measure. quick: smaller batches and networks, which show that everything works and
    not how fast. folder: for files that are needed meanwhile. feature: what the processor lacks
    of what the goals for binary networks assume; empty if nothing."""

    threads: int
    effort: Effort
    quick: bool
    folder: Path
    feature: str = ""

    def batches(self) -> tuple[int, int, int]:
        return (1, 8, 16) if self.quick else (1, 64, 1024)


_ROOFLINE = Goal(0.6, 0.85)
# K: channels, rows, kernel, size of the image
_LAYERS = {
    288: (32, 64, 3, 14),
    576: (64, 128, 3, 14),
    1024: (1024, 128, 1, 7),
    2304: (256, 256, 3, 7),
}


def popcount(setup: Setup) -> list[Figure]:
    """The GEMM of a binary convolution, windows and thresholds with it, by the engine's profile,
    against the roofline; both on one core, whatever the number of threads."""
    return [_popcount(setup, k) for k in _LAYERS]


def _popcount(setup: Setup, k: int) -> Figure:
    channels, rows, kernel, size = _LAYERS[k]
    batch = 8 if setup.quick else 32  # a millisecond at most: few are interrupted
    network = compile_network(binary_layer(channels, rows, kernel, size), setup.folder)
    feeds = random_feeds(network.program, batch)
    bits = batch * size * size * rows * k
    roofline, macs = roofline_work(1, bits // MACS_OF_A_ROUND["bit"])  # as long as the GEMM
    repeats = 3 if setup.quick else 25

    def gemm() -> float:
        steps = network.compiled.profile(feeds, repeats=repeats)
        return sum(s.seconds for s in steps if (s.layer, s.unit) == ("conv", "bit"))

    probes = {"roofline": median_of(roofline, repeats), "gemm": gemm}
    series = in_turns({}, setup.effort, probes)
    run = engine(network.compiled, setup.threads)
    return Figure(
        f"popcount-{k}",
        f"popcount GEMM, K = {k}, share of roofline",
        [ratio * bits / macs for ratio in series.ratios("roofline", "gemm")],
        "share",
        _ROOFLINE,
        wrong=wrong_outputs(network, run, feeds),
        details={
            "threads": 1,
            "batch": batch,
            "gemm": {"rows": rows, "columns": k, "positions": batch * size * size},
            "roofline_bit_macs_per_s": macs / series.median("roofline"),
            "gemm_bit_macs_per_s": bits / series.median("gemm"),
            "timings": series.to_json(),
        },
    )


_FLOAT_GOALS = (Goal(2, 6), Goal(6, 12), Goal(10, 18))
_INT8_GOALS = (Goal(2, 6), Goal(6, 12), Goal(8, 16))


def mnist(setup: Setup) -> list[Figure]:
    """The binary network of MNIST against its float and its int8 form in onnxruntime."""
    network = compile_network(mnist_binary(), setup.folder)
    runners = {
        "engine": engine(network.compiled, setup.threads),
        "float": onnxruntime(mnist_float(), setup.threads, "float +-1 MNIST"),
        "int8": onnxruntime(mnist_qdq(), setup.threads, "int8 QDQ MNIST"),
    }
    against_float: list[Figure] = []
    against_int8: list[Figure] = []
    for batch, for_float, for_int8 in zip(setup.batches(), _FLOAT_GOALS, _INT8_GOALS):
        feeds = random_feeds(network.program, batch)
        wrong = wrong_outputs(network, runners["engine"], feeds)
        series = in_turns(_works(runners, feeds), setup.effort)
        parts = _details(setup, series, batch) | {"baselines_agree": _agree(runners, feeds)}
        for name, goal, found in (
            ("float +-1", for_float, against_float),
            ("int8 QDQ", for_int8, against_int8),
        ):
            short = name.split()[0]
            found.append(
                Figure(
                    f"mnist-{short}-{batch}",
                    f"MNIST binary against {name}, batch {batch}",
                    series.ratios(short, "engine"),
                    "times",
                    goal,
                    setup.feature,
                    wrong,
                    parts,
                )
            )
    return against_float + against_int8


def reference(setup: Setup) -> list[Figure]:
    """The engine against the reference interpreter: at the same batch, which it runs side by
    side, and (for information) one sample at a time."""
    network = compile_network(mnist_binary(), setup.folder)
    batch = setup.batches()[-1]
    feeds = random_feeds(network.program, batch)
    run, slow = engine(network.compiled, setup.threads), engine(network.compiled, 1, "reference")
    one = first(network.program, feeds, 1)
    works: dict[str, Work] = {
        "engine": lambda: run(feeds),
        "reference": lambda: slow(feeds),
        "reference, one sample": lambda: slow(one),
    }
    series = in_turns(works, setup.effort)
    wrong = wrong_outputs(network, run, feeds)
    parts = _details(setup, series, batch)
    single = [batch * ratio for ratio in series.ratios("reference, one sample", "engine")]
    scaled = {"scaled": f"the time of one sample, times {batch}"}
    return [
        Figure(
            f"reference-{batch}",
            f"MNIST binary against the reference interpreter, batch {batch}",
            series.ratios("reference", "engine"),
            "times",
            Goal(1000, 4000),
            setup.feature,
            wrong,
            parts,
        ),
        Figure(
            f"reference-single-{batch}",
            "the same, the reference interpreter one sample at a time",
            single,
            "times",
            wrong=wrong,
            details=parts | scaled,
        ),
    ]


def tfc(setup: Setup) -> list[Figure]:
    """Images a second of the network TFC_1W1A."""
    network = compile_network(tfc_1w1a(), setup.folder)
    batch = setup.batches()[-1]
    run, feeds = engine(network.compiled, setup.threads), random_feeds(network.program, batch)
    series = in_turns({"engine": lambda: run(feeds)}, setup.effort)
    return [
        Figure(
            f"tfc-{batch}",
            f"TFC_1W1A, images a second, batch {batch}",
            [batch / seconds for seconds in series.seconds["engine"]],
            "images/s",
            Goal(100_000, 500_000),
            setup.feature,
            wrong_outputs(network, run, feeds),
            _details(setup, series, batch),
        )
    ]


def resnet(setup: Setup) -> list[Figure]:
    """ResNet-50's shape in int8 at batch 1 against QLinearConv and float in onnxruntime."""
    size = 32 if setup.quick else 224
    model = resnet50(size=size)
    network = compile_network(model, setup.folder)
    feeds = random_feeds(network.program, 1)
    image = (np.asarray(feeds["image"], np.float32) - 128) * np.float32(0.05)
    run = engine(network.compiled, setup.threads)
    integer = onnxruntime(model, setup.threads, "int8 ResNet-50")
    floating = onnxruntime(resnet50_float(size=size), setup.threads, "float ResNet-50")
    works: dict[str, Work] = {
        "engine": lambda: run(feeds),
        "int8": lambda: integer(feeds),
        "float": lambda: floating({"image": image}),
    }
    wrong = wrong_outputs(network, run, feeds)
    series = in_turns(works, setup.effort)
    agree = {"int8": agreement(run(feeds), integer(feeds))}
    parts = _details(setup, series, 1) | {"image_size": size, "baselines_agree": agree}
    return [
        Figure(
            f"resnet50-{name}-{size}",
            f"ResNet-50 int8, {size}x{size}, batch 1, against {text}",
            series.ratios(name, "engine"),
            "times",
            goal,
            "",
            wrong,
            parts,
        )
        for name, text, goal in (
            ("int8", "QLinearConv", Goal(0.7, 1.2)),
            ("float", "float", Goal(2, 3.5)),
        )
    ]


_SAME_MODEL = Goal(0.5, 1)


def mobilenet(setup: Setup) -> list[Figure]:
    """MobileNetV2-0.35 in float, compiled by `auto`, against its dynamically quantised form: at
    batch 1, because a dynamic scale is that of the whole batch in onnxruntime. Its ConvInteger
    is slow there, so for information the float model too."""
    size = 32 if setup.quick else 128
    network = compile_network(mobilenet_v2(size=size), setup.folder, "auto")
    label = f"MobileNetV2-0.35 in auto, {size}x{size}, batch 1, against"
    same, floats = quantised_export(network.path), network.path.read_bytes()
    return [
        against_same(
            setup, network, same, f"mobilenet-{size}", f"{label} its int8 form", 1, _SAME_MODEL
        ),
        against_same(setup, network, floats, f"mobilenet-float-{size}", f"{label} float", 1, None),
    ]


def ds_cnn_row(setup: Setup) -> list[Figure]:
    """DS-CNN in int8 QDQ against onnxruntime on the same file."""
    network = compile_network(ds_cnn(), setup.folder)
    same, label = network.path.read_bytes(), "DS-CNN int8 QDQ, batch {}, against onnxruntime"
    return [
        against_same(
            setup, network, same, f"ds-cnn-{batch}", label.format(batch), batch, _SAME_MODEL
        )
        for batch in setup.batches()[:2]
    ]


def against_same(
    setup: Setup,
    network: Network,
    baseline: bytes,
    key: str,
    label: str,
    batch: int,
    goal: Goal | None,
) -> Figure:
    """A program against onnxruntime on the model that does the same."""
    runners = {
        "engine": engine(network.compiled, setup.threads),
        "onnxruntime": onnxruntime(baseline, setup.threads, label),
    }
    feeds = random_feeds(network.program, batch)
    wrong = wrong_outputs(network, runners["engine"], feeds)
    series = in_turns(_works(runners, feeds), setup.effort)
    parts = _details(setup, series, batch) | {"baselines_agree": _agree(runners, feeds)}
    ratios = series.ratios("onnxruntime", "engine")
    return Figure(key, label, ratios, "times", goal, "", wrong, parts)


def _works(runners: Mapping[str, Runner], feeds: Feeds) -> dict[str, Work]:
    return {name: _call(run, feeds) for name, run in runners.items()}


def _call(run: Runner, feeds: Feeds) -> Work:
    return lambda: run(feeds)


def _agree(runners: Mapping[str, Runner], feeds: Feeds) -> dict[str, object]:
    expected = runners["engine"](feeds)
    return {n: agreement(expected, run(feeds)) for n, run in runners.items() if n != "engine"}


def _details(setup: Setup, series: Series, batch: int) -> dict[str, object]:
    return {"threads": setup.threads, "batch": batch, "timings": series.to_json()}
