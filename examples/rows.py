"""Presets of cimc.train with several seeds: mean and spread of what their programs reach.

    python examples/rows.py fashion supermask random --data fashion.npz

Each run has a folder TASK-PRESET-SEED in --out; one that is complete is not run again, one that was
stopped goes on. The network with the best held-out accuracy is named, --best copies it. With
--curve, the means of the presets are the points of a curve for `cimc prune-report --curve`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

from cimc.train import presets
from cimc.train.loop import CHECKPOINT
from cimc.train.run import MODEL, RESULT, run


def results(args: argparse.Namespace, preset: str) -> list[dict[str, Any]]:
    """Of all seeds, run now or before."""
    found = []
    for seed in range(args.seeds):
        out = args.out / f"{args.task}-{preset}-{seed}"
        if not (out / RESULT).exists():
            print(f"{args.task}, {preset}, seed {seed}", flush=True)
            run(
                presets.find(args.task, preset), args.data, out, seed=seed, epochs=args.epochs,
                resume=(out / CHECKPOINT).exists(), threads=args.threads,
            )  # fmt: skip
        found.append(json.loads((out / RESULT).read_text()) | {"folder": str(out)})
    return found


def removed(result: dict[str, Any]) -> float:
    return float(result["convolutions"]["removed"])


def row(preset: str, found: list[dict[str, Any]]) -> str:
    """Means, and the standard deviation of the accuracy over the seeds."""
    right = [100 * r["accuracy"] for r in found]
    share = [100 * removed(r) for r in found]
    spread = statistics.stdev(right) if len(right) > 1 else 0.0
    each = ", ".join(f"{one:.2f}" for one in right)
    return (
        f"{preset}: {statistics.mean(right):.2f} ± {spread:.2f} % ({each}), "
        f"{statistics.mean(share):.1f} % of conv MACs removed"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("task")
    parser.add_argument("presets", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="other than the preset's")
    parser.add_argument("--threads", type=int, default=1, help="others give other weights")
    parser.add_argument("--best", type=Path, help="copy the best network of the last preset here")
    parser.add_argument("--curve", type=Path, help="write the means as a curve, JSON")
    args = parser.parse_args()
    points, found = [], []
    for preset in args.presets:
        found = results(args, preset)
        print(row(preset, found), flush=True)
        mean = statistics.mean(r["accuracy"] for r in found)
        points.append([statistics.mean(map(removed, found)), mean])
    best = max(found, key=lambda r: r["held_out"])
    print(f"best on held-out samples: {best['folder']}, {best['accuracy']:.2%}")
    if args.best:
        args.best.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(best["folder"]) / MODEL, args.best)
    if args.curve:
        label = f"{args.task}, mean of {args.seeds} seeds"
        args.curve.write_text(json.dumps([{"label": label, "points": points}], indent=1) + "\n")


if __name__ == "__main__":
    main()
