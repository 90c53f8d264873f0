"""The training loop: resumed runs, early stopping, bad data, a loss that is not finite."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: the extra `train`")
from torch import nn  # noqa: E402
from train_nets import EXAMPLE, Net, data, write_npz  # noqa: E402

from cimc.errors import CompileError  # noqa: E402
from cimc.train import Schedule, SimilarityPruner, loop  # noqa: E402
from cimc.train.choose import Nearest  # noqa: E402
from cimc.train.data import Data, checked, read_images, shifted  # noqa: E402
from cimc.train.settings import Settings  # noqa: E402

SETTINGS = Settings(epochs=2, batch=32, lr=1e-2, shift=1, held_out=40)


def _run(out: Path, settings: Settings = SETTINGS, prune: bool = True, **more: Any) -> Any:
    """A fresh network trained; its weights, and how far the run came."""
    loop.set_up(0)
    net = Net()
    pruner = None
    if prune:
        pruner = SimilarityPruner(net, Nearest(0.5), Schedule(1, 2), example=EXAMPLE)
    progress = loop.train(net, data(), settings, out, pruner=pruner, say=_quiet, **more)
    return net.state_dict(), progress


def _quiet(_: str) -> None:
    pass


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        replace(SETTINGS, shrink=False, optimizer="sgd", weight_decay=1e-3),
        replace(SETTINGS, distil=0.5, cosine=False, keep="last"),
    ],
)
def test_resumed_runs_give_the_same_bits(settings: Settings, tmp_path: Path) -> None:
    whole, done = _run(tmp_path / "whole", settings)
    _, half = _run(tmp_path / "parts", settings, stop_after=1)
    assert half.epoch == 1
    parts, again = _run(tmp_path / "parts", settings, resume=True)
    assert list(whole) == list(parts)
    for name in whole:
        assert torch.equal(whole[name], parts[name]), name
    without = [{k: v for k, v in e.items() if k != "seconds"} for e in done.log]
    assert without == [{k: v for k, v in e.items() if k != "seconds"} for e in again.log]


def test_training_learns_and_logs(tmp_path: Path) -> None:
    _, done = _run(tmp_path, replace(SETTINGS, epochs=8))
    assert done.best > 0.8  # 4 classes
    log = json.loads((tmp_path / "log.json").read_text())["epochs"]
    assert [e["epoch"] for e in log] == list(range(1, 9))
    assert log[-1]["macs_removed"] >= 0.5
    assert log[-1]["kernels"]["conv1"] + log[-1]["kernels"]["conv2"] < 14
    assert log[0]["loss"] > log[-1]["loss"] > 0


def test_the_best_epoch_is_chosen_and_training_stops_early(tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=30, patience=2, held_out=48)
    known = data()
    random = torch.randint(0, 4, known.y_train.shape, generator=torch.Generator().manual_seed(1))
    loop.set_up(0)
    net = Net()
    done = loop.train(net, replace(known, y_train=random), settings, tmp_path, say=_quiet)
    state = net.state_dict()
    assert done.epoch < 30
    assert done.epoch - done.best_epoch == 2
    accuracies = [e["accuracy"] for e in done.log]
    assert done.best == max(accuracies) == accuracies[done.best_epoch - 1]
    assert all(torch.equal(a, b) for a, b in zip(state.values(), done.best_state.values()))


class Bursting(Net):
    """Gives infinity from its n-th training step on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Any) -> Any:
        self.calls += self.training
        found = super().forward(x)
        return found * torch.inf if self.calls > 8 else found


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    settings = replace(SETTINGS, batch=32)
    with pytest.raises(CompileError) as caught:
        loop.train(Bursting(), data(), settings, tmp_path, say=_quiet)
    assert "the loss is nan in epoch 2, step 3" in str(caught.value)
    assert "the checkpoint of epoch 1 is kept" in str(caught.value)
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert kept["epoch"] == 1
    assert all(v.isfinite().all() for v in kept["model"].values())


def test_checkpoints_of_other_runs(tmp_path: Path) -> None:
    _run(tmp_path, stop_after=1)
    with pytest.raises(CompileError, match=r"of another run: settings\.lr: 0\.01, now 0\.5\n"):
        _run(tmp_path, replace(SETTINGS, lr=0.5), resume=True)
    with pytest.raises(CompileError, match="of another run: layers"):
        loop.train(Net(norm=False), data(), SETTINGS, tmp_path, resume=True)
    with pytest.raises(CompileError, match="no checkpoint to resume"):
        _run(tmp_path / "elsewhere", resume=True)
    (tmp_path / "checkpoint.pt").write_bytes(b"PK and more")
    with pytest.raises(CompileError, match="can't read the checkpoint"):
        _run(tmp_path, resume=True)
    torch.save({"weights": torch.zeros(1)}, tmp_path / "checkpoint.pt")
    with pytest.raises(CompileError, match="is no checkpoint of this version"):
        _run(tmp_path, resume=True)


