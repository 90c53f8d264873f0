"""MatMul and Gemm in all their forms: graph, program and onnxruntime give the same bits."""

import numpy as np
from exact_check import check_case
from exact_draw import SEEDS, WEIGHTS, binarise, cases, float_work, geometry
from exact_nets import Net
from hypothesis import given
from hypothesis import strategies as st

SIZES = st.integers(1, 30)


@cases(60)
@given(st.data())
def test_gemm(data):
    """transA, transB, alpha, beta, and C as a scalar, row, column or matrix."""
    draw, net = data.draw, Net(data.draw(SEEDS))
    m, k, n = draw(st.integers(1, 3)), draw(SIZES), draw(SIZES)
    turned, flipped = draw(st.booleans()), draw(st.booleans())
    x = net.input("x", (k, m) if turned else (m, k), batched=False)
    x = binarise(draw, net, x)
    kind = draw(st.sampled_from(WEIGHTS))
    w = net.weights((n, k), kind)
    args = [x, net.const(w if flipped else w.T, "w")]
    if draw(st.booleans()):
        shape = draw(st.sampled_from([(), (1,), (n,), (1, n), (m, 1), (m, n)]))
        args.append(net.const(net.rng.choice([0.0, 0.3, -2.0, 1.0], shape), "b"))
    y = net.op(
        "Gemm", *args, shape=(m, n),
        transA=int(turned), transB=int(flipped),
        alpha=draw(st.sampled_from([None, 0.5, -4.0])),
        beta=draw(st.sampled_from([None, 0.0, 0.3, -1.0])),
    )  # fmt: skip
    check_case(net, binarise(draw, net, float_work(draw, net, y)), **geometry(draw, net))


@cases(30)
@given(st.data())
def test_gemm_with_constant_left_side(data):
    draw, net = data.draw, Net(data.draw(SEEDS))
    m, k, n = draw(SIZES), draw(SIZES), draw(st.integers(1, 4))
    turned, flipped = draw(st.booleans()), draw(st.booleans())
    x = net.input("x", (n, k) if flipped else (k, n), batched=False)
    x = binarise(draw, net, x)
    w = net.weights((m, k), draw(st.sampled_from(["bip", "alpha", "tern"])))
    args = [net.const(w.T if turned else w, "w"), x]
    if draw(st.booleans()):
        shape = draw(st.sampled_from([(1,), (n,), (m, 1), (m, n)]))
        args.append(net.const(net.rng.choice([0.0, 0.3, -2.0], shape), "b"))
    y = net.op("Gemm", *args, shape=(m, n), transA=int(turned), transB=int(flipped))
    check_case(net, binarise(draw, net, y), **geometry(draw, net))


@cases(40)
@given(st.data())
def test_matmul(data):
    """Inputs of two to four axes, constant right side; then a bias and a sign."""
    draw, net = data.draw, Net(data.draw(SEEDS))
    dims = [draw(st.integers(1, 3)) for _ in range(draw(st.integers(0, 2)))]
    k, n = draw(SIZES), draw(SIZES)
    x = binarise(draw, net, net.input("x", (1, *dims, k)))
    w = net.weights((k, n), draw(st.sampled_from(WEIGHTS)), 1)
    y = net.op("MatMul", x, net.const(w, "w"), shape=(1, *dims, n))
    if draw(st.booleans()):
        y = net.op("Add", y, net.per_channel(y, net.reach(y, -1), -1))
    forms = ["Sign", "Greater"]
    check_case(net, binarise(draw, net, y, forms), **geometry(draw, net))


@cases(25)
@given(st.data())
def test_matmul_with_constant_left_side(data):
    draw, net = data.draw, Net(data.draw(SEEDS))
    m, k, n = draw(SIZES), draw(SIZES), draw(st.integers(1, 4))
    batch = [1] if draw(st.booleans()) else []
    x = binarise(draw, net, net.input("x", (*batch, k, n), batched=bool(batch)))
    w = net.weights((m, k), draw(st.sampled_from(["bip", "alpha", "tern"])))
    y = net.op("MatMul", net.const(w, "w"), x, shape=(*batch, m, n))
    check_case(net, y, binarise(draw, net, y), **geometry(draw, net))


@cases(10)
@given(st.data())
def test_long_sums(data):
    """Many columns, so that onnxruntime sums in several blocks."""
    draw, net = data.draw, Net(data.draw(SEEDS))
    k = draw(st.integers(200, 2500))
    x = net.op("Sign", net.input("x", (1, k)))
    w = net.weights((k, 9), draw(st.sampled_from(WEIGHTS)), 1)
    y = net.op("MatMul", x, net.const(w, "w"), shape=(1, 9))
    y = net.op("Add", y, np.float32(0.3))
    options = geometry(draw, net) | {"rows": 64, "cols": draw(st.integers(60, 130))}
    check_case(net, y, net.op("Sign", y), **options)
