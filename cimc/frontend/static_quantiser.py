"""Static quantisation of an ONNX model by onnxruntime's own quantiser, QDQ form.

Weights of fewer than 8 bits are rounded anew here: that quantiser knows 8 and 4 only.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from cimc.errors import CompileError
from cimc.ir.meaning import lying_along
from cimc.ir.types import Array

Sample = dict[str, Array]
Progress = Callable[[int, int], None]
METHODS = ("minmax", "entropy", "percentile")
LAYERS = ("Conv", "MatMul", "Gemm", "ConvTranspose")
_KEPT = 1 << 28  # bytes of activations that histograms are made of at a time


@contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime's quantiser logs, warns and prints about matters of its own."""
    before, handler = logging.root.manager.disable, logging.NullHandler()
    logging.root.addHandler(handler)  # with none, logging sets up one that stays
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        logging.root.removeHandler(handler)


class _Reader:
    """The samples in the form that the quantiser takes them, all or one range after another."""

    def __init__(self, samples: Sequence[Sample], progress: Progress | None) -> None:
        self._samples, self._progress = samples, progress
        self._at, self._end = 0, len(samples)

    def get_next(self) -> Sample | None:
        if self._at == self._end:
            return None
        self._at += 1
        if self._progress is not None:
            self._progress(self._at, len(self._samples))
        return self._samples[self._at - 1]

    def set_range(self, start_index: int, end_index: int) -> None:
        self._at, self._end = start_index, end_index

    def __len__(self) -> int:
        return len(self._samples)


