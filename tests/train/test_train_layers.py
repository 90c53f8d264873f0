"""Values and gradients of quantisers and layers of few levels."""

from __future__ import annotations

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: the extra `train`")
from torch.nn import functional as nnf  # noqa: E402

from cimc.train import layers, quantisers  # noqa: E402


@pytest.mark.parametrize(("zero", "at_zero"), [(-1, -1.0), (1, 1.0)])
def test_sign(zero: int, at_zero: float) -> None:
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 1.0, 1.5], requires_grad=True)
    y = quantisers.sign(x, zero, window=1.0)
    assert y.tolist() == [-1, -1, at_zero, 1, 1, 1]
    y.backward(torch.arange(1.0, 7.0))
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 0]  # nothing beyond the window


def test_a_gradient_that_falls() -> None:
    x = torch.tensor([-3.0, -1.5, 0.0, 0.5, 2.0], requires_grad=True)
    y = quantisers.sign(x, window=2.0, falling=True)
    assert y.tolist() == [-1, -1, -1, 1, 1]
    y.sum().backward()
    assert x.grad.tolist() == [0, 0.5, 2, 1.5, 0]


def test_ternary() -> None:
    x = torch.tensor([-1.5, -0.5, -0.2, 0.0, 0.2, 0.5], requires_grad=True)
    y = quantisers.ternary(x, torch.tensor(0.2))
    assert y.tolist() == [-1, -1, 0, 0, 0, 1]
    y.sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 1]


def test_rounding_is_half_to_even_and_lets_gradients_through() -> None:
    x = torch.tensor([0.5, 1.5, -2.5, 2.4], requires_grad=True)
    y = quantisers.rounded(x)
    assert y.tolist() == [0, 2, -2, 2]
    (y * torch.arange(4.0)).sum().backward()
    assert x.grad.tolist() == [0, 1, 2, 3]


def test_activations_are_multiples_of_a_power_of_two() -> None:
    act = quantisers.QuantReLU(2, clip=3.0)  # range 4, step 1
    x = torch.tensor([-1.0, 0.5, 0.6, 1.5, 2.9, 9.0], requires_grad=True)
    y = act(x)
    assert y.tolist() == [0, 0, 1, 2, 3, 3]
    y.sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 0]
    # A larger range raises what is cut, by 3 steps of d(step)/d(log2) = ln 2, and what rounding
    # loses of the others.
    lost = sum(b - a for a, b in [(0.5, 0), (0.6, 1), (1.5, 2), (2.9, 3)])
    expected = (3 + lost) * torch.log(torch.tensor(2.0))
    assert act.log2_clip.grad.item() == pytest.approx(expected.item(), rel=1e-5)


def test_signed_activations() -> None:
    act = quantisers.QuantAct(3, signed=True, clip=1.0, learned=False)  # step 1/4, -4 to 3
    assert act(torch.tensor([-9.0, -0.3, 0.1, 0.13, 9.0])).tolist() == [-1, -0.25, 0, 0.25, 0.75]
    assert not list(act.parameters())


def test_binary_layers_sum_signs() -> None:
    torch.manual_seed(0)
    layer = layers.BinaryConv2d(3, 4, 3, padding=1)
    x = torch.randn(2, 3, 5, 5).sign()
    signs = torch.where(layer.weight > 0, 1.0, -1.0)
    expected = nnf.conv2d(x, signs, padding=1) + layer.bias.reshape(-1, 1, 1)
    assert torch.equal(layer(x), expected)
    layer(x).sum().backward()
    inside = layer.weight.detach().abs() <= 1
    assert inside.all()
    assert layer.weight.grad.abs().sum() > 0


def test_float_weights_stay_where_gradients_reach_them() -> None:
    layer = layers.BinaryLinear(4, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, -3, 0.5, 0], [1, 1, 1, 1]]))
        layers.after_step(torch.nn.Sequential(layer))
    assert layer.weight.tolist() == [[1, -1, 0.5, 0], [1, 1, 1, 1]]
    assert layer.levels().tolist() == [[1, -1, 1, -1], [1, 1, 1, 1]]


def test_ternary_levels_and_scale() -> None:
    layer = layers.TernaryLinear(4, 2, bias=False, scale="channel")
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -0.5, 0.1, 0.0], [0.2, 0.2, 0.2, 0.2]]))
    assert layer.levels().tolist() == [[1, -1, 0, 0], [1, 1, 1, 1]]  # thresholds 0.28, 0.14
    torch.testing.assert_close(layer.scale(), torch.tensor([0.75, 0.2]))
    y = layer(torch.eye(4))
    torch.testing.assert_close(y[:, 0], torch.tensor([0.75, -0.75, 0, 0]))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("scale", ["channel", "layer"])
def test_weights_of_k_bits(bits: int, scale: str) -> None:
    torch.manual_seed(bits)
    layer = layers.QuantLinear(50, 6, bits=bits, scale=scale)
    levels, largest = layer.levels(), (1 << (bits - 1)) - 1
    assert torch.equal(levels, levels.round())
    assert levels.abs().max() == largest
    steps = layer.scale().reshape(-1, 1)
    assert ((levels * steps - layer.weight).abs() <= steps * 0.5001).all()
    layer(torch.randn(3, 50)).sum().backward()
    assert layer.weight.grad.isfinite().all()


def test_a_mask_takes_weights_out_of_sums_and_gradients() -> None:
    layer = layers.BinaryLinear(3, 2, bias=False)
    layer.mask = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    y = layer(torch.ones(1, 3))
    assert y[0, 1] == 0
    y.sum().backward()
    assert layer.weight.grad[:, 1].tolist() == [0, 0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: quantisers.QuantReLU(9),
        lambda: quantisers.QuantAct(1, signed=True),
        lambda: quantisers.QuantReLU(4, clip=0),
        lambda: layers.BinaryLinear(2, 2, scale="kernel"),
        lambda: layers.QuantLinear(2, 2, bits=1),
        lambda: layers.QuantLinear(2, 2, bits=4, scale="none"),
        lambda: layers.BinaryConv2d(1, 1, 3, padding=1, padding_mode="reflect"),
    ],
)
def test_options_that_mean_nothing(make: object) -> None:
    with pytest.raises(ValueError, match=r"bits|clip|scale|padding_mode"):
        make()  # type: ignore[operator]


def test_cimc_does_not_import_torch() -> None:
    code = (
        "import sys, cimc, cimc.api, cimc.cli.main, cimc.train; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
