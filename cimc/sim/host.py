"""Host fragments: the parts of a model that onnxruntime runs.

Used by the instruction `host`, one sample at a time, so that a run of many samples gives the
bits of the same samples run alone. Knows nothing of buffers or programs' layers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import onnx
import onnxruntime

from cimc.errors import CompileError
from cimc.frontend.session import open_session
from cimc.ir.types import container
from cimc.isa.program import Data
from cimc.isa.state import exact

ort: Any = onnxruntime  # it has no types

# onnxruntime's tensor types with a numpy type of their own, and the element type
_PLAIN = {
    "float": "f32",
    "double": "f64",
    "float16": "f16",
    "bool": "bool",
    "string": "str",
    **{f"int{bits}": f"i{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"u{bits}" for bits in (8, 16, 32, 64)},
}
# those that numpy knows through ml_dtypes only: element type and ONNX type
_SMALL = {
    "bfloat16": ("bf16", onnx.TensorProto.BFLOAT16),
    "float8e4m3fn": ("f8e4m3fn", onnx.TensorProto.FLOAT8E4M3FN),
    "float8e4m3fnuz": ("f8e4m3fnuz", onnx.TensorProto.FLOAT8E4M3FNUZ),
    "float8e5m2": ("f8e5m2", onnx.TensorProto.FLOAT8E5M2),
    "float8e5m2fnuz": ("f8e5m2fnuz", onnx.TensorProto.FLOAT8E5M2FNUZ),
}


def _tensor(type_name: str) -> str:
    """`float` of `tensor(float)`; empty for sequences, optionals and the like."""
    return type_name[7:-1] if type_name.startswith("tensor(") else ""


def _has_numpy(type_name: str) -> bool:
    """Whether `InferenceSession.run` can return a value of the type."""
    inner = type_name.rsplit("(", 1)[-1].rstrip(")")
    return inner in _PLAIN


class OnnxFragment:
    """A fragment and its session, made on first use. `macs` are those of one call."""

    def __init__(self, data: Data) -> None:
        self.name = data.name
        self.macs = data.macs
        self._model = data.array.astype(np.uint8).tobytes()

    @property
    def _where(self) -> str:
        return f"host fragment {self.name}"

    @cached_property
    def _session(self) -> Any:
        return open_session(self._model, self._where)

    @cached_property
    def _inputs(self) -> list[tuple[str, str]]:
        return [(value.name, value.type) for value in self._session.get_inputs()]

    @cached_property
    def _outputs(self) -> list[tuple[str, str]]:
        return [(value.name, value.type) for value in self._session.get_outputs()]

    def run(self, values: Sequence[Any]) -> Sequence[Any]:
        """The outputs for one sample's inputs, both in the order of the ONNX graph.

        Values are numpy arrays; sequences and the like as onnxruntime gives them. Raises
        CompileError where onnxruntime refuses to run, Trap where an input isn't exactly a
        value of the fragment's input type."""
        if len(values) != len(self._inputs):
            message = f"takes {len(self._inputs)} inputs, not {len(values)}"
            raise CompileError(message, self._where)
        feed = {
            name: _input(value, type_name)
            for (name, type_name), value in zip(self._inputs, values, strict=True)
        }
        try:
            return self._call(feed)
        except Exception as error:
            raise CompileError(f"onnxruntime can't run it: {error}", self._where) from None

    def _call(self, feed: dict[str, Any]) -> Sequence[Any]:
        if all(_has_numpy(type_name) for _, type_name in self._outputs):
            results: Sequence[Any] = self._session.run(None, feed)
            return results
        held = {name: _held(value) for name, value in feed.items()}
        names = [name for name, _ in self._outputs]
        return [_output(value) for value in self._session.run_with_ort_values(names, held)]


def _input(value: Any, type_name: str) -> Any:
    """A value in the form that onnxruntime takes for an input of that type."""
    tensor = _tensor(type_name)
    if not isinstance(value, np.ndarray) or tensor not in _PLAIN | _SMALL:
        return value
    if tensor in _SMALL:
        elem, onnx_type = _SMALL[tensor]
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(exact(value, elem), onnx_type)
    elem = _PLAIN[tensor]
    return value if value.dtype == container(elem) else exact(value, elem)


def _held(value: Any) -> Any:
    """A numpy array as onnxruntime's own value; what is one already, as it is."""
    return ort.OrtValue.ortvalue_from_numpy(value) if isinstance(value, np.ndarray) else value


def _output(value: Any) -> Any:
    """A numpy array where numpy has the type; else the value as onnxruntime holds it."""
    tensor = _tensor(value.data_type())
    if tensor in _PLAIN:
        return value.numpy()
    if tensor not in _SMALL:
        return value
    held = container(_SMALL[tensor][0])
    shape = tuple(value.shape())
    size = int(np.prod(shape)) * held.itemsize
    raw = ctypes.string_at(value.data_ptr(), size)
    return np.frombuffer(raw, dtype=held).reshape(shape)


def value_bytes(value: Any) -> int:
    """Memory of a fragment's value, at most; of a sequence that numpy can't hold, 0."""
    if isinstance(value, list):
        return sum(map(value_bytes, value))
    if isinstance(value, ort.OrtValue):
        return 8 * prod(value.shape()) if value.is_tensor() else 0
    return value.nbytes if isinstance(value, np.ndarray) else 0
