"""The operation table: one row a native operation (`cim.*`).

Parser and printer read the attributes (order, default), the verifier the operand kinds and
the type rule, the evaluator the numpy meaning, the ONNX export its own table by the same
names. Operations of ONNX domains (`onnx.*`, `ms.*`, `qonnx.*`) have no row: their types
come from ONNX shape inference and their meaning from onnxruntime or `frontend/qonnx.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cimc.ir import meaning, rules
from cimc.ir.types import Array, TensorType, Type

REQUIRED = object()


@dataclass(frozen=True)
class Operand:
    """An operand: `kind` is `int` (exact integers, bip and tern included) or `num` (integers
    or floats); `const` demands a constant; `optional` may be missing."""

    name: str
    kind: str = "int"
    const: bool = False
    optional: bool = False


@dataclass(frozen=True)
class AttrDef:
    """An attribute: `kind` is `int`, `ints`, `float` or `str`; `default` may be
    REQUIRED. `choices` lists the only legal values, if any."""

    name: str
    kind: str
    default: Any = REQUIRED
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True)
class OpDef:
    """One native operation.

    types:    (operand types, attributes) -> result types; raises `rules.Misfit`.
    evaluate: (operand arrays, attributes, result types) -> result arrays.
    """

    name: str
    operands: tuple[Operand, ...]
    attrs: tuple[AttrDef, ...]
    types: Callable[[Sequence[TensorType], dict[str, Any]], list[Type]]
    evaluate: Callable[[Sequence[Array], dict[str, Any], Sequence[TensorType]], list[Array]]
    summary: str
    example: str

    def full_attrs(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """The attributes with defaults filled in."""
        return {a.name: attrs.get(a.name, a.default) for a in self.attrs}


_WINDOW = (
    AttrDef("strides", "ints", ()),
    AttrDef("pads", "ints", ()),
    AttrDef("dilations", "ints", ()),
)

ROWS: tuple[OpDef, ...] = (
    OpDef(
        "cim.sign",
        (Operand("x", "num"),),
        (AttrDef("zero", "int", REQUIRED, (-1, 0, 1)), AttrDef("to", "str", "", ("", "u1"))),
        rules.sign,
        meaning.sign,
        "+1 above zero, -1 below, `zero` at zero: bip, or tern where zero=0; "
        'with to="u1" 1 and 0 instead of +1 and -1',
        "%y = cim.sign(%x) zero=-1: bip[1,16]",
    ),
    OpDef(
        "cim.conv",
        (Operand("x"), Operand("w", const=True)),
        (*_WINDOW, AttrDef("group", "int", 1)),
        rules.conv,
        meaning.conv,
        "integer convolution; padded taps count 0",
        "%y = cim.conv(%x, %w) pads=[1,1,1,1]: i32[1,32,14,14]",
    ),
    OpDef(
        "cim.matmul",
        (Operand("x"), Operand("w", const=True)),
        (),
        rules.matmul,
        meaning.matmul,
        "integer product of the last axis of x with the first of w[K,N]",
        "%y = cim.matmul(%x, %w): i32[1,10]",
    ),
    OpDef(
        "cim.threshold",
        (Operand("x"), Operand("th", const=True), Operand("flip", const=True, optional=True)),
        (AttrDef("axis", "int", 1), AttrDef("to", "str", "bip")),
        rules.threshold,
        meaning.threshold,
        "level n = how many of the channel's thresholds th[C] or th[C,T] x reaches: bip 2n-1, "
        "tern n-1, uN n; where flip is -1 the level is mirrored",
        "%y = cim.threshold(%x, %th): bip[1,32,14,14]",
    ),
    OpDef(
        "cim.max_pool",
        (Operand("x"),),
        (AttrDef("kernel", "ints"), *_WINDOW),
        rules.max_pool,
        meaning.max_pool,
        "largest value of each window; padded taps don't count",
        "%y = cim.max_pool(%x) kernel=[2,2] strides=[2,2]: bip[1,32,7,7]",
    ),
    OpDef(
        "cim.add",
        (Operand("x"), Operand("y")),
        (),
        rules.add,
        meaning.add,
        "integer sum of two tensors of one shape",
        "%z = cim.add(%x, %y): i32[1,32,7,7]",
    ),
    OpDef(
        "cim.relu",
        (Operand("x"),),
        (),
        rules.relu,
        meaning.relu,
        "max(x, 0); of bip: u1",
        "%y = cim.relu(%x): i32[1,32,7,7]",
    ),
    OpDef(
        "cim.dequant",
        (Operand("x"),),
        (AttrDef("scale", "float", 1.0),),
        rules.dequant,
        meaning.dequant,
        "f32(x) * f32(scale), rounded once each: the float that the integer stands for",
        "%y = cim.dequant(%x) scale=0.5: f32[1,10]",
    ),
    OpDef(
        "cim.reshape",
        (Operand("x"),),
        (AttrDef("shape", "ints"),),
        rules.reshape,
        meaning.reshape,
        "the same elements, row-major, in another shape; one size may be -1",
        "%y = cim.reshape(%x) shape=[1,784]: bip[1,784]",
    ),
    OpDef(
        "cim.transpose",
        (Operand("x"),),
        (AttrDef("perm", "ints"),),
        rules.transpose,
        meaning.transpose,
        "axes in another order",
        "%y = cim.transpose(%x) perm=[0,2,1]: bip[1,49,16]",
    ),
)

TABLE: dict[str, OpDef] = {row.name: row for row in ROWS}

HOST = "cim.host"
"""A fragment that runs on the host: `%y = cim.host(%x) body=graph …`; its results are its
body's outputs, its operands the body's inputs in order. It has no row: any number of
operands and results of any type."""
