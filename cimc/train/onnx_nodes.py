"""Builds ONNX graphs node by node: names, constants, and the forms that the compiler recognises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

OPSET = 13
IR_VERSION = 8


class Emitter:
    """Each method appends nodes and returns the name of their result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.levels: dict[str, tuple[int, int]] = {}  # results that are integers, their range

    def const(self, name: str, value: npt.ArrayLike | Tensor, dtype: Any = np.float32) -> str:
        """A constant; the same name again is the same constant."""
        if isinstance(value, Tensor):
            value = value.detach().cpu().numpy()
        if name not in self.constants:
            array = np.array(value, dtype=dtype, order="C")
            self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def node(self, op: str, name: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """One node; its result is `NAME.out` unless told otherwise."""
        result = output or f"{name}.out"
        self.nodes.append(helper.make_node(op, list(inputs), [result], name=name, **attributes))
        return result

    def sign(self, name: str, x: str, zero: int) -> str:
        """-1 or +1; 0 becomes `zero`."""
        compare = "Greater" if zero < 0 else "GreaterOrEqual"
        high = self.node(compare, f"{name}.high", x, self.const("zero", 0.0))
        ends = self.const("plus_one", 1.0), self.const("minus_one", -1.0)
        return self.node("Where", name, high, *ends)

    def quantised(self, name: str, x: str, step: float, low: int, high: int) -> str:
        """x to the nearest multiple of a step, from low to high steps: QuantizeLinear and
        DequantizeLinear."""
        unsigned = low >= 0
        dtype, full = (np.uint8, (0, 255)) if unsigned else (np.int8, (-128, 127))
        if (low, high) != full:
            ends = self.const(f"{name}.low", low * step), self.const(f"{name}.high", high * step)
            x = self.node("Clip", f"{name}.clip", x, *ends)
        scale = self.const(f"{name}.step", step)
        zero = self.const("zero.u8" if unsigned else "zero.i8", 0, dtype)
        q = self.node("QuantizeLinear", f"{name}.q", x, scale, zero)
        return self.node("DequantizeLinear", name, q, scale, zero)

    def dequantised(self, name: str, levels: Tensor, scale: Tensor) -> str:
        """Integer weights times a scale, of each kernel or one."""
        stored = self.const(f"{name}.levels", levels, np.int8)
        steps = self.const(f"{name}.steps", scale)
        zeros = np.zeros(tuple(scale.shape), np.int8)
        zero = self.const(f"{name}.zeros", zeros, np.int8)
        axis: dict[str, Any] = {"axis": 0} if scale.dim() else {}
        return self.node("DequantizeLinear", f"{name}.w", stored, steps, zero, **axis)

    def model(
        self,
        name: str,
        input_type: int,
        shape: Sequence[int],
        result: str,
        out_shape: Sequence[int],
        notes: dict[str, str],
    ) -> onnx.ModelProto:
        """The whole: input `image` and output `logits`, with a symbolic batch N first."""
        self.node("Identity", "logits", result, output="logits")
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info("image", input_type, ["N", *shape])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", *out_shape])],
            list(self.constants.values()),
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="cimc.train",
        )
        helper.set_model_props(model, notes)
        onnx.checker.check_model(model, full_check=True)
        return model
