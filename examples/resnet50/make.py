"""Writes the int8 network of the shape of ResNet-50 that `cimc bench` measures: random weights,
25.5 million of them. For measuring size and speed; it recognises nothing.

python examples/resnet50/make.py resnet50_int8.onnx
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx

from cimc.bench.resnet import resnet50


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "resnet50_int8.onnx")
    model = resnet50()
    onnx.save(model, path)
    weights = sum(np.prod(t.dims) for t in model.graph.initializer)
    print(f"{path}: {int(weights):,} constants, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
