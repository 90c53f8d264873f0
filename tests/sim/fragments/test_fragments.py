"""Host fragments for many samples give the bits of each sample alone."""

import threading
from itertools import pairwise

import numpy as np
import onnx
import pytest
from fragment_draws import (
    BOOL,
    F32,
    F64,
    I8,
    I32,
    U8,
    Net,
    agree,
    check_batch,
    nets,
    singly,
    values,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from cimc.errors import CompileError
from cimc.isa.program import Data
from cimc.isa.state import Trap
from cimc.sim.fragments import parts
from cimc.sim.fragments.parts import KernelPart
from cimc.sim.host import OnnxFragment

RNG = np.random.default_rng(0)


def kinds(fragment):
    """`kernel`, `together` or `alone` for each part."""
    names = {True: "together", False: "alone"}
    batched = fragment._batch()
    return [
        "kernel" if isinstance(part, KernelPart) else names[part.batched] for part in batched.parts
    ]


CASES = nets(), st.integers(1, 6), st.booleans(), st.integers(0, 2**32 - 1)


@given(*CASES)
@settings(max_examples=100)
def test_many_samples_are_each_sample_alone(drawn, samples, special, seed):
    _check_many(drawn, samples, special, seed)


@pytest.mark.slow
@given(*CASES)
@settings(max_examples=2000)
def test_many_samples_of_many_graphs(drawn, samples, special, seed):
    _check_many(drawn, samples, special, seed)


def _check_many(drawn, samples, special, seed):
    net, outputs = drawn
    rng = np.random.default_rng(seed)
    inputs = [values(rng, *_with(samples, net.values[name]), special) for name in net.inputs]
    check_batch(net.fragment(outputs), inputs)


def _with(samples, kind):
    return kind[0], (samples, *kind[1])


# -- single operators ------------------------------------------------------------------

UNARY = ["Abs", "Ceil", "Floor", "Neg", "Relu", "Round", "Sign"]
BINARY = ["Add", "Div", "Max", "Min", "Mul", "Sub"]
COMPARE = ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]
LOGIC = ["And", "Or", "Xor"]
SHAPE = (1, 3, 9, 9)


def one(op, *kinds, elem=None, **attributes):
    net = Net()
    operands = [net.input(kind, SHAPE) for kind in kinds]
    return net, net.node(op, *operands, elem=elem or kinds[0], shape=SHAPE, **attributes)


SINGLE = {
    **{op: one(op, F32) for op in UNARY},
    **{op: one(op, F32, F32) for op in BINARY},
    **{f"{op} f64": one(op, F64, F64) for op in ("Add", "Sub", "Mul", "Div")},
    **{f"{op} f64": one(op, F64) for op in ("Floor", "Round")},
    **{op: one(op, F32, F32, elem=BOOL) for op in COMPARE},
    **{f"{op} f64": one(op, F64, F64, elem=BOOL) for op in COMPARE},
    **{f"{op} i32": one(op, I32, I32, elem=BOOL) for op in COMPARE},
    **{op: one(op, BOOL, BOOL) for op in LOGIC},
    "Not": one("Not", BOOL),
    "Where": one("Where", BOOL, F32, F32, elem=F32),
    **{
        f"Cast {a} to {b}": one("Cast", a, elem=b, to=b)
        for a in (F32, F64, I32, U8, I8, BOOL)
        for b in (F32, F64, I32, U8, I8, BOOL)
    },
}


@pytest.mark.parametrize("case", SINGLE.values(), ids=list(SINGLE))
def test_kernels_do_what_onnxruntime_does(case):
    net, output = case
    fragment = net.fragment([output])
    assert kinds(fragment) == ["kernel"]
    for special in (False, True):
        inputs = [values(RNG, *_with(5, net.values[name]), special) for name in net.inputs]
        check_batch(fragment, inputs)


@pytest.mark.parametrize("op", ["Clip", "Relu", "Max", "Sign"])
def test_ordinary_values_need_no_second_run(op, monkeypatch):
    net = Net()
    x = net.input(F32, SHAPE)
    operands = [x] if op in ("Relu", "Sign") else [x, net.constant(np.float32(0))]
    fragment = net.fragment([net.node(op, *operands)])
    inputs = [values(RNG, F32, (4, *SHAPE))]
    expected = singly(fragment, inputs)
    monkeypatch.setattr(fragment, "run", None)
    agree(fragment.run_batch(inputs)[0], expected[0])


