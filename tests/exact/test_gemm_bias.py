"""The bias of a long Gemm: onnxruntime adds it with the first block of products, so that the
result may differ from the sum plus the bias. Such a layer is on tiles only if it can't."""

import numpy as np
import pytest
from exact_check import check_case, compiled, layers_on_tiles, oracle
from exact_draw import SEEDS, binarise, cases, geometry
from exact_nets import Net
from hypothesis import given
from hypothesis import strategies as st

from cimc.ir.ops import HOST


def _gemm(net, terms, bias, left=False, channels=9, kind="bip"):
    """Gemm of signs with `terms` products; bias: one a channel."""
    w = net.weights((channels, terms), kind)
    if left:
        x = net.op("Sign", net.input("x", (terms, 2), batched=False))
        b = net.const(np.reshape(bias, (-1, 1)), "b")
        return net.op("Gemm", net.const(w, "w"), x, b, shape=(channels, 2))
    x = net.op("Sign", net.input("x", (1, terms)))
    return net.op("Gemm", x, net.const(w, "w"), net.const(bias, "b"), shape=(1, channels), transB=1)


def test_onnxruntime_may_round_several_times():
    """What the rule is there for. If onnxruntime stops doing that, the rule can go."""
    net = Net(4)
    y = _gemm(net, 2000, np.full(64, 0.3, np.float32), channels=64)
    w = next(i for i in net.inits if i.name.startswith("w"))
    weights = np.frombuffer(w.raw_data, np.float32).reshape(64, 2000)
    once = (np.sign(net.feeds["x"]) @ weights.T).astype(np.float32) + np.float32(0.3)
    found = np.concatenate([oracle(net.model(y))({"x": x[None]})[y] for x in net.feeds["x"]])
    np.testing.assert_allclose(found, once, rtol=1e-3)
    assert (found != once).any()


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize(
    ("terms", "bias", "on_tiles"),
    [
        (128, 0.3, True),
        (129, 0.3, False),
        (800, 0.3, False),
        (800, -3.0, True),
        (800, 0.375, True),
        (800, 2.0**-14, True),  # 800 + 2**-14 has 24 bits
        (800, 2.0**-15, False),
        (800, 2.0**24, False),
    ],
)
def test_what_is_mapped(terms, bias, on_tiles, left):
    net = Net(5)
    y = _gemm(net, terms, np.full(9, bias), left)
    case = compiled(net.model(y), rows=64, cols=100)
    assert bool(case.graph.places) == on_tiles
    why = [node.why for node in case.graph.nodes if node.op == HOST and node.why]
    assert [f"its bias rounds before the last of its {terms} products" in w for w in why] == (
        [] if on_tiles else [True]
    )


@pytest.mark.parametrize(
    ("bias", "offset", "on_tiles"),
    [
        (0.3, 0.2, True),  # no sum comes near zero
        (0.3, -0.3, False),  # a sum of 0 does
        (1e-7, 0.0, False),
        (1e-7, 0.5, True),
    ],
)
def test_signs_of_a_rounding_sum(bias, offset, on_tiles):
    """Only signs are taken of the sum: on tiles where none changes within the error."""
    net = Net(6)
    y = _gemm(net, 800, np.full(9, bias, np.float32))
    shifted = net.op("Add", y, net.const(np.full(9, offset, np.float32), "o"), shape=(1, 9))
    case, _ = check_case(net, net.op("Sign", shifted), on_tiles=False, rows=64, cols=90)
    assert bool(case.graph.places) == on_tiles


@cases(30)
@given(st.data())
def test_long_gemm_with_bias(data):
    """On tiles or on the host, the bits are the same."""
    draw, net = data.draw, Net(data.draw(SEEDS))
    terms = draw(st.integers(120, 1500))
    bias = draw(st.sampled_from([[0.3, -2.0], [1.0, -7.0], [0.25, 1.5], [1e-3, 1e3]]))
    kind = draw(st.sampled_from(["bip", "alphas", "terns"]))
    y = _gemm(net, terms, net.rng.choice(bias, 9), draw(st.booleans()) and kind == "bip", kind=kind)
    options = geometry(draw, net) | {"rows": 64, "cols": 90}
    case, _ = check_case(net, y, binarise(draw, net, y), on_tiles=False, **options)
    if not case.graph.places:
        with pytest.raises(AssertionError, match="its bias rounds"):
            layers_on_tiles(case.graph)
