"""PyTorch modules in evaluation mode as ONNX models, in the forms that `cimc compile -p exact`
recognises; preprocessing in the forward becomes part of the model.

Reads the traced forward (`trace.py`), writes with `onnx_nodes.py`; `onnx_table.py` says how.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto
from torch import Tensor, fx, nn

from cimc.errors import CompileError, raise_all
from cimc.train.onnx_nodes import Emitter
from cimc.train.onnx_table import FUNCTIONS, METHODS, MODULES, Call, Emit, Unfit
from cimc.train.trace import Traced, evaluating, name_of, shape, trace

_INPUTS = {torch.uint8: TensorProto.UINT8, torch.float32: TensorProto.FLOAT}


def export_onnx(
    model: nn.Module, example: Tensor, notes: Mapping[str, str] | None = None, name: str = ""
) -> onnx.ModelProto:
    """The module in evaluation mode, opset 13, IR version 8, input `image` and output `logits`.

    example: an input, uint8 or float32 [batch, …]; its values don't matter. notes: metadata.
    Weights of `cimc.train.layers` are stored as their levels; what sums of levels are multiplied by
    follows the layer. Raises CompileError, one for each operation that is not supported.
    """
    if example.dtype not in _INPUTS:
        raise CompileError(
            f"the example is {example.dtype}", type(model).__name__, help="give uint8 or float32"
        )
    traced = trace(model, example)
    with evaluating(model):
        emitter = Emitter()
        result = _Export(traced, emitter).run()
        shapes = tuple(example.shape[1:]), _out_shape(traced, type(model).__name__)
        return emitter.model(
            name or type(model).__name__,
            _INPUTS[example.dtype],
            shapes[0],
            result,
            shapes[1],
            dict(notes or {}),
        )


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write the file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        Path(name).chmod(0o644)
        onnx.save_model(model, name)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def _out_shape(traced: Traced, where: str) -> tuple[int, ...]:
    value = traced.nodes[-1].args[0]
    found = shape(value) if isinstance(value, fx.Node) else None
    if not found:
        raise CompileError("the forward must return one tensor", where)
    return found[1:]


class _Export:
    def __init__(self, traced: Traced, emitter: Emitter) -> None:
        self.traced, self.emitter = traced, emitter
        self.names: dict[fx.Node, str] = {}
        self.values: dict[fx.Node, Any] = {}
        self.calls: dict[str, int] = {}

    def run(self) -> str:
        """The name of the result."""
        self._refuse_unknown()
        errors, result = [], ""
        for node in self.traced.nodes:
            if node.op == "placeholder":
                self.names[node] = "image"
            elif node.op == "get_attr":
                self.values[node] = self._attribute(str(node.target))
            elif node.op == "output":
                result = self.names.get(node.args[0], "")  # type: ignore[arg-type]
            elif all(n in self.names or n in self.values for n in node.all_input_nodes):
                try:
                    self._emit(node)
                except Unfit as unfit:
                    errors.append(CompileError(str(unfit), _place(node)))
        raise_all(errors)
        return result

    def _refuse_unknown(self) -> None:
        unknown = [n for n in self.traced.nodes if n.op.startswith("call") and not self._rule(n)]
        raise_all(
            [
                CompileError(
                    f"can't export {name_of(self.traced.module(n) or n.target)}",
                    _place(n),
                    help="use the modules and functions that `cimc.train.onnx_table` lists",
                )
                for n in unknown
            ]
        )

    def _rule(self, node: fx.Node) -> Emit | None:
        if node.op == "call_function":
            return FUNCTIONS.get(node.target)
        if node.op == "call_method":
            return METHODS.get(str(node.target))
        module = self.traced.module(node)
        for kind in type(module).__mro__:
            if kind in MODULES:
                return MODULES[kind]
        return None

    def _emit(self, node: fx.Node) -> None:
        rule = self._rule(node)
        assert rule is not None
        name = self._name(node)
        args = fx.node.map_arg(node.args, self._operand)
        kwargs = fx.node.map_arg(node.kwargs, self._operand)
        call = Call(self.emitter, name, self.traced.module(node), node, args, dict(kwargs))
        self.names[node] = rule(call)

    def _name(self, node: fx.Node) -> str:
        name = str(node.target) if node.op == "call_module" else node.name
        self.calls[name] = self.calls.get(name, 0) + 1
        return name if self.calls[name] == 1 else f"{name}.{self.calls[name]}"

    def _operand(self, node: fx.Node) -> Any:
        return self.names.get(node, self.values.get(node))

    def _attribute(self, target: str) -> Any:
        *path, last = target.split(".")
        return getattr(self.traced.modules[".".join(path)], last)


def _place(node: fx.Node) -> str:
    return f"module '{node.target}'" if node.op == "call_module" else f"operation '{node.name}'"
