"""Swapping the layers of an existing module."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: the extra `train`")
from torch import nn  # noqa: E402

from cimc.errors import CompileError  # noqa: E402
from cimc.train import convert, layers, quantisers  # noqa: E402


def _net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 4, 3, groups=2, stride=2, bias=False), nn.Tanh()),
        nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip


def test_names_and_state_stay() -> None:
    net = _net()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    result = convert(net, weights="binary", skip=("first", "last"))
    assert list(result.done) == ["3.0", "5"]
    assert set(result.kept) == {"0", "7"}
    assert isinstance(net[3][0], layers.BinaryConv2d)
    assert net[3][0].groups == 2
    assert net[3][0].stride == (2, 2)
    assert isinstance(net[5], layers.BinaryLinear)
    assert {name: value.tolist() for name, value in net.state_dict().items()} == {
        name: value.tolist() for name, value in state.items()
    }
    assert net(torch.randn(2, 1, 9, 9)).shape == (2, 3)


@pytest.mark.parametrize(
    ("weights", "kind"), [("ternary", layers.TernaryLinear), (4, layers.QuantLinear)]
)
def test_kinds_and_activations(weights: str | int, kind: type) -> None:
    net = _net()
    result = convert(net, weights=weights, activations=4, scale="channel")
    assert type(net[7]) is kind
    assert net[7].scale_by == "channel"
    assert type(net[2]) is quantisers.QuantReLU
    assert net[3][1].signed
    assert len(result.done) == 7
    assert "3.1: QuantAct" in str(result)


def test_sign_activations() -> None:
    net = _net()
    convert(net, weights="binary", activations="sign")
    assert sum(isinstance(m, quantisers.Sign) for m in net.modules()) == 3


def test_what_can_not_be_converted_is_listed() -> None:
    net = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"))
    result = convert(net, weights="ternary")
    assert not result.done
    assert result.kept == {
        "0": "there is no Conv1d of few levels", "1": "padding_mode='circular'"
    }  # fmt: skip


def test_all_mistakes_at_once() -> None:
    with pytest.raises(CompileError) as caught:
        convert(_net(), weights="binery", activations=9, scale="kernel")
    for text in ("weights='binery'", "activations=9", "scale='kernel'"):
        assert text in str(caught.value)
    with pytest.raises(CompileError, match=r"no layer 'conv\*'"):
        convert(_net(), weights="binary", skip=("conv*",))
