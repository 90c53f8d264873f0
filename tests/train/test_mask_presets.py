"""Presets of random networks and spoken digits, end to end on small synthetic data: train, export,
compile, check, eval. Data of the real shapes, so that nothing beside the checkout is needed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'cimc[train]'")

from preset_runs import measured, train  # noqa: E402

from cimc.errors import CompileError  # noqa: E402
from cimc.report.curves import read_curves  # noqa: E402
from cimc.train.spectrogram import RATE, spectrograms  # noqa: E402
from cimc.train.spoken_digits import read  # noqa: E402


@pytest.fixture(scope="module")
def clothes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of ten classes, each a bright patch at a place of its own, with noise."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 300), ("test", 60)):
        y = np.arange(count) % 10
        x = rng.integers(0, 80, (count, 28, 28))
        for image, label in zip(x, y):
            row, column = 3 + 12 * (label // 5), 1 + 5 * (label % 5)
            image[row : row + 9, column : column + 5] += 150
        arrays |= {f"x_{part}": x.astype(np.uint8), f"y_{part}": y.astype(np.uint8)}
    path = tmp_path_factory.mktemp("data") / "clothes.npz"
    np.savez(path, **arrays)
    return path


def _recordings(rng: np.random.Generator, count: int) -> tuple[Any, Any, Any]:
    """Tones of ten pitches, 0.2 to 0.5 s."""
    y = (np.arange(count) % 10).astype(np.uint8)
    parts = []
    for label in y.tolist():
        n = np.arange(rng.integers(RATE // 5, RATE // 2))
        tone = np.sin(2 * np.pi * (300 + 300 * label) * rng.uniform(0.95, 1.05) * n / RATE)
        parts.append((8000 * tone + rng.normal(0, 100, n.size)).astype(np.int16))
    offsets = np.concatenate([[0], np.cumsum([p.size for p in parts])])
    return np.concatenate(parts), offsets, y


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 300), ("test", 60)):
        audio, offsets, y = _recordings(rng, count)
        arrays |= {f"audio_{part}": audio, f"offset_{part}": offsets, f"y_{part}": y}
    path = tmp_path_factory.mktemp("data") / "tones.npz"
    np.savez(path, **arrays)
    return path


def test_supermask(clothes: Path, tmp_path: Path) -> None:
    train("fashion", "--preset", "supermask", "--data", clothes, "--out", tmp_path, "--epochs", 3)
    assert measured(tmp_path, clothes)["accuracy"] >= 0.8


def test_published_supermask(clothes: Path, tmp_path: Path) -> None:
    run = ("fashion", "--preset", "supermask-published", "--data", clothes, "--epochs", 8)
    train(*run, "--out", tmp_path)
    assert measured(tmp_path, clothes)["accuracy"] >= 0.5


def test_point_of_the_curve(clothes: Path, tmp_path: Path) -> None:
    run = ("fashion", "--preset", "removed-50", "--data", clothes, "--epochs", 25)
    train(*run, "--out", tmp_path)
    figures = measured(tmp_path, clothes)
    assert figures["accuracy"] >= 0.6
    assert 0.5 <= figures["convolutions"]["removed"] < 0.6


def test_row_of_seeds(clothes: Path, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "examples" / "rows.py"
    curve, best = tmp_path / "curve.json", tmp_path / "best.onnx"
    arguments = ["fashion", "random", "--data", clothes, "--out", tmp_path, "--seeds", 2]
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments), "--curve", curve, "--best", best],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    results = [json.loads((tmp_path / f"fashion-random-{s}" / "result.json").read_text())
               for s in (0, 1)]  # fmt: skip
    mean = (results[0]["accuracy"] + results[1]["accuracy"]) / 2
    assert f"random: {100 * mean:.2f} ±" in done.stdout
    (drawn,) = read_curves(curve)
    assert drawn.points[0][1] == pytest.approx(mean)
    assert best.read_bytes() == (tmp_path / "fashion-random-0" / "model.onnx").read_bytes()


def test_random_network_without_training(clothes: Path, tmp_path: Path) -> None:
    train("fashion", "--preset", "random", "--data", clothes, "--out", tmp_path)
    assert measured(tmp_path, clothes)["accuracy"] < 0.5


def test_spoken_digits(tones: Path, tmp_path: Path) -> None:
    train("spoken-digits", "--data", tones, "--out", tmp_path, "--epochs", 8)
    pictures = tmp_path / "pictures.npz"
    with np.load(tones) as file:
        x_test = spectrograms(file["audio_test"], file["offset_test"])
        np.savez(pictures, x_test=x_test, y_test=file["y_test"])
    figures = measured(tmp_path, pictures)
    assert figures["accuracy"] >= 0.7
    assert figures["convolutions"]["removed"] >= 0.5


@pytest.mark.parametrize("preset", ["supermask", "supermask-published"])
def test_resumed_supermask_is_that_of_one_run(clothes: Path, tmp_path: Path, preset: str) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run = ("fashion", "--preset", preset, "--data", clothes, "--epochs", 2)
    train(*run, "--out", whole)
    train(*run, "--out", parts, "--stop-after", 1)
    train(*run, "--out", parts, "--resume")
    assert (whole / "model.onnx").read_bytes() == (parts / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("offset_test", np.array([0, 100, 50]), "offset_test does not part"),
        ("offset_train", np.array([0, 10**9]), "offset_train does not part"),
        ("audio_train", np.zeros(9000, np.float32), "a recording is int16"),
        ("y_test", np.zeros(3, np.uint8), "3 labels in y_test"),
    ],
)
def test_recordings_that_do_not_fit(tmp_path: Path, name: str, value: Any, message: str) -> None:
    arrays = {}
    for part in ("train", "test"):
        arrays[f"audio_{part}"] = np.ones(9000, np.int16)
        arrays[f"offset_{part}"] = np.array([0, 4000, 9000])
        arrays[f"y_{part}"] = np.zeros(2, np.uint8)
    arrays[name] = value
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(CompileError, match=message):
        read(tmp_path / "bad.npz")
