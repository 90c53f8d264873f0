"""Write spectrograms of recordings as data for `cimc eval`: x_train, y_train, x_test, y_test.

python examples/spoken_digits/spectrograms.py --data ../shared/data/fsdd_8khz.npz
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from cimc.train.spectrogram import spectrograms


def main() -> None:
    parser = argparse.ArgumentParser(description="Write spectrograms of recordings.")
    parser.add_argument("--data", type=Path, required=True, help="fsdd_8khz.npz")
    parser.add_argument("--out", type=Path, default=Path("spectrograms.npz"))
    args = parser.parse_args()
    arrays = {}
    with np.load(args.data) as file:
        for part in ("train", "test"):
            recordings = file[f"audio_{part}"], file[f"offset_{part}"]
            arrays |= {f"x_{part}": spectrograms(*recordings), f"y_{part}": file[f"y_{part}"]}
    np.savez_compressed(args.out, **arrays)


if __name__ == "__main__":
    main()
