"""The log of a run: JSON with one entry an epoch, and a plot of it where matplotlib is there."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any


def write_log(path: Path, entries: list[dict[str, Any]]) -> None:
    """entries: epoch, loss, accuracy (held-out samples), seconds; of a pruner, macs_removed (share
    of the dense convolutions' MACs), zero_weights (share of their weights, input channels not
    counted) and kernels (live ones by layer)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"epochs": entries}, indent=1) + "\n")
    temporary.replace(path)


def plot_log(path: Path, entries: list[dict[str, Any]], title: str = "") -> None:
    """A picture of accuracy and operations by epoch, PNG; nothing without matplotlib. Operations
    are those that an epoch ends with; before the first it is the dense network's."""
    if importlib.util.find_spec("matplotlib") is None or not entries:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    epochs = [e["epoch"] for e in entries]
    axes.plot(epochs, [100 * e["accuracy"] for e in entries], "o-", color="tab:blue", ms=3)
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("held-out accuracy, %", color="tab:blue")
    if "macs_removed" in entries[0]:
        other = axes.twinx()
        left = [100.0] + [100 * (1 - e["macs_removed"]) for e in entries]
        other.step([epochs[0] - 1, *epochs], left, where="post", color="tab:orange")
        other.set_ylabel("convolution MACs left, %", color="tab:orange")
        other.set_ylim(0, 105)
    FigureCanvasAgg(figure).print_figure(str(path), format="png", dpi=110)
