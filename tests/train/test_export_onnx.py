"""Programs of exported modules give the modules' numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: the extra `train`")
import torch.nn.functional as nnf  # noqa: E402
from torch import nn  # noqa: E402

import cimc  # noqa: E402
from cimc.errors import CompileError  # noqa: E402
from cimc.train import convert, export_onnx, layers, quantisers, save_onnx  # noqa: E402
from cimc.train.quantisers import sign  # noqa: E402

SAMPLES = 12


def _program(net: nn.Module, x: Any, tmp_path: Path) -> tuple[Any, Any]:
    """The program, exactly compiled, and what it makes of x."""
    save_onnx(export_onnx(net, x[:1]), tmp_path / "net.onnx")
    program = cimc.compile(tmp_path / "net.onnx", pipeline="exact")
    return program, program.run({"image": x.numpy()}).outputs["logits"]


def _settled(net: nn.Module, x: Any) -> nn.Module:
    """With statistics of batch normalisation, in evaluation mode."""
    net.train()
    for _ in range(3):
        net(x)
    return net.eval()


class Small(nn.Module):
    """Convolutions with batch normalisation and pools, and a linear layer, of any kind."""

    def __init__(self, conv: Any, linear: Any, act: Any) -> None:
        super().__init__()
        self.c1, self.b1, self.a1 = conv(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), act()
        self.c2, self.a2 = conv(6, 5, 3, stride=2, padding=1), act()
        self.f = linear(45, 4)

    def forward(self, x: Any) -> Any:
        x = self.a1(nnf.max_pool2d(self.b1(self.c1(x.float())), 2))
        x = self.a2(self.c2(x))
        return self.f(x.flatten(1))


def _of(kind: str, **more: Any) -> tuple[Any, Any]:
    def made(name: str) -> Any:
        layer = getattr(layers, f"{kind}{name}")
        return lambda *args, **kwargs: layer(*args, **kwargs, **more)

    return made("Conv2d"), made("Linear")


ACTS = {
    "sign": quantisers.Sign,
    "sign of zero": lambda: quantisers.Sign(zero=1),
    "u4": lambda: quantisers.QuantReLU(4, clip=64.0),
    "u8": lambda: quantisers.QuantReLU(8, clip=64.0),
    "i3": lambda: quantisers.QuantAct(3, signed=True, clip=64.0),
}
KINDS = {
    "binary": _of("Binary"),
    "binary, scaled": _of("Binary", scale="channel"),
    "ternary": _of("Ternary", scale="layer"),
    "4 bits": _of("Quant", bits=4),
    "3 bits, one scale": _of("Quant", bits=3, scale="layer"),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("kind", KINDS)
def test_programs_equal_modules_in_every_bit(kind: str, act: str, tmp_path: Path) -> None:
    torch.manual_seed(hash_of(kind, act))
    x = torch.randint(0, 256, (SAMPLES, 1, 12, 12), dtype=torch.uint8)
    net = _settled(Small(*KINDS[kind], ACTS[act]), x)
    program, found = _program(net, x, tmp_path)
    np.testing.assert_array_equal(found, net(x).detach().numpy())
    on_tiles = [n for n in program.graph.nodes if n.op in ("cim.conv", "cim.matmul")]
    assert len(on_tiles) == 3


def hash_of(*names: str) -> int:
    return sum(map(ord, "".join(names)))


class Prepared(nn.Module):
    """Preprocessing, a residual sum, a depthwise layer, joined channels and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.c1 = layers.BinaryConv2d(1, 4, 3, padding=1, bias=False)
        self.c2 = layers.BinaryConv2d(4, 4, 3, padding=1, groups=4, bias=False)
        self.b = nn.BatchNorm2d(4)
        self.c3 = layers.TernaryConv2d(8, 6, 1)
        self.f = nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        x = sign((x.float() / 255.0 - 0.25) / 0.5)
        x = sign(self.b(self.c1(x)))
        y = sign(self.c2(x) + x)
        x = torch.relu(self.c3(torch.cat([x, y], 1)))
        return self.f(x.mean((2, 3)))


def test_preprocessing_and_branches(tmp_path: Path) -> None:
    torch.manual_seed(1)
    x = torch.randint(0, 256, (SAMPLES, 1, 6, 6), dtype=torch.uint8)
    net = _settled(Prepared(), x)
    _, found = _program(net, x, tmp_path)
    np.testing.assert_allclose(found, net(x).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_converted_float_networks(tmp_path: Path) -> None:
    torch.manual_seed(2)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(6, 6, 3, bias=False), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(6, 3),
    )  # fmt: skip
    x = torch.randn(SAMPLES, 3, 10, 10)
    convert(net, weights=4, activations=4, skip=("first", "last"))
    _settled(net, x)
    _, found = _program(net, x, tmp_path)
    np.testing.assert_allclose(found, net(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_the_model_is_conservative() -> None:
    net = Prepared()
    net.train()
    model = export_onnx(net, torch.zeros(1, 1, 6, 6, dtype=torch.uint8), {"seed": "3"})
    assert net.training  # the export leaves the mode as it was
    assert model.ir_version <= 10
    assert [o.version for o in model.opset_import] == [13]
    assert model.metadata_props[0].value == "3"
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, 2)

    def forward(self, x: Any) -> Any:
        return torch.cumsum(self.norm(x).tril(), 1)


def test_all_unknown_operations_at_once() -> None:
    with pytest.raises(CompileError) as caught:
        export_onnx(Unknown(), torch.zeros(1, 2, 3, 3))
    for text in ("module 'norm': error: can't export GroupNorm", "method tril", "cumsum"):
        assert text in str(caught.value)


class Branching(nn.Module):
    def forward(self, x: Any) -> Any:
        return x if x.sum() > 0 else -x


def test_what_can_not_be_traced() -> None:
    with pytest.raises(CompileError, match=r"Branching: error: the forward can't be traced"):
        export_onnx(Branching(), torch.zeros(1, 2))
    with pytest.raises(CompileError, match=r"does not take an input of \[1, 5\]"):
        export_onnx(nn.Linear(4, 2), torch.zeros(1, 5))
    with pytest.raises(CompileError, match=r"float64"):
        export_onnx(nn.Linear(4, 2), torch.zeros(1, 4, dtype=torch.float64))
