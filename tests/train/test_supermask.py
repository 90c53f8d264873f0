"""Supermasks: which weights take part, gradients, flips, and what they become."""

import io

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'cimc[train]'")

from torch import nn  # noqa: E402

from cimc.errors import CompileError  # noqa: E402
from cimc.train.supermask import (  # noqa: E402
    SupermaskConv2d,
    SupermaskLinear,
    estimate_statistics,
    magnitude,
    supermasks,
    top_k_mask,
    unmask,
)


@pytest.mark.parametrize("k", [1, 3, 7, 12])
def test_the_k_largest(k: int) -> None:
    ranks = torch.randperm(12, generator=torch.Generator().manual_seed(k)).float().reshape(3, 4)
    mask = top_k_mask(ranks, k)
    assert torch.equal(mask.bool(), ranks >= 12 - k)


def test_exactly_k_where_all_are_equal() -> None:
    assert top_k_mask(torch.ones(5, 5), 9).sum() == 9


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_weights_are_random_signs_of_the_largest_scores(sparsity: float) -> None:
    torch.manual_seed(0)
    layer = SupermaskConv2d(4, 10, 3, sparsity=sparsity)
    levels = layer.levels()
    kept = round(360 * (1 - sparsity))
    assert int(levels.abs().sum()) == kept
    least = layer.weight.abs()[levels != 0].min()
    assert kept == 360 or least >= layer.weight.abs()[levels == 0].max()
    assert torch.equal(levels[levels != 0], layer.signs[levels != 0])
    assert set(layer.signs.unique().tolist()) == {-1.0, 1.0}


def test_output_is_the_ternary_product_times_a_power_of_two() -> None:
    torch.manual_seed(1)
    layer = SupermaskLinear(128, 10)
    x = torch.randint(0, 16, (5, 128)).float()
    assert torch.equal(layer(x), x @ (layer.edges * layer.signs).T * layer.magnitude)


def test_magnitude_is_the_power_of_two_next_to_the_published_scale() -> None:
    # sqrt(2 / 200) = .1; sqrt(2 / 4.5) = .667; sqrt(2 / 64) lies between 1/8 and 1/4
    assert magnitude(400, 0.5) == 0.125
    assert magnitude(9, 0.5) == 0.5
    assert magnitude(128, 0.5) == 0.125


def test_gradient_passes_straight_to_all_scores() -> None:
    torch.manual_seed(2)
    layer = SupermaskLinear(6, 4)
    x, up = torch.randn(3, 6), torch.randn(3, 4)
    layer(x).backward(up)
    expected = (up.T @ x) * layer.magnitude * layer.signs * layer.weight.detach().sign()
    assert layer.weight.grad is not None
    assert torch.allclose(layer.weight.grad, expected, atol=1e-6)
    assert bool((layer.weight.grad[layer.edges == 0] != 0).all())


