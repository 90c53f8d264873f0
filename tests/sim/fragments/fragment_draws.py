"""Fragments for tests: ONNX graphs of the operators that run for many samples at once."""

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from cimc.isa.program import Data
from cimc.sim.host import OnnxFragment

DTYPES = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.BOOL: np.bool_,
    TensorProto.INT8: np.int8,
    TensorProto.UINT8: np.uint8,
    TensorProto.INT32: np.int32,
    TensorProto.INT64: np.int64,
}
ELEMS = {np.dtype(dtype): elem for elem, dtype in DTYPES.items()}
F32, F64, BOOL, I8, U8, I32, I64 = DTYPES


class Net:
    """A graph under construction: `values` are names with element type and shape."""

    def __init__(self, opset=13):
        self.opset = opset
        self.nodes, self.inputs, self.constants, self.values = [], [], [], {}

    def name(self, stem):
        return f"{stem}{len(self.nodes) + len(self.inputs) + len(self.constants)}"

    def input(self, elem, shape):
        name = self.name("x")
        self.inputs.append(name)
        self.values[name] = elem, tuple(shape)
        return name

    def constant(self, array):
        name = self.name("c")
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op, *operands, elem=None, shape=None, outputs=1, **attributes):
        """Add a node; of the type and shape of its first operand unless told."""
        names = [f"{self.name('y')}.{i}" for i in range(outputs)]
        first = self.values.get(operands[0], (None, None))
        self.nodes.append(helper.make_node(op, list(operands), names, **attributes))
        for name in names:
            self.values[name] = elem or first[0], tuple(first[1] if shape is None else shape)
        return names[0] if outputs == 1 else names

    def fragment(self, outputs, threads=1):
        graph = helper.make_graph(
            self.nodes,
            "fragment",
            [self._info(name) for name in self.inputs],
            [self._info(name) for name in outputs],
            self.constants,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8
        )
        raw = np.frombuffer(model.SerializeToString(), np.uint8)
        return OnnxFragment(Data("fragment", "onnx", raw), threads)

    def _info(self, name):
        elem, shape = self.values[name]
        return helper.make_tensor_value_info(name, elem, shape)


# -- values ----------------------------------------------------------------------------

SPECIAL = [0.0, -0.0, 0.5, 1.5, -2.5, 1e-45, -1e-38, 3e38, -3e38, 254.5, 255.5, -128.5, 2.0**31]


def values(rng, elem, shape, special=False):
    """Random values of an element type; `special` ones too: not-a-number, infinity, and the
    whole range of integers."""
    dtype = DTYPES[elem]
    if elem in (F32, F64):
        found = rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4)
        if special:
            odd = rng.choice([*SPECIAL, np.nan, np.inf, -np.inf], shape)
            found = np.where(rng.random(shape) < 0.2, odd, found)
        return found.astype(dtype)
    if elem == BOOL:
        return rng.integers(0, 2, shape).astype(dtype)
    info = np.iinfo(dtype)
    bits = 32 if special else rng.integers(1, 33)
    low, high = max(info.min, -(2**bits)), min(info.max, 2**bits)
    return rng.integers(low, high, shape, endpoint=True).astype(dtype)


def singly(fragment, inputs):
    """Each sample alone, stacked."""
    samples = len(inputs[0])
    rows = [[x[s : s + 1].reshape(x.shape[1:]) for x in inputs] for s in range(samples)]
    found = [fragment.run(row) for row in rows]
    return [np.stack(column) for column in zip(*found)]


def agree(found, expected):
    """The same numbers in every bit; zeros of either sign are one number, as Max and Min of
    onnxruntime take either by a value's place, and so is what is no number."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


def check_batch(fragment, inputs):
    for found, expected in zip(fragment.run_batch(inputs), singly(fragment, inputs), strict=True):
        agree(found, expected)


# -- random graphs ---------------------------------------------------------------------

SHAPES = [(1, 3, 4, 4), (1, 8, 9, 9), (1, 2, 5, 70), (1, 1, 1, 1)]


@st.composite
def nets(draw):
    """A graph of a few operators on values of one shape, or scalars, and its outputs."""
    net = Net()
    shape = draw(st.sampled_from(SHAPES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    for elem in draw(st.lists(st.sampled_from([F32, I32, U8, F64]), min_size=1, max_size=3)):
        net.input(elem, shape)
    if draw(st.booleans()):
        net.input(F32, ())
    for _ in range(draw(st.integers(1, 8))):
        draw(st.sampled_from(STEPS))(draw, net, rng)
    made = [name for name in net.values if name not in net.inputs]
    if not made:
        made = [net.node("Identity", net.inputs[0])]
    extra = draw(st.lists(st.sampled_from(made), max_size=2, unique=True))
    return net, list(dict.fromkeys([*extra, made[-1]]))


def _pick(draw, net, *elems):
    """A value of one of the element types that isn't a scalar, or None."""
    fits = [n for n, (elem, shape) in net.values.items() if elem in elems and shape]
    return draw(st.sampled_from(fits)) if fits else None


def _operand(draw, net, rng, name):
    """A second operand: a value of the same type and shape, a scalar, or a constant that
    broadcasts."""
    elem, shape = net.values[name]
    fits = [n for n, kind in net.values.items() if kind in ((elem, shape), (elem, ()))]
    if draw(st.booleans()):
        return draw(st.sampled_from(fits))
    kept = draw(st.sampled_from([(), (1,), shape[1:2] + (1,) * (len(shape) - 2), shape]))
    return net.constant(values(rng, elem, kept))