MARKED = {
    "Relu": ([], F32, np.nan),
    "Sign": ([], F32, np.nan),
    "Max": ([np.float32(0)], F32, np.nan),
    "Clip": ([np.float32(0)], F32, np.nan),
    "Cast": ([], I32, 3e9),
    "Cast i8": ([], I8, 128),
    "Cast u8": ([], U8, -1),
    "DynamicQuantizeLinear": ([], U8, np.inf),
}


@pytest.mark.parametrize("case", MARKED)
def test_a_sample_with_an_odd_value_runs_in_onnxruntime_alone(case, monkeypatch):
    """What onnxruntime makes of it may hang on its version or the value's place."""
    constants, elem, odd = MARKED[case]
    op = case.split()[0]
    net = Net()
    operands = [net.input(F32, SHAPE), *map(net.constant, constants)]
    if op == "DynamicQuantizeLinear":
        outputs = net.node(op, *operands, elem=elem, outputs=3)
        net.values[outputs[1]], net.values[outputs[2]] = (F32, ()), (U8, ())
    else:
        given = {"to": elem} if op == "Cast" else {}
        outputs = [net.node(op, *operands, elem=elem, **given)]
    fragment = net.fragment(outputs)
    x = RNG.random((4, *SHAPE), np.float32)
    x[2, 0, 0, 0, 0] = odd
    alone = []
    run = fragment.run

    def counted(inputs):
        alone.append(inputs[0])
        return run(inputs)

    monkeypatch.setattr(fragment, "run", counted)
    found = fragment.run_batch([x])
    assert len(alone) == 1
    assert kinds(fragment) == ["kernel"]
    for ours, theirs in zip(found, singly(fragment, [x]), strict=True):
        agree(ours, theirs)


def test_the_sign_of_a_zero_never_becomes_another_number():
    """onnxruntime's Max and Min of two zeros take either, by the place in memory."""
    net = Net()
    x = net.input(F32, (77,))
    zeros = net.node("Max", x, net.constant(np.float32(0)))
    fragment = net.fragment(
        [net.node("Div", net.constant(np.float32(1)), zeros, elem=F32, shape=(77,))]
    )
    check_batch(fragment, [RNG.choice(np.array([0, -0.0, 1], np.float32), (9, 77))])


def test_a_scale_of_each_sample_multiplies_its_elements_only():
    """What `dynamic` int8 does between two layers."""
    net = Net()
    acc, scale = net.input(I32, SHAPE), net.input(F32, ())
    real = net.node("Cast", acc, elem=F32, to=F32)
    bias = net.constant(values(RNG, F32, (3, 1, 1)))
    y = net.node("Relu", net.node("Add", net.node("Mul", real, scale), bias))
    q, s, z = net.node("DynamicQuantizeLinear", y, elem=U8, outputs=3)
    net.values[s], net.values[z] = (F32, ()), (U8, ())
    out = net.node("Mul", s, net.constant(np.float32(0.03)))
    fragment = net.fragment([q, z, out, y])
    assert kinds(fragment) == ["kernel"]
    scales = RNG.random(9).astype(np.float32)
    check_batch(fragment, [values(RNG, I32, (9, *SHAPE)), scales])


@given(st.lists(st.floats(width=32), min_size=1, max_size=40), st.integers(0, 3))
@settings(max_examples=150)
def test_dynamic_quantize_linear(numbers, more):
    net = Net()
    names = net.node("DynamicQuantizeLinear", net.input(F32, (len(numbers),)), outputs=3)
    for name, kind in zip(names, [(U8, (len(numbers),)), (F32, ()), (U8, ())]):
        net.values[name] = kind
    rest = values(np.random.default_rng(more), F32, (more, len(numbers)))
    check_batch(net.fragment(names), [np.concatenate([np.array([numbers], np.float32), rest])])


