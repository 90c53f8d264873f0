"""Whole runs: layers against plain Python, samples, state between sections, views, faults of
the input."""

import numpy as np
import onnx
import pytest
from build_program import (
    bufs,
    cells,
    data,
    i,
    image,
    ints,
    loop,
    program,
    reg,
    result,
    rows,
    vec,
    write,
    x,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from cimc.errors import CompileError, CompileErrors, Span
from cimc.ir.types import container
from cimc.isa.program import Affine, Data, Mem, Remap, View, Win
from cimc.sim import reference
from cimc.sim.counters import static_counts
from cimc.sim.machine import TileState, pack_tiles
from cimc.sim.reference import run

seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def conv(values, weights, pads, stride, groups):
    """A 2-D convolution [N, C, H, W] * [O, C/groups, kh, kw] in plain Python integers."""
    n = len(values)
    out_channels, per_group, kh, kw = weights.shape
    padded = np.pad(values.astype(int), ((0, 0), (0, 0), pads[::2], pads[1::2]))
    height = (padded.shape[2] - kh) // stride + 1
    width = (padded.shape[3] - kw) // stride + 1
    out = np.zeros((n, out_channels, height, width), dtype=np.int64)
    for s, o, h, w in np.ndindex(*out.shape):
        group = o // (out_channels // groups)
        part = padded[s, group * per_group : (group + 1) * per_group,
                      h * stride : h * stride + kh, w * stride : w * stride + kw]  # fmt: skip
        out[s, o, h, w] = int((part * weights[o]).sum())
    return out


def kernel_rows(weights):
    """[O, C, kh, kw] as rows [O, K], column = tap * C + channel."""
    return weights.transpose(0, 2, 3, 1).reshape(len(weights), -1)


@settings(deadline=None)
@given(rng=seeds, binary=st.booleans(), draw=st.data())
def test_a_convolution_with_segments_groups_and_padding(rng, binary, draw):
    """bip x bip by XOR: valid - 2 popc; u3 x i2 by AND over both planes."""
    groups = draw.draw(st.sampled_from([1, 2]))
    stride, cols = draw.draw(st.integers(1, 2)), draw.draw(st.sampled_from([5, 7, 20]))
    pads = [draw.draw(st.integers(0, 2)) for _ in range(4)]
    channels, out_channels, per_group = 4, 6, 4 // groups
    group_rows = out_channels // groups
    size, kernel = (draw.draw(st.integers(2, 4)), 3), (2, 3)
    shape, k = (1, channels, *size), per_group * 6
    segments = -(-k // cols)
    planes = 1 if binary else 2
    if binary:
        values = rng.choice(np.int8([-1, 1]), (3, channels, *size))
        weights = rng.choice([-1, 1], (out_channels, per_group, *kernel))
        images = [kernel_rows(weights) > 0]
    else:
        values = rng.integers(0, 8, (3, channels, *size)).astype(np.uint8)
        weights = rng.integers(-2, 2, (out_channels, per_group, *kernel))
        images = [kernel_rows(weights) >> plane & 1 for plane in range(2)]
    expected = conv(values, weights, pads, stride, groups)
    win = Win("w", channels, kernel, expected.shape[2:], (stride, stride), tuple(pads), (1, 1),
              groups, cols)  # fmt: skip
    per_image = out_channels * segments
    stored = [
        loop("s", segments, *write(f"k{j}", out_channels,
             Affine.of("s") * out_channels + Affine.of(j * per_image), seg="s"))
        for j in range(planes)
    ]  # fmt: skip
    body = [
        step
        for j in range(planes)
        for plane in range(1 if binary else 3)
        for step in dot(group_rows, out_channels, j * per_image, j, plane, binary)
    ]
    infer = loop("p", int(np.prod(win.out)), loop("g", groups,
        i("acc.clr", reg("a", group_rows)),
        loop("s", segments, *body),
        i("st.acc", vec("y", "p", Affine.of("g") * group_rows, group_rows), reg("a", group_rows)),
    ))  # fmt: skip
    p = program(
        [image("v", "bip" if binary else "u3", shape), win,
         result("y", "i32", (1, *expected.shape[1:]))],
        [infer], stored, (), [cells(f"k{j}", bits, cols) for j, bits in enumerate(images)],
        rows=100, cols=cols,
    )  # fmt: skip
    outcome = run(p, {"v": values})
    assert np.array_equal(outcome.outputs["y"], expected)
    assert outcome.counts.static() == static_counts(p, 3).static()


def dot(size, stride, first, weight_plane, plane, binary):
    """Add one segment's part of the dot product of one plane pair."""
    start = Affine.of("s") * stride + Affine.of("g") * size + Affine.of(first)
    load = i("ld.window", x(), vec("v", "p"), data("w"), seg="s", plane=plane, group="g")
    read = i("read.xor" if binary else "read.and", reg("d", size), rows(size, start), x())
    count = i("popc", reg("c", size), reg("d", size))
    if binary:
        scale = [i("acc.add", reg("a", size), x(field="valid"))]
        return [load, read, count, *scale, i("acc.sub", reg("a", size), reg("c", size), shl=1)]
    # plane 1 of i2 is the sign plane: its weight is -2
    op = "acc.sub" if weight_plane == 1 else "acc.add"
    return [load, read, count, i(op, reg("a", size), reg("c", size), shl=plane + weight_plane)]


# -- samples ---------------------------------------------------------------------------


def copy_program(in_batch=0, out_batch=0, shape=(2, 3)):
    """y = x, element by element; sample shape [2, 3], channels on axis 1."""
    source = Mem("a", "i8", shape, input="in", batch=in_batch)
    target = Mem("b", "i32", shape, output="out", batch=out_batch)
    return program([source, target], [loop("p", 2, i("pp.mov", vec("b", "p"), vec("a", "p")))])


@pytest.mark.parametrize("samples", [0, 1, 4])
@pytest.mark.parametrize("axis", [0, 1])
def test_samples_lie_along_the_batch_axis(samples, axis):
    shape = [2, 3]
    shape[axis] *= samples
    values = np.arange(6 * samples, dtype=np.int8).reshape(shape)
    done = []
    outcome = run(copy_program(axis, axis), {"in": values}, progress=lambda *at: done.append(at))
    assert np.array_equal(outcome.outputs["out"], values)
    assert outcome.outputs["out"].dtype == np.int32
    assert outcome.samples == samples
    assert outcome.counts.sections["infer"].get(("l", "pp.mov", "ops"), 0) == 6 * samples
    assert done == ([(samples, samples)] if samples else [])


def test_without_a_batch_axis_samples_are_stacked():
    one = np.arange(6, dtype=np.int8).reshape(2, 3)
    assert run(copy_program(None, None), {"in": one}).outputs["out"].tolist() == one.tolist()
    three = np.stack([one, one + 6, one + 12])
    assert np.array_equal(run(copy_program(None, None), {"in": three}).outputs["out"], three)
    joined = run(copy_program(None, 0), {"in": three}).outputs["out"]
    assert np.array_equal(joined, three.reshape(6, 3))
    none = run(copy_program(None, None), {"in": three[:0]}).outputs["out"]
    assert none.shape == (0, 2, 3)


def test_chunks_give_the_same_as_one_chunk(monkeypatch):
    monkeypatch.setattr(reference, "_MOST_SAMPLES", 3)
    values = np.arange(6 * 7, dtype=np.int8).reshape(14, 3)
    done = []
    outcome = run(copy_program(), {"in": values}, progress=lambda *at: done.append(at))
    assert np.array_equal(outcome.outputs["out"], values)
    assert outcome.counts == static_counts(copy_program(), 7)
    assert done == [(3, 7), (6, 7), (7, 7)]


def test_a_shared_input_goes_to_every_sample():
    mems = [
        image("a", "i8", (1, 2)),
        Mem("bias", "i8", (1, 2), input="bias"),
        result("y", "i8", (1, 2)),
    ]
    p = program(mems, [i("pp.add", vec("y"), vec("a"), vec("bias"))])
    values = np.array([[1, 2], [3, 4]], np.int8)
    outcome = run(p, {"a": values, "bias": np.array([[10, 20]], np.int8)})
    assert outcome.outputs["y"].tolist() == [[11, 22], [13, 24]]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input 'in' is missing"),
        ({"in": np.zeros((2, 3), np.int8), "z": 1}, "there is no input 'z'"),
        ({"in": np.zeros((2, 3))}, "input 'in': error: is float64, not int8"),
        ({"in": np.zeros((3, 3), np.int8)}, "axis 0 is not a multiple of 2"),
        ({"in": np.zeros((2, 4), np.int8)}, "has another shape than the program's [2, 3]"),
        ({"in": np.zeros((1, 2, 3), np.int8)}, "has another shape"),
    ],
)
def test_unusable_inputs(inputs, message):
    with pytest.raises(CompileError) as error:
        run(copy_program(), inputs)
    assert message in str(error.value)
    assert "int8 [N*2,3], N samples along axis 0" in str(error.value)


