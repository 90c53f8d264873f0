"""Pruning while training: which kernels go, what masks hold, what is left."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: the extra `train`")
import torch.nn.functional as nnf  # noqa: E402
from torch import nn  # noqa: E402
from train_nets import EXAMPLE, Net, data  # noqa: E402

from cimc.errors import CompileError  # noqa: E402
from cimc.frontend.bind import bind_shapes  # noqa: E402
from cimc.frontend.importer import import_model  # noqa: E402
from cimc.frontend.operations import count  # noqa: E402
from cimc.similarity import criteria  # noqa: E402
from cimc.train import Schedule, SimilarityPruner, choose, export_onnx, layers  # noqa: E402
from cimc.train.channels import channels_of  # noqa: E402
from cimc.train.choose import Nearest, Published  # noqa: E402

OPTIMISERS = {
    "adam": lambda p: torch.optim.Adam(p, 1e-2, weight_decay=1e-3),
    "sgd": lambda p: torch.optim.SGD(p, 1e-1, momentum=0.9, weight_decay=1e-3),
}


def _steps(net: nn.Module, optimizer: Any, pruner: SimilarityPruner, count: int = 4) -> None:
    net.train()
    known = data(64)
    for i in range(count):
        part = slice(16 * (i % 4), 16 * (i % 4) + 16)
        optimizer.zero_grad()
        nnf.cross_entropy(net(known.x_train[part]), known.y_train[part]).backward()
        optimizer.step()
        pruner.step()


def _pruned(net: nn.Module, criterion: Any, optimizer: str = "adam", **schedule: int) -> Any:
    """A pruner after a few steps and one pruning, with its optimiser."""
    pruner = SimilarityPruner(net, criterion, Schedule(**schedule), example=EXAMPLE)
    made = OPTIMISERS[optimizer](net.parameters())
    pruner.attach(made)
    _steps(net, made, pruner)
    pruner.epoch(1)
    return pruner, made


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_masks_hold_weights_gradients_and_moments(binary: bool, optimizer: str) -> None:
    torch.manual_seed(0)
    net = Net(binary)
    pruner, made = _pruned(net, Nearest(0.6), optimizer)
    gone = ~torch.from_numpy(pruner.live[pruner.channels.layer("conv1").out])
    assert 0 < gone.sum() < 8
    masked = [net.conv1.weight, net.conv1.bias, net.bn1.weight, net.bn1.bias]
    before = [p.detach()[gone].clone() for p in masked]
    columns = net.conv2.weight.detach()[:, gone].clone()
    others = net.conv1.weight.detach()[~gone].clone()
    for p in masked:
        for held in made.state[p].values():
            assert held.dim() == 0 or not held[gone].any()
    _steps(net, made, pruner)
    for p, old in zip(masked, before):
        assert torch.equal(p.detach()[gone], old)
    assert torch.equal(net.conv2.weight.detach()[:, gone], columns)
    assert not torch.equal(net.conv1.weight.detach()[~gone], others)
    for p in masked[1:]:
        assert not p.detach()[gone].any()


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_the_masked_module_is_the_small_one(binary: bool, norm: bool) -> None:
    torch.manual_seed(1)
    net = Net(binary, norm)
    pruner, made = _pruned(net, Nearest(0.5))
    net.eval()
    x = data(64).x_train
    masked, macs = net(x).detach(), pruner.macs()
    pruner.shrink()
    assert net.conv1.weight.shape[0] == pruner.kernels()["conv1"] < 8
    assert net.conv2.weight.shape[1] == net.conv1.weight.shape[0]
    torch.testing.assert_close(net(x), masked, rtol=1e-5, atol=1e-5)
    assert pruner.macs() == macs
    assert all(s["exp_avg"].shape == p.shape for p, s in made.state.items())
    _steps(net, made, pruner)  # and goes on being trained


def test_macs_are_those_of_the_graph() -> None:
    torch.manual_seed(2)
    net = Net()

    def by_graph() -> int:
        graph = import_model(export_onnx(net, EXAMPLE), "net")
        bind_shapes(graph, {}, "net")
        return sum(layer.effective for layer in count(graph) if layer.convolution)

    pruner = SimilarityPruner(net, Nearest(0.5), Schedule(), example=EXAMPLE)
    assert pruner.macs().dense == by_graph() == 64 * 8 * 9 + 16 * 6 * 8 * 9
    pruner.epoch(1)
    assert pruner.macs().left == by_graph() <= pruner.dense // 2


def test_one_of_each_pair_of_twins_stays() -> None:
    net = Net()
    with torch.no_grad():
        net.conv1.weight[4:] = -net.conv1.weight[:4]  # complements are twins
    pruner = SimilarityPruner(net, Nearest(0.4, merge=False), Schedule(), example=EXAMPLE)
    pruner.epoch(1)
    alive = pruner.live[:8]
    assert not (~alive[:4] & ~alive[4:]).any() or alive.sum() < 4
    assert alive.sum() < 8


def test_a_representative_takes_over() -> None:
    net = Net(binary=False, norm=False)
    with torch.no_grad():
        net.conv1.weight[1:] = torch.randn(7, 1, 3, 3)
        net.conv1.weight[3] = net.conv1.weight[5]
        net.conv1.bias[3] = net.conv1.bias[5]
    x = data(32).x_train
    before = net(x).detach()
    pruner = SimilarityPruner(net, Nearest(0.05), Schedule(), example=EXAMPLE, layers=("conv1",))
    pruner.epoch(1)
    assert (~pruner.live).nonzero()[0].tolist() in ([3], [5])
    torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-4)


def test_published_criteria_are_those_of_the_pass() -> None:
    torch.manual_seed(3)
    for criterion, net, expected in [
        (Published("binary"), Net(), criteria.published_binary),
        (Published("float"), Net(False), criteria.published_float),
    ]:
        weights = {n: getattr(net, n).weight.detach().numpy() for n in ("conv1", "conv2")}
        takes = {n: expected(w).pruned for n, w in weights.items()}
        pruner = SimilarityPruner(net, criterion, Schedule(), example=EXAMPLE)
        pruner.epoch(1)
        for name, gone in takes.items():
            found = ~pruner.live[pruner.channels.layer(name).out]
            assert found.tolist() == gone.tolist() or gone.all()


def test_the_literal_mode_overwrites_only() -> None:
    torch.manual_seed(4)
    net = Net(norm=False)
    old = net.conv1.weight.detach().numpy().copy()
    gone = criteria.published_binary(old, mode="literal").pruned
    criterion = Published("binary", "literal")
    pruner = SimilarityPruner(net, criterion, Schedule(), example=EXAMPLE, layers=("conv1",))
    pruner.epoch(1)
    assert gone.any()
    expected = np.sign(old) * ~gone[:, None, None, None]
    assert np.array_equal(net.conv1.weight.detach().numpy(), expected)
    assert (net.conv1.levels()[torch.from_numpy(gone)] == -1).all()  # what they compute
    assert net.conv1.mask is None
    zeros = (net.conv1.weight == 0).sum() / (net.conv1.weight.numel() + net.conv2.weight.numel())
    assert pruner.zero_weights() == pytest.approx(zeros.item())
    pruner.shrink()
    assert len(net.conv1.weight) == 8


@pytest.mark.parametrize(
    "criterion", [Nearest(0.99, most=0.99), Published("binary", c=Fraction(0), b=Fraction(0))]
)
def test_no_layer_is_emptied(criterion: Any) -> None:
    net = Net()
    pruner = SimilarityPruner(net, criterion, Schedule(1, 3), example=EXAMPLE)
    notes = [note for epoch in (1, 2, 3) for note in pruner.epoch(epoch)]
    assert min(pruner.kernels().values()) == 1
    assert any("one stays" in n or "at the least of" in n for n in notes)


def test_budgets_by_layer() -> None:
    net = Net()
    criterion = Nearest(0.7, limits=(("conv1", 0.25), ("conv2", 0.9)))
    pruner = SimilarityPruner(net, criterion, Schedule(), example=EXAMPLE)
    pruner.epoch(1)
    assert pruner.kernels()["conv1"] == 6
    assert pruner.macs().removed >= 0.5


def test_schedules() -> None:
    assert [n for n in range(1, 8) if Schedule(2, 5).due(n)] == [2, 3, 4, 5]
    assert [n for n in range(1, 40) if Schedule(10, 31, every=10).due(n)] == [10, 20, 30]
    ramp = [Schedule(1, 4, ramp="linear").share(n) for n in range(1, 6)]
    assert ramp == [0.25, 0.5, 0.75, 1, 1]
    assert Schedule(1, 2).share(1) == 1 - 0.5**3
    assert Schedule(10, 31, every=10).last() == 30


def test_pruning_every_n_steps() -> None:
    net = Net()
    pruner, made = _pruned(net, Nearest(0.6), start=4, stop=8, every=2)  # 4 steps so far
    assert 0 < pruner.macs().removed < 0.6
    assert not pruner.finished(1)
    _steps(net, made, pruner, 4)
    assert pruner.macs().removed >= 0.6
    assert pruner.finished(1)


@pytest.mark.parametrize("binary", [True, False])
def test_kernels_return(binary: bool) -> None:
    torch.manual_seed(5)
    net = Net(binary)
    weights = net.conv1.weight.detach().clone()
    criterion = Nearest(0.6, regrow=0.5, merge=False)
    pruner = SimilarityPruner(net, criterion, Schedule(1, 3), example=EXAMPLE)
    pruner.epoch(1)
    gone = ~pruner.live[:8]
    pruner._regrow(0.5)
    back = gone & pruner.live[:8]
    assert back.sum() == gone.sum() // 2
    assert torch.equal(net.conv1.weight.detach()[back], weights[back])
    assert (net.bn1.weight.detach()[back] == 1).all()
    pruner.epoch(2)
    pruner.epoch(3)
    assert pruner.macs().removed >= 0.6


@pytest.mark.parametrize("shrink", [True, False])
def test_a_saved_pruner_goes_on(shrink: bool, tmp_path: Any) -> None:
    """Pruned twice, saved in between and loaded into new objects: the same bits."""

    def made() -> Any:
        torch.manual_seed(6)
        net = Net()
        pruner = SimilarityPruner(net, Nearest(0.7), Schedule(1, 2), example=EXAMPLE)
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        pruner.attach(optimizer)
        return net, pruner, optimizer

    net, pruner, optimizer = made()
    _steps(net, optimizer, pruner)
    pruner.epoch(1)
    if shrink:
        pruner.shrink()
    _steps(net, optimizer, pruner, 3)
    parts = [pruner.state_dict(), net.state_dict(), optimizer.state_dict()]
    torch.save(parts, tmp_path / "state.pt")
    again = made()
    states = torch.load(tmp_path / "state.pt", weights_only=True)
    for one, state in zip((again[1], again[0], again[2]), states):
        one.load_state_dict(state)
    for n, p, o in ((net, pruner, optimizer), again):
        _steps(n, o, p, 2)
        p.epoch(2)
        _steps(n, o, p, 2)
    assert again[1].kernels() == pruner.kernels()
    for a, b in zip(net.state_dict().values(), again[0].state_dict().values()):
        assert torch.equal(a, b)


def test_a_state_of_another_network() -> None:
    pruner = SimilarityPruner(Net(), Nearest(0.5), Schedule(), example=EXAMPLE)
    state = pruner.state_dict() | {"layers": {"conv1": 3}}
    with pytest.raises(CompileError, match="of another network"):
        pruner.load_state_dict(state)


class Block(nn.Module):
    """A residual sum, a depthwise layer, joined channels, a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.a, self.b = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
        self.deep, self.norm = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.BatchNorm2d(6)
        self.c, self.d = nn.Conv2d(4, 5, 1), nn.Conv2d(4, 3, 1)
        self.e = nn.Conv2d(8, 4, 1, groups=2)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.stem(x.float()))
        x = x + self.b(torch.relu(self.norm(self.deep(self.a(x)))))
        y = torch.cat([self.c(x), self.d(x)], 1)
        return (self.last(y) + self.e(y)[:, :2]).mean((2, 3))


