"""Static quantisation of an ONNX model by onnxruntime's own quantiser, QDQ form.

Weights of fewer than 8 bits are rounded anew here: that quantiser knows 8 and 4 only. Also
measures what each layer's quantisation does to its output.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from cimc.errors import CompileError
from cimc.frontend.session import open_session
from cimc.ir.types import Array

if TYPE_CHECKING:
    from collections.abc import Iterator

Sample = dict[str, Array]
Progress = Callable[[int, int], None]
METHODS = ("minmax", "entropy", "percentile")
LAYERS = ("Conv", "MatMul", "Gemm", "ConvTranspose")
MEASURED = 32  # samples that errors are measured on


@contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime's quantiser logs, warns and prints about matters of its own."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


class _Reader:
    """The samples in the form that the quantiser takes them."""

    def __init__(self, samples: Sequence[Sample], progress: Progress | None) -> None:
        self._samples, self._progress, self._at = samples, progress, 0

    def get_next(self) -> Sample | None:
        if self._at == len(self._samples):
            return None
        if self._progress is not None:
            self._progress(self._at + 1, len(self._samples))
        self._at += 1
        return self._samples[self._at - 1]

    def rewind(self) -> None:
        self._at = 0

    def set_range(self, start_index: int, end_index: int) -> None:
        self._samples, self._at = self._samples[start_index:end_index], 0

    def __len__(self) -> int:
        return len(self._samples)


def quantise_static(
    model: ModelProto,
    samples: Sequence[Sample],
    *,
    method: str,
    bits: int,
    skip: Sequence[str],
    progress: Progress | None = None,
) -> ModelProto:
    """The model with QDQ around its layers: activations u8 by the ranges of `samples`, weights
    signed of `bits` bits with a scale for each output channel; nodes of `skip` stay as they are.

    Every node needs a name. Raises CompileError where the quantiser fails."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    CalibrationDataReader.register(_Reader)
    methods = dict(zip(METHODS, (CalibrationMethod.MinMax, CalibrationMethod.Entropy,
                                 CalibrationMethod.Percentile)))  # fmt: skip
    with tempfile.TemporaryDirectory() as name, _quiet():
        source, target = Path(name) / "float.onnx", Path(name) / "quantised.onnx"
        onnx.save(model, source)
        try:
            quantize_static(
                source, target, _Reader(samples, progress),
                quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                calibrate_method=methods[method], nodes_to_exclude=list(skip),
            )  # fmt: skip
        except Exception as error:  # the quantiser has no common exception class
            text = " ".join(str(error).split())[:200]
            raise CompileError(f"onnxruntime's quantiser fails: {text}") from error
        found = onnx.load(target)
    if bits < 8:
        _fewer_bits(model, found, bits)
    return found


# -- fewer bits ------------------------------------------------------------------------


class _Graph:
    """A model with its constants and producers at hand."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.made = {out: n for n in self.nodes for out in n.output}
        self.consts = {t.name: t for t in model.graph.initializer}

    def array(self, name: str) -> Any:
        return numpy_helper.to_array(self.consts[name])

    def set(self, name: str, array: Any) -> None:
        self.consts[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))

    def dequantiser(self, value: str) -> Any:
        node = self.made.get(value)
        return node if node is not None and node.op_type == "DequantizeLinear" else None


def _fewer_bits(before: ModelProto, after: ModelProto, bits: int) -> None:
    """Round the weights of each layer to ±(2**(bits - 1) - 1) steps, a step for each output
    channel, and its bias to the new steps of the sums."""
    floats, found = _Graph(before), _Graph(after)
    top, done = 2 ** (bits - 1) - 1, set()
    for node in found.nodes:
        if node.op_type not in LAYERS:
            continue
        x, w = found.dequantiser(node.input[0]), found.dequantiser(node.input[1])
        if x is None or w is None or w.input[0] not in found.consts or w.input[0] in done:
            continue
        source = next((n for n in floats.nodes if n.name == node.name), None)
        if source is None or source.input[1] not in floats.consts:
            continue
        done.add(w.input[0])
        weights = floats.array(source.input[1]).astype(np.float32)
        steps = _steps(weights, found.array(w.input[1]), _axis(w), top)
        along = [1] * weights.ndim
        if steps.size > 1:
            along[_axis(w) % weights.ndim] = -1
        levels = np.clip(np.rint(weights / steps.reshape(along)), -top, top).astype(np.int8)
        found.set(w.input[0], levels)
        found.set(w.input[1], steps.reshape(found.array(w.input[1]).shape))
        bias = found.dequantiser(node.input[2]) if len(node.input) > 2 else None
        if bias is None or source.input[2] not in floats.consts:
            continue
        sums = (found.array(x.input[1]).reshape(-1) * steps).astype(np.float32)
        values = floats.array(source.input[2]).astype(np.float64)
        found.set(
            bias.input[0], np.clip(np.rint(values / sums), -(2**31), 2**31 - 1).astype(np.int32)
        )
        found.set(bias.input[1], np.broadcast_to(sums, found.array(bias.input[1]).shape).copy())


def _axis(node: Any) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "axis"), 1)


def _steps(weights: Any, scale: Any, axis: int, top: int) -> Any:
    """The largest weight of each channel is `top` steps; a channel of zeros has steps of 1."""
    others = tuple(i for i in range(weights.ndim) if i != axis % weights.ndim)
    largest = np.abs(weights).max(axis=others) if scale.size > 1 else np.abs(weights).max()
    steps = (np.asarray(largest, np.float32) / np.float32(top)).reshape(-1)
    return np.where(steps > np.finfo(np.float32).tiny, steps, np.float32(1)).astype(np.float32)


# -- what it does to each layer ----------------------------------------------------------


@dataclass(frozen=True)
class LayerError:
    """Root mean square errors of a layer's output relative to that of its float output: `added`
    by its own quantisation on the float network's input, `total` in the quantised network."""

    layer: str
    added: float
    total: float