def test_all_input_problems_come_together():
    mems = [image(name, "bip", (1, 2)) for name in "abc"] + [Mem("d", "u3", (2,), input="d")]
    p = program(mems, [])
    ok = np.ones((2, 2), np.int8)
    with pytest.raises(CompileErrors) as error:
        run(p, {"a": ok * 0, "b": ok[:1], "c": ok, "d": np.array([8, 1], np.uint8)})
    text = str(error.value)
    assert "input 'a': error: 0 is not a value of bip" in text
    assert "input 'd': error: 8 is not a value of u3" in text
    assert "disagree on the number of samples: 'a' has 2, 'b' has 1, 'c' has 2" in text


# -- sections and state ----------------------------------------------------------------


def xor_program(**more):
    """y = Hamming distance of the input to two stored rows."""
    return program(
        [image("a", "bip", (1, 3)), result("y", "i8", (1, 2)), *more.pop("decls", ())],
        [
            i("ld.vector", x(), vec("a")),
            i("read.xor", reg("d", 2), rows(2), x()),
            i("popc", reg("c", 2), reg("d", 2)),
            i("acc.clr", reg("a", 2)),
            i("acc.add", reg("a", 2), reg("c", 2)),
            i("st.acc", vec("y"), reg("a", 2)),
        ],
        write("w", 2),
        items=[cells("w", [[1, 0, 1], [0, 0, 0]]), *more.pop("items", ())],
        cols=3,
        rows=4,
        **more,
    )


