"""The mask that the array finds is the host's: on any tiles, of any encoding, in both modes."""

import itertools
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import cimc
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.types import TensorType, container, int_range
from cimc.sim.counters import static_counts
from cimc.similarity.criteria import published_binary

ENCODINGS = ("bip", "bip", "tern", "u1", "u3", "i1", "i4", "i8", "u8")


def kernels(rng, elem, count, columns):
    """Kernels of a few kinds with some weights changed: near ones, equal ones, balanced ones,
    and some of zeros where the encoding has zeros."""
    low, high = int_range(elem)
    levels = np.array([-1, 1]) if elem == "bip" else np.arange(low, high + 1)
    kinds = rng.choice(levels, (rng.integers(1, 4), columns))
    w = kinds[rng.integers(0, len(kinds), count)]
    change = rng.random((count, columns)) < rng.choice([0, 0.05, 0.3, 1])
    w = np.where(change, rng.choice(levels, (count, columns)), w)
    if columns % 2 == 0 and low < 0:
        half = np.repeat([levels[-1], -levels[-1]], columns // 2)
        w[rng.random(count) < 0.2] = rng.permutation(half)
    if elem != "bip":
        w[rng.random(count) < 0.2] = 0
    return w.astype(container(elem))


def expected(w, elem, b, c, mode):
    """The rule spelled out, on the cells of each kernel."""
    bits = {"bip": 1, "tern": 2}.get(elem, int(elem[1:]) if elem[1:].isdigit() else 0)

    def cells(weight):
        if elem == "bip":
            return [(1, weight > 0)]
        if elem == "tern":
            return [(1, weight > 0), (1, weight < 0)]
        return [(2**j, (int(weight) >> j) & 1) for j in range(bits)]

    count = len(w)
    if mode == "literal":
        live = [int(row.sum(dtype=np.int64)) != 0 for row in w]
    else:
        live = [any(value != 0 for value in row) for row in w]
    near = {}
    for i, j in itertools.combinations([k for k in range(count) if live[k]], 2):
        near[i, j] = sum(
            size * (a != other)
            for u, v in zip(w[i], w[j])
            for (size, a), (_, other) in zip(cells(u), cells(v))
        )
    pruned = np.zeros(count, bool)
    if not near:
        return pruned
    mean = Fraction(sum(near.values()), len(near))
    variance = Fraction(sum(d * d for d in near.values()), len(near)) - mean**2
    others = (count if mode == "literal" else sum(live)) - 1
    for k in range(count):
        close = sum(d < mean - b * variance for pair, d in near.items() if k in pair)
        pruned[k] = close > c * others
    return pruned


def layer(w, elem, kind, taps):
    """A graph of one layer with these kernels [N, K]; the kernels as conv or matmul has them."""
    x = "u4" if elem in ("u8", "i8", "u3", "i4", "u1", "i1") else "bip"
    count, columns = w.shape
    if kind == "matmul":
        shape, made = (1, columns), np.ascontiguousarray(w.T)
        result = (1, count)
    else:
        made = w.reshape(count, columns // taps, taps)
        shape, result = (1, columns // taps, taps + 1), (1, count, 2)
    graph = Graph("g", opsets={"onnx": 13})
    value = Value("x", TensorType(x, shape))
    graph.inputs.append(value)
    weights = graph.const("w", made, TensorType(elem, made.shape))
    out = Value("layer", TensorType("i32", result))
    graph.nodes.append(Node(f"cim.{kind}", [value, weights], [out], {}))
    graph.outputs.append(out)
    return graph, np.ones(shape, container(x))


@st.composite
def searches(draw):
    elem = draw(st.sampled_from(ENCODINGS))
    kind = draw(st.sampled_from(["conv", "matmul"]))
    count, taps = draw(st.integers(2, 24)), draw(st.integers(1, 4))
    columns = taps * draw(st.integers(1, 9))
    rows = draw(st.sampled_from([1, 2, 3, 5, 8, 9, 16, 40, 256]))
    cols = draw(st.sampled_from([1, 2, 3, 5, 7, 8, 16, 64, 128]))
    b = draw(st.sampled_from(["0", "0.146", "1/3", "2", "1/100"]))
    c = draw(st.sampled_from(["0", "0.15", "1/7", "1", "0.5"]))
    mode = draw(st.sampled_from(["intent", "literal"]))
    strategy = draw(st.sampled_from(["compact", "fast"]))
    return elem, kind, count, taps, columns, rows, cols, b, c, mode, strategy, draw(st.integers(0))


@settings(deadline=None, max_examples=120)
@given(searches())
def test_the_array_finds_what_the_host_finds(case):
    elem, kind, count, taps, columns, rows, cols, b, c, mode, strategy, seed = case
    rng = np.random.default_rng(seed)
    w = kernels(rng, elem, count, columns)
    graph, image = layer(w, elem, kind, taps)
    compiled = cimc.compile(
        graph,
        pipeline=f"find-similar{{layers=layer,mode={mode},b={b},c={c}}},"
        f"allocate-tiles{{strategy={strategy}}}",
        target="ideal",
        overrides={"rows": str(rows), "cols": str(cols)},
    )
    result = compiled.run({"x": image}, engine="reference")
    mask = expected(w, elem, Fraction(b), Fraction(c), mode)
    assert result.outputs["layer.prune"].tolist() == mask.tolist()
    counts = result.counts.sections["update"]
    label = "layer.prune"
    planes = {"bip": 1, "tern": 2}.get(elem, int(elem[1:]) if elem[1:].isdigit() else 0)
    pairs = count * (count - 1) // 2
    assert counts[label, "read.xor", "bits"] == pairs * columns * planes
    assert static_counts(compiled.program).static() == result.counts.static()
    if elem == "bip":
        host = published_binary(w, Fraction(b), Fraction(c), mode)
        assert host.pruned.tolist() == mask.tolist()
