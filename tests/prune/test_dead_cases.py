"""One network each for what a dead channel may meet on its way. All have the same two layers: the
second of the three kernels in front is of zeros with a bias of 5, and numbers are small integers.
"""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper, parser
from removal_check import assert_same, imported, run

from cimc.frontend.export import to_onnx
from cimc.ir.verify import verify
from cimc.prune.dead import remove_dead_channels

RNG = np.random.default_rng(1)
F = np.float32


def ints(*values):
    return np.array(values, np.int64)


def whole(*shape):
    return RNG.integers(-2, 3, shape).astype(F)


W1, W2 = whole(3, 2, 3, 3), whole(2, 3, 3, 3)
W1[1] = 0
CONSTANTS = {"w1": W1, "w2": W2, "b1": F([1, 5, -1]), "b2": F([0.1, 2]), "w3": W2[:, :, :1, :1]}
BEFORE = "a = Conv<pads=[1, 1, 1, 1]>(x, w1, b1)\n"
BEHIND = "\ny = Conv<pads=[1, 1, 1, 1]>(q, w2, b2)"


def model(body, constants, size="4, 4"):
    """x float[N, 2, size] to y."""
    text = f"g (float[N, 2, {size}] x) => (float y) {{ {body} }}"
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]>\n{text}')
    made.graph.output[0].type.tensor_type.ClearField("shape")
    used = {name for node in made.graph.node for name in node.input}
    for name, array in (CONSTANTS | constants).items():
        if name in used:
            made.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return made


def check(made, samples=3):
    """How many channels go; the outputs stay, with one sample and with two at once."""
    rng = np.random.default_rng(2)
    feeds = [{"x": rng.integers(-3, 4, (n, 2, 4, 4)).astype(F)} for n in (1, samples)]
    expected = run(made, feeds)
    graph = imported(made)
    removed = remove_dead_channels(graph).channels
    verify(graph)
    assert_same(expected, run(to_onnx(graph), feeds), exact=True)
    return removed


FOLLOWED = {
    "nothing": ("q = Identity(a)", {}),
    "sum with a number": ("q = Add(a, k)", {"k": F(3)}),
    "sum along the width": ("q = Add(a, k)", {"k": F([1, 2, 3, 4])}),
    "product with zeros": ("q = Mul(a, k)", {"k": F([1, 0, 2]).reshape(3, 1, 1)}),
    "power of nought": ("q = Pow(a, k)", {"k": F([1, 0, 2]).reshape(3, 1, 1)}),
    "choice by a constant": (
        "q = Where(k, a, o)",
        {"k": np.array([1, 0, 1], bool).reshape(3, 1, 1), "o": F(7)},
    ),
    "comparison": ("p = Greater(a, k)\nq = Where(p, a, k)", {"k": F(2)}),
    "cast": ("p = Cast<to=6>(a)\nq = Cast<to=1>(p)", {}),
    "itself": ("q = Mul(a, a)", {}),
    "several operands": ("q = Sum(a, k, a)", {"k": whole(3, 1, 1)}),
    "slope": ("q = PRelu(a, k)", {"k": F([2]).reshape(1)}),
    "turned width": ("p = Gather<axis=2>(a, k)\nq = Relu(p)", {"k": ints(3, 2, 1, 0)}),
    "exchanged sizes": ("q = Transpose<perm=[0, 1, 3, 2]>(a)", {}),
    "flattened and back": (
        "p = Flatten(a)\nr = Relu(p)\nq = Reshape(r, k)",
        {"k": ints(-1, 3, 4, 4)},
    ),
    "cut and padded": (
        "p = Slice(a, s, e, d)\nq = Pad(p, k)",
        {"s": ints(1), "e": ints(3), "d": ints(2), "k": ints(0, 0, 1, 0, 0, 0, 1, 0)},
    ),
    "cropped": ("p = Pad(a, k)\nq = Relu(p)", {"k": ints(0, 0, -1, 0, 0, 0, 0, 0)}),
    "largest, with places": ("q, i = MaxPool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(a)", {}),
    "quantised": (
        "p = QuantizeLinear(a, s, z)\nq = DequantizeLinear(p, s, z)",
        {"s": F(0.5), "z": np.uint8(3)},
    ),
    "quantised by channel": (
        "p = QuantizeLinear<axis=1>(a, s, z)\nq = DequantizeLinear<axis=1>(p, s, z)",
        {"s": F([0.5, 0.25, 2]), "z": np.array([3, 4, 5], np.uint8)},
    ),
    "enlarged and pooled": (
        'p = Resize<mode="nearest">(a, , k)\nq = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(p)',
        {"k": F([1, 1, 2, 2])},
    ),
}
KEPT = {
    "mean over channels": ("p = ReduceMean<axes=[1]>(a)\nq = Sub(a, p)", {}),
    "largest of channels": ("p = ArgMax<axis=1>(a)\nr = Cast<to=1>(p)\nq = Add(a, r)", {}),
    "softmax": ("q = Softmax<axis=1>(a)", {}),
    "neighbours": ("q = LRN<size=3>(a)", {}),
    "order reversed": (
        "q = Slice(a, s, e, d, t)",
        {"s": ints(-1), "e": ints(-100), "d": ints(1), "t": ints(-1)},
    ),
    "mixed with positions": (
        "p = Reshape(a, s)\nr = Relu(p)\nq = Reshape(r, t)",
        {"s": ints(0, 4, 3, 4), "t": ints(0, 3, 4, 4)},
    ),
    "blocks of pixels": (
        "p = SpaceToDepth<blocksize=2>(a)\nq = DepthToSpace<blocksize=2>(p)", {}),
    "running sum": ("q = CumSum(a, k)", {"k": np.int64(1)}),
    "its own shape": ("p = Shape(a)\nr = Reshape(a, k)\nq = Reshape(r, p)", {"k": ints(0, -1)}),
    "its number of elements": ("s = Size(a)\nt = Cast<to=1>(s)\nq = Div(a, t)", {}),
    "more channels": ("p = Pad(a, k)\nq = Slice(p, s, e, d)", {
        "k": ints(0, 0, 0, 0, 0, 1, 0, 0), "s": ints(0), "e": ints(3), "d": ints(1)}),
    "an input": ("c = Concat<axis=1>(x, k)\nq = Add(a, c)", {"k": np.ones((1, 1, 4, 4), F)}),
    "a step of one scale for all": (
        "p, s, z = DynamicQuantizeLinear(a)\nq = DequantizeLinear(p, s, z)", {}),
    "something at random": ("p = RandomNormalLike(a)\nr = Mul(p, k)\nq = Add(a, r)", {"k": F(0)}),
    "a loop": (
        "c = Identity(t)\nq = Loop(n, c, a)<body = b(int64 i, bool d, float[N, 3, 4, 4] s) =>"
        " (bool e, float[N, 3, 4, 4] u) { e = Identity(d)\nu = Relu(s) }>",
        {"n": np.int64(2), "t": np.array(True)},
    ),
    "a loop that looks at it": (
        "c = Identity(t)\np = Loop(n, c, o)<body = b(int64 i, bool d, float[1] s) =>"
        " (bool e, float[1] u) { e = Identity(d)\nv = ReduceSum<keepdims=0>(a)\nu = Add(s, v) }>\n"
        "q = Add(a, p)",
        {"n": np.int64(2), "t": np.array(True), "o": np.zeros(1, F)},
    ),
    "infinities": ("q = Div(a, k)", {"k": F([1, 0, 2]).reshape(3, 1, 1)}),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLLOWED)
