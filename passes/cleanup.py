"""Constants, identities, dead code: what any exporter leaves behind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cimc.driver import Pass, PassContext, Rewriter
from cimc.driver.layout import RESHAPES
from cimc.driver.rewrite import FLOAT_LAYERS, RANDOM
from cimc.errors import CompileError
from cimc.frontend.elements import code_of
from cimc.frontend.evaluate import Evaluator, outline
from cimc.frontend.importer import refine_types
from cimc.frontend.quantisers import DEQUANTIZE, QUANTIZE
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.ops import HOST
from cimc.ir.types import TensorType

# Kept although all their operands may be constants: they say how a weight is encoded, or
# they are not functions of their operands, or are computed on the chip.
_KEEP = {
    *QUANTIZE, *DEQUANTIZE, "onnx.DynamicQuantizeLinear", *RANDOM, "onnx.Dropout", HOST,
    "cim.similar",
}  # fmt: skip
# A folded constant may be this much larger than what it is made from.
_GROWTH, _SMALL = 4, 1 << 16


def _forward(graph: Graph) -> bool:
    """`y = Identity(x)` and, in inference, `y = Dropout(x)` ⇒ x."""
    rw, used, gone = Rewriter(graph), _used(graph), set()
    for node in graph.nodes:
        if node.op not in ("onnx.Identity", "onnx.Dropout") or len(node.inputs) < 1:
            continue
        training = node.operand(2)
        if training is not None and (training.const is None or bool(training.const)):
            continue
        x, y = node.arg(0), node.outputs[0]
        if len(node.outputs) > 1 and node.outputs[1] in used:
            continue
        if y in graph.outputs and (x in graph.inputs or x in graph.outputs):
            continue
        gone.add(node)
        rw.replace(y, x, keep_name=y in graph.outputs)
    graph.nodes = [n for n in graph.nodes if n not in gone]
    return rw.changed


def _used(graph: Graph) -> set[Value]:
    return {v for n in graph.nodes for v in n.reads()} | set(graph.outputs)


def _shape_of(node: Node) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None:
    if node.op not in ("onnx.Shape", "onnx.Size") or not isinstance(node.arg(0).type, TensorType):
        return None
    static = node.arg(0).tensor.static
    if static is None:
        return None
    if node.op == "onnx.Size":
        return np.asarray(np.prod(static), np.int64)
    start, end = node.int_attr("start", 0), node.int_attr("end", len(static))
    return np.asarray(static[start:end], np.int64)


def _fold_shapes(graph: Graph) -> bool:
    """`Shape(x)` with a known shape ⇒ a constant."""
    changed = False
    for node in list(graph.nodes):
        array = _shape_of(node)
        if array is None or node.output in graph.outputs:
            continue
        graph.nodes.remove(node)
        value = graph.const(node.output.name, array, TensorType("i64", array.shape))
        graph.replace(node.output, value)
        changed = True
    return changed


def _name_casts(graph: Graph) -> bool:
    """`CastLike(x, y)`, y of a known type ⇒ `Cast(x)`, which does not read y."""
    changed = False
    for node in graph.nodes:
        if node.op != "onnx.CastLike" or not isinstance(node.arg(1).type, TensorType):
            continue
        code = code_of(node.arg(1).elem)
        node.op, node.inputs = "onnx.Cast", node.inputs[:1]
        node.attrs = {**node.attrs, "to": code}
        changed = True
    return changed


def _stores_weights(node: Node, users: dict[Value, list[Node]]) -> bool:
    """Whether a layout operation hands weights to float layers: onnxruntime sums products with
    a constant in another order than those with a result, so that the bits would change."""
    if node.op not in (*RESHAPES, "onnx.Transpose") or node.outputs[0].elem != "f32":
        return False
    return any(user.op in FLOAT_LAYERS for user in users.get(node.outputs[0], ()))


def _foldable(graph: Graph) -> list[Node]:
    known, users = set(graph.consts), graph.users()
    found = []
    for node in graph.nodes:
        one_bit = node.op == "qonnx.BipolarQuant"
        if node.op in _KEEP or (node.domain == "qonnx" and not one_bit) or not node.inputs:
            continue
        if _stores_weights(node, users):
            continue
        if node.graphs() or any(v is not None and v not in known for v in node.inputs):
            continue
        if any(v in graph.outputs or not isinstance(v.type, TensorType) for v in node.outputs):
            continue
        known.update(node.outputs)
        found.append(node)
    return found


def _fold_constants(graph: Graph) -> bool:
    """An operation on constants ⇒ its value, computed as it would be at run time."""
    nodes = _foldable(graph)
    if not nodes:
        return False
    part = outline(graph, nodes)
    try:
        results = Evaluator(part)({})
    except CompileError:
        return False  # an operation that fails on its constants fails when the model runs
    budget = _SMALL + _GROWTH * sum(v.const.size for v in part.consts if v.const is not None)
    if sum(np.size(a) for a in results.values()) > budget:
        return False
    for value, array in zip(part.outputs, results.values()):
        value.type, value.const = TensorType(value.elem, array.shape), array
        graph.consts.append(value)
    graph.nodes = [n for n in graph.nodes if n not in set(nodes)]
    return True


def _unknown(graph: Graph) -> bool:
    return any(
        not isinstance(v.type, TensorType) or v.type.static is None
        for n in graph.nodes
        for v in n.outputs
    )


@dataclass(frozen=True)
class Cleanup(Pass):
    """Rules:
    1. `Identity(x)`, `Dropout(x)` in inference ⇒ `x`
    2. `Shape(x)`, `Size(x)` of a known shape ⇒ a constant
    3. an operation on constants ⇒ a constant (not quantisers, which say how weights are coded,
       nor the layout of a float layer's weights)
    4. an operation or constant that nobody uses ⇒ nothing
    5. `CastLike(x, y)` ⇒ `Cast(x)` to the type of y
    """

    name = "cleanup"
    summary = "fold constants and shapes, drop identities and dead code"
    kind = "exact"
    repeat = True

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        changed = graph.remove_dead()
        changed |= _forward(graph)
        changed |= _name_casts(graph)
        folded = _fold_shapes(graph)
        folded |= _fold_constants(graph)
        if folded and _unknown(graph):
            refine_types(graph)
        return graph.remove_dead() or changed or folded
