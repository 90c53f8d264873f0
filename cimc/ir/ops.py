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

from cimc.ir import meaning, rules, similar
from cimc.ir.types import Array, TensorType, Type
from cimc.similarity.criteria import MODES

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
    constants: (operand types, attributes, constants among the operands); raises `rules.Misfit`
              where their elements don't fit.

    All get one entry an operand, None for a missing one, up to the last that is there.
    """

    name: str
    operands: tuple[Operand, ...]
    attrs: tuple[AttrDef, ...]
    types: Callable[[Sequence[Any], dict[str, Any]], list[Type]]
    evaluate: Callable[[Sequence[Any], dict[str, Any], Sequence[TensorType]], list[Array]]
    summary: str
    example: str
    constants: Callable[[Sequence[Any], dict[str, Any], Sequence[Any]], None] | None = None

    def full_attrs(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """The attributes with defaults filled in."""
        return {a.name: attrs.get(a.name, a.default) for a in self.attrs}


_ZEROS = (
    Operand("zx", optional=True),
    Operand("zw", const=True, optional=True),
    Operand("b", const=True, optional=True),
)
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
        (Operand("x"), Operand("w", const=True), *_ZEROS),
        (*_WINDOW, AttrDef("group", "int", 1), AttrDef("up", "ints", ())),
        rules.conv,
        meaning.conv,
        "integer convolution, sum of (x - zx) * (w - zw), + b; zx[1] may be known at run time "
        "only, zw is [1] or [C], b [C], or [1,C,*out] with one number for each place; padded taps "
        "count 0; `up` spreads x, up - 1 taps that count 0 between its elements",
        "%y = cim.conv(%x, %w) pads=[1,1,1,1]: i32[1,32,14,14]",
    ),
    OpDef(
        "cim.matmul",
        (Operand("x"), Operand("w", const=True), *_ZEROS),
        (),
        rules.matmul,
        meaning.matmul,
        "integer product of the last axis of x with the first of w[K,N], with zx, zw and b[N] as "
        "in cim.conv",
        "%y = cim.matmul(%x, %w): i32[1,10]",
    ),
    OpDef(
        "cim.threshold",
        (Operand("x"), Operand("th", const=True), Operand("flip", const=True, optional=True)),
        (AttrDef("axis", "int", 1), AttrDef("to", "str", "bip")),
        rules.threshold,
        meaning.threshold,
        "level n = how many of the channel's thresholds th[C] or th[C,T] x reaches: bip 2n-1, "
        "tern n-1, uN n, iN n less 2**(N-1); where flip is -1 the level is mirrored to T - n",
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
        (AttrDef("scale", "float", 1.0), AttrDef("zero", "int", 0)),
        rules.dequant,
        meaning.dequant,
        "f32(x - zero) * f32(scale), rounded once each: the float that the integer stands for",
        "%y = cim.dequant(%x) scale=0.5: f32[1,10]",
    ),
    OpDef(
        "cim.quantize",
        (Operand("x", "num"),),
        (
            AttrDef("scale", "float"),
            AttrDef("zero", "int", 0),
            AttrDef("narrow", "int", 0, (0, 1)),
            AttrDef("rounding", "str", "ROUND", tuple(meaning.ROUNDING)),
            AttrDef("to", "str", "u8"),
        ),
        rules.quantize,
        meaning.quantize,
        "QONNX's Quant as an integer: x / scale + zero in float32, clipped to the range of `to`, "
        "one less with narrow=1, then rounded",
        '%y = cim.quantize(%x) scale=0.5 to="u4": u4[1,32,7,7]',
    ),
    OpDef(
        "cim.requant",
        (Operand("x"), Operand("scale", "num", const=True)),
        (AttrDef("zero", "int", 0), AttrDef("axis", "int", 1), AttrDef("to", "str", "u8")),
        rules.requant,
        meaning.requant,
        "f32(x) * scale[1] or scale[C], clamped to the range of `to` less zero, rounded half to "
        "even, + zero; all in float32",
        "%y = cim.requant(%x, %s) zero=128: u8[1,32,7,7]",
    ),
    OpDef(
        "cim.lut",
        (Operand("x"), Operand("table", "num", const=True)),
        (),
        rules.lut,
        meaning.lut,
        "table[x - lowest value of x's type]: any map of few integers",
        "%y = cim.lut(%x, %t): u8[1,32,7,7]",
    ),
    OpDef(
        "cim.sum_pool",
        (Operand("x"),),
        (AttrDef("kernel", "ints"), *_WINDOW, AttrDef("zero", "int", 0)),
        rules.sum_pool,
        meaning.sum_pool,
        "sum of x - zero over each window; padded taps count 0",
        "%y = cim.sum_pool(%x) kernel=[7,7] zero=128: i32[1,32,1,1]",
    ),
    OpDef(
        "cim.qadd",
        (Operand("x"), Operand("y")),
        (
            *(AttrDef(f"{x}_scale", "float") for x in "xy"),
            AttrDef("scale", "float"),
            *(AttrDef(f"{x}_zero", "int", 0) for x in "xy"),
            AttrDef("zero", "int", 0),
            AttrDef("fused", "int", 0, (0, 1)),
            AttrDef("to", "str", "u8"),
        ),
        rules.qadd,
        meaning.qadd,
        "(x - x_zero) * x_scale + (y - y_zero) * y_scale, / scale, rounded half to even, + zero, "
        "saturated; float32 steps as written, or with fused=1 those of QLinearAdd",
        "%z = cim.qadd(%x, %y) x_scale=0.5 y_scale=0.25 scale=0.5 zero=3: u8[1,32,7,7]",
    ),
    OpDef(
        "cim.concat",
        (Operand("x"), Operand("y")),
        (AttrDef("axis", "int", 1),),
        rules.concat,
        meaning.concat,
        "two tensors of one type, one behind the other along an axis; bip and tern make tern",
        "%z = cim.concat(%x, %y): u8[1,64,7,7]",
    ),
    OpDef(
        "cim.slice",
        (Operand("x"),),
        (AttrDef("start", "int"), AttrDef("stop", "int"), AttrDef("axis", "int", 1)),
        rules.slice_,
        meaning.slice_,
        "the elements start to stop - 1 along an axis",
        "%y = cim.slice(%x) start=0 stop=16: u8[1,16,7,7]",
    ),
    OpDef(
        "cim.take",
        (Operand("x"), Operand("index", const=True)),
        (AttrDef("axis", "int", 1),),
        rules.take,
        meaning.take,
        "along an axis, element index[i] of x for each i: an order, or more of some",
        "%y = cim.take(%x, %i): i32[1,32,7,7]",
        rules.take_index,
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
    OpDef(
        "cim.similar",
        (Operand("w", const=True),),
        (
            AttrDef("of", "str"),
            AttrDef("mode", "str", similar.MODE, MODES),
            AttrDef("b", "str", similar.B),
            AttrDef("c", "str", similar.C),
            AttrDef("axis", "int", 0),
        ),
        similar.types,
        similar.evaluate,
        "which of the kernels along `axis` are too similar to others: nearer than the mean less b "
        "variances of all distances to more than c of the others; `of` is w's element type",
        '%m = cim.similar(%w) of="bip" b="0.2": bool[64]',
    ),
)


def present(operands: Sequence[Any]) -> list[Any]:
    """What a row's functions get of the operands: up to the last that is there."""
    there = [i for i, operand in enumerate(operands) if operand is not None]
    return list(operands[: there[-1] + 1]) if there else []


TABLE: dict[str, OpDef] = {row.name: row for row in ROWS}

LAYERS = ("cim.conv", "cim.matmul")
"""The operations whose kernels lie on tiles."""
HOST = "cim.host"
"""A fragment that runs on the host: `%y = cim.host(%x) body=graph …`; its results are its
body's outputs, its operands the body's inputs in order. It has no row: any number of
operands and results of any type."""