def test_training_changes_the_mask_and_never_the_signs() -> None:
    torch.manual_seed(3)
    layer = SupermaskLinear(32, 8)
    signs, edges = layer.signs.clone(), layer.edges.clone()
    x, y = torch.randn(64, 32), torch.randint(0, 8, (64,))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    losses = []
    for _ in range(60):
        loss = nn.functional.cross_entropy(layer(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert torch.equal(layer.signs, signs)
    assert not torch.equal(layer.edges, edges)


def test_evaluation_leaves_the_mask() -> None:
    layer = SupermaskLinear(8, 4)
    layer.eval()
    edges = layer.edges.clone()
    with torch.no_grad():
        layer.weight.copy_(layer.weight.flip(1))
    layer(torch.randn(2, 8))
    assert torch.equal(layer.edges, edges)


def _scores(layer: SupermaskLinear, *values: float) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([values]))


def _small(limit_size: float) -> SupermaskLinear:
    """Scores 1, 2, 3, 4, of which the last two take part."""
    layer = SupermaskLinear(4, 1, limit_size=limit_size)
    _scores(layer, 1.0, 2.0, 3.0, 4.0)
    layer.edges.copy_(torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    layer.settled.copy_(layer.weight.detach())
    return layer


def test_a_small_change_flips_nothing_under_a_limit() -> None:
    layer = _small(limit_size=0.5)
    _scores(layer, 1.0, 2.9, 2.8, 4.0)  # 2 and 3 change places: by 45 % and 7 %
    assert layer.renew() == 0
    assert layer.edges.tolist() == [[0.0, 0.0, 1.0, 1.0]]
    free = _small(limit_size=0.0)
    _scores(free, 1.0, 2.9, 2.8, 4.0)
    assert free.renew() == 2
    assert free.edges.tolist() == [[0.0, 1.0, 0.0, 1.0]]


def test_changes_add_up_until_they_flip() -> None:
    layer = _small(limit_size=0.5)
    _scores(layer, 1.0, 2.9, 2.0, 4.0)
    assert layer.renew() == 0
    _scores(layer, 1.0, 3.1, 1.4, 4.0)  # 55 % and 53 % away from where they were set
    assert layer.renew() == 2
    assert layer.edges.tolist() == [[0.0, 1.0, 0.0, 1.0]]
    assert layer.settled.tolist() == [[1.0, pytest.approx(3.1), pytest.approx(1.4), 4.0]]


def test_one_that_may_not_leave_keeps_its_place() -> None:
    layer = _small(limit_size=0.5)
    _scores(layer, 9.0, 2.0, 3.0, 4.0)  # only the first is free, and both places are taken
    assert layer.renew() == 0
    assert int(layer.edges.sum()) == 2


def test_literally_a_change_counts_from_the_step_before() -> None:
    layer = _small(limit_size=0.5)
    layer.literal = True
    _scores(layer, 1.0, 2.9, 2.0, 4.0)  # by 45 % and 33 %
    assert layer.renew() == 0
    _scores(layer, 1.0, 3.1, 1.4, 4.0)  # by 7 % and 30 %: never enough, however far it goes
    assert layer.renew() == 0
    _scores(layer, 5.0, 3.2, 1.4, 4.0)  # one comes, and none may go
    assert layer.renew() == 1
    assert layer.edges.tolist() == [[1.0, 0.0, 1.0, 1.0]]


@pytest.mark.parametrize("literal", [False, True])
def test_a_state_goes_on_as_if_not_interrupted(literal: bool) -> None:
    def train(layer: SupermaskLinear, steps: range) -> None:
        for step in steps:
            draw = torch.Generator().manual_seed(step)
            layer(torch.randn(4, 16, generator=draw)).square().sum().backward()
            with torch.no_grad():
                layer.weight -= 0.05 * layer.weight.grad
            layer.weight.grad = None

    torch.manual_seed(5)
    whole = SupermaskLinear(16, 4, limit_size=0.05, literal=literal)
    half = SupermaskLinear(16, 4, limit_size=0.05, literal=literal)
    half.load_state_dict(whole.state_dict())
    train(whole, range(6))
    train(half, range(3))
    stored = io.BytesIO()
    torch.save(half.state_dict(), stored)
    stored.seek(0)
    again = SupermaskLinear(16, 4, literal=literal)  # the limit is of the state
    again.load_state_dict(torch.load(stored))
    train(again, range(3, 6))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_unmasked_network_with_its_own_statistics() -> None:
    torch.manual_seed(6)
    net = nn.Sequential(
        SupermaskConv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten(),
        SupermaskLinear(4 * 36, 3),
    )  # fmt: skip
    batches = [torch.randn(20, 1, 8, 8) for _ in range(5)]
    unmask(net)
    estimate_statistics(net, batches)
    assert all(bool((layer.edges == 1).all()) for layer in supermasks(net))
    with torch.no_grad():
        sums = torch.cat([net[0](batch) for batch in batches])
    assert torch.allclose(net[1].running_mean, sums.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(net[1].running_var, sums.var((0, 2, 3)), rtol=2e-2)
    assert not net.training


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan")])
def test_impossible_sparsity(sparsity: float) -> None:
    with pytest.raises(CompileError, match="share of weights to leave out"):
        SupermaskLinear(4, 4, sparsity=sparsity)
