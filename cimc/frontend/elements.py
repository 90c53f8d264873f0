"""Element types at the border to ONNX: which TensorProto type holds which element type."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from cimc.ir.types import Array, container

_ONNX: dict[str, int] = {
    "f32": TensorProto.FLOAT,
    "u8": TensorProto.UINT8,
    "i8": TensorProto.INT8,
    "u16": TensorProto.UINT16,
    "i16": TensorProto.INT16,
    "i32": TensorProto.INT32,
    "i64": TensorProto.INT64,
    "str": TensorProto.STRING,
    "bool": TensorProto.BOOL,
    "f16": TensorProto.FLOAT16,
    "f64": TensorProto.DOUBLE,
    "u32": TensorProto.UINT32,
    "u64": TensorProto.UINT64,
    "c64": TensorProto.COMPLEX64,
    "c128": TensorProto.COMPLEX128,
    "bf16": TensorProto.BFLOAT16,
    "f8e4m3fn": TensorProto.FLOAT8E4M3FN,
    "f8e4m3fnuz": TensorProto.FLOAT8E4M3FNUZ,
    "f8e5m2": TensorProto.FLOAT8E5M2,
    "f8e5m2fnuz": TensorProto.FLOAT8E5M2FNUZ,
    "u4": TensorProto.UINT4,
    "i4": TensorProto.INT4,
    "f4e2m1": TensorProto.FLOAT4E2M1,
}
_ELEM = {code: elem for elem, code in _ONNX.items()}
for _name, _elem in (("FLOAT8E8M0", "f8e8m0"), ("UINT2", "u2"), ("INT2", "i2")):
    if hasattr(TensorProto, _name):  # younger than the oldest onnx release we accept
        _ELEM[getattr(TensorProto, _name)] = _elem
        _ONNX[_elem] = getattr(TensorProto, _name)


def elem_of(code: int) -> str | None:
    """The element type of a TensorProto data type; None for one we do not know."""
    return _ELEM.get(code)


def code_of(elem: str) -> int:
    """The TensorProto data type that carries an element type over to ONNX: its own where
    ONNX has one, else that of its container (bip and tern: INT8)."""
    if elem in _ONNX:
        return _ONNX[elem]
    dtype = container(elem)
    return _ONNX[f"{dtype.kind}{dtype.itemsize * 8}"]


def carrier(elem: str) -> int:
    """The type in which results of native operations travel: 4-bit integers in bytes, for which
    every operator set has operations."""
    if elem[0] in "ui" and elem[1:] in ("2", "4"):
        return _ONNX[f"{elem[0]}8"]
    return code_of(elem)


def unpack(array: Array, elem: str) -> Array:
    """An array from ONNX in the container of its element type."""
    dtype = container(elem)
    if elem == "str":
        decode = [s.decode("utf-8", "surrogateescape") if isinstance(s, bytes) else str(s)
                  for s in array.ravel().tolist()]  # fmt: skip
        text = np.empty(len(decode), dtype=object)
        text[:] = decode
        return text.reshape(array.shape)
    return np.asarray(array if array.dtype == dtype else array.astype(dtype))
