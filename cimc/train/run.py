"""A preset from data to figures: train, export, compile, run on the test samples, count."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import cimc
from cimc.frontend.bind import bind_shapes
from cimc.frontend.importer import import_model
from cimc.frontend.operations import LayerOps, count
from cimc.frontend.reduction import compare
from cimc.train import loop
from cimc.train.data import Data
from cimc.train.export import export_onnx, save_onnx
from cimc.train.loop import Say
from cimc.train.preset import Preset

MODEL, PROGRAM, RESULT = "model.onnx", "model.cim", "result.json"


def run(
    preset: Preset,
    data_file: Path,
    out: Path,
    *,
    seed: int = 0,
    epochs: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    limit: int | None = None,
    stop_after: int | None = None,
    threads: int | None = None,
    say: Say = print,
) -> dict[str, Any] | None:
    """Train, and write model, program and figures to `out`; None if it was stopped before the end.

    limit: only the first training samples. stop_after, resume, overwrite: see `loop.train`.
    The figures: accuracy of the program on all test samples; whether its classes are the module's;
    MACs of the convolutions and of all layers, by layer, against the dense network. Raises
    CompileError.
    """
    preset = preset.with_epochs(epochs)
    data = preset.read(data_file).limited(limit)
    loop.set_up(seed, threads)
    dense, model = preset.network(), preset.network()
    model.load_state_dict(dense.state_dict())
    example = data.x_train[:1]
    pruner = preset.pruner(model, example, preset.settings) if preset.pruner else None
    about = {
        "task": preset.task,
        "preset": preset.name,
        "data": hashlib.sha256(data_file.read_bytes()).hexdigest()[:16],
    }
    if overwrite:  # what is there is no result of the run that starts
        for name in (MODEL, PROGRAM, RESULT):
            (out / name).unlink(missing_ok=True)
    progress = loop.train(
        model, data, preset.settings, out, pruner=pruner, augment=preset.augment,
        better=preset.better, seed=seed, resume=resume, overwrite=overwrite, stop_after=stop_after,
        about=about, say=say,
    )  # fmt: skip
    if stop_after is not None and progress.epoch >= stop_after < preset.settings.epochs:
        return None
    if preset.finish is not None:
        preset.finish(model, data)
    figures = {
        **about, "seed": seed, "epochs": progress.epoch, "epoch": progress.best_epoch,
        "held_out": progress.best,
    }  # fmt: skip
    figures |= measure(model, dense, data, out, preset.pipeline, {"seed": str(seed)})
    if pruner is not None:
        figures["macs_removed_by_masks"] = pruner.macs().removed
        figures["zero_weights"] = pruner.zero_weights()
    (out / RESULT).write_text(json.dumps(figures, indent=1) + "\n")
    say(summary(figures))
    return figures


def measure(
    model: nn.Module, dense: nn.Module, data: Data, out: Path, pipeline: str, notes: dict[str, str]
) -> dict[str, Any]:
    """Export to `out`, compile, and run the program on the test samples."""
    example = data.x_test[:1]
    made = export_onnx(model, example, notes)
    save_onnx(made, out / MODEL)
    program = cimc.compile(out / MODEL, pipeline=pipeline)
    program.save(out / PROGRAM)
    logits = torch.from_numpy(program.run({"image": data.x_test.numpy()}).outputs["logits"])
    classes = logits.argmax(1)
    right = int((classes == data.y_test).sum())
    same = int((classes == loop.predictions(model, data.x_test)).sum())
    found = compare(_operations(model, example), _operations(dense, example), str(out / MODEL))
    sums = found.to_json()
    return {
        "right": right,
        "samples": len(classes),
        "accuracy": right / len(classes),
        "same_class_as_module": same,
        "bytes": (out / MODEL).stat().st_size,
        "convolutions": sums["convolutions"],
        "all_layers": sums["all"],
        "published_definition": sums["published_definition"],
        "kernels": {p.name: p.now.kernels for p in found.pairs if p.now and p.now.convolution},
    }


def _operations(model: nn.Module, example: Tensor) -> list[LayerOps]:
    graph = import_model(export_onnx(model, example), "model")
    bind_shapes(graph, {}, "model")
    return count(graph)


def summary(figures: dict[str, Any]) -> str:
    """In a few lines."""
    conv = figures["convolutions"]
    return (
        f"test accuracy of the program: {figures['accuracy']:.2%} "
        f"({figures['right']}/{figures['samples']}); the module's class for "
        f"{figures['same_class_as_module']}\n"
        f"convolutions: {conv['dense']:,} → {conv['effective']:,} MACs, "
        f"{conv['removed']:.2%} removed"
    )