def quantise_static(
    model: ModelProto,
    samples: Sequence[Sample],
    *,
    method: str = "minmax",
    bits: int = 8,
    skip: Sequence[str] = (),
    one_scale: Sequence[str] = (),
    sample_bytes: int = 0,
    progress: Progress | None = None,
) -> ModelProto:
    """The model with QDQ around its layers: activations u8 by the ranges of `samples`, weights
    signed of `bits` bits with a scale for each output channel; nodes of `skip` stay as they are.

    Every node needs a name. one_scale: weights with one scale for all channels. sample_bytes: of
    all activations of a sample; histograms are made of parts of the samples where all would need
    too much memory.
    Raises CompileError where the quantiser fails."""
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
    extra: dict[str, Any] = {"QDQOpTypePerChannelSupportToAxis": {"MatMul": -1}}
    if one_scale:
        override = [{"quant_type": QuantType.QInt8}]
        extra["TensorQuantOverrides"] = dict.fromkeys(one_scale, override)
    if method != "minmax" and len(samples) * sample_bytes > _KEPT:
        parts = -(-len(samples) * sample_bytes // _KEPT)
        size = max(1, len(samples) // parts)
        samples = samples[: len(samples) // size * size]
        extra["CalibStridedMinMax"] = size
    with tempfile.TemporaryDirectory() as name, _quiet():
        source, target = Path(name) / "float.onnx", Path(name) / "quantised.onnx"
        try:
            onnx.save(model, source)
            quantize_static(
                source, target, _Reader(samples, progress),
                quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                calibrate_method=methods[method], nodes_to_exclude=list(skip),
                extra_options=extra,
            )  # fmt: skip
        except Exception as error:  # the quantiser has no common exception class
            text = " ".join(str(error).split())[:200]
            raise CompileError(f"onnxruntime's quantiser fails: {text}") from error
        found = onnx.load(target)
    _restore(model, found, frozenset(skip))
    _round_anew(model, found, bits)
    return found


class ModelView:
    """A model with its constants, producers and nodes by name at hand."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.nodes: dict[str, NodeProto] = {n.name: n for n in model.graph.node}
        self.made = {out: n for n in model.graph.node for out in n.output}
        self.consts: dict[str, TensorProto] = {t.name: t for t in model.graph.initializer}

    def array(self, name: str) -> Any:
        """The elements of a constant."""
        return numpy_helper.to_array(self.consts[name])

    def set(self, name: str, array: Any) -> None:
        """Give a constant other elements."""
        self.consts[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))

    def add(self, tensor: TensorProto) -> None:
        """A constant, unless it is there."""
        if tensor.name not in self.consts:
            self.consts[tensor.name] = self.model.graph.initializer.add()
            self.consts[tensor.name].CopyFrom(tensor)

    def dequantiser(self, node: NodeProto, index: int) -> NodeProto | None:
        """The DequantizeLinear that makes an operand, if one does."""
        made = self.made.get(node.input[index]) if index < len(node.input) else None
        return made if made is not None and made.op_type == "DequantizeLinear" else None


@dataclass(frozen=True)
class QuantisedLayer:
    """A layer of the quantised model and its float original; the dequantisers of its
    activation, weights and bias (None without one). side: which operand the weights are."""

    node: NodeProto
    original: NodeProto
    x: NodeProto
    w: NodeProto
    bias: NodeProto | None
    side: int


def quantised_layers(floats: ModelView, found: ModelView) -> list[QuantisedLayer]:
    """The layers with weights that the quantiser put dequantisers around, in order."""
    layers = []
    for node in found.model.graph.node:
        original = floats.nodes.get(node.name)
        if node.op_type not in LAYERS or original is None:
            continue
        side = next((i for i in (1, 0) if original.input[i] in floats.consts), None)
        if side is None:
            continue
        x, w = found.dequantiser(node, 1 - side), found.dequantiser(node, side)
        if x is not None and w is not None and w.input[0] in found.consts:
            bias = found.dequantiser(node, 2)
            layers.append(QuantisedLayer(node, original, x, w, bias, side))
    return layers


def _restore(before: ModelProto, after: ModelProto, skip: frozenset[str]) -> None:
    """Nodes of `skip` read their own weights and activations again where these are quantised for
    other nodes; not those that a quantised node makes."""
    floats, found = ModelView(before), ModelView(after)
    for node in after.graph.node:
        original = floats.nodes.get(node.name)
        if node.name not in skip or original is None:
            continue
        for index, name in enumerate(original.input):
            dequantiser = found.dequantiser(node, index)
            if dequantiser is None:
                continue
            quantiser = found.made.get(dequantiser.input[0])
            maker = None if quantiser is None else found.made.get(quantiser.input[0])
            if quantiser is None and name in floats.consts:
                found.add(floats.consts[name])
                node.input[index] = name
            elif quantiser is not None and (maker is None or maker.name in skip):
                node.input[index] = quantiser.input[0]


def _round_anew(before: ModelProto, after: ModelProto, bits: int) -> None:
    """Round the weights of each layer to ±(2**(bits - 1) - 1) steps, a step for each output
    channel, and its bias to the new steps of the sums. With 8 bits, what the quantiser made
    stays, but where sums with the bias could leave i32."""
    floats, found = ModelView(before), ModelView(after)
    layers, top = quantised_layers(floats, found), 2 ** (bits - 1) - 1
    steps: dict[str, Any] = {}
    for layer in layers:
        name, w = layer.w.input[0], floats.array(layer.original.input[layer.side])
        old = found.array(layer.w.input[1]).reshape(-1)
        wanted = old if bits == 8 else _steps(found, layer.w, w, top)
        least = _least_step(floats, found, layer, top * w.size // wanted.size)
        least = least if wanted.size > 1 else least.max()
        steps[name] = np.maximum(steps.get(name, wanted), least)
    for layer in layers:
        name, w = layer.w.input[0], floats.array(layer.original.input[layer.side])
        old = found.array(layer.w.input[1])
        if np.array_equal(old.reshape(-1), steps[name]) and bits == 8:
            continue
        apart = lying_along(steps[name], w.ndim, _axis(layer.w) % w.ndim)
        levels = np.clip(np.rint(w / apart), -top, top).astype(np.int8)
        found.set(name, levels)
        found.set(layer.w.input[1], steps[name].reshape(old.shape))
    for layer in layers:
        if layer.bias is not None:
            bias = floats.array(layer.original.input[2])
            _set_bias(found, layer, bias, steps[layer.w.input[0]])


def _steps(found: ModelView, dequantiser: NodeProto, w: Any, top: int) -> Any:
    """The largest weight of each channel is `top` steps; a channel of zeros has steps of 1."""
    axis = _axis(dequantiser) % w.ndim
    others = tuple(i for i in range(w.ndim) if i != axis)
    one = found.array(dequantiser.input[1]).size == 1
    largest = np.abs(w).max(axis=None if one else others, initial=0.0)
    steps = (np.asarray(largest, np.float32) / np.float32(top)).reshape(-1)
    return np.where(steps >= np.finfo(np.float32).tiny, steps, np.float32(1)).astype(np.float32)


def _least_step(floats: ModelView, found: ModelView, layer: QuantisedLayer, reach: int) -> Any:
    """The smallest steps of the weights with which sums and bias stay within i32. reach: what the
    weights of a channel can sum up to, in steps."""
    if layer.bias is None:
        return np.float32(0)
    bias = np.abs(floats.array(layer.original.input[2]).astype(np.float64))
    scale = found.array(layer.x.input[1]).astype(np.float64).reshape(-1)
    room = max(2**31 - 1 - 255 * reach, 2**30)
    return (1.0001 * bias / (room * scale)).astype(np.float32)


def _set_bias(found: ModelView, layer: QuantisedLayer, bias: Any, steps: Any) -> None:
    """round(bias / step of the sums), if that is not what the quantiser made."""
    assert layer.bias is not None
    sums = (found.array(layer.x.input[1]).reshape(-1) * steps).astype(np.float32)
    scale = found.array(layer.bias.input[1])
    if np.array_equal(np.broadcast_to(sums, scale.shape), scale):
        return
    levels = np.rint(bias.astype(np.float64) / sums)
    found.set(layer.bias.input[0], np.clip(levels, -(2**31), 2**31 - 1).astype(np.int32))
    found.set(layer.bias.input[1], np.broadcast_to(sums, scale.shape))


def _axis(node: NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "axis"), 1)
