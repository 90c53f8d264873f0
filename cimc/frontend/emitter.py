"""Builds lists of ONNX nodes: fresh names, constants, one call a node."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from cimc.ir.names import Names
from cimc.ir.types import Array


class Emitter:
    """Collects the nodes and initialisers of one ONNX graph.

    `opset` is the version of the default domain they are written for. Names made here start
    with `_`, which no name of the graph IR made from a source does twice: `names` sees to it.
    `sources` are the source names that nodes of the graph have by now.
    """

    def __init__(self, opset: int, names: Names) -> None:
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self.initialisers: list[TensorProto] = []
        self.names = names
        self.sources: set[str | None] = set()
        self.packed: set[str] = set()  # values in one of ONNX's 4-bit types

    def fresh(self, stem: str) -> str:
        return self.names.fresh(f"_{stem}")

    def const(self, value: Array | float | list[int], dtype: Any = None) -> str:
        """An initialiser; returns its name."""
        name = self.fresh("c")
        array = np.ascontiguousarray(value, dtype=dtype)
        self.initialisers.append(numpy_helper.from_array(array.reshape(np.shape(value)), name))
        return name

    def node(self, op: str, *inputs: str, out: str | None = None, **attrs: Any) -> str:
        """A node of the default domain with one result; returns the result's name."""
        out = out or self.fresh(op)
        self.nodes.append(helper.make_node(op, list(inputs), [out], **attrs))
        return out

    def cast(self, x: str, code: int, out: str | None = None) -> str:
        return self.node("Cast", x, out=out, to=code)

    def where(self, condition: str, yes: float, no: float, code: int) -> str:
        """`condition ? yes : no` as a float type, without Where (which opset 8 lacks)."""
        dtype = np.float64 if code == TensorProto.DOUBLE else np.float32
        bit = self.cast(condition, code)
        scaled = self.node("Mul", bit, self.const(np.asarray(yes - no, dtype)))
        return self.node("Add", scaled, self.const(np.asarray(no, dtype)))

    def at_least(self, x: str, y: str) -> str:
        """`x >= y` as a bool, without GreaterOrEqual (which opset 11 lacks)."""
        return self.node("Not", self.node("Less", x, y))
