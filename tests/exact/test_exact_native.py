"""Native integer layers of every width, with zero points known or given at run time, bias, groups
in packs and spread inputs: the program gives the bits of the numpy meaning, on any small tiles."""

import numpy as np
from exact_check import REGISTRY, assert_equal, check_lanes, round_trip
from exact_draw import SEEDS, SUBSETS, cases
from hypothesis import assume, given, note
from hypothesis import strategies as st

import cimc
from cimc.frontend.evaluate import Evaluator
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.ops import HOST, TABLE, present
from cimc.ir.printer import print_graph
from cimc.ir.rules import Misfit
from cimc.ir.types import TensorType, container, int_range
from cimc.sim.counters import static_counts
from cimc.sim.reference import run

INPUTS = ("bip", "tern", "u1", "u3", "u4", "u8", "i2", "i4", "i8")
WEIGHTS = ("bip", "tern", "u1", "u2", "u8", "i1", "i2", "i3", "i4", "i7", "i8")


class Build:
    """A graph in the making, with values for its inputs."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.graph = Graph("g", opsets={"onnx": 13})
        self.feeds = {}

    def array(self, elem, shape):
        """Values of the whole range, often its ends."""
        if elem == "bip":
            return self.rng.choice(np.array([-1, 1], np.int8), shape)
        low, high = int_range(elem)
        values = self.rng.integers(low, high, shape, endpoint=True)
        ends = self.rng.choice([low, high], shape)
        return np.where(self.rng.random(shape) < 0.3, ends, values).astype(container(elem))

    def input(self, elem, shape, samples=2):
        value = Value(f"x{len(self.graph.inputs)}", TensorType(elem, shape))
        self.graph.inputs.append(value)
        self.feeds[value.name] = self.array(elem, (samples, *shape[1:]))
        return value

    def const(self, elem, array):
        return self.graph.const("c", np.asarray(array), TensorType(elem, np.shape(array)))

    def op(self, name, *inputs, **attrs):
        row = TABLE[name]
        types = present([None if v is None else v.tensor for v in inputs])
        (type_,) = row.types(types, row.full_attrs(attrs))
        out = Value(self.graph.fresh("v"), type_)
        self.graph.nodes.append(Node(name, list(inputs), [out], attrs))
        return out

    def finish(self, *outputs):
        self.graph.outputs = list(outputs)
        return self.graph


def corrections(draw, build, x, channels):
    """zx (none, known, or an input of its own), zw and b."""
    plain = x.elem[0] in "ui"
    kind = draw(st.sampled_from(["none", "known", "given"])) if plain else "none"
    zx = None
    if kind == "known":
        zx = build.const(x.elem, build.array(x.elem, (1,)))
    if kind == "given":
        zx = build.input(x.elem, (1,))
    zw = None
    if plain and draw(st.booleans()):
        zw = build.const("i8", build.array("i8", (draw(st.sampled_from([1, channels])),)))
    b = build.const("i32", build.rng.integers(-500, 500, channels).astype(np.int32))
    return [zx, zw, b if draw(st.booleans()) else None]


def places(draw, build, y):
    """b[1,C,*out]: a number for each place of y, or for its borders and for all others."""
    shape = (1, *y.tensor.static[1:])
    bias = build.rng.integers(-500, 500, shape).astype(np.int32)
    if draw(st.booleans()):
        inner = tuple(slice(1, max(1, n - 1)) for n in shape[2:])
        bias[:, :, *inner] = 7
    return build.const("i32", bias)


def check(draw, build, outputs, **options):
    """The program of the graph, printed and parsed again, against the graph's meaning."""
    graph = build.finish(*outputs)
    note(print_graph(graph))
    expected_of = Evaluator(graph)
    samples = max(len(a) for a in build.feeds.values())
    expected = [expected_of({k: a[i : i + 1] for k, a in build.feeds.items()})
                for i in range(samples)]  # fmt: skip
    overrides = {
        "rows": str(draw(st.integers(1, 20))),
        "cols": str(draw(st.integers(1, 40))),
        "functions": draw(st.sampled_from(SUBSETS[:1] + SUBSETS[-1:])),
    } | options
    fast = draw(st.booleans())
    place = "split-tiles,allocate-tiles{strategy=fast}" if fast else "cleanup"
    note(f"{overrides} {place}")
    case = cimc.compile(
        graph, pipeline=place, target="ideal", overrides=overrides, registry=REGISTRY
    )
    assert not [n for n in case.graph.nodes if n.op == HOST], "something is left on the host"
    program = round_trip(case.program)
    result = run(program, build.feeds)
    check_lanes(program, build.feeds, result)
    joined = {k: np.concatenate([e[k] for e in expected]) for k in expected[0]}
    assert_equal(joined, result.outputs, "program")
    assert result.counts.static() == static_counts(program, result.samples).static()