def test_cells_can_be_saved_and_resumed():
    values = {"a": np.array([[1, 1, 1]], np.int8)}
    first = run(xor_program(), values)
    assert first.outputs["y"].tolist() == [[1, 3]]
    assert first.tiles[0].tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert first.counts.sections["load"][("l", "set", "pulses")] == 2
    again = run(xor_program(), values, tiles=first.tiles)
    assert ("l", "set", "pulses") not in again.counts.sections["load"]
    assert again.outputs["y"].tolist() == [[1, 3]]
    packed = run(xor_program(), values, tiles=first.state)
    assert packed.counts == again.counts
    assert packed.tiles.tolist() == first.tiles.tolist()
    full = run(xor_program(), values, tiles=np.ones_like(first.tiles))
    assert full.counts.sections["load"][("l", "reset", "pulses")] == 4
    assert (
        static_counts(xor_program(), 1, np.ones_like(first.tiles)).sections["load"]
        == (full.counts.sections["load"])
    )


def test_a_run_leaves_the_state_that_it_starts_from_as_it_was():
    values = {"a": np.array([[1, 1, 1]], np.int8)}
    state = TileState(pack_tiles(np.ones((1, 4, 3), np.uint8), xor_program().target), 3)
    outcome = run(xor_program(), values, tiles=state)
    assert outcome.tiles[0].tolist() == [[1, 0, 1], [0, 0, 0], [1, 1, 1], [1, 1, 1]]
    assert state.unpacked().all()


