"""Thresholds of float maps (cimc/driver/steps.py) against the maps run on every integer."""

import numpy as np
import pytest
from exact_draw import cases
from hypothesis import given
from hypothesis import strategies as st

from cimc.driver import steps
from cimc.driver.bounds import Bounds
from cimc.frontend.evaluate import Evaluator
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.ops import TABLE
from cimc.ir.types import TensorType

CHANNELS = 3


def _chain(maps, sign):
    """The integer q: i32[n,3], and the nodes dequant, maps, sign of it.

    maps: (operation, constants, attributes)."""
    source = Value("q", TensorType("i32", ("n", CHANNELS)))
    value, nodes = source, []
    for op, constants, attrs in [("cim.dequant", [], {}), *maps, ("cim.sign", [], sign)]:
        consts = [np.asarray(c, np.float32) for c in constants]
        values = [Value(f"c{len(nodes)}.{i}", TensorType("f32", c.shape), const=c)
                  for i, c in enumerate(consts)]  # fmt: skip
        elem = "f32" if op != "cim.sign" else sign.get("to") or ("bip" if sign["zero"] else "tern")
        result = Value(f"v{len(nodes)}", TensorType(elem, ("n", CHANNELS)))
        nodes.append(Node(op, [value, *values], [result], dict(attrs)))
        value = result
    return source, nodes


def _brute_force(source, nodes, values):
    """The map on each of `values` in each channel: [values, channels]."""
    consts = [v for n in nodes for v in n.inputs[1:]]
    graph = Graph("map", [source], [nodes[-1].output], nodes, consts, opsets={"onnx": 17})
    grid = np.repeat(values.astype(np.int32)[:, None], CHANNELS, 1)
    return Evaluator(graph)({"q": grid})[nodes[-1].output.name]


def _by_steps(found, values):
    """The same by comparing with the thresholds."""
    th, flip = found.tables(CHANNELS)
    grid = np.repeat(values.astype(np.int32)[:, None], CHANNELS, 1)
    args = [grid, th] if flip is None else [grid, th, flip]
    (level,) = TABLE["cim.threshold"].evaluate(
        args, {"axis": 1, "to": found.to}, [TensorType(found.to, grid.shape)]
    )
    return level


NUMBERS = st.sampled_from([-3e20, -7.5, -1.0, -0.3, -1e-9, 0.0, 1e-9, 0.25, 1.0, 2.5, 41.0, 3e20])
POSITIVE = st.sampled_from([0.0, 1e-9, 0.25, 1.0, 2.5, 3e5])


@st.composite
def maps(draw, numbers=NUMBERS):
    """One to three operations with constants by channel."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        each = [draw(numbers) for _ in range(CHANNELS)]
        shift = [draw(st.integers(-9, 9)) for _ in range(CHANNELS)]
        found.append(draw(st.sampled_from([
            ("onnx.Mul", [each], {}),
            ("onnx.Add", [shift], {}),
            ("onnx.Sub", [shift], {}),
            ("onnx.Clip", [-4.0, 2.5], {}),
            ("onnx.Relu", [], {}),
            ("onnx.BatchNormalization", [each, [0.5, 0.0, -1.0], shift, [1.0, 2.0, 1e-3]], {}),
        ])))  # fmt: skip
    return found


SIGNS = st.sampled_from(
    [{"zero": z} for z in (-1, 0, 1)] + [{"zero": z, "to": "u1"} for z in (-1, 1)]
)
REACHES = st.sampled_from([Bounds(-20, 20), Bounds(-21, 21, 2), Bounds(0, 30), Bounds(5, 5)])


@cases(120)
@given(maps(), SIGNS, REACHES)
def test_thresholds_give_what_the_map_gives(chain, sign, reach):
    source, nodes = _chain(chain, sign)
    values = np.arange(reach.low, reach.high + 1, reach.step)
    expected = _brute_force(source, nodes, values)
    found = steps.find_steps(nodes, source, reach, 1, CHANNELS, {"onnx": 17})
    each = [np.diff(c.astype(int)) for c in expected.T]
    if found is None:
        assert not all((d >= 0).all() or (d <= 0).all() for d in each)
        return
    np.testing.assert_array_equal(_by_steps(found, values), expected)


@cases(60)
@given(maps(POSITIVE), SIGNS, REACHES)
def test_bisection_finds_the_same_as_the_table(chain, sign, reach):
    source, nodes = _chain(chain, sign)
    values = np.arange(reach.low, reach.high + 1, reach.step)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "_ALL", 0)
        found = steps.find_steps(nodes, source, reach, 1, CHANNELS, {"onnx": 17})
    assert found is not None
    np.testing.assert_array_equal(_by_steps(found, values), _brute_force(source, nodes, values))


@cases(20)
@given(maps(), st.integers(1, 9))
def test_the_table_may_be_made_in_chunks(chain, chunk):
    source, nodes = _chain(chain, {"zero": 0})
    reach = Bounds(-20, 20)
    whole = steps.find_steps(nodes, source, reach, 1, CHANNELS, {"onnx": 17})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "_CHUNK", chunk)
        found = steps.find_steps(nodes, source, reach, 1, CHANNELS, {"onnx": 17})
    assert (whole is None) == (found is None)
    if whole is not None and found is not None:
        assert whole.to == found.to
        np.testing.assert_array_equal(whole.thresholds, found.thresholds)
        np.testing.assert_array_equal(whole.flips, found.flips)


def test_a_falling_map_too_wide_for_a_table_stays():
    source, nodes = _chain([("onnx.Mul", [[-1.0] * CHANNELS], {})], {"zero": -1})
    wide = Bounds(-(2**30), 2**30)
    assert steps.find_steps(nodes, source, wide, 1, CHANNELS, {"onnx": 17}) is None


def test_a_wide_rising_map_is_bisected():
    source, nodes = _chain([("onnx.Add", [[-3e8, 0.5, 1e12]], {})], {"zero": 1})
    found = steps.find_steps(nodes, source, Bounds(-(2**30), 2**30), 1, CHANNELS, {"onnx": 17})
    assert found is not None
    near = found.thresholds[:, 0]
    # 3e8 - 16 is the smallest integer that float32 rounds to 3e8; ties go to even
    values = np.concatenate([near[:2] - 1, near[:2], [-(2**30), 2**30]])
    expected = _brute_force(source, nodes, values)
    np.testing.assert_array_equal(_by_steps(found, values), expected)
