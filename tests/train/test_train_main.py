"""`python -m cimc.train`: presets end to end on small data, and mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: the extra `train`")

from preset_runs import measured, train  # noqa: E402
from train_nets import write_npz  # noqa: E402

import cimc.train  # noqa: E402
from cimc.errors import CompileError  # noqa: E402
from cimc.train import __main__ as program  # noqa: E402
from cimc.train import loop, need_torch, presets  # noqa: E402

IMAGES = {"mnist"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_npz(tmp_path_factory.mktemp("data") / "images.npz", 500, 10, 28)


@pytest.mark.parametrize(
    "preset", [p for p in presets.PRESETS if p.task in IMAGES], ids=lambda p: f"{p.task}-{p.name}"
)
def test_presets_from_data_to_program(preset: Any, images: Path, tmp_path: Path) -> None:
    """Train, export, compile, check, eval."""
    said = train(
        preset.task, "--preset", preset.name, "--data", images, "--out", tmp_path,
        "--epochs", 3, "--limit-train", 400,
    )  # fmt: skip
    figures = measured(tmp_path, images)
    assert f"({figures['right']}/60)" in said
    removed = figures["convolutions"]["removed"]
    if preset.pruner is None:
        assert removed == 0
        return
    if preset.name == "ours":
        assert removed >= 0.8
        assert removed == pytest.approx(figures["macs_removed_by_masks"])


def test_digits_of_the_script(tmp_path: Path) -> None:
    """Its data has the test images beside it; 15 of the preset's 150 epochs learn most digits."""
    pytest.importorskip("sklearn", reason="needs scikit-learn: the extra `train`")
    folder = Path(__file__).parents[2] / "examples" / "digits"
    data = tmp_path / "digits.npz"
    subprocess.run([sys.executable, folder / "make_data.py", "--out", data], check=True)
    with np.load(data) as made, np.load(folder / "digits_test.npz") as stored:
        for name in ("x_test", "y_test"):
            assert np.array_equal(made[name], stored[name])
    train("digits", "--preset", "dense", "--data", data, "--out", tmp_path, "--epochs", 15)
    assert measured(tmp_path, data)["accuracy"] >= 0.85


def test_resumed_from_the_command_line(images: Path, tmp_path: Path) -> None:
    options = ["mnist", "--data", images, "--epochs", 3, "--limit-train", 300, "--seed", 3]
    said = train(*options, "--out", tmp_path / "a", "--stop-after", 1)
    assert "--resume goes on" in said
    assert not (tmp_path / "a" / "model.onnx").exists()
    train(*options, "--out", tmp_path / "a", "--resume")
    train(*options, "--out", tmp_path / "b")
    for name in ("model.onnx", "model.cim", "result.json"):
        one, other = [(tmp_path / run / name).read_bytes() for run in "ab"]
        assert one == other, name


def test_list() -> None:
    said = train("--list")
    assert "mnist --preset ours:" in said
    assert len(said.splitlines()) == len(presets.PRESETS)


def test_mistakes(images: Path, tmp_path: Path, capsys: Any) -> None:
    def said(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            program.main([str(a) for a in arguments])
        return int(ended.value.code or 0), capsys.readouterr().err

    assert said("mnist", "--preset", "our", "--data", images) == (
        1, "error: no preset 'our' for the task 'mnist'\nhelp: did you mean mnist --preset ours?\n"
    )  # fmt: skip
    assert said()[0] == 2
    code, text = said("mnist")
    assert code == 2
    assert "--data FILE" in text
    wrong = write_npz(tmp_path / "wrong.npz", 100, 4, 8)
    code, text = said("mnist", "--data", wrong, "--out", tmp_path)
    assert code == 1
    assert "x_train: samples of [1, 8, 8], expected [1, 28, 28]" in text
    assert "Traceback" not in text
    train("mnist", "--data", images, "--out", tmp_path, "--epochs", 2, "--limit-train", 200)
    code, text = said(
        "mnist", "--data", images, "--out", tmp_path, "--epochs", 2, "--limit-train", 200,
        "--resume", "--seed", 1,
    )  # fmt: skip
    assert code == 1
    assert "of another run: seed: 0, now 1" in text


def test_interrupted(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    def said(place: str) -> str:
        monkeypatch.setattr(loop, place, stop)
        options = ["mnist", "--data", images, "--limit-train", 200, "--out", tmp_path / "run"]
        with pytest.raises(SystemExit) as ended:
            program.main([str(a) for a in options])
        assert ended.value.code == 130
        monkeypatch.undo()
        return str(capsys.readouterr().err)

    assert said("shifted") == "\ninterrupted; no epoch is done\n"
    assert said("write_log") == (
        f"\ninterrupted; --resume goes on from the last whole epoch in {tmp_path / 'run'}\n"
    )


def test_what_is_there_goes_when_a_run_is_overwritten(images: Path, tmp_path: Path) -> None:
    options = ["mnist", "--data", images, "--out", tmp_path, "--epochs", 2, "--limit-train", 200]
    train(*options)
    train(*options, "--overwrite", "--stop-after", 1)
    left = {path.name for path in tmp_path.iterdir()}
    assert "checkpoint.pt" in left
    assert not left & {"result.json", "model.onnx", "model.cim"}


def test_files_without_presets(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    for text in ("", "PRESETS = []", "PRESETS = [3]"):
        file.write_text(text)
        with pytest.raises(CompileError, match=r"mine\.py: error: has no PRESETS"):
            presets.load(file)
    file.write_text("1 / 0")
    with pytest.raises(CompileError, match=r"mine\.py:1: error: ZeroDivisionError"):
        presets.load(file)


def test_names_are_there_and_listed() -> None:
    assert set(cimc.train.__all__) <= set(dir(cimc.train))
    for name in cimc.train.__all__:
        assert getattr(cimc.train, name).__module__.startswith("cimc.train.")


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(CompileError, match=r"needs PyTorch.*\n.*cimc\[train\]"):
        need_torch()