def test_followed(name):
    body, constants = FOLLOWED[name]
    assert check(model(BEFORE + body + BEHIND, constants), samples=2) == 1


@pytest.mark.parametrize("name", KEPT)
def test_kept(name):
    body, constants = KEPT[name]
    made = model(BEFORE + body + BEHIND, constants)
    one = "blocks" in name or name == "an input"  # the constant is that of one sample
    assert check(made, samples=1 if one else 2) == 0


SUMS_OF_SYMBOLIC_SIZE = {
    "padded window": (BEFORE + "y = Conv<pads=[1, 1, 1, 1]>(a, w2, b2)", 0),
    "window": (BEFORE + "y = Conv(a, w2, b2)", 0),
    "single taps": (BEFORE + "y = Conv(a, w3, b2)", 1),
    "global pool": (BEFORE + "p = GlobalMaxPool(a)\ny = Conv(p, w3, b2)", 1),
    "mean of padded windows": (
        BEFORE + "p = AveragePool<kernel_shape=[2, 2], pads=[1, 1, 0, 0], count_include_pad=1>(a)"
        "\nq = GlobalMaxPool(p)\ny = Conv(q, w3, b2)",
        0,
    ),
    "depthwise window": (
        BEFORE + "p = Conv<pads=[1, 1, 1, 1], group=3>(a, d)\nq = GlobalMaxPool(p)\n"
        "y = Conv(q, w3, b2)",
        0,
    ),
    "sum of positions": (BEFORE + "p = ReduceSum(a, k)\ny = Conv(p, w3, b2)", 0),
}


@pytest.mark.parametrize("name", SUMS_OF_SYMBOLIC_SIZE)
def test_what_hangs_on_a_size_that_is_not_known_stays(name):
    body, removed = SUMS_OF_SYMBOLIC_SIZE[name]
    made = model(body, {"d": np.full((3, 1, 3, 3), 2, F), "k": ints(2, 3)}, "H, W")
    assert check(made, samples=1) == removed


def test_sums_over_samples_stay():
    made = model(BEFORE + "q = ReduceSum(a, k)" + BEHIND, {"k": ints(0)})
    assert check(made) == 0


def test_a_layer_on_constant_data():
    body = BEFORE.replace("(x", "(k") + "c = Conv<pads=[1, 1, 1, 1]>(a, w2, b2)\ny = Add(c, x)"
    assert check(model(body, {"k": whole(1, 2, 4, 4)}), samples=1) == 3  # an input of `a` too
