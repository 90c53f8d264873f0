"""Train the digits example, a small fully binary network, and export it to ONNX.

    python examples/digits/train.py

The images are scikit-learn's handwritten digits (8 x 8 pixels, values 0..16), which come with
scikit-learn. A quarter of them is the test part; it is also written as ``digits_test.npz``
beside the ONNX file. The network after the last epoch is the one kept, so that the test images
play no part in the choice. Ctrl-C stops early and keeps the last network written.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as nnf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from training import bnn  # noqa: E402

MAX_SHIFT = 1
SAVE_EVERY = 10


class DigitsNet(nn.Module):
    """Two binary 3x3 convolutions (1 -> 32 -> 32) and a binary linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = bnn.BinaryConv2d(1, 32)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = bnn.BinaryConv2d(32, 32)
        self.bn2 = nn.BatchNorm2d(32)
        self.fc = bnn.BinaryLinear(512, 10)
        self.bn3 = nn.BatchNorm1d(10)  # exported as one Mul and one Add

    def forward(self, image: Tensor) -> Tensor:
        x = bnn.sign(self.bn1(self.conv1(image.float())))  # whole pixel values, not scaled
        x = bnn.sign(nnf.max_pool2d(self.bn2(self.conv2(x)), 2))
        logits: Tensor = self.bn3(self.fc(x.flatten(1)))
        return logits


def export(net: DigitsNet, notes: dict[str, str]) -> onnx.ModelProto:
    """Build the ONNX model of the network in eval mode."""
    g = bnn.GraphBuilder()
    x = g.node("Cast", "cast0", bnn.INPUT_NAME, to=onnx.TensorProto.FLOAT)
    x = g.binary_conv("conv1", x, net.conv1)
    x = g.batch_norm("bn1", x, net.bn1)
    x = g.sign("sign1", x)
    x = g.binary_conv("conv2", x, net.conv2)
    x = g.batch_norm("bn2", x, net.bn2)
    x = g.max_pool("pool2", x)
    x = g.sign("sign2", x)
    x = g.node("Flatten", "flatten", x, axis=1)
    x = g.linear("fc", x, net.fc)
    bn = net.bn3
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    x = g.node("Mul", "mul3", x, g.const("mul3.scale", scale))
    offset = g.const("add3.offset", bn.bias - bn.running_mean * scale)
    g.node("Add", "add3", x, offset, output=bnn.OUTPUT_NAME)
    return g.model("digits_bnn", (1, 8, 8), 10, notes)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the digits example, write it as ONNX.")
    parser.add_argument("--out", type=Path, default=HERE / "digits_bnn.onnx", help="ONNX file")
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    digits = load_digits()
    x_all = digits.images.astype(np.uint8)[:, None]
    y_all = digits.target.astype(np.uint8)
    x_train, x_test, y_train, y_test = train_test_split(
        x_all, y_all, test_size=0.25, random_state=0, stratify=y_all
    )
    bnn.write_atomically(
        args.out.with_name("digits_test.npz"),
        lambda path: np.savez_compressed(path, x_test=x_test, y_test=y_test),
    )

    bnn.set_up(args.seed, args.threads)
    images = torch.from_numpy(x_train)
    labels = torch.from_numpy(y_train).long()
    net = DigitsNet()
    bnn.use_channels_last(net)
    steps = args.epochs * (len(images) // args.batch_size)
    optimizer, scheduler = bnn.make_optimizer(net, args.lr, steps)
    saved_net: DigitsNet | None = None
    try:
        for epoch in range(1, args.epochs + 1):
            start = time.monotonic()
            loss = bnn.train_epoch(
                net, images, labels, optimizer, scheduler, args.batch_size, MAX_SHIFT
            )
            mark = ""
            if epoch % SAVE_EVERY == 0 or epoch == args.epochs:
                notes = {"seed": str(args.seed), "epoch": f"{epoch}/{args.epochs}"}
                bnn.save_model(export(net, notes), args.out)
                saved_net, mark = copy.deepcopy(net), "  saved"
            print(
                f"epoch {epoch:3d}/{args.epochs}  loss {loss:.4f}  "
                f"{time.monotonic() - start:.2f} s{mark}",
                flush=True,
            )
    except KeyboardInterrupt:
        if saved_net is None:
            print("stopped before the first network was saved")
            return 130
        print("stopped, keeping the last network saved")

    assert saved_net is not None
    return 0 if bnn.report(args.out, saved_net, x_test, y_test) else 1


if __name__ == "__main__":
    sys.exit(main())