def test_a_run_is_not_lost_to_another(tmp_path: Path) -> None:
    _run(tmp_path, stop_after=1)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(CompileError, match=r"there is a run in this folder\n.*--overwrite"):
        _run(tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    _, again = _run(tmp_path, stop_after=1, overwrite=True)
    assert again.epoch == 1


def test_a_folder_that_cannot_be_written_stops_before_the_first_epoch(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CompileError, match="can't write there: Not a directory"):
        loop.train(Untrained(), data(), SETTINGS, tmp_path / "file" / "run", say=_quiet)


class Untrained(Net):
    """Fails the test that trains it."""

    def forward(self, x: Any) -> Any:
        raise AssertionError("it was trained")


def test_other_threads_are_told(tmp_path: Path) -> None:
    _run(tmp_path, stop_after=1)
    path = tmp_path / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    torch.save(state | {"threads": 77}, path)
    said: list[str] = []
    loop.set_up(0)
    net = Net()
    pruner = SimilarityPruner(net, Nearest(0.5), Schedule(1, 2), example=EXAMPLE)
    loop.train(net, data(), SETTINGS, tmp_path, pruner=pruner, resume=True, say=said.append)
    assert said[0].startswith("77 threads up to here, ")


def test_rows_of_features(tmp_path: Path) -> None:
    """Samples need not be images, nor layers convolutions."""
    x = torch.randn(300, 12, generator=torch.Generator().manual_seed(0))
    y = (x[:, :6].sum(1) > x[:, 6:].sum(1)).long()
    known = Data(x[:240], y[:240], x[240:], y[240:], 2)
    settings = replace(SETTINGS, epochs=5, shift=0, lr=0.1)
    loop.set_up(0)
    done = loop.train(nn.Linear(12, 2), known, settings, tmp_path, say=_quiet)
    assert done.best > 0.8


def test_tensors_that_do_not_fit(tmp_path: Path) -> None:
    known = data()
    wrong = replace(
        known,
        x_train=known.x_train.double() / 0,
        y_train=known.y_train.byte(),
        y_test=known.y_test + 1,
    )
    with pytest.raises(CompileError) as caught:
        loop.train(Untrained(), wrong, SETTINGS, tmp_path, say=_quiet)
    for text in (
        "x_train has NaN or infinite values",
        "x_train is torch.float64, not torch.uint8 or torch.float32",
        "y_train is torch.uint8 [240], not torch.int64 [240]",
        "y_test has classes 1 to 4, expected 0 to 3",
    ):
        assert f"data: error: {text}" in str(caught.value)


def test_too_few_samples(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="don't fill a batch of 500"):
        _run(tmp_path, replace(SETTINGS, batch=500))


def test_bad_data(tmp_path: Path) -> None:
    x, y = np.zeros((6, 1, 4, 4), np.float32), np.arange(6) % 3
    good = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    assert checked(good, (1, 4, 4), 3, "d.npz").y_test.tolist() == y.tolist()
    nan = x.copy()
    nan[2, 0, 1, 1] = np.nan
    bad = {"x_train": nan, "y_train": y + 1, "x_test": x[:, :, :3], "y_test": y[:5]}
    with pytest.raises(CompileError) as caught:
        checked(bad, (1, 4, 4), 3, "d.npz")
    for text in (
        "x_train has NaN",
        "y_train has classes 1 to 3, expected 0 to 2",
        "x_test: samples of [1, 3, 4], expected [1, 4, 4]",
        "6 samples in x_test, 5 labels in y_test",
    ):
        assert f"d.npz: error: {text}" in str(caught.value)
    np.savez(tmp_path / "part.npz", x_train=x)
    with pytest.raises(CompileError, match="has no y_train, x_test, y_test"):
        read_images(tmp_path / "part.npz", (1, 4, 4), 3)
    np.savez(tmp_path / "float.npz", **good)
    with pytest.raises(CompileError, match="x_train is float32, not uint8"):
        read_images(tmp_path / "float.npz", (1, 4, 4), 3)
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "one.npy", x)
    np.savez(tmp_path / "objects.npz", **{**good, "y_train": y.astype(object)})
    np.savez(tmp_path / "one_hot.npz", **{**good, "x_train": x.astype(np.uint8),
             "x_test": x.astype(np.uint8), "y_train": np.eye(3, dtype=np.uint8)[y]})  # fmt: skip
    for name, text in (
        ("text.npz", "can't read it as .npz: it is no archive"),
        ("one.npy", "can't read it as .npz: it is no archive"),
        ("absent.npz", "can't read it as .npz: there is no such file"),
        ("objects.npz", "y_train holds Python objects"),
        ("one_hot.npz", "18 labels in y_train ([6, 3]: give one class for each)"),
    ):
        with pytest.raises(CompileError) as caught:
            read_images(tmp_path / name, (1, 4, 4), 3)
        assert f"{name}: error: " in str(caught.value)
        assert text in str(caught.value)


def test_images_without_channel_axis(tmp_path: Path) -> None:
    found = read_images(write_npz(tmp_path / "d.npz", 20, 4, 8), (1, 8, 8), 4)
    assert found.x_train.shape == (20, 1, 8, 8)
    assert len(found.limited(5).y_train) == 5


def test_shifts_move_whole_images() -> None:
    images = torch.arange(1, 33).reshape(2, 1, 4, 4).repeat(8, 2, 1, 1)
    moved = shifted(images, 1, torch.Generator().manual_seed(0))
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    seen = set()
    for i, image in enumerate(moved):
        places = [
            (r, c) for r in range(3) for c in range(3)
            if torch.equal(image, padded[i, :, r : r + 4, c : c + 4])
        ]  # fmt: skip
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) > 4