@pytest.mark.parametrize(
    ("tiles", "message"),
    [
        (np.zeros((1, 4, 4), np.uint8), "not uint8[1, 4, 3]"),
        (TileState(np.zeros((1, 1, 4), np.uint64), 4), "not uint8[1, 4, 3]"),
        (np.full((1, 4, 3), 2), "other than"),
        (np.full((1, 4, 3), -1), "other than"),
    ],
)
def test_an_unusable_tile_state(tiles, message):
    with pytest.raises(CompileError) as error:
        run(xor_program(), {"a": np.ones((1, 3), np.int8)}, tiles=tiles)
    assert message in str(error.value)


def test_logical_rows_lie_where_the_map_says():
    p = xor_program(decls=[Remap(0, 1, 3)])
    outcome = run(p, {"a": np.array([[-1, -1, -1]], np.int8)}, tiles=np.ones((1, 4, 3), np.uint8))
    assert outcome.outputs["y"].tolist() == [[2, 0]]
    assert outcome.tiles[0].tolist() == [[1, 0, 1], [1, 1, 1], [1, 1, 1], [0, 0, 0]]


def test_update_runs_once_after_the_samples_and_load_before_them():
    """.infer starts each sample from what .load left; .update goes on from there too."""
    flip = [i("reset", rows(2), data("none")), i("ld.row", x("r"), rows(1)),
            i("read.or", reg("d", 2), rows(2), x("r"))]  # fmt: skip
    p = xor_program(update=flip, items=[cells("none", [[1, 0, 0], [0, 0, 0]])])
    outcome = run(p, {"a": np.ones((5, 3), np.int8)})
    assert outcome.outputs["y"].tolist() == [[1, 3]] * 5
    assert outcome.tiles[0, 0].tolist() == [1, 0, 0]
    update = outcome.counts.sections["update"]
    assert update == {
        ("l", "reset", "rows"): 2, ("l", "reset", "verify"): 6, ("l", "reset", "pulses"): 1,
        ("l", "ld.row", "rows"): 1, ("l", "ld.row", "cells"): 3, ("l", "ld.row", "bits"): 3,
        ("l", "read.or", "rows"): 2, ("l", "read.or", "bits"): 6,
        ("l", "read.or", "ones"): 2,
    }  # fmt: skip
    assert outcome.counts.static() == static_counts(p, 5).static()


def test_constants_stored_by_load_reach_every_sample():
    p = program(
        [image("a", "i8", (1, 2)), Mem("k", "i8", (1, 2)), result("y", "i8", (1, 2))],
        [i("pp.add", vec("y"), vec("a"), vec("k")), i("pp.add", vec("k"), vec("k"), vec("k"))],
        [i("acc.clr", reg("a", 2)), i("acc.add", reg("a", 2), data("five"), shl=1),
         i("st.acc", vec("k"), reg("a", 2))],
        items=[ints("five", np.array([5, 5], np.int32))],
    )  # fmt: skip
    outcome = run(p, {"a": np.zeros((3, 2), np.int8)})
    assert outcome.outputs["y"].tolist() == [[10, 10]] * 3


def test_an_overflow_names_layer_place_and_value():
    p = xor_program(acc_bits=2)
    p.sections[1].layers[0].body[4].span = Span("m.cim", 7, 3, "  acc.add %a[0:2], %c[0:2]")
    with pytest.raises(CompileError) as error:
        run(p, {"a": np.ones((1, 3), np.int8)})
    assert str(error.value).startswith(
        "m.cim:7:3: error: layer l, acc.add: accumulator holds 3, outside [-2, 1]\n"
    )


# -- views -----------------------------------------------------------------------------


