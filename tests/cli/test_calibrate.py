"""`-p int8 --calibrate`: static quantisation from the command line, and what can be wrong with
the data."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import cimc
from cimc.cli.main import cli
from cimc.errors import CompileError
from cimc.frontend.static_quantiser import quantise_static

RNG = np.random.default_rng(0)


def _model(folder: Path) -> Path:
    """conv, relu, pool, gemm: f32 [N,2,6,6] to f32 [N,3]."""
    consts = {
        "w": RNG.normal(size=(4, 2, 3, 3)), "b": RNG.normal(size=4),
        "v": RNG.normal(size=(16, 3)), "c": RNG.normal(size=3),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], "conv1"),
        helper.make_node("Relu", ["a"], ["r"], "relu1"),
        helper.make_node("MaxPool", ["r"], ["p"], "pool1", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "v", "c"], ["y"], "fc1"),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(a.astype(np.float32), k) for k, a in consts.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path = folder / "m.onnx"
    onnx.save(model, path)
    return path


def _data(folder: Path, name: str = "data.npz", **arrays: np.ndarray) -> Path:
    if not arrays:
        arrays = {"x": RNG.normal(size=(20, 2, 6, 6)).astype(np.float32)}
    np.savez(folder / name, **arrays)
    return folder / name


def _run(*args: object) -> str:
    result = CliRunner().invoke(cli, [str(a) for a in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


PASSES = "int8{{{}}}"


@pytest.mark.parametrize(
    "pipeline", ["int8", *(PASSES.format(o) for o in ("bits=4", "bits=2,method=entropy",
                                                      "method=percentile", "skip=conv*"))]
)  # fmt: skip
def test_the_program_is_the_quantised_model(tmp_path: Path, pipeline: str) -> None:
    model, data, program = _model(tmp_path), _data(tmp_path), tmp_path / "m.cim"
    shown = _run("compile", model, "-p", pipeline, "--calibrate", data, "-o", program)
    layers = 1 if "skip" in pipeline else 2
    assert f"quantize: {layers} layer" in shown
    assert "  fc1 " in shown
    assert "bit-exact: yes" in _run("check", model, program, "--calibrate", data)
    quantised = tmp_path / "q.onnx"
    _run("opt", model, "-p", pipeline, "--calibrate", data, "-o", quantised)
    assert "bit-exact: yes" in _run("check", quantised, "-p", "exact")


def test_a_model_quantised_once_needs_no_data(tmp_path: Path) -> None:
    model, data, quantised = _model(tmp_path), _data(tmp_path), tmp_path / "q.onnx"
    _run("opt", model, "-p", "cleanup,quantize", "--calibrate", data, "-o", quantised)
    expected = cimc.compile(model, pipeline="int8", calibration=data)
    for pipeline in ("exact", "auto"):
        found = cimc.compile(quantised, pipeline=pipeline)
        assert found.counts.total() == expected.counts.total()
        outputs = [p.run({"x": X}).outputs["y"] for p in (found, expected)]
        assert np.array_equal(*outputs)


def test_errors_grow_as_bits_go(tmp_path: Path) -> None:
    model, data = _model(tmp_path), _data(tmp_path)
    added = []
    for bits in (8, 4, 2):
        notes = cimc.compile(model, pipeline=PASSES.format(f"bits={bits}"), calibration=data).notes
        added.append(float(next(n for n in notes if "conv1" in n).split()[2].rstrip("%")))
    assert 0 < added[0] < added[1] < added[2]


def test_constants_are_those_of_the_library(tmp_path: Path) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self, samples):
            self.samples = iter(samples)

        def get_next(self):
            return next(self.samples, None)

    model = _model(tmp_path)
    samples = [{"x": RNG.normal(size=(1, 2, 6, 6)).astype(np.float32)} for _ in range(5)]
    ours = quantise_static(onnx.load(model), samples, method="minmax", bits=8, skip=())
    quantize_static(model, tmp_path / "q.onnx", Reader(samples), quant_format=QuantFormat.QDQ,
                    activation_type=QuantType.QUInt8, per_channel=True)  # fmt: skip
    theirs = {t.name: t for t in onnx.load(tmp_path / "q.onnx").graph.initializer}
    assert {t.name for t in ours.graph.initializer} == theirs.keys()
    for tensor in ours.graph.initializer:
        np.testing.assert_array_equal(
            numpy_helper.to_array(tensor), numpy_helper.to_array(theirs[tensor.name])
        )


X = RNG.normal(size=(20, 2, 6, 6)).astype(np.float32)
BAD = {
    "another name": ({"y": X, "z": X}, "no array for input 'x'"),
    "channels last": ({"x": X.transpose(0, 2, 3, 1)}, "its channels come last: numpy.transpose"),
    "too few axes": ({"x": X[0, 0]}, "has the shape [6, 6]"),
    "integers": ({"x": X.astype(np.uint8)}, "is uint8, the model takes float32"),
    "NaN": ({"x": np.where(X > 1, np.nan, X).astype(np.float32)}, "NaN or infinite"),
    "nothing": ({"x": X[:0]}, "0 samples: it takes at least 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data(tmp_path: Path, case: str) -> None:
    arrays, message = BAD[case]
    model, data = _model(tmp_path), _data(tmp_path, **arrays)
    with pytest.raises(CompileError) as caught:
        cimc.compile(model, pipeline="int8", calibration=data)
    assert message in str(caught.value)
    assert "data.npz" in str(caught.value)


def test_other_mistakes(tmp_path: Path) -> None:
    model, data, program = _model(tmp_path), _data(tmp_path), tmp_path / "m.cim"
    few = _data(tmp_path, "few.npz", x=X[:3])
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "objects.npy", np.array([{}, []], object), allow_pickle=True)
    cases = [
        ("int8", None, "needs calibration data"),
        ("int8", tmp_path / "gone.npz", "no such file"),
        ("int8", tmp_path / "text.npz", "no NumPy archive"),
        ("int8", tmp_path / "objects.npy", "no NumPy archive"),
        (PASSES.format("method=entropy"), few, "3 samples: it takes at least 8"),
        (PASSES.format("method=best"), data, "method must be one of"),
        (PASSES.format("bits=9"), data, "bits must be 2 to 8"),
        (PASSES.format("skip=conv2"), data, "did you mean conv1"),
    ]
    for pipeline, given, message in cases:
        with pytest.raises(CompileError, match=message):
            cimc.compile(model, pipeline=pipeline, calibration=given)
    cimc.compile(model, pipeline="int8", calibration=data).save(program)
    with pytest.raises(CompileError, match="needs calibration data"):
        _run("check", model, program)
    other = _data(tmp_path, "other.npz", x=X[:5])
    with pytest.raises(CompileError, match="compiled with other data"):
        _run("check", model, program, "--calibrate", other)


def test_what_the_program_states(tmp_path: Path) -> None:
    model, data, program = _model(tmp_path), _data(tmp_path), tmp_path / "m.cim"
    shown = _run("compile", model, "-p", "int8{bits=4}", "--calibrate", data, "-o", program)
    stated = cimc.load(program).program.pipeline
    assert stated.startswith("int8{bits=4,data=data.npz:")
    assert f"pipeline {stated}" in shown
    with pytest.raises(CompileError) as caught:
        _run("check", model, program)
    assert "give --calibrate data.npz" in str(caught.value.help)
    help = str(caught.value.help)
    assert "cimc opt MODEL -p cleanup,quantize --calibrate data.npz -o q.onnx" in help
    for pipeline in ("int8{bits=4}", stated):
        shown = _run("check", model, program, "-p", pipeline, "--calibrate", data)
        assert "off the model as it was before quantize: at most" in shown
        assert "bit-exact: yes" in shown
    assert "the program was compiled with -p int8{bits=4," in _run(
        "check", model, program, "-p", "int8", "--calibrate", data
    )


def test_data_that_nothing_takes(tmp_path: Path) -> None:
    model, data, program = _model(tmp_path), _data(tmp_path), tmp_path / "m.cim"
    with pytest.raises(CompileError, match="no pass takes the calibration data"):
        _run("compile", model, "--calibrate", data, "-o", program)
    with pytest.raises(CompileError, match="no pass takes the calibration data"):
        _run("opt", model, "--calibrate", data)
    _run("compile", model, "-o", program)
    with pytest.raises(CompileError, match="no pass takes the calibration data"):
        _run("check", model, program, "--calibrate", data)
    assert "compiled already" in _run("inspect", program, "--calibrate", data)
    with pytest.raises(CompileError, match="the command reads this file"):
        _run("compile", model, "-p", "int8", "--calibrate", program, "-o", program)


def test_arrays_from_python(tmp_path: Path) -> None:
    model, data = _model(tmp_path), _data(tmp_path, x=X)
    first, second, third = (
        cimc.compile(model, pipeline="int8", calibration=given) for given in (data, {"x": X}, X)
    )
    assert first.program.data == second.program.data == third.program.data
    assert second.program.pipeline.startswith("int8{data=arrays:")


def test_a_binary_network_keeps_its_binary_layers(tmp_path: Path) -> None:
    """Each layer as it is best: ±1 stays ±1, float becomes int8."""
    node = helper.make_node
    signs = np.sign(RNG.normal(size=(4, 2, 3, 3))).astype(np.float32)
    consts = {
        "w": signs, "v": RNG.normal(size=(64, 3)).astype(np.float32),
        **{k: np.abs(RNG.normal(size=4)).astype(np.float32) for k in "ghmu"},
    }  # fmt: skip
    nodes = [
        node("Cast", ["image"], ["p"], "cast", to=1),
        node("Conv", ["p", "w"], ["a"], "binary"),
        node("BatchNormalization", ["a", *"ghmu"], ["b"], "norm"),
        node("Relu", ["b"], ["r"], "relu"),
        node("Flatten", ["r"], ["f"], "flat"),
        node("MatMul", ["f", "v"], ["y"], "float"),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 2, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(a, k) for k, a in consts.items()],
    )  # fmt: skip
    path = tmp_path / "b.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path
    )
    data = _data(tmp_path, image=RNG.integers(0, 256, (20, 2, 6, 6)).astype(np.uint8))
    program = tmp_path / "b.cim"
    shown = _run("compile", path, "-p", "int8", "--calibrate", data, "-o", program)
    assert "quantize: left for the exact passes: binary" in shown
    assert "bit-exact: yes" in _run("check", path, program, "--calibrate", data)
    loaded = cimc.load(program)  # each kernel of ±1 is one row, not eight
    assert loaded.counts.total()["binary", "read.and", "rows"] == 16 * 4 * 8


def test_a_text_of_integer_layers_with_a_free_batch_compiles(tmp_path: Path) -> None:
    """Asking for the sizes of a text again keeps what its values are made of."""
    data = _data(tmp_path, x=RNG.normal(size=(16, 2, 6, 6)).astype(np.float32))
    text, out = tmp_path / "m.cimir", tmp_path / "m.cim"
    steps = [
        ["opt", _model(tmp_path), "-p", "int8", "--calibrate", data, "-o", text],
        ["compile", text, "-o", out],
    ]
    for step in steps:
        done = CliRunner().invoke(cli, [str(a) for a in step], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert "tile" in out.read_text()
