"""The training loop: epochs, pruning between them, checkpoints, early stopping, a log.

The same seed, data, settings and number of threads give the same weights; a run that was stopped
and resumed gives those of one that was not.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from cimc.errors import CompileError
from cimc.train import checkpoint, layers
from cimc.train.data import Data, shifted
from cimc.train.log import plot_log, write_log
from cimc.train.pruner import SimilarityPruner
from cimc.train.settings import Settings

CHECKPOINT, LOG, PLOT = "checkpoint.pt", "log.json", "epochs.png"
_EVALUATED = 500  # samples at a time
Say = Callable[[str], None]
Augment = Callable[[Tensor, torch.Generator], Tensor]
"""Training samples, as random variations of themselves."""
Better = Callable[[nn.Module], None]


@dataclass
class Progress:
    """What a run knows between epochs. best: accuracy of the best epoch since the pruning ended,
    -1 before; its weights in `best_state`."""

    epoch: int = 0
    best: float = -1.0
    best_epoch: int = 0
    best_state: dict[str, Any] | None = None
    log: list[dict[str, Any]] = field(default_factory=list)


def set_up(seed: int, threads: int | None = None) -> None:
    """Fix the random seed, and that equal runs give equal bits."""
    torch.manual_seed(seed)
    if threads is not None:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Deterministic mode would also fill new memory, which takes time and changes nothing here.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def train(
    model: nn.Module,
    data: Data,
    settings: Settings,
    out: Path,
    *,
    pruner: SimilarityPruner | None = None,
    augment: Augment | None = None,
    better: Better | None = None,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    stop_after: int | None = None,
    about: dict[str, Any] | None = None,
    say: Say = print,
) -> Progress:
    """Train in place; the model has the chosen epoch's weights at the end.

    out: folder for checkpoint, log and plot. augment: varies the training samples, after they were
    shifted. better: changes the model after each epoch that is the best so far, in what the state
    dict has. resume: go on from the checkpoint in `out`; overwrite: start again though there is
    one. stop_after: epochs after which this call ends, as if it were interrupted. about: what the
    run is, for the checkpoint; settings and seed are added. Equal bits in two runs need `set_up`
    before the model is made.
    Raises CompileError for data that doesn't fit, for a folder that has a run already or can't be
    written, for a loss that is not finite (the checkpoint of the last epoch stays) and for a
    checkpoint of another run.
    """
    data.check()
    run = _Run(model, data, settings, out, pruner, augment, better, seed, about or {}, say)
    checkpoint.make_room(out / CHECKPOINT)
    if resume:
        run.restore()
    else:
        _start(out, overwrite)
    last = settings.epochs if stop_after is None else min(settings.epochs, stop_after)
    while run.progress.epoch < last and not run.stopped():
        run.epoch()
        run.save()
    plot_log(out / PLOT, run.progress.log, run.title())
    if run.progress.epoch >= settings.epochs or run.stopped():
        run.choose()
    return run.progress


def _start(out: Path, overwrite: bool) -> None:
    """See that no run is lost, and that nothing of one that may be is taken for the new one's."""
    if (out / CHECKPOINT).exists() and not overwrite:
        raise CompileError(
            "there is a run in this folder",
            str(out),
            help="--resume goes on with it, --overwrite starts again; or give another folder",
        )
    for name in (CHECKPOINT, LOG, PLOT):
        (out / name).unlink(missing_ok=True)