def test_dynamic_quantize_linear_of_ties():
    """Halves and their neighbours, where the rounding of the division decides."""
    net = Net()
    names = net.node("DynamicQuantizeLinear", net.input(F32, (1024,)), outputs=3)
    for name, kind in zip(names, [(U8, (1024,)), (F32, ()), (U8, ())]):
        net.values[name] = kind
    most = 1 + RNG.random((200, 1)).astype(np.float32)
    levels = RNG.integers(0, 255, (200, 1023)).astype(np.float32)
    halves = (levels + np.float32(0.5)) * (most / np.float32(255))
    toward = RNG.choice(np.array([0, 9], np.float32), halves.shape)
    near = np.where(RNG.random(halves.shape) < 0.5, np.nextafter(halves, toward), halves)
    check_batch(net.fragment(names), [np.concatenate([near, most], axis=1)])


@pytest.mark.parametrize("size", [(7, 7), (20, 20)], ids=["short", "long"])
def test_batch_norm_is_folded_as_onnxruntime_does(size):
    net = Net()
    x = net.input(F32, (1, 5, *size))
    parameters = [values(RNG, F32, 5) for _ in range(3)]
    variance = RNG.random(5).astype(np.float32)
    operands = [net.constant(p) for p in (*parameters, variance)]
    fragment = net.fragment([net.node("BatchNormalization", x, *operands, epsilon=1e-3)])
    assert kinds(fragment) == ["kernel"]
    check_batch(fragment, [values(RNG, F32, (6, 1, 5, *size))])


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("channels", [(), (3,)], ids=["tensor", "channel"])
def test_quantizers(dtype, channels):
    net = Net()
    x = net.input(F32, SHAPE)
    scale = net.constant((RNG.random(channels) + 0.1).astype(np.float32))
    zero = net.constant(np.full(channels, 7, dtype))
    elem = U8 if dtype is np.uint8 else I8
    q = net.node("QuantizeLinear", x, scale, zero, elem=elem, axis=1)
    back = net.node("DequantizeLinear", q, scale, zero, elem=F32, axis=1)
    fragment = net.fragment([q, back])
    assert kinds(fragment) == ["kernel"]
    check_batch(fragment, [values(RNG, F32, (5, *SHAPE), special=True)])


# -- parts -----------------------------------------------------------------------------


def _pooled(net, op, **attributes):
    x = net.node("Relu", net.input(F32, (1, 6, 11, 13)))
    return net.node(op, x, **attributes)


