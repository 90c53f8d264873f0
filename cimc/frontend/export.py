"""Graph IR to ONNX: whole models, and the fragments that run on the host.

Native operations and QONNX operators become the ONNX nodes of their definition; everything
else goes out as it came in. Files carry a conservative `ir_version`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
    defs,
    helper,
    numpy_helper,
)

from cimc.errors import CompileError
from cimc.frontend import expand_qonnx
from cimc.frontend.domains import DOMAIN
from cimc.frontend.elements import carrier, code_of
from cimc.frontend.emitter import Emitter
from cimc.frontend.expand import expand
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.names import Names
from cimc.ir.ops import HOST, TABLE
from cimc.ir.types import AnyType, Array, OptType, SeqType, TensorType, Type
from cimc.textfile import write_bytes

DEFAULT_OPSET = 13
"""For graphs that name none: old enough for every runtime, new enough for int8 kernels."""


def to_onnx(graph: Graph) -> ModelProto:
    """The graph as an ONNX model that onnxruntime runs. Inputs and outputs have the graph's
    ONNX names. Raises CompileError for a placed graph."""
    if graph.places:
        raise CompileError(
            "a placed graph has no ONNX form",
            f"@{graph.name}",
            help="export before legalise, split-tiles and allocate-tiles",
        )
    opsets = {"onnx": DEFAULT_OPSET} | graph.opsets
    names = _names(graph)
    taken = Names({*names.values(), *graph.output_names, *(v.name for v in graph.all_values())})
    proto = _graph(graph, opsets["onnx"], taken, names)
    used = {"onnx"} | {n.domain for n in _all_nodes(graph)} - {"cim", "qonnx"}
    imports = [helper.make_opsetid(DOMAIN.get(p, p), opsets.get(p, 1)) for p in sorted(used)]
    version = min(10, max(8, helper.find_min_ir_version_for(imports, ignore_unknown=True)))
    return helper.make_model(proto, opset_imports=imports, ir_version=version, producer_name="cimc")


def _names(graph: Graph) -> dict[Value, str]:
    """Names that differ in ONNX: those of the interface, and those that would clash with one.
    An output that is also an input, or appears twice, keeps its first name."""
    names: dict[Value, str] = {}
    for value, name in zip(graph.inputs, graph.input_names):
        names[value] = name
    for value, name in zip(graph.outputs, graph.output_names):
        if not _packs(value):  # what goes out under the name is made of it
            names.setdefault(value, name)
    reserved = set(graph.input_names) | set(graph.output_names)
    authority = Names(reserved | {v.name for v in graph.all_values()})
    for value in graph.all_values():
        if value not in names and value.name in reserved:
            names[value] = authority.fresh(value.name)
    return names


def _packs(value: Value) -> bool:
    """Whether ONNX has a type of less than a byte for a value."""
    return bool(value.elem) and carrier(value.elem) != code_of(value.elem)


def _all_nodes(graph: Graph) -> list[Node]:
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes.append(node)
        for inner in node.graphs():
            nodes += _all_nodes(inner)
    return nodes


def _graph(graph: Graph, opset: int, taken: Names, names: dict[Value, str]) -> GraphProto:
    e = Emitter(opset, taken)
    for value in graph.consts:
        e.initialisers.append(_tensor(value, names.get(value, value.name)))
    _emit(graph, e, names)
    _drop_unused(graph, e, names)
    outputs = []
    for i, value in enumerate(graph.outputs):
        name = names.get(value, value.name)
        wanted = graph.output_names[i] if graph.output_names else name
        passed_on = value in graph.inputs or value.const is not None
        if (passed_on and not graph.output_names) or (wanted == name and name in e.packed):
            wanted = e.fresh(name)  # nobody asks for the name, and some runtimes insist
        if name in e.packed:
            e.cast(name, carrier(value.elem), wanted)
        elif wanted != name:
            e.node("Identity", name, out=wanted)
        outputs.append(_info(wanted, value.type))
    inputs = [_info(names.get(v, v.name), v.type) for v in graph.inputs]
    return helper.make_graph(e.nodes, graph.name, inputs, outputs, e.initialisers)


def _drop_unused(graph: Graph, e: Emitter, names: dict[Value, str]) -> None:
    """Constants of operations that wrote them anew: native layers do."""
    read = {names.get(v, v.name) for n in _all_nodes(graph) for v in n.reads()}
    used = {names.get(v, v.name) for v in graph.outputs} | _read_names(e.nodes)
    e.initialisers[:] = [t for t in e.initialisers if t.name in used or t.name not in read]


def _read_names(nodes: Iterable[NodeProto]) -> set[str]:
    """All names that nodes read, in their subgraphs too."""
    used: set[str] = set()
    for node in nodes:
        used.update(node.input)
        for attr in node.attribute:
            for inner in [attr.g, *attr.graphs] if attr.type in _GRAPHS else ():
                used |= _read_names(inner.node) | {o.name for o in inner.output}
    return used


_GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


def _read(node: Node, e: Emitter, names: dict[Value, str]) -> list[str]:
    """The names of a node's operands. ONNX's 4-bit types live between ONNX operators only:
    elsewhere their values travel in bytes."""
    ins = []
    for value in node.inputs:
        name = "" if value is None else names.get(value, value.name)
        if value is not None and carrier(value.elem or "f32") != code_of(value.elem or "f32"):
            packed = value.const is not None or name in e.packed
            if node.op in TABLE and packed and value.const is None:
                name = e.cast(name, carrier(value.elem))
            elif node.op not in TABLE and not packed:
                name = e.cast(name, code_of(value.elem))
        ins.append(name)
    return ins


def _emit(graph: Graph, e: Emitter, names: dict[Value, str]) -> None:
    for node in graph.nodes:
        ins = _read(node, e, names)
        outs = [names.get(v, v.name) for v in node.outputs]
        if node.op == HOST:
            _inline(node, e, names)
        elif node.op in TABLE:
            expand(e, node, ins, outs[0])
        elif node.op in expand_qonnx.EXPAND:
            expand_qonnx.EXPAND[node.op](e, node, ins, outs[0])
        else:
            small = [v for v in node.outputs if _packs(v)]
            e.packed.update(names.get(v, v.name) for v in small)
            e.nodes.append(_node(node, ins, outs, e, names))


def _inline(node: Node, e: Emitter, names: dict[Value, str]) -> None:
    """A host fragment's body in the place of the fragment."""
    (body,) = node.graphs()
    inner = dict(names)
    for param, arg in zip(body.inputs, node.inputs):
        assert arg is not None
        inner[param] = names.get(arg, arg.name)
    made = {v for n in body.nodes for v in n.outputs}
    for value, result in zip(body.outputs, node.outputs):
        if value in made and value not in inner:
            inner[value] = names.get(result, result.name)
    for value in body.consts:
        e.initialisers.append(_tensor(value, value.name))
    _emit(body, e, inner)
    for value, result in zip(body.outputs, node.outputs):
        wanted = names.get(result, result.name)
        if inner.get(value, value.name) != wanted:
            e.node("Identity", inner.get(value, value.name), out=wanted)


