"""ONNX shape inference, with the sizes that pools really have.

Before operator set 22, ONNX's own inference counts a last window of a `ceil_mode` pool even
where it begins beyond the input; the operators' text, its reference and onnxruntime do not.
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import ModelProto, NodeProto, helper

_POOLS = ("MaxPool", "AveragePool", "LpPool")


def infer_shapes(model: ModelProto) -> ModelProto:
    """The model with the types of its values as ONNX infers them, wrong pools put right.

    Raises what `onnx.shape_inference.infer_shapes` does.
    """
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    pools = [n for n in model.graph.node if n.op_type in _POOLS and not n.domain]
    if not any(_attributes(n).get("ceil_mode", 0) for n in pools):
        return inferred
    floored = ModelProto()
    floored.CopyFrom(model)
    # Sizes below a pool depend on it, so the pools are put right one after the other.
    for node in floored.graph.node:
        if node.op_type in _POOLS and not node.domain and _floor(node, inferred):
            inferred = onnx.shape_inference.infer_shapes(floored, data_prop=True)
    return inferred


def _floor(node: NodeProto, inferred: ModelProto) -> bool:
    """Where `inferred` has a window too many, give the pool end pads that leave it out
    without `ceil_mode`; whether that was so."""
    attrs = _attributes(node)
    sizes, found = (_sizes(inferred, name) for name in (node.input[0], node.output[0]))
    auto = attrs.get("auto_pad", b"NOTSET")
    if not attrs.get("ceil_mode", 0) or auto not in (b"", b"NOTSET") or not sizes or not found:
        return False
    kernel = attrs["kernel_shape"]
    rank = len(kernel)
    strides = attrs.get("strides") or [1] * rank
    dilations = attrs.get("dilations") or [1] * rank
    pads = list(attrs.get("pads") or [0] * (2 * rank))
    beyond = False
    for i in range(rank):
        size, steps = sizes[i] + pads[i], found[i]
        if steps > 1 and (steps - 1) * strides[i] >= size:
            steps, beyond = steps - 1, True
        reach = dilations[i] * (kernel[i] - 1) + 1
        pads[rank + i] = max(0, (steps - 1) * strides[i] + reach - size)
    if beyond:
        kept = [a for a in node.attribute if a.name not in ("pads", "ceil_mode")]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("pads", pads)])
    return beyond


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _sizes(model: ModelProto, name: str) -> list[int] | None:
    """The spatial sizes of a value; None where one is not known."""
    graph = model.graph
    for info in (*graph.value_info, *graph.input, *graph.output):
        if info.name == name and info.type.tensor_type.HasField("shape"):
            dims = info.type.tensor_type.shape.dim[2:]
            return [d.dim_value for d in dims] if all(d.dim_value > 0 for d in dims) else None
    return None
