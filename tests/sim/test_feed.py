"""Inputs are taken chunk by chunk, from memory or not; outputs are collected in one array."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cimc.errors import CompileError, CompileErrors
from cimc.ir.types import container
from cimc.isa.program import Mem, Program, TargetLine
from cimc.sim.feed import Collected, Feed, Outputs, Source, join_samples


def program(*mems):
    return Program(TargetLine("toy", 4, 6, 1, ("xor",), 8), "", list(mems), [], [])


class Recorded(Source):
    """An array that tells which rows were read."""

    def __init__(self, array):
        self.shape, self.dtype = array.shape, array.dtype
        self.array, self.reads = array, []

    def read(self, start, stop):
        self.reads.append((start, stop))
        return self.array[start:stop]


def image(elem="u8", shape=(1, 2, 3), batch=0):
    return Mem("m", elem, shape, input="x", batch=batch)


BATCHES = [((1, 2, 3), 0), ((2, 3), 0), ((2, 1, 3), 1), ((2, 2), 1), ((2, 3), None)]


@pytest.mark.parametrize(("shape", "batch"), BATCHES)
@pytest.mark.parametrize("source", [False, True], ids=["array", "source"])
def test_parts_are_the_samples(shape, batch, source):
    samples = np.arange(5 * np.prod(shape), dtype=np.uint8).reshape(5, *shape)
    given = samples if batch is None else join_samples(list(samples), batch)
    feed = Feed(
        program(image(shape=shape, batch=batch)), {"x": Recorded(given) if source else given}
    )
    assert feed.samples == 5
    for start, stop in ((0, 2), (2, 3), (3, 5), (0, 5)):
        np.testing.assert_array_equal(feed.part(start, stop)["m"], samples[start:stop])
    np.testing.assert_array_equal(feed.sample(3)["x"], samples[3])


def test_a_source_is_read_where_it_is_asked_for_only():
    source = Recorded(np.zeros((6, 2, 3), np.uint8))
    feed = Feed(program(image()), {"x": source})
    assert source.reads == []
    feed.part(1, 3)
    feed.part(3, 4)
    feed.sample(4)
    assert source.reads == [(1, 3), (3, 4), (4, 5)]


def test_a_sample_of_two_rows():
    source = Recorded(np.arange(12, dtype=np.uint8).reshape(6, 2))
    feed = Feed(program(image(shape=(2, 2))), {"x": source})
    assert feed.samples == 3
    assert feed.part(1, 2)["m"].tolist() == [[[4, 5], [6, 7]]]
    assert source.reads == [(2, 4)]


def test_arrays_in_memory_are_not_copied():
    x = np.zeros((4, 2, 3), np.uint8)
    part = Feed(program(image()), {"x": x}).part(1, 3)["m"]
    assert np.shares_memory(part, x)


def test_a_sample_of_its_own_does_not_move_with_the_batch():
    x = np.zeros((4, 2, 3), np.uint8)
    assert not np.shares_memory(Feed(program(image()), {"x": x}).sample(1)["x"], x)


def test_a_value_that_all_samples_share():
    mems = image(), Mem("s", "i32", (2,), input="s")
    feed = Feed(program(*mems), {"x": np.zeros((4, 2, 3), np.uint8), "s": np.array([7, 8], "i4")})
    assert feed.samples == 4
    assert feed.part(2, 4)["s"].tolist() == [[7, 8]]


@pytest.mark.parametrize("source", [False, True], ids=["array", "source"])
def test_the_first_sample_with_a_wrong_value_is_told_of(source):
    x = np.ones((6, 2, 3), np.uint8)
    x[4], x[3, 0, 0], x[5] = 9, 8, 200
    feed = Feed(program(image("u3")), {"x": Recorded(x) if source else x})
    assert feed.part(0, 3)["m"].max() == 1
    for start, stop in ((0, 6), (3, 4), (2, 5)):
        with pytest.raises(CompileError, match="8 is not a value of u3") as error:
            feed.part(start, stop)
        assert error.value.where == "input 'x'"
        assert error.value.help == "uint8 [N,2,3], N samples along axis 0"


def test_wrong_values_of_two_inputs_come_together():
    mems = [Mem(n, "u3", (1, 2), input=n, batch=0) for n in "ab"]
    bad = np.full((3, 2), 8, np.uint8)
    with pytest.raises(CompileErrors) as error:
        Feed(program(*mems), {"a": bad, "b": bad}).part(0, 3)
    assert [one.where for one in error.value.errors] == ["input 'a'", "input 'b'"]


def test_types_and_shapes_are_checked_first():
    source = Recorded(np.zeros((6, 2, 4), np.uint8))
    with pytest.raises(CompileError, match="which has another shape than the program's"):
        Feed(program(image()), {"x": source})
    with pytest.raises(CompileError, match="is uint8, not int32"):
        Feed(program(image("i32")), {"x": source})
    assert source.reads == []


# -- outputs ---------------------------------------------------------------------------


@given(
    st.sampled_from(BATCHES),
    st.sampled_from(["u8", "f32", "bool"]),
    st.lists(st.integers(0, 3), max_size=4),
)
def test_collected_parts_are_joined(case, elem, sizes):
    shape, batch = case
    samples = sum(sizes)
    values = np.arange(samples * np.prod(shape)).reshape(samples, *shape).astype(container(elem))
    collected, start = Collected(Mem("m", elem, shape, output="y", batch=batch), samples), 0
    for size in sizes:
        collected.add(values[start : start + size])
        start += size
    found = collected.join()
    if samples:
        np.testing.assert_array_equal(found, join_samples(list(values), batch))
    else:
        sizes = list(shape) if batch is not None else [0, *shape]
        sizes[batch or 0] = 0
        assert found.shape == tuple(sizes)
    assert found.dtype == container(elem)


class Kept:
    def __init__(self):
        self.taken = []

    def take(self, start, values):
        self.taken.append((start, {name: np.array(value) for name, value in values.items()}))


def test_a_sink_takes_all_parts_in_order():
    kept = Kept()
    outputs = Outputs(program(Mem("m", "u8", (1, 2), output="y", batch=0)), 5, kept)
    values = np.arange(10, dtype=np.uint8).reshape(5, 1, 2)
    outputs.add({"m": values[:3]})
    outputs.add({"m": values[3:]})
    assert outputs.join() == {}
    assert [start for start, _ in kept.taken] == [0, 3]
    np.testing.assert_array_equal(np.concatenate([v["y"] for _, v in kept.taken]), values)