def test_channels_are_followed_or_locked() -> None:
    torch.manual_seed(7)
    net = Block()
    with pytest.raises(CompileError, match="no convolution f"):
        SimilarityPruner(net, Nearest(0.1), Schedule(), example=EXAMPLE, layers=("f",))
    pruner = SimilarityPruner(net, Nearest(0.2), Schedule(), example=EXAMPLE)
    assert {"stem", "b", "e", "deep", "last", "c", "d"} == set(pruner.locked)
    assert "add" in pruner.locked["stem"]
    assert "groups" in pruner.locked["e"]
    pruner.epoch(1)
    assert pruner.kernels()["a"] == pruner.kernels()["deep"] < 6
    x = data(8).x_train
    masked = net.eval()(x)
    pruner.shrink()
    assert net.deep.groups == net.b.weight.shape[1] == pruner.kernels()["a"]
    torch.testing.assert_close(net(x), masked, rtol=1e-4, atol=1e-5)


def test_joined_channels_keep_their_places() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c, self.d = nn.Conv2d(1, 5, 1), layers.TernaryConv2d(1, 3, 1)
            self.last = nn.Linear(8 * 4, 2)

        def forward(self, x: Any) -> Any:
            x = x.float()
            return self.last(nnf.max_pool2d(torch.cat([self.c(x), self.d(x)], 1), 4).flatten(1))

    found = channels_of(Joined(), EXAMPLE)
    assert not [n for n in range(8) if n in found.locked]
    assert found.layer("last").into.tolist() == np.repeat(np.arange(8), 4).tolist()
    assert [one.name for one in found.readers("d")] == ["last"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Nearest(1.0),
        lambda: Nearest(0.5, limits=(("conv1", 1.5),)),
        lambda: Published("ternary"),
        lambda: Published("binary", "exact"),
        lambda: Schedule(0, 3),
        lambda: Schedule(3, 2),
        lambda: Schedule(1, 2, ramp="square"),
    ],
)
def test_options_that_mean_nothing(make: Any) -> None:
    with pytest.raises(ValueError, match=r"shares|criteria|start"):
        make()


def test_likeness_counts_complements() -> None:
    rows = np.array([[1, 1, -1, 1], [-1, -1, 1, -1], [1, -1, 1, 1], [0, 0, 0, 0]])
    assert choose.alike(rows).tolist() == [
        [0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]
    ]  # fmt: skip
