"""prune-similar: what it says of mistakes, and of what it leaves."""

from __future__ import annotations

import pytest

from cimc.driver import PassContext
from cimc.driver.pipeline import parse_pipeline
from cimc.driver.registry import load_registry
from cimc.driver.runner import run_passes
from cimc.errors import CompileError, CompileErrors
from cimc.ir.text import parse_graph

REGISTRY = load_registry()
FLOATS = "[1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 5.0, 1.0, 2.0, 9.0, 4.0, 9.0, 2.0, 3.0, 4.0]"
SIGNS = "[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0]"
TWO = f"""graph @g(%x: f32[1,4,1,1]) -> (%y) {{
  const %w: f32[4,4,1,1] = WEIGHTS
  const %u: f32[4,4,1,1] = {FLOATS}
  const %v: f32[1,4,1,1] = [1.0, 2.0, 3.0, 4.0]
  %first = onnx.Conv(%x, %w): f32[1,4,1,1]
  %second = onnx.Conv(%first, %u): f32[1,4,1,1]
  %y = onnx.Conv(%second, %v): f32[1,1,1,1]
}}
"""


def pruned(options, weights=FLOATS, text=TWO):
    """The graph, and what the pass says."""
    graph = parse_graph(text.replace("WEIGHTS", weights))
    context = PassContext()
    run_passes(graph, parse_pipeline(f"prune-similar{{{options}}}", REGISTRY), context)
    return graph, "\n".join(context.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("criterion=nearest", "criterion must be one of published, published-binary"),
        ("mode=real", "mode must be one of"),
        ("b=-1", "b must be at least 0, without upper limit"),
        ("c=1.01", "c must be at least 0, at most 1"),
        ("c=-1/2", "c must be at least 0, at most 1"),
        ("b=much", "b must be a number such as 0.15 or 15/100"),
        ("c=1/0", "c must be a number such as 0.15 or 15/100"),
        ("b=nan", "b must be a number such as 0.15 or 15/100"),
        ("b=inf", "b must be a number such as 0.15 or 15/100"),
    ],
)
def test_options_out_of_range_name_the_range(options, message):
    with pytest.raises(CompileError, match=message):
        parse_pipeline(f"prune-similar{{{options}}}", REGISTRY)


def test_unknown_layers_are_named_all_at_once():
    with pytest.raises(CompileErrors) as found:
        pruned("skip=frist+nothing")
    text = str(found.value)
    assert "no layer 'frist'" in text
    assert "did you mean first" in text
    assert "no layer 'nothing'" in text
    assert "there is first, second, y" in text


@pytest.mark.parametrize("option", ["layers", "skip"])
def test_an_unknown_layer_is_a_mistake_of_its_option(option):
    with pytest.raises(CompileError, match=rf"prune-similar\{{{option}\}}"):
        pruned(f"{option}=thrid")


def test_a_pattern_chooses_all_that_fit():
    graph, said = pruned("layers=*t+s*d")
    assert "4 of 8 kernels similar: first 2 of 4, second 2 of 4" in said
    assert [v.tensor.shape for n in graph.nodes for v in n.outputs][:2] == [(1, 2, 1, 1)] * 2


def test_that_one_kernel_stays_is_said():
    _, said = pruned("c=0,layers=first", SIGNS)
    assert "4 of 4 kernels similar" in said
    assert "1 kernel of 'first' stays, so that one is left" in said


def test_why_kernels_stay_is_said():
    text = TWO.replace("-> (%y)", "-> (%y, %first)")
    _, said = pruned("layers=first", text=text)
    assert "2 kernels can't be removed, of first: they are the result 'first'" in said


def test_literal_changes_no_shape():
    graph, said = pruned("mode=literal")
    assert "4 of 8 kernels overwritten" in said
    assert [v.tensor.shape[1] for n in graph.nodes for v in n.outputs] == [4, 4, 1]
    assert [int((n.arg(1).const.any(axis=(1, 2, 3))).sum()) for n in graph.nodes] == [2, 2, 1]


def test_nothing_similar_changes_nothing():
    graph, said = pruned("b=9")
    before = parse_graph(TWO.replace("WEIGHTS", FLOATS))
    assert [n.arg(1).const.tolist() for n in graph.nodes] == [
        n.arg(1).const.tolist() for n in before.nodes
    ]
    assert "0 of 8 kernels similar" in said