@cases(250)
@given(st.data())
def test_convolutions(data):
    draw = data.draw
    build = Build(draw(SEEDS))
    rank = draw(st.integers(1, 3))
    group, per, out = (draw(st.integers(1, n)) for n in (9, 3, 3))
    x = build.input(draw(st.sampled_from(INPUTS)), (1, group * per, *draw_sizes(draw, rank)))
    elem = draw(st.sampled_from(WEIGHTS))
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    w = build.const(elem, build.array(elem, (group * out, per, *kernel)))
    attrs = {"group": group}
    for name, most in (("strides", 3), ("dilations", 2), ("up", 2)):
        if draw(st.booleans()):
            attrs[name] = tuple(draw(st.integers(1, most)) for _ in range(rank))
    if draw(st.booleans()):
        attrs["pads"] = tuple(draw(st.integers(0, 2)) for _ in range(2 * rank))
    try:
        given = corrections(draw, build, x, group * out)
        y = build.op("cim.conv", x, w, *given, **attrs)
    except Misfit:
        assume(False)
    if draw(st.booleans()):
        build.graph.nodes[-1].inputs[4] = places(draw, build, y)
    check(draw, build, [y])


def draw_sizes(draw, rank):
    return [draw(st.integers(1, 5)) for _ in range(rank)]


@cases(150)
@given(st.data())
def test_products(data):
    draw = data.draw
    build = Build(draw(SEEDS))
    lead = [draw(st.integers(1, 3)) for _ in range(draw(st.integers(0, 2)))]
    terms, channels = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    x = build.input(draw(st.sampled_from(INPUTS)), (1, *lead, terms))
    elem = draw(st.sampled_from(WEIGHTS))
    w = build.const(elem, build.array(elem, (terms, channels)))
    y = build.op("cim.matmul", x, w, *corrections(draw, build, x, channels))
    check(draw, build, [y])


@cases(150)
@given(st.data())
def test_what_stands_between_layers(data):
    """conv, requantise, table, pools, sums, concatenations, conv: all in the program."""
    draw = data.draw
    build = Build(draw(SEEDS))
    elem = draw(st.sampled_from(["u8", "i8", "u4"]))
    x = build.input(elem, (1, 3, 6, 5))
    w = build.const("i3", build.array("i3", (4, 3, 2, 2)))
    y = build.op("cim.conv", x, w, *corrections(draw, build, x, 4))
    to = draw(st.sampled_from(["u8", "i8", "u5", "i3"]))
    size = draw(st.sampled_from([1, 4]))
    scale = build.const("f32", build.rng.uniform(0.001, 0.1, size).astype(np.float32))
    low, high = int_range(to)
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        zero = draw(st.integers(low, high))
        q = build.op("cim.requant", y, scale, to=to, zero=zero)
        step = draw(st.sampled_from(["lut", "max", "sum", "qadd", "cut", "none"]))
        if step == "lut":
            q = build.op("cim.lut", q, build.const(to, build.array(to, (2 ** int(to[1:]),))))
        if step == "cut":
            q = build.op("cim.slice", q, start=1, stop=draw(st.integers(2, 4)))
            q = build.op("cim.slice", q, start=0, stop=3, axis=2)
        if step == "max":
            q = build.op("cim.max_pool", q, kernel=(2, 2), pads=(1, 0, 0, 1))
        if step == "sum":
            q = build.op("cim.sum_pool", q, kernel=(2, 2), pads=(0, 1, 1, 0), zero=zero)
            tenth = build.const("f32", np.array([0.1], np.float32))
            q = build.op("cim.requant", q, tenth, to=to, zero=zero)
        if step == "qadd":
            scales = {k: float(np.float32(draw(st.sampled_from([0.5, 0.031, 0.2]))))
                      for k in ("x_scale", "y_scale", "scale")}  # fmt: skip
            q = build.op("cim.qadd", q, q, x_zero=zero, y_zero=low, zero=high, to=to,
                         fused=draw(st.integers(0, 1)), **scales)  # fmt: skip
        parts.append(q)
    joined = parts[0]
    for part in parts[1:]:
        if (
            part.tensor.shape == joined.tensor.shape
            or part.tensor.shape[2:] == joined.tensor.shape[2:]
        ):
            joined = build.op("cim.concat", joined, part)
    channels = joined.tensor.shape[1]
    w = build.const("i4", build.array("i4", (2, channels, 1, 1)))
    z = build.op("cim.conv", joined, w, *corrections(draw, build, joined, 2))
    check(draw, build, [z, *parts[:1]])
