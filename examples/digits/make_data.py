"""Write the digits that come with scikit-learn as a data set: x_train, y_train, x_test, y_test.

    python examples/digits/make_data.py --out digits.npz

Images are uint8 [n, 1, 8, 8], values 0 to 16. A quarter of them is the test part, each class with
the same share.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def arrays() -> dict[str, Any]:
    """The data set's arrays by name."""
    digits = load_digits()
    images, labels = digits.images.astype(np.uint8)[:, None], digits.target.astype(np.uint8)
    parts = train_test_split(images, labels, test_size=0.25, random_state=0, stratify=labels)
    return dict(zip(("x_train", "x_test", "y_train", "y_test"), parts))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write scikit-learn's digits as a data set.")
    parser.add_argument("--out", type=Path, default=Path("digits.npz"))
    np.savez_compressed(parser.parse_args().out, **arrays())


if __name__ == "__main__":
    main()