class _Run:
    def __init__(
        self,
        model: nn.Module,
        data: Data,
        settings: Settings,
        out: Path,
        pruner: SimilarityPruner | None,
        augment: Augment | None,
        better: Better | None,
        seed: int,
        about: dict[str, Any],
        say: Say,
    ) -> None:
        self.model, self.settings, self.out = model, settings, out
        self.pruner, self.augment, self.better = pruner, augment, better
        self.seed, self.say = seed, say
        count = min(settings.held_out, len(data.x_train) // 5)
        self.x, self.y, self.x_held, self.y_held = data.split(count, seed)
        self.steps = len(self.x) // settings.batch
        if not self.steps:
            raise CompileError(
                f"{len(self.x)} training samples don't fill a batch of {settings.batch}",
                "training",
                help="give more samples or a smaller batch",
            )
        layout = {name: list(value.shape) for name, value in model.state_dict().items()}
        self.about = {
            **about, "settings": asdict(settings), "seed": seed, "samples": len(self.x),
            "layers": layout,
        }  # fmt: skip
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = _optimizer(model, settings)
        if pruner is not None:
            pruner.attach(self.optimizer)
        self.teacher: nn.Module | None = None
        self.progress = Progress()

    # -- one epoch --

    def epoch(self) -> None:
        """Train, prune, evaluate, log."""
        number = self.progress.epoch + 1
        start = time.monotonic()
        loss = self._train(number)
        notes = self._prune(number)
        accuracy = self.accuracy()
        self.progress.epoch = number
        self._note_best(accuracy)
        entry: dict[str, Any] = {
            "epoch": number,
            "loss": round(loss, 6),
            "accuracy": accuracy,
            "seconds": round(time.monotonic() - start, 1),
        }
        if self.pruner is not None:
            entry |= {
                "macs_removed": round(self.pruner.macs().removed, 6),
                "zero_weights": round(self.pruner.zero_weights(), 6),
                "kernels": self.pruner.kernels(),
            }
        if notes:
            entry["notes"] = notes
        self.progress.log.append(entry)
        self._say(entry)

    def _train(self, number: int) -> float:
        s = self.settings
        # Fixed by seed and epoch, so that a resumed run draws what an uninterrupted one does.
        torch.manual_seed(self.seed * 100_003 + number)
        random = torch.Generator().manual_seed(self.seed * 100_003 + number)
        order = torch.randperm(len(self.x), generator=random)[: self.steps * s.batch]
        self.model.train()
        total = 0.0
        for step, index in enumerate(order.reshape(self.steps, s.batch)):
            self._set_lr((number - 1) * self.steps + step)
            images = shifted(self.x[index], s.shift, random)
            if self.augment is not None:
                images = self.augment(images, random)
            loss = self._loss(images, self.y[index])
            value = loss.item()
            if not math.isfinite(value):
                raise self._broken(value, number, step)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            layers.after_step(self.model)
            total += value
            if self.pruner is not None and self.pruner.step() and s.shrink:
                self.pruner.shrink()
            self._show(number, step)
        return total / self.steps

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        logits = self.model(images)
        loss = nnf.cross_entropy(logits, labels)
        if self.teacher is None:
            return loss
        share, t = self.settings.distil, self.settings.temperature
        with torch.no_grad():
            wanted = nnf.log_softmax(self.teacher(images) / t, 1)
        distance = nnf.kl_div(
            nnf.log_softmax(logits / t, 1), wanted, reduction="batchmean", log_target=True
        )
        return (1 - share) * loss + share * t * t * distance

    def _set_lr(self, step: int) -> None:
        s = self.settings
        share = 1.0
        if s.cosine:
            share = 0.5 * (1 + math.cos(math.pi * step / (s.epochs * self.steps)))
        if step < s.warmup:
            share *= (step + 1) / s.warmup
        for group in self.optimizer.param_groups:
            group["lr"] = s.lr * share

    def _broken(self, value: float, number: int, step: int) -> CompileError:
        kept = (
            f"the checkpoint of epoch {number - 1} is kept" if number > 1 else "no epoch was done"
        )
        return CompileError(
            f"the loss is {value} in epoch {number}, step {step + 1}",
            "training",
            help=f"{kept}; try a smaller learning rate",
        )

    def _prune(self, number: int) -> list[str]:
        if self.pruner is None:
            return []
        if self.settings.distil and self.teacher is None and self.pruner.begins(number):
            self._teach(copy.deepcopy(self.model))
        notes = self.pruner.epoch(number)
        if self.settings.shrink:
            self.pruner.shrink()
        return notes

    def _teach(self, dense: nn.Module) -> None:
        self.teacher = dense.eval().requires_grad_(False)

    def accuracy(self) -> float:
        """Share of the held-out samples whose class is right."""
        return accuracy(self.model, self.x_held, self.y_held)

    def _note_best(self, found: float) -> None:
        p = self.progress
        if self.pruner is not None and not self.pruner.finished(p.epoch):
            return
        if found >= p.best or self.settings.keep == "last":  # of equals, the longest trained one
            p.best, p.best_epoch = found, p.epoch
            p.best_state = copy.deepcopy(self.model.state_dict())
            if self.better is not None:
                self.better(self.model)

    def stopped(self) -> bool:
        """Whether no epoch has been better for long enough."""
        p, patience = self.progress, self.settings.patience
        return bool(patience and p.best >= 0 and p.epoch - p.best_epoch >= patience)

    def choose(self) -> None:
        """Give the model the weights of the chosen epoch."""
        if self.progress.best_state is not None:
            self.model.load_state_dict(self.progress.best_state)

    # -- what is written --

    def save(self) -> None:
        p = self.progress
        state = {
            "about": self.about, "epoch": p.epoch, "best": p.best, "best_epoch": p.best_epoch,
            "best_state": p.best_state, "log": p.log, "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pruner": None if self.pruner is None else self.pruner.state_dict(),
            "teacher": None if self.teacher is None else self.teacher.state_dict(),
            "threads": torch.get_num_threads(),
        }  # fmt: skip
        checkpoint.save(self.out / CHECKPOINT, state)
        write_log(self.out / LOG, p.log)

    def restore(self) -> None:
        state = checkpoint.load(self.out / CHECKPOINT, self.about)
        if state["teacher"] is not None:
            dense = copy.deepcopy(self.model)
            dense.load_state_dict(state["teacher"])
            self._teach(dense)
        if self.pruner is not None:
            self.pruner.load_state_dict(state["pruner"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        before, now = state.get("threads"), torch.get_num_threads()
        if before not in (None, now):  # sums have other orders
            self.say(f"{before} threads up to here, {now} now: the weights will be others")
        self.progress = Progress(
            state["epoch"], state["best"], state["best_epoch"], state["best_state"], state["log"]
        )

    def title(self) -> str:
        """What the run is, for people."""
        named = [str(self.about[key]) for key in ("task", "preset") if key in self.about]
        return ", ".join([*named, f"seed {self.seed}"])

    def _show(self, number: int, step: int) -> None:
        if not sys.stderr.isatty():
            return
        done = f"epoch {number}/{self.settings.epochs}  step {step + 1}/{self.steps}"
        end = "\r" if step + 1 < self.steps else "\r\x1b[K"
        print(f"{done}\x1b[K", end=end, file=sys.stderr, flush=True)

    def _say(self, entry: dict[str, Any]) -> None:
        text = (
            f"epoch {entry['epoch']:3d}/{self.settings.epochs}  loss {entry['loss']:.4f}  "
            f"held-out {entry['accuracy']:.2%}"
        )
        if "macs_removed" in entry:
            text += f"  removed {entry['macs_removed']:.2%}"
        self.say(f"{text}  {entry['seconds']:.1f} s")
        for note in entry.get("notes", []):
            self.say(f"  {note}")


def _optimizer(model: nn.Module, s: Settings) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if s.optimizer == "adam":
        return torch.optim.Adam(parameters, s.lr, weight_decay=s.weight_decay)
    if s.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, s.lr, momentum=0.9, weight_decay=s.weight_decay, nesterov=s.nesterov
        )
    raise ValueError(f"optimizer={s.optimizer!r}: adam or sgd")


def predictions(model: nn.Module, x: Tensor) -> Tensor:
    """The class of each sample in evaluation mode."""
    model.eval()
    with torch.no_grad():
        parts = [model(x[i : i + _EVALUATED]).argmax(1) for i in range(0, len(x), _EVALUATED)]
    return torch.cat(parts)


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of samples whose class is right."""
    return int((predictions(model, x) == y).sum()) / len(y)