def _node(node: Node, ins: list[str], outs: list[str], e: Emitter, names: dict[Value, str]) -> Any:
    domain = DOMAIN.get(node.domain, node.domain)
    op = node.op.rsplit(".", 1)[1]
    # Several operations may come from one node of the source; ONNX wants unique names.
    name = node.source if node.source not in e.sources else None
    e.sources.add(node.source)
    proto = helper.make_node(op, ins, outs, name=name, domain=domain)
    for key, value in node.attrs.items():
        proto.attribute.append(_attribute(key, value, op, domain, e, names))
    return proto


def _attribute(
    key: str, value: Any, op: str, domain: str, e: Emitter, names: dict[Value, str]
) -> AttributeProto:
    if isinstance(value, Graph):
        return helper.make_attribute(key, _graph(value, e.opset, e.names, names))
    if isinstance(value, tuple) and value and isinstance(value[0], Graph):
        return helper.make_attribute(key, [_graph(g, e.opset, e.names, names) for g in value])
    if isinstance(value, np.ndarray):
        return helper.make_attribute(key, numpy_helper.from_array(value))
    if isinstance(value, (TensorType, SeqType, OptType)):
        return helper.make_attribute(key, type_proto(value))
    if isinstance(value, str):
        return helper.make_attribute(key, value.encode("utf-8", "surrogateescape"))
    if isinstance(value, tuple) and value and isinstance(value[0], str):
        return helper.make_attribute(key, [s.encode("utf-8", "surrogateescape") for s in value])
    if value == ():
        return helper.make_attribute(key, [], attr_type=_list_kind(op, domain, key))
    return helper.make_attribute(key, list(value) if isinstance(value, tuple) else value)


def _list_kind(op: str, domain: str, key: str) -> int:
    """An empty list does not tell its type; the operator's schema does."""
    if not defs.has(op, domain):
        return AttributeProto.INTS
    schema = defs.get_schema(op, domain=domain)
    known = schema.attributes.get(key)
    return AttributeProto.INTS if known is None else int(known.type.value)  # type: ignore[attr-defined]


def _tensor(value: Value, name: str) -> TensorProto:
    array = value.const
    assert array is not None
    code = code_of(value.elem)
    if value.elem == "str":
        flat = [str(s).encode("utf-8", "surrogateescape") for s in array.ravel().tolist()]
        return numpy_helper.from_array(np.array(flat, dtype=object).reshape(array.shape), name)
    wanted = helper.tensor_dtype_to_np_dtype(code)
    return numpy_helper.from_array(_as(array, wanted), name)


def _as(array: Array, dtype: Any) -> Array:
    return array if array.dtype == dtype else array.astype(dtype)


def type_proto(type_: Type) -> TypeProto:
    """An IR type as a TypeProto; symbols become dim_param, `?` an unset dimension."""
    if isinstance(type_, TensorType):
        shape = None if type_.shape is None else [None if d == "?" else d for d in type_.shape]
        return helper.make_tensor_type_proto(carrier(type_.elem), shape)
    if isinstance(type_, SeqType):
        return helper.make_sequence_type_proto(type_proto(type_.elem))
    if isinstance(type_, OptType):
        return helper.make_optional_type_proto(type_proto(type_.elem))
    return TypeProto()


def _info(name: str, type_: Type) -> ValueInfoProto:
    if isinstance(type_, AnyType):
        info = ValueInfoProto()
        info.name = name  # onnxruntime infers the type of an output that has none
        return info
    return helper.make_value_info(name, type_proto(type_))


def save_onnx(graph: Graph, path: Path) -> None:
    """Write the graph as an ONNX file, whole or not at all. Raises CompileError."""
    try:
        data = to_onnx(graph).SerializeToString(deterministic=True)
    except ValueError:
        raise CompileError("the model is larger than 2 GiB", str(path)) from None
    write_bytes(path, data)
