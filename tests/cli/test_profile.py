"""`cimc profile` from the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cli_calls import call, fails
from small_models import bnn, save


@pytest.fixture
def program(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(bnn(), tmp_path / "net.onnx")
    assert call(capsys, "compile", "net.onnx", "-o", "net.cim", "-p", "exact").code == 0
    return tmp_path / "net.cim"


def test_random_samples(program, capsys):
    result = call(capsys, "profile", "net.cim", "--batch", "3", "--json", "out.json")
    assert result.code == 0, result
    assert "no --input: 3 random samples, seed 0" in result.out
    assert "bit-MAC/s" in result.out
    assert "whole run, 1 thread" in result.out
    found = json.loads((program.parent / "out.json").read_text())
    assert found["samples"] == 3
    assert found["machine"]["versions"]["cimc"]
    assert {step["layer"] for step in found["steps"]} >= {"conv", "fc"}
    assert all(step["seconds"] > 0 for step in found["steps"])


def test_samples_of_a_file(program, capsys):
    images = np.random.default_rng(1).integers(0, 256, (5, 1, 6, 6), np.uint8)
    np.save("images.npy", images)
    assert "5 samples at once" in call(capsys, "profile", "net.cim", "--input", "images.npy").out
    few = call(capsys, "profile", "net.cim", "--input", "images.npy", "--batch", "2")
    assert "2 samples at once" in few.out


def test_mistakes(program, capsys):
    assert "is a model, not a .cim program" in fails(capsys, "profile", "net.onnx")
    assert "can't read the program" in fails(capsys, "profile", "none.cim")
    np.save("images.npy", np.zeros((5, 1, 6, 7), np.uint8))
    assert "another shape" in fails(capsys, "profile", "net.cim", "--input", "images.npy")
    assert "reads this file" in fails(capsys, "profile", "net.cim", "--json", "net.cim")