def test_views_share_the_storage_of_their_buffer():
    """A transposed view, a reshape of it that numpy can't express, and writes through it."""
    mems = [
        image("a", "i8", (1, 2, 3)),
        View("t", "i8", (1, 3, 2), "a", 1, (0, 2, 1)),
        View("flat", "i8", (1, 6), "t"),
        result("y", "i8", (1, 6)),
        View("deep", "i8", (1, 3, 2), "y", 2),
        result("z", "i8", (1, 2, 3)),
        View("back", "i8", (1, 6), "zt"),
        View("zt", "i8", (1, 3, 2), "z", 1, (0, 2, 1)),
    ]
    p = program(mems, [
        i("pp.mov", vec("y"), vec("flat")),
        i("pp.mov", vec("back"), vec("flat")),
        loop("p", 3, i("pp.mov", vec("deep", "p"), vec("deep", "p"))),
    ])  # fmt: skip
    values = np.arange(12, dtype=np.int8).reshape(2, 2, 3)
    outcome = run(p, {"a": values})
    assert np.array_equal(outcome.outputs["y"], values.transpose(0, 2, 1).reshape(2, 6))
    assert np.array_equal(outcome.outputs["z"], values)


def test_a_window_reads_through_a_transposed_view():
    win = Win("w", 2, (2,), (2,), (1,), (0, 0), (1,))
    mems = [image("a", "i8", (1, 3, 2)), View("t", "i8", (1, 2, 3), "a", 1, (0, 2, 1)), win,
            result("y", "i8", (1, 2, 2))]  # fmt: skip
    p = program(mems, [loop("p", 2, i("pp.max", vec("y", "p"), vec("t", "p"), data("w")))])
    values = np.array([[[1, 9], [5, 2], [3, 4]]], np.int8)
    assert run(p, {"a": values}).outputs["y"].tolist() == [[[5, 5], [9, 4]]]


# -- host ------------------------------------------------------------------------------

TYPES = {"f32": 1, "u8": 2, "i8": 3, "i64": 7, "bool": 9, "bf16": 16}


