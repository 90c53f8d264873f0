"""Calibration data: which array is which input's, and everything that can be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cimc.driver.calibration import Calibration, calibration_for, load_calibration
from cimc.driver.pipeline import parse_pipeline
from cimc.driver.registry import load_registry
from cimc.errors import CompileError
from cimc.ir.text import parse_graph

PASSES = parse_pipeline("int8", load_registry())


def _data(**arrays: Any) -> Calibration:
    found = calibration_for(PASSES, arrays, "here")
    assert found is not None
    return found


def _graph(*types: str) -> Any:
    inputs = ", ".join(f"%{name}: {type_}" for name, type_ in zip("xyz", types))
    return parse_graph(f"graph @g({inputs}) -> (%x) {{\n}}\n")


def _ramp(*shape: int) -> Any:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize(
    ("type_", "shape", "one"),
    [
        ("f32[1,3,4,5]", (7, 3, 4, 5), (1, 3, 4, 5)),
        ("f32[N,3,4,5]", (7, 3, 4, 5), (1, 3, 4, 5)),
        ("f32[1,1,4,5]", (7, 4, 5), (1, 1, 4, 5)),  # the only channel is left out
        ("f32[1,4,5,1]", (7, 4, 5), (1, 4, 5, 1)),
        ("f32[2,3]", (14, 3), (2, 3)),  # two rows are a sample
        ("f32[2,3]", (7, 2, 3), (2, 3)),  # no axis of samples: a new one
        ("f32[3]", (7, 3), (3,)),
        ("f32[]", (7,), ()),
        ("f32[1,T,3]", (7, 6, 3), (1, 6, 3)),
    ],
)
def test_samples(type_: str, shape: tuple[int, ...], one: tuple[int, ...]) -> None:
    array = _ramp(*shape)
    samples = _data(x=array).samples(_graph(type_), 512)
    assert len(samples) == 7
    assert {s["x"].shape for s in samples} == {one}
    assert np.array_equal(np.concatenate([s["x"].ravel() for s in samples]), array.ravel())


def test_samples_are_spread_evenly() -> None:
    samples = _data(x=_ramp(101, 1)).samples(_graph("f32[1,1]"), 5)
    assert [float(s["x"].item()) for s in samples] == [0, 25, 50, 75, 100]


@pytest.mark.parametrize("name", ["x", "anything", "x_train", "x_test"])
def test_names(name: str) -> None:
    """The input's own, the only array's, those of data sets."""
    others = {} if name == "anything" else {"labels": _ramp(4)}
    samples = _data(**{name: _ramp(4, 2)}, **others).samples(_graph("f32[1,2]"), 2)
    assert np.array_equal(samples[1]["x"], [[6, 7]])


def test_a_single_array() -> None:
    found = calibration_for(PASSES, _ramp(4, 2), "here")
    assert found is not None
    assert len(found.samples(_graph("f32[1,2]"), 9)) == 4


def test_wide_floats_are_narrowed_and_integers_kept() -> None:
    (sample,) = _data(x=np.ones((1, 2)), y=np.array([[255]])).samples(
        _graph("f32[1,2]", "u8[1,1]"), 1
    )
    assert sample["x"].dtype == np.float32
    assert sample["y"].dtype == np.uint8


X = _ramp(9, 3, 4, 5)
BAD: dict[str, tuple[Any, str, str | None]] = {
    "channels last": (X.transpose(0, 2, 3, 1), "has the shape [9, 4, 5, 3]", "(0, 3, 1, 2)"),
    "another size": (X[..., 1:], "has the shape [9, 3, 4, 4], the model takes f32[1,3,4,5]", None),
    "no axis of samples": (X[0], "has the shape [3, 4, 5]", "the first axis counts the samples"),
    "a number": (np.float32(1), "is a single number", None),
    "integers": (X.astype(np.uint8), "is uint8, the model takes float32", "scale it as in"),
    "text": (np.full((9, 3, 4, 5), "a"), "is <U1, the model takes float32", None),
    "NaN": (np.where(X > 530, np.nan, X), "9 of its 540 elements are NaN or infinite", None),
    "infinity": (np.where(X > 538, np.inf, X), "1 of its 540 elements", None),
    "beyond float32": (np.where(X > 537, 1e300, X.astype(float)), "2 of its 540 elements", None),
    "nothing": (X[:0], "0 samples: it takes at least 1", None),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays(case: str) -> None:
    array, message, help = BAD[case]
    with pytest.raises(CompileError) as caught:
        _data(x=array).samples(_graph("f32[1,3,4,5]"), 9)
    assert message in caught.value.message
    assert str(caught.value.where).startswith("arrays")
    assert help is None or help in (caught.value.help or "")


def test_channels_first_where_they_should_be_last() -> None:
    with pytest.raises(CompileError) as caught:
        _data(x=X).samples(_graph("f32[1,4,5,3]"), 9)
    assert "numpy.transpose(array, (0, 2, 3, 1))" in (caught.value.help or "")


@pytest.mark.parametrize(
    ("type_", "array", "message"),
    [
        ("u8[1,2]", np.array([[1, 256]]), "has values that uint8 does not hold"),
        ("u8[1,2]", np.array([[1.0, 2.0]]), "is float64, the model takes uint8"),
        ("f32[2,3]", _ramp(5, 3), "has 5 along axis 0: no multiple of 2"),
        ("f32", _ramp(5, 3), "calibration takes tensors of known rank"),
    ],
)
def test_bad_types(type_: str, array: Any, message: str) -> None:
    graph = _graph("f32[1]" if type_ == "f32" else type_)
    if type_ == "f32":
        graph.inputs[0].type = type(graph.inputs[0].type)("f32", None)
    with pytest.raises(CompileError, match=message):
        _data(x=array).samples(graph, 9)


def test_all_problems_at_once() -> None:
    graph = _graph("f32[1,2]", "f32[1,2]", "f32[1,2]")
    with pytest.raises(CompileError) as caught:
        _data(x=_ramp(3, 3), z=np.full((2, 2), np.nan)).samples(graph, 9)
    shown = str(caught.value)
    assert shown.count("error: ") == 3
    assert "input 'x'" in shown
    assert "no array for input 'y'" in shown
    assert (
        "the file has 'x' float32[3, 3], 'z' float64[2, 2]; the model takes 'x' f32[1,2]" in shown
    )
    assert "4 of its 4 elements" in shown


def test_numbers_of_samples() -> None:
    with pytest.raises(CompileError, match="differ: 'x' has 3, 'y' has 2"):
        _data(x=_ramp(3, 2), y=_ramp(2, 2)).samples(_graph("f32[1,2]", "f32[1,2]"), 9)
    with pytest.raises(CompileError, match="1 sample: it takes at least 8"):
        _data(x=_ramp(1, 2)).samples(_graph("f32[1,2]"), 9, 8)


def test_the_record_follows_the_content(tmp_path: Path) -> None:
    np.savez(tmp_path / "a b.npz", x=X)
    np.savez_compressed(tmp_path / "c.npz", x=X)
    np.savez(tmp_path / "d.npz", x=X + 1)
    first, same, other = (load_calibration(tmp_path / f"{n}.npz") for n in ("a b", "c", "d"))
    assert first.record == f"a_b.npz:{first.digest}"
    first.check("")
    first.check(same.record)
    with pytest.raises(CompileError, match=f"other data: d.npz:{other.digest}, this is a_b.npz"):
        first.check(other.record)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("text")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.savez(tmp_path / "objects.npz", x=np.array([{}], object))
    np.savez(tmp_path / "cut.npz", x=X)
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bent.npz").write_bytes(whole[:200] + bytes(100) + whole[300:])
    for name in ("text", "empty", "objects", "cut", "bent"):
        with pytest.raises(CompileError, match=r"is no NumPy archive of plain arrays|can't read"):
            load_calibration(tmp_path / f"{name}.npz")
    with pytest.raises(CompileError, match="no such file"):
        load_calibration(tmp_path / "gone.npz")
    with pytest.raises(CompileError, match="can't read it"):
        load_calibration(tmp_path)


def test_data_that_no_pass_takes() -> None:
    passes = parse_pipeline("exact", load_registry())
    assert calibration_for(passes, None, "-p exact") is None
    with pytest.raises(CompileError, match="no pass takes the calibration data") as caught:
        calibration_for(passes, X, "-p exact")
    assert caught.value.where == "-p exact"
    assert "-p int8" in (caught.value.help or "")


@pytest.mark.parametrize("name", ["labels", "label", "y", "y_train", "y_test", "targets"])
def test_labels_are_those_of_the_samples(name: str) -> None:
    data = _data(x=_ramp(101, 1), **{name: np.arange(101, dtype=np.uint8)})
    samples, labels = data.labelled(_graph("f32[N,1]"), 5)
    assert labels is not None
    assert labels.dtype == np.int64
    assert labels.tolist() == [float(s["x"].item()) for s in samples] == [0, 25, 50, 75, 100]


def test_labels_of_a_data_set_are_of_the_same_split() -> None:
    arrays = {"x_test": _ramp(3, 1), "y_train": np.arange(9), "y_test": np.array([[2], [1], [0]])}
    labels = _data(**arrays).labels(3)
    assert labels is not None
    assert labels.tolist() == [2, 1, 0]
    assert _data(x_train=_ramp(3, 1), y_test=np.arange(3)).labels(3) is None


def test_labels_of_a_fixed_batch() -> None:
    _, labels = _data(x=_ramp(6, 1), y=np.arange(6)).labelled(_graph("f32[2,1]"), 2)
    assert labels is not None
    assert labels.tolist() == [[0, 1], [4, 5]]


def test_no_labels() -> None:
    assert _data(x=_ramp(3, 1)).labels(3) is None
    inputs = {"x": _ramp(3, 1), "y": np.zeros((3, 1), np.uint8)}
    assert _data(**inputs).labelled(_graph("f32[N,1]", "u8[N,1]"), 2)[1] is None  # y is an input


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(3, np.float32), "float32, not integers"),
        (np.arange(4), "shape [4]: 3 samples"),
        (np.zeros((3, 10), np.uint8), "shape [3, 10]"),
        (np.array([0, -1, 2]), "hold -1"),
    ],
)
def test_bad_labels(labels: Any, message: str) -> None:
    with pytest.raises(CompileError) as caught:
        _data(x=_ramp(3, 1), labels=labels).labels(3)
    assert message in str(caught.value)
    assert caught.value.help
    assert "one for each sample" in caught.value.help
