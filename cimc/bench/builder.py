"""Collects ONNX nodes and constants for the networks that are measured. Knows no network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

MICROSOFT = "com.microsoft"
QONNX = "onnx.brevitas"


class Builder:
    """ONNX nodes and constants in the making, and the random numbers they are made of."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def const(self, name: str, array: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(
        self, op: str, inputs: Sequence[str], name: str, domain: str = "", **attrs: Any
    ) -> str:
        """Append a node with one output; its name."""
        out = f"{name}.out"
        self.nodes.append(helper.make_node(op, inputs, [out], name, domain=domain, **attrs))
        return out

    def quantize(self, x: str, scale: str, zero: str, name: str) -> str:
        """A QuantizeLinear and the DequantizeLinear behind it: one quantised value in QDQ form."""
        q = self.node("QuantizeLinear", [x, scale, zero], f"{name}.q")
        return self.node("DequantizeLinear", [q, scale, zero], f"{name}.dq")

    def model(
        self, name: str, source: ValueInfoProto, result: tuple[str, ValueInfoProto]
    ) -> ModelProto:
        """The model from one input to one output: the value `result[0]` under its ONNX name."""
        value, info = result
        for node in self.nodes:
            node.output[:] = [info.name if out == value else out for out in node.output]
        graph = helper.make_graph(self.nodes, name, [source], [info], self.constants)
        domains = {node.domain for node in self.nodes} - {""}
        imports = [helper.make_opsetid("", 13), *(helper.make_opsetid(d, 1) for d in domains)]
        return helper.make_model(graph, opset_imports=imports, ir_version=8, producer_name="cimc")


def tensor(name: str, kind: int, shape: Sequence[int | str] | None) -> ValueInfoProto:
    """An input or output; a name as size is symbolic, None any shape."""
    return helper.make_tensor_value_info(name, kind, shape)
