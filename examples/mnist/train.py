"""Train the MNIST example, a network with three binary convolutions, and export it to ONNX.

    python examples/mnist/train.py --data ../shared/data/mnist.npz

The data file is a NumPy archive with x_train, y_train, x_test and y_test (uint8, 28 x 28).
5,000 training images are held out; the epoch with the best accuracy on them is the one kept.
The test images are looked at once, at the end. Ctrl-C stops early and keeps the best so far.
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
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from training import bnn  # noqa: E402

PIXEL_MAX = 255.0
PIXEL_MEAN = 0.1307
PIXEL_STD = 0.3081
HELD_OUT = 5000
MAX_SHIFT = 2


class MnistNet(nn.Module):
    """Three binary 3x3 convolutions (1 -> 32 -> 64 -> 16), then three float layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = bnn.BinaryConv2d(1, 32)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = bnn.BinaryConv2d(32, 64)
        self.bn2 = nn.BatchNorm2d(64)
        self.conv3 = bnn.BinaryConv2d(64, 16)
        self.bn3 = nn.BatchNorm2d(16)
        self.fc1 = nn.Linear(784, 256)
        self.fc2 = nn.Linear(256, 128)
        self.fc3 = nn.Linear(128, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = bnn.sign((image.float() / PIXEL_MAX - PIXEL_MEAN) / PIXEL_STD)
        x = bnn.sign(nnf.max_pool2d(self.bn1(self.conv1(x)), 2))
        x = bnn.sign(nnf.max_pool2d(self.bn2(self.conv2(x)), 2))
        x = nnf.relu(self.bn3(self.conv3(x))).flatten(1)
        x = nnf.relu(self.fc1(x))
        x = nnf.relu(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits


def export(net: MnistNet, notes: dict[str, str]) -> onnx.ModelProto:
    """Build the ONNX model of the network in eval mode."""
    g = bnn.GraphBuilder()
    x = g.node("Cast", "cast0", bnn.INPUT_NAME, to=onnx.TensorProto.FLOAT)
    x = g.node("Div", "scale0", x, g.const("scale0.max", PIXEL_MAX))
    x = g.node("Sub", "mean0", x, g.const("mean0.mean", PIXEL_MEAN))
    x = g.node("Div", "std0", x, g.const("std0.std", PIXEL_STD))
    x = g.sign("sign0", x)
    x = g.binary_conv("conv1", x, net.conv1)
    x = g.batch_norm("bn1", x, net.bn1)
    x = g.max_pool("pool1", x)
    x = g.sign("sign1", x)
    x = g.binary_conv("conv2", x, net.conv2)
    x = g.batch_norm("bn2", x, net.bn2)
    x = g.max_pool("pool2", x)
    x = g.sign("sign2", x)
    x = g.binary_conv("conv3", x, net.conv3)
    x = g.batch_norm("bn3", x, net.bn3)
    x = g.node("Relu", "relu3", x)
    x = g.node("Flatten", "flatten", x, axis=1)
    x = g.linear("fc1", x, net.fc1)
    x = g.node("Relu", "relu4", x)
    x = g.linear("fc2", x, net.fc2)
    x = g.node("Relu", "relu5", x)
    g.linear("fc3", x, net.fc3, output=bnn.OUTPUT_NAME)
    return g.model("mnist_bnn", (1, 28, 28), 10, notes)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the MNIST example, write it as ONNX.")
    parser.add_argument("--data", type=Path, required=True, help="mnist.npz")
    parser.add_argument("--out", type=Path, default=HERE / "mnist_bnn.onnx", help="ONNX file")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    with np.load(args.data) as data:
        x_all, y_all = data["x_train"][:, None], data["y_train"]
        x_test, y_test = data["x_test"][:, None], data["y_test"]

    bnn.set_up(args.seed, args.threads)
    # The file's order is not random, so draw the held-out images.
    order = torch.randperm(len(x_all)).numpy()
    held_out, kept = order[:HELD_OUT], order[HELD_OUT:]
    x_train = torch.from_numpy(x_all[kept])
    y_train = torch.from_numpy(y_all[kept]).long()
    x_held_out = torch.from_numpy(x_all[held_out])
    y_held_out = y_all[held_out]

    net = MnistNet()
    bnn.use_channels_last(net)
    steps = args.epochs * (len(x_train) // args.batch_size)
    optimizer, scheduler = bnn.make_optimizer(net, args.lr, steps)
    best_right = -1
    best_net = net
    try:
        for epoch in range(1, args.epochs + 1):
            start = time.monotonic()
            loss = bnn.train_epoch(
                net, x_train, y_train, optimizer, scheduler, args.batch_size, MAX_SHIFT
            )
            right = int((bnn.predict_torch(net, x_held_out) == y_held_out).sum())
            mark = ""
            # On a tie take the later epoch: it was trained with a smaller learning rate.
            if right >= best_right:
                notes = {
                    "seed": str(args.seed),
                    "epoch": f"{epoch}/{args.epochs}",
                    "held_out_accuracy": f"{right}/{HELD_OUT}",
                }
                bnn.save_model(export(net, notes), args.out)
                best_right, best_net, mark = right, copy.deepcopy(net), "  saved"
            print(
                f"epoch {epoch:3d}/{args.epochs}  loss {loss:.4f}  "
                f"held-out {100 * right / HELD_OUT:.2f} %  "
                f"{time.monotonic() - start:.1f} s{mark}",
                flush=True,
            )
    except KeyboardInterrupt:
        if best_right < 0:
            print("stopped before the end of the first epoch, nothing saved")
            return 130
        print("stopped, keeping the best epoch so far")

    return 0 if bnn.report(args.out, best_net, x_test, y_test) else 1


if __name__ == "__main__":
    sys.exit(main())
