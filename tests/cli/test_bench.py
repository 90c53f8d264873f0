"""`cimc bench` from the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cli_calls import call, fails

from cimc.bench import rows
from cimc.bench.networks import binary_layer, mobilenet_v2, tfc_1w1a
from cimc.bench.run import ROWS
from cimc.bench.same_model import same_function


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _save(model, path):
    path.write_bytes(model.SerializeToString())


def test_some_rows(folder, capsys):
    result = call(capsys, "bench", "--quick", "--only", "tfc", "--json", "run.json")
    assert result.code == 0, result
    assert "TFC_1W1A" in result.out
    assert "onnxruntime" in result.out  # versions
    run = json.loads((folder / "run.json").read_text())
    (figure,) = run["figures"]
    assert figure["key"] == "tfc-16"
    assert figure["wrong"] == ""
    assert figure["value"] > 0
    assert figure["must"] is None, "goals are those of the full sizes"
    again = call(capsys, "bench", "--quick", "--only", "tfc", "--compare", "run.json")
    assert again.code == 0, again
    assert "new / old" in again.out


def test_a_model_of_the_user(folder, capsys):
    _save(binary_layer(32, 8, 3, 6), folder / "net.onnx")
    result = call(capsys, "bench", "net.onnx", "--quick", "--json", "run.json")
    assert result.code == 0, result
    assert "net.onnx, batch 1, against onnxruntime" in result.out
    (figure,) = json.loads((folder / "run.json").read_text())["figures"]
    assert figure["must"] is None
    assert figure["details"]["baselines_agree"]["onnxruntime"]["sums"]["equal"] == 1.0


def test_wrong_outputs_are_told(folder, capsys, monkeypatch):
    def broken(compiled, threads, name=""):
        def run(feeds):
            return {k: v + np.float32(1) for k, v in compiled.run(feeds).outputs.items()}

        return run

    monkeypatch.setattr(rows, "engine", broken)
    result = call(capsys, "bench", "--quick", "--only", "tfc")
    assert result.code == 1
    assert "wrong outputs" in result.out
    assert "WRONG: TFC_1W1A" in result.out


def test_what_onnxruntime_runs_in_place_of_a_program(folder):
    _save(binary_layer(8, 4, 3, 6), folder / "exact.onnx")
    assert same_function(folder / "exact.onnx") == (folder / "exact.onnx").read_bytes()
    _save(mobilenet_v2(size=32), folder / "float.onnx")
    assert b"DynamicQuantizeLinear" in same_function(folder / "float.onnx")
    _save(tfc_1w1a(), folder / "qonnx.onnx")
    assert b"BipolarQuant" not in same_function(folder / "qonnx.onnx")


def test_an_unknown_row(folder, capsys):
    text = fails(capsys, "bench", "--only", "mnist,tfz")
    assert "no row 'tfz'" in text
    assert "popcount" in text


def test_files_are_looked_at_before_anything_is_measured(folder, capsys, monkeypatch):
    monkeypatch.setitem(ROWS, "tfc", None)
    (folder / "other.json").write_text("{}")
    assert "no run of this benchmark" in fails(
        capsys, "bench", "--only", "tfc", "--compare", "other.json"
    )
    assert "no folder" in fails(capsys, "bench", "--only", "tfc", "--json", "none/run.json")


def test_the_help_names_all_rows(capsys):
    text = call(capsys, "bench", "--help").out
    assert all(name in text for name in ROWS)


def test_a_model_that_is_none(folder, capsys):
    (folder / "net.onnx").write_text("no model")
    fails(capsys, "bench", "net.onnx")


@pytest.mark.slow
def test_everything_at_once(folder, capsys):
    result = call(capsys, "bench", "--quick", "--json", "run.json", "--threads", "2")
    assert result.code == 0, result
    run = json.loads((folder / "run.json").read_text())
    keys = [figure["key"].rpartition("-")[0] for figure in run["figures"]]
    assert keys == [
        *["popcount"] * 4, *["mnist-float"] * 3, *["mnist-int8"] * 3,
        "reference", "reference-single", "tfc", "resnet50-int8", "resnet50-float", "mobilenet",
        "mobilenet-float", "ds-cnn", "ds-cnn", "eval", "memory-resnet50",
    ]  # fmt: skip
    for figure in run["figures"]:
        assert figure["value"] > 0, figure["key"]
        assert figure["wrong"] == "", figure["key"]
        assert figure["details"]["threads"] == 2 or figure["key"].startswith("popcount")
    printed = next(f for f in run["figures"] if f["key"] == "eval-200")["details"]["printed"]
    assert all("/200)" in text for text in printed.values())
    same = next(f for f in run["figures"] if f["key"] == "mnist-int8-16")
    assert same["details"]["baselines_agree"]["int8"]["logits"]["equal"] == 1.0