def fragment(name, nodes, inputs, outputs, macs=0):
    """An `onnx` data item from node tuples and (name, type, shape) values."""
    made = [
        [
            value if isinstance(value, onnx.ValueInfoProto)
            else helper.make_tensor_value_info(value[0], TYPES[value[1]], value[2])
            for value in values
        ]
        for values in (inputs, outputs)
    ]  # fmt: skip
    graph = helper.make_graph([helper.make_node(*n[:3], **dict(n[3:])) for n in nodes], "g", *made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Data(name, "onnx", np.frombuffer(model.SerializeToString(), np.uint8), macs=macs)


def test_host_fragments_run_a_sample_at_a_time():
    """ReduceMax over the batch axis would see the other samples of a batched call."""
    f = fragment(
        "f",
        [("ReduceMax", ["a"], ["m"], ("axes", [0])), ("Add", ["a", "m"], ["y"])],
        [("a", "f32", [1, 2])],
        [("m", "f32", [1, 2]), ("y", "f32", [1, 2])],
        macs=3,
    )
    mems = [image("a", "bip", (1, 2)), Mem("m", "host", None), result("y", "i8", (1, 2)),
            Mem("again", "f32", (1, 2), output="again")]  # fmt: skip
    g = fragment("g", [("Neg", ["m"], ["n"])], [("m", "f32", [1, 2])], [("n", "f32", [1, 2])])
    p = program(mems, [i("host", data("f"), bufs("a"), bufs("m", "y")),
                       i("host", data("g"), bufs("m"), bufs("again"))], items=[f, g])  # fmt: skip
    values = np.array([[1, -1], [-1, 1]], np.int8)
    outcome = run(p, {"a": values})
    assert outcome.outputs["y"].tolist() == [[2, -2], [-2, 2]]
    assert outcome.outputs["again"].tolist() == [[[-1, 1]], [[1, -1]]]
    assert outcome.counts.sections["infer"] == {
        ("l", "host", "calls"): 4,
        ("l", "host", "macs"): 6,
    }
    assert outcome.counts == static_counts(p, 2)


def test_host_values_without_a_numpy_type():
    """bfloat16 tensors and sequences pass between fragments; bfloat16 into a typed buffer too."""
    sequence = helper.make_tensor_sequence_value_info("s", 1, None)
    f = fragment(
        "f",
        [("Cast", ["a"], ["b"], ("to", 16)), ("SequenceConstruct", ["a", "a"], ["s"])],
        [("a", "f32", [1, 2])],
        [("b", "bf16", [1, 2]), sequence],
    )
    g = fragment(
        "g",
        [("Cast", ["b"], ["c"], ("to", 1)), ("ConcatFromSequence", ["s"], ["d"], ("axis", 0)),
         ("Add", ["c", "d"], ["y"])],
        [("b", "bf16", [1, 2]), sequence],
        [("y", "f32", [2, 2])],
    )  # fmt: skip
    for kind, shape in (("host", None), ("bf16", (1, 2))):
        mems = [image("a", "f32", (1, 2)), Mem("b", kind, shape, output="b", batch=0),
                Mem("s", "host", None), Mem("y", "f32", (2, 2), output="y")]  # fmt: skip
        calls = [i("host", data("f"), bufs("a"), bufs("b", "s")),
                 i("host", data("g"), bufs("b", "s"), bufs("y"))]  # fmt: skip
        p = program(mems, calls, items=[f, g])
        outcome = run(p, {"a": np.array([[1, 2], [3, 4]], np.float32)})
        assert outcome.outputs["y"].tolist() == [[[2, 4], [2, 4]], [[6, 8], [6, 8]]]
        assert outcome.outputs["b"].dtype == container("bf16")


def test_samples_at_a_time_follow_from_the_size_of_host_values(monkeypatch):
    """The first run is of one sample; two of 8 kB fit the next one."""
    monkeypatch.setattr(reference, "_STATE_BYTES", 20_000)
    f = fragment("f", [("Neg", ["a"], ["b"])], [("a", "f32", [2048])], [("b", "f32", [2048])])
    f1 = fragment("f1", [("ReduceMax", ["b"], ["y"])], [("b", "f32", [2048])], [("y", "f32", [1])])
    f0 = fragment(
        "f0",
        [("Expand", ["x", "n"], ["a"]), ("Constant", [], ["n"], ("value_ints", [2048]))][::-1],
        [("x", "f32", [1])],
        [("a", "f32", [2048])],
    )
    mems = [Mem("x", "f32", (1,), 0, input="x", batch=0), Mem("b", "host", None),
            Mem("y", "f32", (1,), 0, output="y", batch=0)]  # fmt: skip
    p = program(mems, [i("host", data("f0"), bufs("x"), bufs("b")),
                       i("host", data("f"), bufs("b"), bufs("b")),
                       i("host", data("f1"), bufs("b"), bufs("y"))], items=[f, f0, f1])  # fmt: skip
    done = []
    values = np.arange(4, dtype=np.float32)
    outcome = run(p, {"x": values}, progress=lambda now, _: done.append(now))
    assert outcome.outputs["y"].tolist() == [0, -1, -2, -3]
    assert done == [1, 3, 4]


def test_host_problems_have_a_place():
    f = fragment("f", [("Neg", ["a"], ["y"])], [("a", "f32", [1, 2])], [("y", "f32", [1, 2])])
    mems = [image("a", "f32", (1, 2)), result("y", "i8", (1, 2))]
    body = [i("host", data("f"), bufs("a"), bufs("y"))]
    with pytest.raises(CompileError, match=r"layer l, host: -?0.5 is not a value of i8"):
        run(program(mems, body, items=[f]), {"a": np.array([[0.5, 1]], np.float32)})
    broken = Data("f", "onnx", np.frombuffer(b"nothing", np.uint8))
    with pytest.raises(CompileError) as error:
        run(program(mems, body, items=[broken]), {"a": np.zeros((1, 2), np.float32)})
    assert str(error.value).startswith("host fragment f: error: ")
