"""Small tool box for training binarised networks and writing them as ONNX.

Shared by the scripts ``examples/*/train.py``. It holds the straight-through sign, binary
convolution and linear layers, one training epoch, and helpers that build ONNX graphs by hand.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
import torch.nn.functional as nnf
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

OPSET = 13
IR_VERSION = 8
INPUT_NAME = "image"
OUTPUT_NAME = "logits"


# ---------------------------------------------------------------------------------------------
# Binary layers
# ---------------------------------------------------------------------------------------------


class _SignSTE(torch.autograd.Function):
    """+1 where x > 0, else -1; the gradient passes unchanged inside [-1, 1], is 0 outside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype).mul_(2).sub_(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        grad: Tensor = grads[0] * (x.abs() <= 1)
        return grad


def sign(x: Tensor) -> Tensor:
    """Binarise ``x`` to +1 / -1 with the straight-through gradient."""
    result: Tensor = _SignSTE.apply(x)  # type: ignore[no-untyped-call]
    return result


class BinaryConv2d(nn.Conv2d):
    """3x3 convolution, padding 1, no bias, weights exactly +1 / -1 in the forward pass."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        nn.init.uniform_(self.weight, -0.5, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return nnf.conv2d(x, sign(self.weight), padding=1)


class BinaryLinear(nn.Linear):
    """Linear layer, no bias, weights exactly +1 / -1 in the forward pass."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)
        nn.init.uniform_(self.weight, -0.5, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return nnf.linear(x, sign(self.weight))


def binary_weight(layer: BinaryConv2d | BinaryLinear) -> npt.NDArray[np.float32]:
    """Return the +1 / -1 weights of a binary layer."""
    return sign(layer.weight.detach()).numpy().astype(np.float32)


def clip_latent_weights(model: nn.Module) -> None:
    """Keep latent weights in [-1, 1]: outside, the straight-through gradient is 0 for good."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, BinaryConv2d | BinaryLinear):
                layer.weight.clamp_(-1.0, 1.0)


# ---------------------------------------------------------------------------------------------
# Training and evaluation
# ---------------------------------------------------------------------------------------------


def set_up(seed: int, threads: int) -> None:
    """Fix the random seed and the number of threads (both influence the trained weights)."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Deterministic mode would also fill new memory, which costs a lot of time and is not needed.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def use_channels_last(model: nn.Module) -> None:
    """Store the convolution weights channels-last, with which training on a CPU is faster."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def shift_images(images: Tensor, max_shift: int) -> Tensor:
    """Move each image by a random whole number of pixels, at most ``max_shift`` each way."""
    if max_shift == 0:
        return images
    n, _, height, width = images.shape
    padded = nnf.pad(images, (max_shift,) * 4)[:, 0]
    rows = torch.randint(0, 2 * max_shift + 1, (n, 1)) + torch.arange(height)
    cols = torch.randint(0, 2 * max_shift + 1, (n, 1)) + torch.arange(width)
    return padded[torch.arange(n)[:, None, None], rows[:, :, None], cols[:, None, :]][:, None]


def make_optimizer(
    model: nn.Module, lr: float, total_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Adam with a cosine schedule that goes from ``lr`` down to 0 in ``total_steps`` steps."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / total_steps)))
    )
    return optimizer, scheduler


def train_epoch(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    batch_size: int,
    max_shift: int,
) -> float:
    """Train on all images once, in random order, and return the mean loss."""
    model.train()
    order = torch.randperm(len(images))
    total_loss = 0.0
    # A last batch of one image would break batch normalisation; drop what does not fill a batch.
    n_batches = len(images) // batch_size
    for index in order[: n_batches * batch_size].reshape(n_batches, batch_size):
        logits = model(shift_images(images[index], max_shift))
        loss = nnf.cross_entropy(logits, labels[index])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        clip_latent_weights(model)
        total_loss += loss.item()
    return total_loss / n_batches


def predict_torch(model: nn.Module, images: Tensor) -> npt.NDArray[np.int64]:
    """Class predicted for each image by the PyTorch module in eval mode."""
    model.eval()
    with torch.no_grad():
        parts = [model(images[i : i + 500]).argmax(dim=1) for i in range(0, len(images), 500)]
    return torch.cat(parts).numpy()


def predict_onnx(path: Path, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Class predicted for each image by onnxruntime, with graph optimisation switched off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    parts = [
        session.run([OUTPUT_NAME], {INPUT_NAME: images[i : i + 500]})[0].argmax(axis=1)
        for i in range(0, len(images), 500)
    ]
    return np.concatenate(parts)


def report(
    path: Path, model: nn.Module, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]
) -> bool:
    """Print test accuracy of the ONNX file; return whether it agrees with the PyTorch module."""
    by_onnx = predict_onnx(path, images)
    by_torch = predict_torch(model, torch.from_numpy(images))
    n = len(labels)
    right = int((by_onnx == labels).sum())
    same = int((by_onnx == by_torch).sum())
    print(f"test accuracy (onnxruntime, {path.name}): {right}/{n} = {100 * right / n:.2f} %")
    print(f"same class as the PyTorch module: {same}/{n}")
    return same == n


# ---------------------------------------------------------------------------------------------
# ONNX export
# ---------------------------------------------------------------------------------------------


class GraphBuilder:
    """Builds an ONNX graph node by node; each method returns the name of its output tensor."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def const(self, name: str, value: npt.ArrayLike | Tensor) -> str:
        """Store a float32 initialiser (once per name)."""
        if name not in self.initializers:
            if isinstance(value, Tensor):
                value = value.detach().numpy()
            array = np.array(value, dtype=np.float32, order="C")
            self.initializers[name] = numpy_helper.from_array(array, name)
        return name

    def node(
        self, op: str, name: str, *inputs: str, output: str | None = None, **attributes: Any
    ) -> str:
        """Append one node; its output tensor is ``<name>.out`` unless told otherwise."""
        result = output or f"{name}.out"
        self.nodes.append(helper.make_node(op, list(inputs), [result], name=name, **attributes))
        return result

    def sign(self, name: str, x: str) -> str:
        """+1 where x > 0, else -1."""
        positive = self.node("Greater", f"{name}.gt", x, self.const("const.zero", 0.0))
        plus = self.const("const.plus_one", 1.0)
        minus = self.const("const.minus_one", -1.0)
        return self.node("Where", name, positive, plus, minus)

    def binary_conv(self, name: str, x: str, layer: BinaryConv2d) -> str:
        weight = self.const(f"{name}.w", binary_weight(layer))
        return self.node(
            "Conv", name, x, weight, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1]
        )

    def batch_norm(self, name: str, x: str, layer: nn.BatchNorm2d) -> str:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        return self.node(
            "BatchNormalization",
            name,
            x,
            self.const(f"{name}.scale", layer.weight),
            self.const(f"{name}.bias", layer.bias),
            self.const(f"{name}.mean", layer.running_mean),
            self.const(f"{name}.var", layer.running_var),
            epsilon=layer.eps,
        )

    def max_pool(self, name: str, x: str) -> str:
        return self.node("MaxPool", name, x, kernel_shape=[2, 2], strides=[2, 2])

    def linear(self, name: str, x: str, layer: nn.Linear, output: str | None = None) -> str:
        if isinstance(layer, BinaryLinear):
            weight = self.const(f"{name}.w", binary_weight(layer))
        else:
            weight = self.const(f"{name}.w", layer.weight)
        inputs = [x, weight]
        if layer.bias is not None:
            inputs.append(self.const(f"{name}.b", layer.bias))
        return self.node("Gemm", name, *inputs, output=output, transB=1)

    def model(
        self, name: str, image_shape: tuple[int, int, int], n_classes: int, notes: dict[str, str]
    ) -> onnx.ModelProto:
        """Finish: uint8 input ``image`` [N, *image_shape], float output ``logits``."""
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["N", *image_shape])],
            [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", n_classes])],
            list(self.initializers.values()),
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="cimc examples",
        )
        helper.set_model_props(model, notes)
        onnx.checker.check_model(model, full_check=True)
        return model


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it to ``path``.

    An interruption at any time leaves either the old file or the complete new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary_name = tempfile.mkstemp(
        prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent
    )
    os.close(handle)
    temporary = Path(temporary_name)
    try:
        temporary.chmod(0o644)
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Write the ONNX file atomically."""
    write_atomically(path, lambda temporary: onnx.save_model(model, str(temporary)))
