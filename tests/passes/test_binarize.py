"""binarize and ternarize: what layers become, what is said, and programs with every bit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import cimc
from cimc.cli.main import cli
from cimc.driver.base import PassContext
from cimc.driver.calibration import calibration_for
from cimc.driver.pipeline import parse_pipeline
from cimc.driver.registry import load_registry
from cimc.driver.runner import run_passes
from cimc.errors import CompileError
from cimc.frontend.evaluate import Evaluator
from cimc.frontend.export import to_onnx
from cimc.ir.graph import Graph, Node
from cimc.ir.text import parse_graph

SHARED = Path(__file__).resolve().parents[3] / "shared"
NET = """graph @net(%x: f32[N,3,8,8]) -> (%y) opset={onnx: 13} {
  const %w1: f32[8,3,3,3] = random seed=1
  const %b1: f32[8] = random seed=2
  const %w2: f32[8,1,3,3] = random seed=3
  const %w3: f32[8,4,1,1] = random seed=4
  const %w4: f32[5,128] = random seed=5
  const %b4: f32[5] = random seed=6

  %a = onnx.Conv(%x, %w1, %b1) pads=[1,1,1,1]: f32[N,8,8,8] from "wide"
  %r = onnx.Relu(%a): f32[N,8,8,8]
  %d = onnx.Conv(%r, %w2) group=8 pads=[1,1,1,1]: f32[N,8,8,8] from "deep"
  %s = onnx.Add(%d, %r): f32[N,8,8,8]
  %g = onnx.Conv(%s, %w3) group=2: f32[N,8,8,8] from "grouped"
  %m = onnx.MaxPool(%g) kernel_shape=[2,2] strides=[2,2]: f32[N,8,4,4]
  %f = onnx.Flatten(%m): f32[N,128]
  %y = onnx.Gemm(%f, %w4, %b4) transB=1: f32[N,5] from "fc"
}
"""
X = np.random.default_rng(3).standard_normal((60, 3, 8, 8)).astype(np.float32)


def _run(graph: Graph, spec: str, **data: Any) -> list[str]:
    """Run the passes in place; the notes."""
    passes = parse_pipeline(spec, load_registry())
    ctx = PassContext(calibration=calibration_for(passes, data, "here"))
    run_passes(graph, passes, ctx)
    return ctx.notes


def _bound() -> Graph:
    return parse_graph(NET.replace("[N,", "[1,"))


def _values(graph: Graph, *names: str) -> dict[str, Any]:
    """Values by name, on all samples."""
    found = [v for n in graph.nodes for v in n.outputs if v.name in names]
    graph.outputs = found
    graph.output_names = [v.name for v in found]
    run = Evaluator(graph)
    results = [run({"x": x[None]}) for x in X]
    return {name: np.concatenate([r[name] for r in results]) for name in results[0]}


def _table(notes: list[str]) -> dict[str, tuple[str, float, float]]:
    """Levels and errors in percent by layer."""
    rows = [re.fullmatch(r"  (\S+) +(±1|0, 1) +([\d.]+)% +([\d.]+)%", note) for note in notes]
    return {r[1]: (r[2], float(r[3]), float(r[4])) for r in rows if r is not None}


def _const(graph: Graph, name: str) -> Any:
    return next(v.const for v in graph.consts if v.name == name)


@pytest.mark.parametrize("spec", ["binarize{keep_ends=false}", "ternarize{keep_ends=false}",
                                  "ternarize{keep_ends=false,refine=false}"])  # fmt: skip
def test_each_layer_is_fitted_to_the_float_output(spec: str) -> None:
    """Behind the layers before it as they are now: gain and shift are numpy's line, the error is
    that of the network, the levels are few."""
    layers = {"wide": "a", "deep": "d", "grouped": "g", "fc": "y"}
    floats = _values(_bound(), *layers.values())
    graph = _bound()
    table = _table(_run(graph, spec, x=X))
    consts = {v.name: v.const for v in graph.consts}
    now = _values(graph, *layers.values(), *(f"{v}.sum" for v in layers.values()))
    assert table.keys() == layers.keys()
    for layer, name in layers.items():
        sums, y = (np.moveaxis(v, 1, 0).reshape(v.shape[1], -1).astype(np.float64)
                   for v in (now[f"{name}.sum"], floats[name]))  # fmt: skip
        gain, shift = consts[f"{name}.gain"].ravel(), consts[f"{name}.shift"].ravel()  # type: ignore[union-attr]
        for s, t, g, h in zip(sums, y, gain, shift):
            line = np.polyfit(s, t, 1) if np.ptp(s) else [g, t.mean() - g * s[0]]
            np.testing.assert_allclose([g, h], line, rtol=1e-3, atol=1e-4)
        error = np.linalg.norm(now[name] - floats[name]) / np.linalg.norm(floats[name])
        assert table[layer][2] == pytest.approx(100 * error, abs=0.02)
        assert np.array_equal(sums, np.rint(sums))
    levels = {1.0, -1.0} | ({0.0} if "tern" in spec else set())
    for w in ("w1", "w2", "w3", "w4"):
        assert set(np.unique(consts[f"{w}.levels"])) == levels  # type: ignore[arg-type]


def test_refined_layers_are_nearer() -> None:
    totals = []
    for option in ("true", "false"):
        notes = _run(_bound(), f"binarize{{keep_ends=false,refine={option}}}", x=X)
        totals.append(_table(notes)["fc"][2])
    assert totals[0] < 0.95 * totals[1]


def test_weights_of_one_sign_are_refined_too() -> None:
    graph = _bound()
    weights = next(v for v in graph.consts if v.name == "w1")
    weights.const, weights.seed = np.abs(weights.const), None  # type: ignore[arg-type]
    _run(graph, "binarize{keep_ends=false}", x=X)
    assert set(np.unique(_const(graph, "w1.levels"))) == {-1, 1}


def test_the_error_that_a_layer_adds() -> None:
    """Its own levels, gain and shift on its float input."""
    floats = _values(_bound(), "r", "d")
    graph = _bound()
    added = _table(_run(graph, "binarize{keep_ends=false}", x=X))["deep"][1]
    names = {"r.th", "one", "zero", "w2.levels", "d.gain", "d.shift"}
    consts = "\n".join(f"  const %{v.name.replace('.', '_')}: {v.type} = random seed=1"
                       for v in graph.consts if v.name in names)  # fmt: skip
    alone = parse_graph(
        f"graph @g(%r: f32[60,8,8,8]) -> (%y) opset={{onnx: 13}} {{\n{consts}\n"
        "  %t = onnx.Greater(%r, %r_th): bool[60,8,8,8]\n"
        "  %b = onnx.Where(%t, %one, %zero): f32[60,8,8,8]\n"
        "  %s = onnx.Conv(%b, %w2_levels) group=8 pads=[1,1,1,1]: f32[60,8,8,8]\n"
        "  %g = onnx.Mul(%s, %d_gain): f32[60,8,8,8]\n"
        "  %y = onnx.Add(%g, %d_shift): f32[60,8,8,8]\n}\n"
    )
    for value in alone.consts:
        value.const, value.seed = _const(graph, re.sub("_(?!one)", ".", value.name)), None
    y = Evaluator(alone)({"r": floats["r"]})["y"]
    error = np.linalg.norm(y - floats["d"]) / np.linalg.norm(floats["d"])
    assert added == pytest.approx(100 * error, abs=0.02)


@pytest.mark.parametrize("name", ["binary", "ternary"])
@pytest.mark.parametrize("options", ["", "{keep_ends=false}", "{skip=gr*+wide,keep_ends=false}"])
def test_programs_have_the_bits_of_the_model(name: str, options: str, tmp_path: Path) -> None:
    """Against onnxruntime on the graph that the passes made, as `check` holds it."""
    model, data, program = (str(tmp_path / n) for n in ("m.onnx", "d.npz", "p.cim"))
    onnx.save(to_onnx(parse_graph(NET)), model)
    np.savez(data, x=X)
    shown = CliRunner().invoke(
        cli, ["compile", model, "-p", name + options, "--calibrate", data, "-o", program]
    )
    assert shown.exit_code == 0, shown.output
    assert "4 layers on" in shown.output
    shown = CliRunner().invoke(cli, ["check", model, program, "--calibrate", data, "--input", data])
    assert "bit-exact: yes" in shown.output


def test_the_written_model_is_recognised(tmp_path: Path) -> None:
    """What `opt` writes takes no data, and all of it goes to the tiles without approximation."""
    model, data, written = (str(tmp_path / n) for n in ("m.onnx", "d.npz", "b.onnx"))
    onnx.save(to_onnx(parse_graph(NET)), model)
    np.savez(data, x=X)
    spec = "cleanup,binarize{keep_ends=false}"
    shown = CliRunner().invoke(cli, ["opt", model, "-p", spec, "--calibrate", data, "-o", written])
    assert shown.exit_code == 0, shown.output
    program = cimc.compile(written, pipeline="exact")
    assert program.graph is not None
    assert sum(n.op in ("cim.conv", "cim.matmul") for n in program.graph.nodes) == 4
    whole = cimc.compile(model, pipeline="binary{keep_ends=false}", calibration=data)
    a, b = (p.run({"x": X}).outputs["y"] for p in (program, whole))
    assert np.array_equal(a, b)


def test_the_same_twice() -> None:
    graphs = [_bound(), _bound()]
    for graph in graphs:
        _run(graph, "binarize{keep_ends=false}", x=X)
    first, second = ({v.name: v.const for v in g.consts} for g in graphs)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[k], second[k]) for k in first)  # type: ignore[arg-type]


def test_ends_of_branches() -> None:
    """Layers that read the input, and those that nothing reads but outputs."""
    graph = parse_graph(
        "graph @g(%x: f32[1,4]) -> (%y, %z) opset={onnx: 13} {\n"
        "  const %w: f32[4,4] = random seed=1\n"
        '  %a = onnx.MatMul(%x, %w): f32[1,4] from "a"\n'
        '  %b = onnx.MatMul(%x, %w): f32[1,4] from "b"\n'
        "  %s = onnx.Add(%a, %b): f32[1,4]\n"
        '  %c = onnx.MatMul(%s, %w): f32[1,4] from "c"\n'
        '  %y = onnx.MatMul(%c, %w): f32[1,4] from "y"\n'
        '  %z = onnx.MatMul(%s, %w): f32[1,4] from "z"\n}\n'
    )
    notes = _run(graph, "binarize", x=X[:, 0, 0, :4])
    assert "binarize: 1 layer with ±1 weights and two-level inputs, by 60 samples" in notes
    assert "binarize: left in float: a, b, y, z" in notes
    assert _table(notes).keys() == {"c"}
    assert "keep_ends=false" in str(_layer(graph, "z").why)


def test_binary_layers_stay() -> None:
    graph = parse_graph(
        "graph @g(%x: f32[2,4]) -> (%y) opset={onnx: 13} {\n"
        "  const %w: f32[4,2] = [1.0, -1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 1.0]\n"
        "  const %v: f32[2,3] = random seed=1\n"
        "  %s = onnx.Sign(%x): f32[2,4]\n"
        '  %a = onnx.MatMul(%s, %w): f32[2,2] from "binary"\n'
        '  %y = onnx.MatMul(%a, %v): f32[2,3] from "float"\n}\n'
    )
    data = X[:, 0, 0, :4]  # two rows are a sample
    notes = _run(graph, "binarize{keep_ends=false}", x=data)
    assert notes[0] == "binarize: 1 layer with ±1 weights and two-level inputs, by 30 samples"
    assert "binarize: left for the passes behind: binary" in notes
    assert _layer(graph, "binary").arg(1).name == "w"


def _layer(graph: Graph, name: str) -> Node:
    return next(n for n in graph.nodes if n.source == name)


def test_layers_that_stay() -> None:
    graph = parse_graph(
        "graph @g(%x: f32[4,4]) -> (%a, %b, %c, %d, %e) opset={onnx: 13} {\n"
        "  const %w: f32[4,4] = random seed=1\n"
        "  const %s: f32[2,4,4] = random seed=2\n"
        "  const %k: f32[4,2,1] = random seed=3\n"
        "  const %v: f32[4] = random seed=4\n"
        "  const %i: f32[4,4] = random seed=5\n"
        "  const %axes: i64[1] = [0]\n"
        '  %a = onnx.Gemm(%x, %w) transA=1: f32[4,4] from "turned"\n'
        '  %b = onnx.MatMul(%x, %s): f32[2,4,4] from "stack"\n'
        "  %u = onnx.Unsqueeze(%x, %axes): f32[1,4,4]\n"
        '  %c = onnx.ConvTranspose(%u, %k): f32[1,2,4] from "spread"\n'
        '  %d = onnx.MatMul(%x, %v): f32[4] from "vector"\n'
        '  %e = onnx.MatMul(%x, %i): f32[4,4] from "fc"\n}\n'
    )
    _run(graph, "binarize{keep_ends=false}", x=X[:8, 0, :4, :4])
    why = {name: str(_layer(graph, name).why) for name in ("turned", "stack", "spread", "vector")}
    assert why == {
        "turned": "it transposes its input",
        "stack": "its weights have the shape [2, 4, 4]: one matrix is expected",
        "spread": "transposed convolutions are not binarised",
        "vector": "its weights have the shape [4]: one matrix is expected",
    }
    assert _layer(graph, "fc").op == "onnx.Greater"


def _top1(notes: list[str]) -> tuple[float, float] | None:
    found = [re.search(r"([\d.]+)% before, ([\d.]+)% after", note) for note in notes]
    return next(((float(m[1]), float(m[2])) for m in found if m is not None), None)


def test_accuracy_of_labelled_data() -> None:
    float_net, graph = _bound(), _bound()
    scores = _values(float_net, "y")["y"]
    labels = scores.argmax(1).astype(np.uint8)
    labels[:6] = (labels[:6] + 1) % 5
    found = _top1(_run(graph, "binarize{samples=1000}", x=X, labels=labels))
    after = 100 * np.mean(_values(graph, "y")["y"].argmax(1) == labels)
    assert found == (90.0, pytest.approx(after, abs=0.006))
    assert _top1(_run(_bound(), "binarize", x=X)) is None
    notes = _run(_bound(), "binarize", x=X[:2], y=np.zeros(2, np.int64))
    assert _top1(notes) is not None


def test_outputs_that_are_no_scores() -> None:
    graph = _bound()
    graph.outputs[:] = [next(n.output for n in graph.nodes if n.op == "onnx.MaxPool")]
    graph.remove_dead()
    notes = _run(graph, "binarize{keep_ends=false}", x=X, labels=np.zeros(60, np.int64))
    assert notes[-1].startswith("binarize: the first output is no score for each class")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"x": X[:, :2]}, "the model takes f32[1,3,8,8]"),
        ({"x": np.full_like(X, np.nan)}, "are NaN or infinite"),
        ({"x": X, "labels": np.zeros(9, np.int64)}, "have the shape [9]: 60 samples"),
        ({"x": X, "labels": np.zeros(60)}, "are float64, not integers"),
    ],
)
def test_bad_data(data: dict[str, Any], message: str) -> None:
    with pytest.raises(CompileError) as caught:
        _run(_bound(), "binarize", **data)
    assert message in str(caught.value)


def test_bad_options() -> None:
    with pytest.raises(CompileError, match="samples must be at least 1"):
        parse_pipeline("ternarize{samples=0}", load_registry())
    with pytest.raises(CompileError, match="must be true or false"):
        parse_pipeline("binary{keep_ends=0}", load_registry())


@pytest.mark.parametrize(
    ("pipeline", "least"),
    [
        ("binary", 0.94),
        ("ternary", 0.95),
        pytest.param("binary{keep_ends=false}", 0.85, marks=pytest.mark.slow),
    ],
)
def test_a_real_model(pipeline: str, least: float) -> None:
    """1,000 training images for calibration, 2,000 others; float: 98.4 %."""
    model, images = SHARED / "models" / "onnxzoo_mnist-8.onnx", SHARED / "data" / "mnist.npz"
    if not (model.exists() and images.exists()):
        pytest.skip("../shared/models or ../shared/data is not there")
    data = np.load(images)
    x, labels = data["x_train"][:1000].astype(np.float32), data["y_train"][:1000]
    made = cimc.compile(
        str(model), pipeline=pipeline, calibration={"x_train": x, "y_train": labels}
    )
    found = _top1(made.notes)
    assert found is not None
    assert found[0] > 98
    test = data["x_test"][:2000, None].astype(np.float32)
    (scores,) = made.run({"Input3": test}).outputs.values()
    assert np.mean(scores.argmax(1) == data["y_test"][:2000]) > least
