"""The search of the MNIST network's kernels: masks, counts, text and reports."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

import cimc
from cimc.cli.main import cli
from cimc.driver.base import Geometry
from cimc.driver.tiles import search_refusal
from cimc.errors import CompileError
from cimc.ir.graph import Node, Value
from cimc.ir.types import TensorType
from cimc.isa.printer import print_program
from cimc.oracle import compare, open_oracle
from cimc.similarity.criteria import published_binary

MODEL = Path(__file__).parents[2] / "examples" / "mnist" / "mnist_bnn.onnx"
XORS = {"conv1.prune": 496 * 9, "conv2.prune": 2016 * 288, "conv3.prune": 120 * 576}


@pytest.fixture(scope="module")
def compiled():
    return cimc.compile(MODEL, pipeline="similarity")


def images(samples):
    return {"image": np.zeros((samples, 1, 28, 28), np.uint8)}


def host_masks(compiled, **given):
    """From the weights that the graph holds."""
    layers = [n for n in compiled.graph.nodes if n.op == "cim.conv"]
    return [published_binary(n.arg(1).const, **given).pruned for n in layers]


def masks(outputs):
    return [outputs[name] for name in XORS]


@pytest.mark.parametrize("engine", ["packed", "lanes", "reference"])
def test_masks_are_the_hosts(compiled, engine):
    result = compiled.run(images(3), engine=engine)
    assert result.outputs["logits"].shape == (3, 10)
    for found, mask in zip(masks(result.outputs), host_masks(compiled), strict=True):
        assert found.dtype == bool
        assert found.tolist() == mask.tolist()
    assert masks(result.outputs)[0].any()
    assert not masks(result.outputs)[1].all()


@pytest.mark.parametrize("mode", ["intent", "literal"])
def test_other_numbers_prune_some(mode):
    compiled = cimc.compile(MODEL, pipeline=f"exact,find-similar{{mode={mode},b=0.02,c=0.42}}")
    found = masks(compiled.run(images(1)).outputs)
    given = {"b": Fraction(2, 100), "c": Fraction(42, 100), "mode": mode}
    assert [m.tolist() for m in found] == [m.tolist() for m in host_masks(compiled, **given)]
    assert any(m.any() and not m.all() for m in found)


def test_a_round_takes_654192_bit_xors(compiled):
    update = compiled.run(images(2)).counts.sections["update"]
    found = {layer: update[layer, "read.xor", "bits"] for layer in XORS}
    assert found == XORS
    assert sum(found.values()) == 654_192
    only = compiled.run(images(2), count_only=True).counts.sections["update"]
    assert {k: n for k, n in only.items() if k[2] != "ones"} == {
        k: n for k, n in update.items() if k[2] != "ones"
    }


def test_the_oracle_knows_the_masks(compiled):
    oracle = open_oracle(MODEL, compiled.program)
    feeds = images(2)
    comparisons = compare(oracle(feeds), compiled.run(feeds).outputs)
    assert [c.name for c in comparisons] == ["logits", *XORS]
    assert {c.kind for c in comparisons} == {"equal"}


def test_the_distances_take_a_loop_over_kernels(compiled):
    text = print_program(compiled.program)
    body = text[text.index("conv2.prune:  #") :].splitlines()
    assert body[:15] == [
        "conv2.prune:  # 64 kernels of 288 bip: intent, b = 73/500, c = 3/20",
        "  for i in 0:63",
        "    acc.clr %a[1 + i:64]",
        "    for s in 0:2",
        "      ld.row %x, t[0][32 + i + 64*s]",
        "      read.xor %d[1 + i:64], t[0][33 + i + 64*s:96 + 64*s], %x",
        "      popc %c[1 + i:64], %d[1 + i:64]",
        "      acc.add %a[1 + i:64], %c[1 + i:64]",
        "    end",
        "    ld.row %x, t[0][160 + i], cols=0:32",
        "    read.xor %d[1 + i:64], t[0][161 + i:224], %x",
        "    popc %c[1 + i:64], %d[1 + i:64]",
        "    acc.add %a[1 + i:64], %c[1 + i:64]",
        "    st.acc conv2.prune.near[i, 1 + i:64], %a[1 + i:64]",
        "  end",
    ]


def invoke(*args):
    result = CliRunner().invoke(cli, list(map(str, args)))
    assert result.exit_code == 0, result.output
    return result.output


def test_commands_show_and_write_the_search(compiled, tmp_path):
    path, out, report = tmp_path / "s.cim", tmp_path / "o.npz", tmp_path / "r.json"
    compiled.save(path)
    feeds = tmp_path / "in.npz"
    np.savez(feeds, **images(2))
    shown = invoke("run", path, "--input", feeds, "--output", out, "--json", report)
    assert "conv2.prune: bool[64]" in shown
    assert "654,192 bits XORed; in the array " in shown
    assert "6 of the 6 figures of [search]" in shown
    with np.load(out) as arrays:
        assert arrays["logits"].shape == (2, 10)
        assert arrays["conv1.prune"].tolist() == host_masks(compiled)[0].tolist()
    (first, *_) = json.loads(report.read_text())["search"]
    assert (first["kernels"], first["cells"], first["pairs"]) == (32, 9, 496)
    figures = compiled.target.search
    array, processor = first["array"], first["processor"]
    assert array["rows"] == 496 + 31
    assert processor["rows"] == processor["words"] == 32
    assert processor["operations"] == 496 * (3 * 1 + 5)
    assert processor["ns"] == pytest.approx(
        32 * figures["row_time"] + 32 * figures["transfer_time"] + 3968 * figures["host_time"]
    )
    inspected = tmp_path / "i.json"
    assert "654,192 bits XORed" in invoke("inspect", path, "--json", inspected)
    assert json.loads(inspected.read_text())["search"] == json.loads(report.read_text())["search"]
    assert "bit-exact: yes" in invoke("check", MODEL, path)


def test_the_exported_model_has_the_masks(compiled, tmp_path):
    path = tmp_path / "s.onnx"
    invoke("opt", MODEL, "-p", "similarity", "-o", path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, images(1)), strict=True))
    assert [m.tolist() for m in masks(found)] == [m.tolist() for m in host_masks(compiled)]


def test_a_program_without_a_search_shows_none():
    shown = invoke("inspect", MODEL)
    assert "XORed" not in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("c=1.5", "c=1.5 must be a number from 0 to 1"),
        ("c=-1/2", "c=-1/2 must be a number from 0 to 1"),
        ("b=-0.1", "b=-0.1 must be a number of at least 0"),
        ("b=1/0", "b=1/0 must be a number of at least 0"),
        ("mode=wish", "mode must be one of intent, literal"),
        ("layers=conf1", "no layer 'conf1'"),
    ],
)
def test_options_out_of_range_name_the_range(options, message):
    with pytest.raises(CompileError, match=".*".join(message.split("*"))):
        cimc.compile(MODEL, pipeline=f"exact,find-similar{{{options}}}")


def test_layers_that_are_not_searched_are_listed():
    compiled = cimc.compile(MODEL, pipeline="exact,find-similar{layers=conv1+fc*}")
    assert "find-similar: intent, b = 73/500, c = 3/20: conv1" in compiled.notes
    assert any(
        "not searched: fc1, fc2, fc3: on the host: its input is float" in note
        for note in compiled.notes
    )
    assert {m.output for m in compiled.program.outputs} == {"logits", "conv1.prune"}


def test_numbers_beyond_the_control_unit_are_refused_with_the_reason():
    compiled = cimc.compile(MODEL, pipeline="exact,find-similar{b=0.1234567890123456789}")
    assert any("fractions of fewer digits" in note for note in compiled.notes)


def test_numbers_that_could_leave_128_bits_are_refused():
    """bn * P * S2 of 2,048 kernels of 512 bytes, bn of 18 digits."""
    x, w = Value("x", TensorType("u8", (1, 512))), Value("w", TensorType("i8", (512, 2048)))
    node = Node("cim.matmul", [x, w], [Value("y", TensorType("i32", (1, 2048)))], {})
    few, many = Fraction(73, 500), Fraction(999_999_999_999_999_999)
    assert search_refusal(node, few, Fraction(3, 20), Geometry()) == ""
    reason = search_refusal(node, many, Fraction(3, 20), Geometry())
    assert reason == "b must be a fraction of fewer digits: its numbers leave 128 bits"
    narrow = search_refusal(node, few, Fraction(3, 20), Geometry(acc_bits=17))
    assert narrow == "its distances reach 130560, which 17 bits don't hold"
    only = search_refusal(node, few, Fraction(3, 20), Geometry(functions=("and",)))
    assert only == "the target has no function xor"
