"""One case of the tests of exactness: a model and inputs, held against onnxruntime.

The same samples go, one at a time, through onnxruntime with graph optimisation off (or the
written definition, for QONNX operators), the graph evaluator after the passes, and the
reference interpreter on the program that was printed and parsed again.
"""

from __future__ import annotations

import numpy as np
from hypothesis import currently_in_test_context, note
from onnx import printer

import cimc
from cimc.driver.registry import load_registry
from cimc.frontend.evaluate import Evaluator
from cimc.frontend.importer import import_model
from cimc.frontend.session import call, open_session
from cimc.ir.ops import HOST
from cimc.isa.check import check
from cimc.isa.printer import print_program
from cimc.isa.text import parse
from cimc.sim.counters import static_counts
from cimc.sim.feed import Feed, join_samples
from cimc.sim.reference import run

LINEAR = ("onnx.Conv", "onnx.MatMul", "onnx.Gemm")
PASSES = "exact"
FAST = "exact,legalise,split-tiles,allocate-tiles{strategy=fast}"
REGISTRY = load_registry()


def compiled(model, *, rows=8, cols=10, functions="and,nand,or,xor", pipeline=PASSES, shapes=None):
    """The model compiled for small tiles of target `ideal`."""
    overrides = {"rows": str(rows), "cols": str(cols), "functions": functions}
    return cimc.compile(
        import_model(model, "case"),
        pipeline=pipeline,
        target="ideal",
        overrides=overrides,
        shapes=shapes,
        registry=REGISTRY,
    )


def oracle(model):
    """A function from the feeds of one sample to its outputs."""
    if any(node.domain for node in model.graph.node):
        return Evaluator(import_model(model, "oracle"))
    session = open_session(model.SerializeToString(), "oracle", threads=1)
    names = [o.name for o in session.get_outputs()]
    return lambda feeds: dict(zip(names, call(session, dict(feeds), "oracle")))


def joined(program, once, feeds):
    """The outputs of `once` on each sample, joined as the program joins its own."""
    feed = Feed(program, feeds)
    samples = [once(feed.sample(i)) for i in range(feed.samples)]
    return {
        str(mem.output): join_samples([s[str(mem.output)] for s in samples], mem.batch)
        for mem in program.outputs
    }


def assert_equal(expected, found, what):
    """All outputs have equal types, shapes and values."""
    assert expected.keys() == found.keys(), what
    for name, array in expected.items():
        other = found[name]
        assert (array.dtype, array.shape) == (other.dtype, other.shape), (what, name)
        np.testing.assert_array_equal(other, array, err_msg=f"{what}: {name}")


def layers_on_tiles(graph):
    """How many layers are tile operations; fails if a linear layer is left on the host."""
    hosts = [body for node in graph.nodes if node.op == HOST for body in node.graphs()]
    left = [n.why for body in hosts for n in body.nodes if n.op in LINEAR]
    assert not left, f"on the host: {left}"
    return sum(n.op in ("cim.conv", "cim.matmul") for n in graph.nodes)


def round_trip(program):
    """The program as its text says it, checked; fails if the text says something else."""
    text = print_program(program)
    again = parse(text)
    assert again == program
    assert print_program(again) == text
    check(again)
    return again


def check_lanes(program, feeds, result):
    """Independent loops side by side give the values, counts and cells of the step-by-step run."""
    other = run(program, feeds, lanes=True)
    assert_equal(result.outputs, other.outputs, "lanes")
    assert other.counts == result.counts
    np.testing.assert_array_equal(other.tiles, result.tiles)


def check_case(net, *outputs, on_tiles=True, **options):
    """Assert that every way of running the model gives the same bits and counts.

    net: a Net; outputs: names of its values. on_tiles: each of its layers must be on tiles.
    options: of `compiled`. Returns what was compiled, and the run."""
    model = net.model(*outputs)
    if currently_in_test_context():
        note(f"{printer.to_text(model)}\noptions: {options}")
    case = compiled(model, **options)
    if on_tiles:
        assert layers_on_tiles(case.graph) == net.linear
    program = round_trip(case.program)
    expected = joined(program, oracle(model), net.feeds)
    assert_equal(expected, joined(program, Evaluator(case.graph), net.feeds), "graph")
    result = run(program, net.feeds)
    assert_equal(expected, result.outputs, "program")
    check_lanes(program, net.feeds, result)
    counts = static_counts(program, result.samples)
    assert result.counts.static() == counts.static()
    return case, result


def row_reads(result):
    """Rows activated to read during inference."""
    table = result.counts.sections["infer"]
    return sum(n for (_, op, name), n in table.items() if op.startswith("read.") and name == "rows")
