"""Host fragments: the parts of a model that stay floating point.

Used by the instruction `host`. onnxruntime's result for one sample alone is what a fragment
means; `cimc/sim/fragments/` gives the same bits for many samples at once. Knows nothing of
buffers or programs' layers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from math import prod
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime

from cimc.errors import CompileError
from cimc.frontend.session import open_session
from cimc.ir.types import Array, container
from cimc.isa.program import Data
from cimc.isa.state import Trap, exact

if TYPE_CHECKING:
    from cimc.sim.fragments.parts import BatchedFragment, Bound

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
    """A fragment and its session, made on first use; several threads may run it at once.

    macs: those of one call. threads: onnxruntime's for one call, 0 for its choice. The order of
    some sums of floats hangs on it, so that with more than one the bits are those of a machine;
    and threads that wait for work take time from those of an engine."""

    def __init__(self, data: Data, threads: int = 1) -> None:
        self.name = data.name
        self.macs = data.macs
        self._threads = threads
        self._model = data.array.astype(np.uint8).tobytes()
        self._lock = Lock()
        self._opened: _Opened | None = None
        self._batched: BatchedFragment | None = None
        self._analysed = False

    @property
    def _where(self) -> str:
        return f"host fragment {self.name}"

    def _open(self) -> _Opened:
        with self._lock:
            if self._opened is None:
                session = open_session(self._model, self._where, self._threads)
                self._opened = _Opened(session)
            return self._opened

    def run(self, values: Sequence[Any]) -> Sequence[Any]:
        """The outputs for one sample's inputs, both in the order of the ONNX graph.

        Values are numpy arrays; sequences and the like as onnxruntime gives them. Raises
        CompileError where onnxruntime refuses to run, Trap where an input isn't exactly a
        value of the fragment's input type."""
        opened = self._open()
        if len(values) != len(opened.inputs):
            message = f"takes {len(opened.inputs)} inputs, not {len(values)}"
            raise CompileError(message, self._where)
        feed = {
            name: _input(value, type_name)
            for (name, type_name), value in zip(opened.inputs, values, strict=True)
        }
        try:
            return opened.call(feed)
        except Exception as error:
            raise CompileError(f"onnxruntime can't run it: {error}", self._where) from None

    # -- many samples ------------------------------------------------------------------

    def run_batch(self, values: Sequence[Any], samples: int | None = None) -> list[Any]:
        """The outputs for many samples, each with the bits that `run` gives for it alone.

        values: for each input, an array [samples, *shape] or a list of one value a sample. So
        are the outputs: arrays where numpy has the type and all samples the same shape.
        samples: how many, if there are no inputs. Raises what `run` raises, for the first
        sample that it refuses."""
        samples = len(values[0]) if values else samples or 0
        batched = self._batch()
        try:
            stacked = None if batched is None else self._stacked(batched, values)
        except Trap:  # of which sample, `run` finds out
            stacked = None
        if batched is None or stacked is None:
            return self._one_by_one(values, samples)
        outputs = [np.empty((samples, *shape), container(e)) for e, shape in batched.outputs]
        if not samples:
            return list(outputs)
        bound = self.bind(stacked, outputs)
        assert bound is not None
        bound.run(samples)
        return list(outputs)

    def bind(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> Bound | None:
        """The fragment on arrays [samples, *shape] that stay: `Bound.run(n)` computes the outputs
        of the first n samples, as `run_batch` does and with less work before it begins. None
        where the arrays aren't of the fragment's types and shapes, one isn't contiguous, or
        the fragment isn't one of plain tensors."""
        batched = self._batch()
        if batched is None:
            return None
        wanted = [*batched.inputs, *batched.outputs]
        arrays = [*inputs, *outputs]
        if len(wanted) != len(arrays) or not all(map(_fits, wanted, arrays)):
            return None
        from cimc.sim.fragments.parts import Bound

        return Bound(batched, inputs, outputs, self.run)

    def _batch(self) -> BatchedFragment | None:
        with self._lock:
            if not self._analysed:
                from cimc.sim.fragments.parts import batch  # loads the compiler of kernels

                self._batched = batch(self._model, self._threads)
                self._analysed = True
            return self._batched

    def _stacked(self, batched: BatchedFragment, values: Sequence[Any]) -> list[Any] | None:
        """The inputs as arrays of the fragment's types; None where one doesn't fit."""
        found = []
        for (elem, shape), value in zip(batched.inputs, values, strict=True):
            array = value if isinstance(value, np.ndarray) else _stack(value)
            if array is None or array.shape[1:] != shape:
                return None
            held = array if array.dtype == container(elem) else exact(array, elem)
            found.append(np.ascontiguousarray(held))
        return found

    def _one_by_one(self, values: Sequence[Any], samples: int) -> list[Any]:
        alone = [self.run([_sample(value, at) for value in values]) for at in range(samples)]
        columns = [[outputs[i] for outputs in alone] for i in range(len(alone[0]) if alone else 0)]
        stacked = [_stack(column) for column in columns]
        return [c if s is None else s for c, s in zip(columns, stacked, strict=True)]


class _Opened:
    """A session, and names and types of its inputs and outputs."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.inputs = [(value.name, value.type) for value in session.get_inputs()]
        self._outputs = [value.name for value in session.get_outputs()]
        self._plain = all(_has_numpy(value.type) for value in session.get_outputs())

    def call(self, feed: dict[str, Any]) -> Sequence[Any]:
        if self._plain:
            results: Sequence[Any] = self._session.run(None, feed)
            return results
        held = {name: _held(value) for name, value in feed.items()}
        found = self._session.run_with_ort_values(self._outputs, held)
        return [_output(value) for value in found]


def _fits(kind: tuple[str, tuple[int, ...]], array: Array) -> bool:
    """Whether an array [samples, *shape] is one of an element type and shape."""
    elem, shape = kind
    fits = array.dtype == container(elem) and array.shape[1:] == shape
    return fits and array.flags.c_contiguous


def _sample(values: Any, at: int) -> Any:
    """One sample's value; numpy would hand a scalar over as no array."""
    if isinstance(values, np.ndarray):
        return values[at : at + 1].reshape(values.shape[1:])
    return values[at]


def _stack(values: Sequence[Any]) -> Any:
    """Numbers of one type and shape as one array; None for anything else."""
    if not values or not all(isinstance(value, np.ndarray) for value in values):
        return None
    kinds = {(value.dtype, value.shape) for value in values}
    if len(kinds) > 1 or values[0].dtype == object:
        return None
    return np.stack(values)


def _input(value: Any, type_name: str) -> Any:
    """A value in the form that onnxruntime takes for an input of that type."""
    tensor = _tensor(type_name)
    if not isinstance(value, np.ndarray) or tensor not in _PLAIN | _SMALL:
        return value
    if tensor in _SMALL:
        elem, onnx_type = _SMALL[tensor]
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(exact(value, elem), onnx_type)
    elem = _PLAIN[tensor]
    if value.dtype != container(elem):
        return exact(value, elem)
    # a part of a larger array may begin anywhere, and with the alignment changes the order of
    # some of onnxruntime's sums: an array of its own begins where all of them do
    return value if value.base is None else value.copy()


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
