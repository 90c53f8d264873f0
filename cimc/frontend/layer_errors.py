"""What quantisation does to each layer, measured in onnxruntime on the float model and on the
quantised one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from cimc.errors import CompileError
from cimc.frontend.session import call, open_session
from cimc.frontend.static_quantiser import (
    ModelView,
    QuantisedLayer,
    Sample,
    quantised_layers,
)

MEASURED = 32
"""Samples that errors are measured on."""


@dataclass(frozen=True)
class LayerError:
    """Root mean square errors of a layer's output, what follows up to its quantiser included,
    relative to that of the float output: `added` by its input and weights alone, which are
    quantised in the float model; `total` in the quantised model, its output quantised too."""

    layer: str
    added: float
    total: float


@dataclass
class _Sums:
    """Squares of a float output, and of what two others are off it."""

    size: float = 0.0
    added: float = 0.0
    total: float = 0.0

    def take(self, expected: Any, alone: Any, quantised: Any) -> None:
        wide = expected.astype(np.float64)
        self.size += float(np.square(wide).sum())
        self.added += float(np.square(alone - wide).sum())
        self.total += float(np.square(quantised - wide).sum())

    def error(self, layer: str) -> LayerError:
        size = self.size or 1.0
        added, total = np.sqrt(self.added / size), np.sqrt(self.total / size)
        return LayerError(layer, float(added), float(total))


def layer_errors(
    before: ModelProto, after: ModelProto, samples: Sequence[Sample]
) -> list[LayerError]:
    """The errors of each quantised layer on up to `MEASURED` samples. The models have the same
    names of layers and values. Raises CompileError where onnxruntime can't run them."""
    floats, found = ModelView(before), ModelView(after)
    probe, outputs = _copy(before), list[tuple[str, str, str, str]]()
    for index, layer in enumerate(quantised_layers(floats, found)):
        ends = _ends(floats, found, layer)
        if ends is not None:
            alone = _beside(probe, floats, found, layer, ends[0], f"alone{index}/")
            outputs.append((layer.node.name, ends[0], alone, ends[1]))
    if not outputs:
        return []
    float_names = list(dict.fromkeys(n for _, a, b, _ in outputs for n in (a, b)))
    names = list(dict.fromkeys(n for _, _, _, n in outputs))
    first, second = _session(probe, float_names), _session(_copy(after), names)
    sums = {name: _Sums() for name, *_ in outputs}
    for sample in _spread(samples):
        values = dict(zip(float_names, call(first, sample, "the float model", float_names)))
        others = dict(zip(names, call(second, sample, "the quantised model", names)))
        for name, expected, alone, quantised in outputs:
            sums[name].take(values[expected], values[alone], others[quantised])
    return [total.error(name) for name, total in sums.items()]


def _copy(model: ModelProto) -> ModelProto:
    found = ModelProto()
    found.CopyFrom(model)
    return found


def _spread(samples: Sequence[Sample]) -> list[Sample]:
    count = min(len(samples), MEASURED)
    return [samples[i] for i in np.linspace(0, len(samples) - 1, count).astype(int)]


def _session(model: ModelProto, names: Sequence[str]) -> Any:
    """A session that gives the named values."""
    present = {o.name for o in model.graph.output}
    for name in names:
        if name not in present:
            model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    try:
        return open_session(model.SerializeToString(), "the model")
    except ValueError:
        raise CompileError("the model is too large to measure errors of layers") from None


def _ends(floats: ModelView, found: ModelView, layer: QuantisedLayer) -> tuple[str, str] | None:
    """The value of the float model that a layer's quantised output stands for, and the value of
    the quantised model that holds it; None if there is none."""
    out, quantiser = layer.node.output[0], found.made.get(layer.x.input[0])
    if quantiser is None or quantiser.op_type != "QuantizeLinear":
        return None
    quantisers = [n for n in found.model.graph.node if out in n.input]
    value = out
    if len(quantisers) == 1 and quantisers[0].op_type == "QuantizeLinear":
        codes = quantisers[0].output[0]
        value = next(
            (n.output[0] for n in found.model.graph.node
             if n.op_type == "DequantizeLinear" and n.input[0] == codes), out
        )  # fmt: skip
    # The quantiser takes the place of a Relu or Clip, and of an output's own value.
    for name in (value, out):
        made = floats.made.get(name)
        if made is not None and (made is layer.original or layer.original.output[0] in made.input):
            return name, value
    return None


def _beside(
    probe: ModelProto,
    floats: ModelView,
    found: ModelView,
    layer: QuantisedLayer,
    end: str,
    prefix: str,
) -> str:
    """Put a quantised copy of a layer beside it in the float model, up to the value `end`;
    returns what holds the copy's result."""
    source = layer.original.input[1 - layer.side]
    quantiser = found.made[layer.x.input[0]]
    nodes = [quantiser, layer.x, layer.w, *([layer.bias] if layer.bias else []), layer.node]
    names = {quantiser.input[0]: source}
    out = layer.original.output[0]
    if end != out:
        nodes.append(floats.made[end])  # the activation that the quantiser stands for
        names[out] = f"{prefix}{layer.node.output[0]}"
    own = {name for node in nodes for name in node.output}
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.name = prefix + node.name
        copy.input[:] = [_renamed(name, names, own, prefix, probe, found) for name in node.input]
        copy.output[:] = [prefix + name for name in node.output]
        probe.graph.node.append(copy)
    probe.graph.node[-1].output[0] = f"{prefix}result"  # two may bear the same name
    return f"{prefix}result"


def _renamed(
    name: str,
    names: dict[str, str],
    own: set[str],
    prefix: str,
    probe: ModelProto,
    found: ModelView,
) -> str:
    """What an operand of a copy is called; constants of the quantised model come along."""
    if name in names:
        return names[name]
    if name in own:
        return prefix + name
    if name in found.consts:
        tensor = probe.graph.initializer.add()
        tensor.CopyFrom(found.consts[name])
        tensor.name = names[name] = prefix + name
        return names[name]
    return name