def _arithmetic(draw, net, rng):
    x = _pick(draw, net, F32, F64)
    if x is not None:
        operands = [x, _operand(draw, net, rng, x)]
        if draw(st.booleans()):
            operands.reverse()
        op = draw(st.sampled_from(["Add", "Sub", "Mul", "Div"]))
        net.node(op, *operands, elem=net.values[x][0], shape=net.values[x][1])


def _extremes(draw, net, rng):
    x = _pick(draw, net, F32, U8)
    if x is not None:
        net.node(draw(st.sampled_from(["Max", "Min"])), x, _operand(draw, net, rng, x))


def _compare(draw, net, rng):
    x = _pick(draw, net, F32, F64, I32)
    if x is None:
        return
    op = draw(st.sampled_from(["Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"]))
    truth = net.node(op, x, _operand(draw, net, rng, x), elem=BOOL)
    if draw(st.booleans()):
        truth = net.node("Not", truth)
    y = _pick(draw, net, F32)
    if y is not None and net.values[y][1] == net.values[truth][1]:
        net.node("Where", truth, y, _operand(draw, net, rng, y), elem=F32)


def _unary(draw, net, rng):
    x = _pick(draw, net, F32)
    if x is not None:
        ops = ["Relu", "Neg", "Abs", "Sign", "Floor", "Ceil", "Round", "Sqrt", "LeakyRelu"]
        net.node(draw(st.sampled_from(ops)), x)


def _clip(draw, net, rng):
    x = _pick(draw, net, F32, F64)
    if x is not None:
        dtype = DTYPES[net.values[x][0]]
        low, high = (net.constant(np.array(v, dtype)) for v in (-1.5, 100))
        net.node("Clip", x, draw(st.sampled_from([low, ""])), high)


def _cast(draw, net, rng):
    x = _pick(draw, net, F32, F64, I32, U8, I8, BOOL)
    if x is not None:
        elem = draw(st.sampled_from([F32, F64, I32, U8, I8, BOOL, I64]))
        net.node("Cast", x, elem=elem, to=elem)


def _norm(draw, net, rng):
    x = _pick(draw, net, F32)
    if x is None or len(net.values[x][1]) < 2:
        return
    channels = net.values[x][1][1]
    scale, bias, mean = (values(rng, F32, channels) for _ in range(3))
    operands = [net.constant(a) for a in (scale, bias, mean, rng.random(channels, np.float32))]
    net.node("BatchNormalization", x, *operands)


def _quantize(draw, net, rng):
    x = _pick(draw, net, F32)
    if x is None:
        return
    dtype = draw(st.sampled_from([np.uint8, np.int8]))
    scale = net.constant(np.float32(draw(st.sampled_from([0.1, 0.37, 3]))))
    zero = net.constant(dtype(draw(st.integers(0, 127))))
    q = net.node("QuantizeLinear", x, scale, zero, elem=ELEMS[np.dtype(dtype)])
    if draw(st.booleans()):
        net.node("DequantizeLinear", q, scale, zero, elem=F32)


def _dynamic(draw, net, rng):
    x = _pick(draw, net, F32)
    if x is not None:
        _, scale, zero = net.node("DynamicQuantizeLinear", x, elem=U8, outputs=3)
        net.values[scale], net.values[zero] = (F32, ()), (U8, ())
        net.node("Mul", scale, net.constant(np.float32(0.01)))


def _pool(draw, net, rng):
    x = _pick(draw, net, F32)
    if x is None or len(net.values[x][1]) != 4:
        return
    pool = draw(st.sampled_from(["MaxPool", "AveragePool"]))
    kernel = min(2, *net.values[x][1][2:])
    sizes = [size - kernel + 1 for size in net.values[x][1][2:]]
    net.node(pool, x, shape=(*net.values[x][1][:2], *sizes), kernel_shape=[kernel] * 2)


def _layout(draw, net, rng):
    x = _pick(draw, net, F32, I32, U8)
    if x is None:
        return
    shape = net.values[x][1]
    flat = (1, int(np.prod(shape)))
    op = draw(st.sampled_from(["Flatten", "Reshape", "Transpose", "Softmax"]))
    if op == "Flatten":
        net.node(op, x, shape=flat)
    elif op == "Reshape":
        net.node(op, x, net.constant(np.array([1, -1], np.int64)), shape=flat)
    elif op == "Transpose":
        perm = [0, *reversed(range(1, len(shape)))]
        net.node(op, x, shape=[shape[i] for i in perm], perm=perm)
    elif net.values[x][0] == F32:
        net.node(op, x, axis=-1)


def _alone(draw, net, rng):
    """A product of matrices, or an approximated function: one sample at a time."""
    x = _pick(draw, net, F32)
    if x is None:
        return
    if draw(st.booleans()):
        net.node(draw(st.sampled_from(["Sigmoid", "Exp"])), x)
        return
    shape = net.values[x][1]
    weights = net.constant(values(rng, F32, (shape[-1], 5)))
    net.node("MatMul", x, weights, shape=(*shape[:-1], 5))


STEPS = [
    _arithmetic,
    _arithmetic,
    _extremes,
    _compare,
    _unary,
    _clip,
    _cast,
    _cast,
    _norm,
    _quantize,
    _dynamic,
    _pool,
    _layout,
    _alone,
]