def layer_errors(
    before: ModelProto, after: ModelProto, samples: Sequence[Sample]
) -> list[LayerError]:
    """The errors of each quantised layer on up to `MEASURED` samples."""
    found = _Graph(after)
    layers = [n for n in found.nodes if n.op_type in LAYERS and _source(found, n) is not None]
    chosen = samples[:MEASURED]
    inputs = [str(_source(found, n)) for n in layers]
    outputs = [n.output[0] for n in layers]
    plain = {n.name: n.output[0] for n in before.graph.node}  # outputs of the model get new names
    known = [plain.get(n.name, "") for n in layers]
    floats = _values(before, [*inputs, *known], chosen)
    quantised = _values(after, outputs, chosen)
    errors = []
    for node, source, out, was in zip(layers, inputs, outputs, known):
        if source not in floats or was not in floats or out not in quantised:
            continue
        alone = _alone(after, source, out, floats[source])
        added = float("nan") if alone is None else _relative(alone, floats[was])
        errors.append(LayerError(node.name, added, _relative(quantised[out], floats[was])))
    return errors


def _source(graph: _Graph, node: Any) -> str | None:
    """The float value that a layer's input is quantised from."""
    dequantise = graph.dequantiser(node.input[0])
    quantise = None if dequantise is None else graph.made.get(dequantise.input[0])
    if quantise is None or quantise.op_type != "QuantizeLinear":
        return None
    return str(quantise.input[0])


def _values(
    model: ModelProto, names: Sequence[str], samples: Sequence[Sample]
) -> dict[str, list[Array]]:
    """Intermediate values by name for each sample; those that the model has."""
    probe = ModelProto()
    probe.CopyFrom(model)
    there = {out for n in model.graph.node for out in n.output}
    given = {i.name for i in model.graph.input}
    asked = [n for n in dict.fromkeys(names) if n in there]
    present = {o.name for o in probe.graph.output}
    for name in asked:
        if name not in present:
            probe.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = open_session(probe.SerializeToString(), "the model")
    found: dict[str, list[Array]] = {
        n: [] for n in dict.fromkeys(names) if n in there or n in given
    }
    for sample in samples:
        for name, value in zip(asked, session.run(asked, sample)) if asked else ():
            found[name].append(value)
        for name in found.keys() & given:
            found[name].append(sample[name])
    return found


def _alone(model: ModelProto, source: str, out: str, values: Sequence[Array]) -> list[Array] | None:
    """One layer with its quantisers on float inputs."""
    with suppress(Exception), _quiet():  # where it can't be cut out there is no figure
        part = onnx.utils.Extractor(model).extract_model([source], [out])
        session = open_session(part.SerializeToString(), "a layer")
        return [session.run([out], {source: value})[0] for value in values]
    return None


def _relative(found: Sequence[Any], expected: Sequence[Any]) -> float:
    error = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(found, expected))
    size = sum(float(np.square(b.astype(np.float64)).sum()) for b in expected)
    return float(np.sqrt(error / size)) if size else 0.0