TOGETHER = {
    "MaxPool": {"kernel_shape": [3, 2], "strides": [2, 2], "shape": (1, 6, 5, 6)},
    "AveragePool": {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
    "GlobalAveragePool": {"shape": (1, 6, 1, 1)},
    "GlobalMaxPool": {"shape": (1, 6, 1, 1)},
    "Softmax": {"axis": -1},
    "LogSoftmax": {"axis": 1},
    "Transpose": {"perm": [0, 3, 1, 2], "shape": (1, 13, 6, 11)},
    "ReduceMax": {"axes": [2], "shape": (1, 6, 1, 13)},
    "ArgMax": {"axis": 1, "elem": TensorProto.INT64, "shape": (1, 1, 11, 13)},
    "LeakyRelu": {"alpha": 0.1},
    "Sqrt": {},
}


@pytest.mark.parametrize("op", TOGETHER)
def test_onnxruntime_runs_all_samples_in_one_call(op):
    net = Net()
    output = _pooled(net, op, **TOGETHER[op])
    fragment = net.fragment([output])
    assert kinds(fragment) == ["kernel", "together"]
    check_batch(fragment, [values(RNG, F32, (17, 1, 6, 11, 13))])


def test_pads_slices_and_concatenations_move_no_sample():
    net = Net()
    x = net.input(F32, (1, 3, 5, 5))
    pads = net.constant(np.array([0, 0, 1, 0, 0, 2, 0, 1], np.int64))
    padded = net.node("Pad", x, pads, shape=(1, 5, 6, 6))
    bounds = [net.constant(np.array([v], np.int64)) for v in (1, 4, 1)]
    cut = net.node("Slice", padded, *bounds, shape=(1, 3, 6, 6))
    joined = net.node("Concat", cut, padded, axis=1, shape=(1, 8, 6, 6))
    fragment = net.fragment([joined])
    assert kinds(fragment) == ["together"]
    check_batch(fragment, [values(RNG, F32, (4, 1, 3, 5, 5))])


ALONG_SAMPLES = {
    "Softmax": {"axis": 0},
    "Transpose": {"perm": [1, 0, 2, 3], "shape": (6, 1, 11, 13)},
    "ReduceMax": {"axes": [0, 2], "shape": (1, 6, 1, 13)},
    "ReduceMean": {"axes": [2, 3], "shape": (1, 6, 1, 1)},
    "Sigmoid": {},
    "Softplus": {},
}


@pytest.mark.parametrize("op", ALONG_SAMPLES)
def test_what_a_batch_might_change_runs_one_sample_at_a_time(op):
    net = Net()
    fragment = net.fragment([_pooled(net, op, **ALONG_SAMPLES[op])])
    assert kinds(fragment) == ["kernel", "alone"]
    check_batch(fragment, [values(RNG, F32, (7, 1, 6, 11, 13))])


def test_what_stands_between_products_joins_them():
    net = Net()
    x = net.node("Neg", net.input(F32, (1, 40)))
    for size in (30, 20):
        weights = net.constant(values(RNG, F32, (net.values[x][1][1], size)))
        x = net.node("Relu", net.node("MatMul", x, weights, shape=(1, size)))
        x = net.node("Identity", x)
    fragment = net.fragment([x])
    assert kinds(fragment) == ["kernel", "alone", "kernel"]
    check_batch(fragment, [values(RNG, F32, (9, 1, 40))])


def test_weights_that_nodes_make_stay_so():
    """onnxruntime lays out weights that it knows beforehand, and adds in another order then."""
    net = Net()
    x = net.input(F32, (1, 256))
    flat = net.constant(values(RNG, F32, (16, 4, 4, 10)))
    shape = net.constant(np.array([256, 10], np.int64))
    weights = net.node("Reshape", flat, shape, elem=F32, shape=(256, 10))
    fragment = net.fragment([net.node("MatMul", x, weights, shape=(1, 10))])
    check_batch(fragment, [values(RNG, F32, (9, 1, 256))])


def test_parts_run_in_chunks_of_samples(monkeypatch):
    net = Net()
    x = net.node("Mul", net.input(F32, (1, 4, 6, 6)), net.input(F32, ()))
    pool = net.node("MaxPool", x, kernel_shape=[2, 2], shape=(1, 4, 5, 5))
    product = net.node("MatMul", pool, net.constant(values(RNG, F32, (5, 3))), shape=(1, 4, 5, 3))
    fragment = net.fragment([net.node("Relu", product), pool])
    assert kinds(fragment) == ["kernel", "together", "alone", "kernel"]
    inputs = [values(RNG, F32, (11, 1, 4, 6, 6)), values(RNG, F32, (11,))]
    inputs[0][6, 0, 0, 0] = np.nan
    monkeypatch.setattr(parts, "_CHUNK_BYTES", 4 * 2500)
    check_batch(fragment, inputs)


def test_outputs_may_be_inputs_constants_and_each_other():
    net = Net()
    x = net.input(F32, (1, 4))
    y = net.node("Relu", x)
    names = [net.node("Flatten", x), net.node("Identity", y), y]
    c = net.constant(np.arange(3, dtype=np.float32).reshape(1, 3))
    names.append(net.node("Identity", c, elem=F32, shape=(1, 3)))
    fragment = net.fragment(names)
    found = fragment.run_batch([values(RNG, F32, (5, 1, 4))])
    assert all(not np.shares_memory(a, b) for a, b in pairwise(found))
    check_batch(fragment, [values(RNG, F32, (5, 1, 4))])


def test_types_that_kernels_do_not_have():
    net = Net()
    x = net.input(TensorProto.INT64, (1, 3))
    fragment = net.fragment([net.node("Add", x, x)])
    assert kinds(fragment) == ["together"]
    check_batch(fragment, [np.arange(12, dtype=np.int64).reshape(4, 1, 3)])


# -- binding ---------------------------------------------------------------------------


def _dense():
    net = Net()
    x = net.node("Relu", net.input(F32, (1, 20)))
    return net.fragment(
        [net.node("Gemm", x, net.constant(values(RNG, F32, (20, 7))), shape=(1, 7))]
    )


def test_a_bound_fragment_follows_its_arrays():
    fragment = _dense()
    x, y = np.zeros((10, 1, 20), np.float32), np.zeros((10, 1, 7), np.float32)
    bound = fragment.bind([x], [y])
    for samples in (10, 3, 1, 10):
        x[...] = values(RNG, F32, x.shape)
        y[...] = -1
        bound.run(samples)
        agree(y[:samples], singly(fragment, [x[:samples]])[0])
        assert (y[samples:] == -1).all()


def test_arrays_that_do_not_fit_are_not_bound():
    fragment = _dense()
    x, y = np.zeros((2, 1, 20), np.float32), np.zeros((2, 1, 7), np.float32)
    assert fragment.bind([x.astype(np.float64)], [y]) is None
    assert fragment.bind([x], [y[:, :, :5]]) is None
    assert fragment.bind([x, x], [y]) is None
    assert fragment.bind([x[:, :, ::-1]], [y]) is None


def test_many_threads_run_a_fragment_at_once():
    fragment = _dense()
    x = values(RNG, F32, (40, 1, 20))
    expected = singly(fragment, [x])[0]
    wrong = []

    def work(first):
        for _ in range(20):
            if not np.array_equal(fragment.run_batch([x[first:]])[0], expected[first:]):
                wrong.append(first)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# -- anything else ---------------------------------------------------------------------


def _raw(graph):
    opsets = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    return OnnxFragment(Data("raw", "onnx", np.frombuffer(model.SerializeToString(), np.uint8)))


def test_sequences_run_one_sample_at_a_time():
    x = helper.make_tensor_value_info("x", F32, [1, 4])
    node = helper.make_node("SplitToSequence", ["x"], ["s"], axis=1)
    info = helper.make_tensor_sequence_value_info("s", F32, [1, 1])
    fragment = _raw(helper.make_graph([node], "g", [x], [info]))
    found = fragment.run_batch([np.arange(8, dtype=np.float32).reshape(2, 1, 4)])[0]
    assert [[float(part[0, 0]) for part in sample] for sample in found] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
    ]


