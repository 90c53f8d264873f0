"""ONNX operators as operations of the compiled kernels.

Each function writes the code of one operator: what onnxruntime's kernel does, in its order of
roundings. An operator or operand that the kernels don't have is `Refused`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from cimc.frontend.session import open_session
from cimc.sim.fragments import kernels as c
from cimc.sim.fragments.block import WIDE, Block, Refused, Register
from cimc.sim.fragments.graph import Array, FragmentGraph, attributes

_RANGES = {c.I8: (-128, 127), c.U8: (0, 255), c.I32: (-(2**31), 2**31 - 1)}
# element types that hold every value of another
_HOLDS = {
    c.BOOL: (c.BOOL, c.I8, c.U8, c.F32, c.I32, c.F64),
    c.I8: (c.I8, c.F32, c.I32, c.F64),
    c.U8: (c.U8, c.F32, c.I32, c.F64),
    c.F32: (c.F32, c.F64),
    c.I32: (c.I32, c.F64),
    c.F64: (c.F64,),
}

Writer = Callable[[Block, NodeProto, tuple[int, ...]], Register]


def write(block: Block, node: NodeProto) -> None:
    """Add a node to a block. Raises Refused."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in _WRITERS:
        raise Refused
    name = node.output[0]
    if any(node.output[1:]):
        raise Refused
    register = _WRITERS[node.op_type](block, node, block.graph.tensors[name].shape)
    if (block.elem(name) in WIDE) != (register.kind == "wide"):
        raise Refused
    block.define(name, register)


def _arithmetic(narrow: int, wide: int) -> Writer:
    def writer(block: Block, node: NodeProto, shape: tuple[int, ...]) -> Register:
        first, second = node.input
        elem = block.elem(first)
        if elem == c.F64:
            return block.emit(wide, "wide", block.wide(first, shape), block.wide(second, shape))
        if elem != c.F32:
            raise Refused
        return _vectors(block, narrow, first, second, shape)

    return writer


def _vectors(block: Block, op: int, first: str, second: str, shape: tuple[int, ...]) -> Register:
    """`op` on float32; the forms with a single number where an operand is one."""
    singles = {c.MUL: c.TIMES, c.ADD: c.PLUS, c.SUB: c.PLUS}
    if op in (c.MUL, c.ADD) and block.graph.tensors[first].size < block.size:
        first, second = second, first
    number = block.single(second, shape, negated=op == c.SUB) if op in singles else None
    if number is None:
        return block.emit(op, "vector", block.vector(first, shape), block.vector(second, shape))
    if singles[op] == c.PLUS and _last_times(block, first):
        times = block.code.pop()
        return block.emit(c.TIMES_PLUS, "vector", *times.args, number)
    return block.emit(singles[op], "vector", block.vector(first, shape), number)


def _last_times(block: Block, name: str) -> bool:
    """Whether the last instruction made a value, as a product, that nobody else uses."""
    made = block.held(name)
    last = block.code[-1] if block.code else None
    if last is None or made is None or last.to is not made or last.op != c.TIMES:
        return False
    return block.uses[block.graph.root(name)] == 1


def _min_max(op: int) -> Writer:
    def writer(block: Block, node: NodeProto, shape: tuple[int, ...]) -> Register:
        found = block.vector(node.input[0], shape)
        for name in node.input[1:]:
            found = block.emit(op, "vector", found, block.vector(name, shape))
        return found

    return writer


def _compare(narrow: int, wide: int, swapped: bool = False) -> Writer:
    def writer(block: Block, node: NodeProto, shape: tuple[int, ...]) -> Register:
        first, second = reversed(node.input) if swapped else node.input
        if block.elem(first) in WIDE:
            operands = block.wide(first, shape), block.wide(second, shape)
            return block.emit(wide, "vector", *operands)
        return block.emit(narrow, "vector", block.vector(first, shape), block.vector(second, shape))

    return writer


def _logic(op: int) -> Writer:
    def writer(block: Block, node: NodeProto, shape: tuple[int, ...]) -> Register:
        operands = [block.vector(name, shape) for name in node.input]
        return block.emit(op, "vector", *operands)

    return writer


def _invert(block: Block, truth: Register) -> Register:
    """1 - truth."""
    minus, one = block.literal(-1, "single"), block.literal(1, "single")
    return block.emit(c.TIMES_PLUS, "vector", truth, minus, one)


def _not(block: Block, node: NodeProto, shape: tuple[int, ...]) -> Register:
    return _invert(block, block.vector(node.input[0], shape))


def _xor(block: Block, node: NodeProto, shape: tuple[int, ...]) -> Register:
    return _invert(block, _logic(c.EQUAL)(block, node, shape))


def _round(narrow: int, wide: int) -> Writer:
    def writer(block: Block, node: NodeProto, shape: tuple[int, ...]) -> Register:
        name = node.input[0]
        if block.elem(name) == c.F64:
            return block.emit(wide, "wide", block.wide(name, shape))
        return block.emit(narrow, "vector", _float(block, name, shape))

    return writer


