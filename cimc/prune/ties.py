"""What each operation ties: which indices of its operands and results go together.

One row an operation, in `TIES`. What has no row locks all it touches, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cimc.driver.layout import permutation
from cimc.frontend.windows import slices
from cimc.ir.graph import Node, layer_name
from cimc.prune.atoms import Atoms, Ties
from cimc.prune.layers import LAYERS

Rule = Callable[[Ties, Node], None]


def _broadcast(t: Ties, node: Node, slots: Sequence[int] | None = None) -> None:
    """Operands and results lie on each other from the last axis on."""
    result = t.atoms(node.outputs[0])
    for slot in range(len(node.inputs)) if slots is None else slots:
        axes = t.operand(node, slot)
        for atoms, other in zip(axes[::-1], result[::-1]):
            if len(atoms) == len(other):
                t.tie(atoms, other)


def _first(t: Ties, node: Node) -> None:
    """Element by element on the first operand alone; all others are single numbers."""
    for result in node.outputs[:1]:
        for atoms, other in zip(t.operand(node, 0), t.atoms(result)):
            t.tie(atoms, other)


def _spatial(t: Ties, node: Node, slot: int = 0) -> tuple[list[Atoms], list[Atoms]]:
    """Locks the spatial axes of the data and the result; returns the axes of both."""
    x, y = t.operand(node, slot), t.atoms(node.outputs[0])
    for atoms in (*x[2:], *y[2:]):
        t.lock_atoms(atoms, f"'{layer_name(node)}' slides over them")
    if x and y:
        t.tie(x[0], y[0])
    return x, y


def _conv(t: Ties, node: Node) -> None:
    row = LAYERS[node.op]
    x, y = _spatial(t, node, row.data)
    w = t.operand(node, row.weights)
    if len(x) < 2 or len(y) < 2 or len(w) < 2:
        t.unknown(node)
        return
    for atoms in w[2:]:
        t.lock_atoms(atoms, "they are taps of a kernel")
    group = node.int_attr("group", 1)
    if node.op == "onnx.ConvTranspose" and group > 1:
        t.unknown(node)
        return
    t.tie(w[row.out_axis], y[1])
    if not t.constant(node.arg(row.weights)):
        t.lock_atoms(x[1], f"'{layer_name(node)}' multiplies them with another result")
    _vectors(t, node, [s for s in range(len(node.inputs)) if s not in (row.data, row.weights)], y)
    if group == 1:
        t.tie(x[1], w[row.in_axis])
        return
    t.lock_atoms(w[1], "they are inputs of a group")
    if len(w[1]) > 1 and node.arg(row.weights).const is None:
        t.lock_atoms(x[1], f"the groups of '{layer_name(node)}' have stored weights")
    if len(w[1]) == 1:  # depthwise: each input has kernels of its own
        each = len(y[1]) // len(x[1])
        t.tie(np.repeat(x[1], each), y[1])


def _vectors(t: Ties, node: Node, slots: Sequence[int], y: list[Atoms], axis: int = 1) -> None:
    """Operands with one number for each channel of the result, or a whole map of them."""
    for slot in slots:
        axes = t.operand(node, slot)
        if len(axes) == 1 and len(axes[0]) == len(y[axis]):
            t.tie(axes[0], y[axis])
        elif len(axes) == len(y) and len(axes[axis]) == len(y[axis]):
            t.tie(axes[axis], y[axis])


def _both(t: Ties, node: Node, left: int, right: int, inner: Atoms) -> None:
    """Locks what two results are multiplied along: there are no kernels."""
    if not any(t.constant(node.arg(slot)) for slot in (left, right)):
        t.lock_atoms(inner, f"'{layer_name(node)}' multiplies two results along them")


def _product(t: Ties, node: Node) -> None:
    """Of tensors: the last axis of one is summed with the last but one of the other."""
    row = LAYERS[node.op]
    a, b, y = t.operand(node, row.data), t.operand(node, row.weights), t.atoms(node.outputs[0])
    if len(a) < 2 or len(b) < 2 or len(y) < 2:
        t.unknown(node)
        return
    t.tie(a[-1], b[-2])
    _both(t, node, row.data, row.weights, a[-1])
    t.tie(a[-2], y[-2])
    t.tie(b[-1], y[-1])
    for axes in (a, b):
        for atoms, other in zip(axes[-3::-1], y[-3::-1]):
            if len(atoms) == len(other):
                t.tie(atoms, other)
    others = [s for s in range(len(node.inputs)) if s not in (row.data, row.weights)]
    _vectors(t, node, others, y, len(y) - 1)


def _gemm(t: Ties, node: Node) -> None:
    row = LAYERS[node.op]
    a, b, y = t.operand(node, row.data), t.operand(node, row.weights), t.atoms(node.outputs[0])
    if len(a) != 2 or len(b) != 2:
        t.unknown(node)
        return
    rows, inner = a[::-1] if node.int_attr("transA", 0) else a
    inputs, outputs = b[::-1] if node.int_attr("transB", 0) else b
    t.tie(inner, inputs)
    if not t.constant(node.arg(row.weights)):
        t.lock_atoms(inner, f"'{layer_name(node)}' multiplies two results along them")
    t.tie(rows, y[0])
    t.tie(outputs, y[1])
    if row.bias is not None and node.operand(row.bias) is not None:
        _broadcast(t, node, [row.bias])
    _vectors(t, node, [s for s in (row.zero, 4) if s is not None and row.zero is not None], y)


def _pool(t: Ties, node: Node) -> None:
    x, y = _spatial(t, node)
    if len(x) < 2:
        t.unknown(node)
        return
    t.tie(x[1], y[1])
    for result in node.outputs[1:]:
        t.lock(result, f"'{layer_name(node)}' gives their places")


def _norm(t: Ties, node: Node) -> None:
    x = t.operand(node, 0)
    if len(x) < 2 or not node.int_attr("spatial", 1) or len(node.outputs) > 1:
        t.unknown(node)
        return
    _first(t, node)
    if node.op == "onnx.InstanceNormalization":
        for atoms in x[2:]:
            t.lock_atoms(atoms, f"'{layer_name(node)}' sums over them")
    _vectors(t, node, range(1, len(node.inputs)), x)


def _quantiser(t: Ties, node: Node) -> None:
    x = t.operand(node, 0)
    if node.int_attr("block_size", 0):
        t.unknown(node)
        return
    _first(t, node)
    axis = node.int_attr("axis", 1)
    if x and -len(x) <= axis < len(x):
        _vectors(t, node, range(1, len(node.inputs)), x, axis % len(x))


def _along(t: Ties, node: Node) -> None:
    """Softmax and the like: the numbers along an axis depend on each other."""
    x, axis = t.operand(node, 0), node.int_attr("axis", 1 if node.op == "onnx.LRN" else -1)
    if not x:
        t.unknown(node)
        return
    old = t.graph.opsets.get("onnx", 13) < 13 and node.op != "onnx.LRN"
    axis %= len(x)
    for atoms in x[axis:] if old else [x[axis]]:
        t.lock_atoms(atoms, f"they go through {node.op[5:]} '{layer_name(node)}'")
    _first(t, node)


def _reduce(t: Ties, node: Node) -> None:
    x, y = t.operand(node, 0), t.atoms(node.outputs[0])
    axes = node.ints_attr("axes") or (node.int_attr("axis", 0),) * node.op.startswith("onnx.Arg")
    given = node.operand(1)
    if given is not None and given.const is not None:
        axes = tuple(int(v) for v in given.const.reshape(-1))
    if not x or (given is not None and given.const is None):
        t.unknown(node)
        return
    gone = {a % len(x) for a in axes} or set(range(len(x)))
    kept = [i for i in range(len(x)) if i not in gone]
    keep = bool(node.int_attr("keepdims", 1))
    for i in gone:
        t.lock_atoms(x[i], f"they go through {node.op[5:]} '{layer_name(node)}'")
    for at, i in enumerate(kept):
        t.tie(x[i], y[i if keep else at])


def _regroup(t: Ties, node: Node) -> None:
    t.regroup(node)


def _transpose(t: Ties, node: Node) -> None:
    x, y = t.operand(node, 0), t.atoms(node.outputs[0])
    for i, axis in enumerate(permutation(node)):
        t.tie(x[axis], y[i])


def _concat(t: Ties, node: Node) -> None:
    y = t.atoms(node.outputs[0])
    axis = node.int_attr("axis", 1) % max(1, len(y))
    start = 0
    for slot in range(len(node.inputs)):
        x = t.operand(node, slot)
        for i, (atoms, other) in enumerate(zip(x, y)):
            t.tie(atoms, other[start : start + len(atoms)] if i == axis else other)
        start += len(x[axis]) if x else 0


def _cut(t: Ties, node: Node) -> None:
    """Slice and Split by constants, in steps of one."""
    native = node.op == "cim.slice"
    own = (node.int_attr("axis", 1), node.int_attr("start", 0), node.int_attr("stop", 0))
    parts = [[own]] if native else slices(node)
    x = t.operand(node, 0)
    if parts is None or not x:
        t.unknown(node)
        return
    for result, cuts in zip(node.outputs, parts):
        spans = {axis: slice(first, last) for axis, first, last in cuts}
        for i, (atoms, other) in enumerate(zip(x, t.atoms(result))):
            t.tie(atoms[spans.get(i, slice(None))], other)


def _gather(t: Ties, node: Node) -> None:
    """By constant indices along an axis."""
    x, y, index = t.operand(node, 0), t.atoms(node.outputs[0]), node.arg(1).const
    if index is None or index.ndim != 1 or len(x) != len(y) or node.arg(0).const is not None:
        t.unknown(node)
        return
    axis = node.int_attr("axis", 1 if node.op == "cim.take" else 0) % len(x)
    chosen: Any = index
    for i, (atoms, other) in enumerate(zip(x, y)):
        t.tie(atoms[chosen] if i == axis else atoms, other)


def _same_sizes(t: Ties, node: Node) -> None:
    """Pad, Resize, Expand: axes that keep their size keep their indices."""
    x, y = t.operand(node, 0), t.atoms(node.outputs[0])
    if len(x) != len(y):
        t.unknown(node)
        return
    for i, (atoms, other) in enumerate(zip(x, y)):
        if len(atoms) == len(other) and i < 2:
            t.tie(atoms, other)
            continue
        for side in (atoms, other):
            t.lock_atoms(side, f"'{layer_name(node)}' changes their number")


def _thresholds(t: Ties, node: Node) -> None:
    """Element by element, with constants [C] or [C, T] along an axis."""
    x = t.operand(node, 0)
    if not x:
        t.unknown(node)
        return
    axis = node.int_attr("axis", 1)
    if node.op == "qonnx.MultiThreshold":
        last = str(node.attrs.get("data_layout", "NCHW")).endswith("C") and len(x) > 2
        axis = len(x) - 1 if last else 1
    _first(t, node)
    for slot in range(1, len(node.inputs)):
        axes = t.operand(node, slot)
        if axes and axis < len(x) and len(axes[0]) == len(x[axis]):
            t.tie(axes[0], x[axis])
        for atoms in axes[1:]:
            t.lock_atoms(atoms, "they are levels")


def _qlinear_sum(t: Ties, node: Node) -> None:
    _broadcast(t, node, (0, 3))


ELEMENTWISE = (
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift",
    "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "Ceil", "Celu", "Clip",
    "Cos", "Cosh", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater",
    "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu",
    "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not",
    "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign",
    "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh",
    "ThresholdedRelu", "Where", "Xor",
)  # fmt: skip
_REDUCTIONS = (
    "ArgMax", "ArgMin", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax",
    "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip

TIES: dict[str, Rule] = {
    **{f"onnx.{name}": _broadcast for name in ELEMENTWISE},
    **{f"onnx.{name}": _reduce for name in _REDUCTIONS},
    **dict.fromkeys(("cim.add", "cim.qadd", "qonnx.Quant", "qonnx.IntQuant",
                     "qonnx.BipolarQuant", "qonnx.Trunc", "ms.Gelu", "ms.QuickGelu"), _broadcast),
    **dict.fromkeys(("cim.sign", "cim.dequant", "cim.quantize", "cim.relu", "cim.lut",
                     "onnx.DynamicQuantizeLinear", "onnx.CastLike", "ms.QLinearLeakyRelu",
                     "ms.QLinearSigmoid"), _first),
    **dict.fromkeys(("onnx.Conv", "onnx.ConvTranspose", "onnx.ConvInteger", "onnx.QLinearConv",
                     "cim.conv"), _conv),
    **dict.fromkeys(("onnx.MatMul", "onnx.MatMulInteger", "onnx.QLinearMatMul",
                     "cim.matmul"), _product),
    **dict.fromkeys(("onnx.Gemm", "ms.QGemm"), _gemm),
    **dict.fromkeys(("onnx.MaxPool", "onnx.AveragePool", "onnx.LpPool", "onnx.GlobalAveragePool",
                     "onnx.GlobalMaxPool", "onnx.GlobalLpPool", "cim.max_pool",
                     "cim.sum_pool"), _pool),
    **dict.fromkeys(("onnx.BatchNormalization", "onnx.InstanceNormalization"), _norm),
    **dict.fromkeys(("onnx.QuantizeLinear", "onnx.DequantizeLinear", "ms.QuantizeLinear",
                     "ms.DequantizeLinear"), _quantiser),
    **dict.fromkeys(("ms.QLinearAdd", "ms.QLinearMul"), _qlinear_sum),
    **dict.fromkeys(("onnx.Softmax", "onnx.LogSoftmax", "onnx.Hardmax", "onnx.LRN"), _along),
    **dict.fromkeys(("onnx.Reshape", "onnx.Flatten", "onnx.Squeeze", "onnx.Unsqueeze",
                     "cim.reshape"), _regroup),
    **dict.fromkeys(("onnx.Transpose", "cim.transpose"), _transpose),
    **dict.fromkeys(("onnx.Concat", "cim.concat"), _concat),
    **dict.fromkeys(("onnx.Slice", "onnx.Split", "cim.slice"), _cut),
    **dict.fromkeys(("onnx.Gather", "cim.take"), _gather),
    **dict.fromkeys(("onnx.Pad", "onnx.Resize", "onnx.Upsample"), _same_sizes),
    **dict.fromkeys(("cim.threshold", "cim.requant", "qonnx.MultiThreshold"), _thresholds),
}  # fmt: skip
"""What each operation ties."""