def test_shapes_that_differ_between_samples_come_as_a_list():
    x = helper.make_tensor_value_info("x", F32, [4])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, [1, None])
    fragment = _raw(helper.make_graph([helper.make_node("NonZero", ["x"], ["y"])], "g", [x], [y]))
    found = fragment.run_batch([np.array([[0, 1, 0, 2], [1, 1, 1, 0]], np.float32)])[0]
    assert [value.tolist() for value in found] == [[[1, 3]], [[0, 1, 2]]]


def test_a_list_of_values_is_an_input_too():
    fragment = _dense()
    x = values(RNG, F32, (3, 1, 20))
    agree(fragment.run_batch([list(x)])[0], singly(fragment, [x])[0])


def test_the_first_value_that_does_not_fit_is_named():
    net = Net()
    fragment = net.fragment([net.node("Cast", net.input(U8, (1, 2)), elem=F32, to=F32)])
    fits = np.array([[[1, 2]], [[3, 4]]], np.int32)
    agree(fragment.run_batch([fits])[0], fits.astype(np.float32))
    fits[1, 0, 0], fits[0, 0, 1] = 999, 300
    with pytest.raises(Trap, match="300 is not a value of u8"):
        fragment.run_batch([fits])


def test_a_wrong_number_of_inputs():
    net = Net()
    fragment = net.fragment([net.node("Relu", net.input(F32, (1, 2)))])
    with pytest.raises(CompileError, match="takes 1 inputs, not 2"):
        fragment.run([np.zeros((1, 2), np.float32)] * 2)


def test_no_samples():
    fragment = _dense()
    assert fragment.run_batch([np.zeros((0, 1, 20), np.float32)])[0].shape == (0, 1, 7)


def test_sums_do_not_hang_on_where_a_sample_lies():
    """A sample of a batch may begin anywhere in memory; onnxruntime's means differ then."""
    net = Net()
    x = net.input(F32, (1, 33, 65))
    fragment = net.fragment([net.node("ReduceMean", x, axes=[2], shape=(1, 33, 1))])
    batch = np.repeat(values(RNG, F32, (1, 1, 33, 65)), 5, axis=0)
    found = singly(fragment, [batch])[0]
    assert all((found == found[0]).reshape(5, -1).all(axis=1))
    agree(fragment.run_batch([batch])[0], found)