def _float(block: Block, name: str, shape: tuple[int, ...]) -> Register:
    if block.elem(name) != c.F32:
        raise Refused
    return block.vector(name, shape)


def _negate(block: Block, node: NodeProto, shape: tuple[int, ...]) -> Register:
    x = _float(block, node.input[0], shape)
    return block.emit(c.TIMES, "vector", x, block.literal(-1, "single"))


def _ceil(block: Block, node: NodeProto, shape: tuple[int, ...]) -> Register:
    """-floor(-x)"""
    down = block.emit(c.FLOOR, "vector", _negate(block, node, shape))
    return block.emit(c.TIMES, "vector", down, block.literal(-1, "single"))


def _abs(block: Block, node: NodeProto, shape: tuple[int, ...]) -> Register:
    """max(x, -x); adding 0 makes one zero of both."""
    x = _float(block, node.input[0], shape)
    largest = block.emit(c.MAX, "vector", x, _negate(block, node, shape))
    return block.emit(c.PLUS, "vector", largest, block.literal(0, "single"))


def _relu(block: Block, node: NodeProto, shape: tuple[int, ...]) -> Register:
    return block.emit(c.RELU, "vector", _float(block, node.input[0], shape))


def _sign(block: Block, node: NodeProto, shape: tuple[int, ...]) -> Register:
    """(0 < x) - (x < 0); CLIP marks what is no number."""
    largest = float(np.finfo(np.float32).max)
    bounds = block.number(-largest, largest)
    x = block.emit(c.CLIP, "vector", _float(block, node.input[0], shape), bounds)
    zero = block.literal(0, "vector")
    above = block.emit(c.LESS, "vector", zero, x)
    return block.emit(c.SUB, "vector", above, block.emit(c.LESS, "vector", x, zero))


def _clip(block: Block, node: NodeProto, shape: tuple[int, ...]) -> Register:
    elem = block.elem(node.input[0])
    if elem not in (c.F32, c.F64):
        raise Refused
    dtype = np.float64 if elem == c.F64 else np.float32
    limits = [float(np.finfo(dtype).min), float(np.finfo(dtype).max)]
    given = attributes(node)
    for at, key in enumerate(("min", "max")):
        if len(node.input) > at + 1 and node.input[at + 1]:
            array = block.graph.constant(node.input[at + 1])
            if array is None:
                raise Refused
            limits[at] = float(array.reshape(()))
        elif key in given:
            limits[at] = float(given[key])
    bounds = block.number(*limits)
    if elem == c.F64:
        return block.emit(c.WCLIP, "wide", block.wide(node.input[0], shape), bounds)
    return block.emit(c.CLIP, "vector", block.vector(node.input[0], shape), bounds)


def _where(block: Block, node: NodeProto, shape: tuple[int, ...]) -> Register:
    return block.emit(c.SELECT, "vector", *(block.vector(name, shape) for name in node.input))


def _cast(block: Block, node: NodeProto, shape: tuple[int, ...]) -> Register:
    name = node.input[0]
    source, target = block.elem(name), block.elem(node.output[0])
    if source == c.I32 and target == c.F32 and block.held(name) is None:
        return block.vector(name, shape)  # a load converts
    x = block.wide(name, shape) if source in WIDE else block.vector(name, shape)
    if target == c.BOOL and source != c.BOOL:
        op = c.WEQUAL if x.kind == "wide" else c.EQUAL
        return _invert(block, block.emit(op, "vector", x, block.literal(0, x.kind)))
    if target in _RANGES and target not in _HOLDS[source]:
        x = _whole(block, x, target)
    if target in WIDE and x.kind == "vector":
        return block.emit(c.WIDEN, "wide", x)
    if target not in WIDE and x.kind == "wide":
        return block.emit(c.NARROW, "vector", x)
    return x


def _whole(block: Block, x: Register, target: int) -> Register:
    """Without the fraction; marks what the target type doesn't hold."""
    bounds = block.number(*_RANGES[target])
    if target == c.I32 and x.kind == "vector":
        x = block.emit(c.WIDEN, "wide", x)
    return block.emit(c.WTRUNC if x.kind == "wide" else c.TRUNC, x.kind, x, bounds)


def _quantize(block: Block, node: NodeProto, shape: tuple[int, ...]) -> Register:
    scale, zero = _quantiser(block, node)
    target = block.elem(node.output[0])
    if target not in (c.I8, c.U8) or zero.size != 1:
        raise Refused
    offset = float(zero.reshape(()))
    low, high = _RANGES[target]
    x = _float(block, node.input[0], shape)
    divided = block.emit(c.DIV, "vector", x, block.constant_vector(scale, shape))
    bounds = block.number(low - offset, high - offset)
    whole = block.emit(c.ROUND, "vector", block.emit(c.CLIP, "vector", divided, bounds))
    return block.emit(c.PLUS, "vector", whole, block.literal(offset, "single"))


def _dequantize(block: Block, node: NodeProto, shape: tuple[int, ...]) -> Register:
    scale, zero = _quantiser(block, node)
    source = block.elem(node.input[0])
    if source not in (c.I8, c.U8, c.I32) or (source == c.I32 and zero.any()):
        raise Refused
    if source == c.I32 and block.held(node.input[0]) is not None:
        x = block.emit(c.NARROW, "vector", block.wide(node.input[0], shape))
    else:
        x = block.vector(node.input[0], shape)
    if zero.any():
        x = block.emit(c.SUB, "vector", x, block.constant_vector(zero.astype(np.float32), shape))
    return block.emit(c.MUL, "vector", x, block.constant_vector(scale, shape))


def _quantiser(block: Block, node: NodeProto) -> tuple[Array, Array]:
    """Scale and zero point, constant, in a shape that broadcasts."""
    given = attributes(node)
    if given.get("block_size", 0):
        raise Refused
    scale = block.graph.constant(node.input[1])
    zero = block.graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if scale is None or scale.dtype != np.float32 or (zero is None and any(node.input[2:])):
        raise Refused
    zero = np.zeros((1,), np.int8) if zero is None else zero
    rank = len(block.graph.tensors[node.input[0]].shape)
    axis = int(given.get("axis", 1)) % max(1, rank)
    return tuple(
        a.reshape((-1, *(1,) * (rank - 1 - axis))) if a.ndim == 1 and a.size > 1 else a.reshape(())
        for a in (scale, np.unique(zero) if np.unique(zero).size == 1 else zero)
    )  # type: ignore[return-value]


def _batch_norm(block: Block, node: NodeProto, shape: tuple[int, ...]) -> Register:
    tail = (-1, *(1,) * (len(shape) - 2))
    factor, term = (array.reshape(tail) for array in folded_norm(block.graph, node))
    x = _float(block, node.input[0], shape)
    single = block.constant_single(factor, shape)
    plus = block.constant_single(term, shape)
    if single is not None and plus is not None:
        return block.emit(c.TIMES_PLUS, "vector", x, single, plus)
    scaled = block.emit(c.MUL, "vector", x, block.constant_vector(factor, shape))
    return block.emit(c.ADD, "vector", scaled, block.constant_vector(term, shape))


def folded_norm(graph: FragmentGraph, node: NodeProto) -> tuple[Array, Array]:
    """Factor and term of each channel as onnxruntime folds them: its own results for x = 1 of
    the same node without mean and bias, and for x = 0. Refused where x * factor + term, each
    rounded, isn't what onnxruntime gives."""
    parameters = [graph.constant(name) for name in node.input[1:]]
    if len(graph.tensors[node.input[0]].shape) < 2 or attributes(node).get("training_mode", 0):
        raise Refused
    if any(p is None or p.dtype != np.float32 for p in parameters) or graph.opset < 9:
        raise Refused
    given = dict(zip(("scale", "bias", "mean", "var"), parameters, strict=True))
    channels = len(given["scale"])  # type: ignore[arg-type]
    small = NodeProto()
    small.CopyFrom(node)
    del small.input[:], small.output[:]
    small.input.extend(["x", *given])
    small.output.append("y")
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", *given)]
    made = helper.make_graph([small], "norm", infos, [onnx.ValueInfoProto(name="y")])
    opset = helper.make_opsetid("", graph.opset)
    model = helper.make_model(made, opset_imports=[opset], ir_version=8)
    session = open_session(model.SerializeToString(), "batch normalisation", threads=1)
    shape = (1, channels, 1, 4)
    none = np.zeros(channels, np.float32)
    ones = {"x": np.ones(shape, np.float32), **given, "bias": none, "mean": none}
    factor = session.run(None, ones)[0][0, :, 0, 0]
    term = session.run(None, {"x": np.zeros(shape, np.float32), **given})[0][0, :, 0, 0]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    found = session.run(None, {"x": x, **given})[0]
    if not np.array_equal(found, x * factor[:, None, None] + term[:, None, None], equal_nan=True):
        raise Refused
    return factor, term


_WRITERS: dict[str, Writer] = {
    "Add": _arithmetic(c.ADD, c.WADD),
    "Sub": _arithmetic(c.SUB, c.WSUB),
    "Mul": _arithmetic(c.MUL, c.WMUL),
    "Div": _arithmetic(c.DIV, c.WDIV),
    "Min": _min_max(c.MIN),
    "Max": _min_max(c.MAX),
    "Less": _compare(c.LESS, c.WLESS),
    "LessOrEqual": _compare(c.LESS_EQUAL, c.WLESS_EQUAL),
    "Greater": _compare(c.LESS, c.WLESS, swapped=True),
    "GreaterOrEqual": _compare(c.LESS_EQUAL, c.WLESS_EQUAL, swapped=True),
    "Equal": _compare(c.EQUAL, c.WEQUAL),
    "And": _logic(c.MUL),
    "Or": _logic(c.MAX),
    "Xor": _xor,
    "Not": _not,
    "Floor": _round(c.FLOOR, c.WFLOOR),
    "Round": _round(c.ROUND, c.WROUND),
    "Ceil": _ceil,
    "Neg": _negate,
    "Abs": _abs,
    "Relu": _relu,
    "Sign": _sign,
    "Clip": _clip,
    "Where": _where,
    "Cast": _cast,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "BatchNormalization": _batch_norm,
}
