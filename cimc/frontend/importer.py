"""ONNX to graph IR: every operator is representable; shapes come from ONNX shape inference,
from onnxruntime where that does not know an operator.

The first step of the data flow. Recognises nothing: that is the passes' work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TypeProto, numpy_helper

from cimc.errors import CompileError, raise_all
from cimc.frontend.domains import PREFIX
from cimc.frontend.elements import carrier, code_of, elem_of, unpack
from cimc.frontend.export import to_onnx
from cimc.frontend.load import load_model
from cimc.frontend.quantisers import check_quantisers
from cimc.frontend.session import open_session
from cimc.frontend.shape_inference import infer_shapes
from cimc.ir.graph import Attr, Graph, Node, Value
from cimc.ir.names import Names, identifier
from cimc.ir.types import AnyType, OptType, SeqType, TensorType, Type, is_float


def import_onnx(path: str | Path) -> Graph:
    """The graph of an ONNX file; symbolic dimensions are kept. Raises CompileError."""
    path = Path(path)
    return import_model(load_model(path), str(path))


def import_model(model: ModelProto, where: str) -> Graph:
    """The graph of a model in memory; `where` is how errors name it."""
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    initialisers = {t.name for t in model.graph.initializer}
    initialisers |= {t.values.name for t in model.graph.sparse_initializer}
    inputs = [v for v in model.graph.input if v.name not in initialisers]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    graph = _Importer(where).graph(model.graph, {}, outermost=True)
    graph.opsets = {PREFIX.get(o.domain, o.domain): o.version for o in model.opset_import}
    graph.opsets = {p: v for p, v in sorted(graph.opsets.items()) if p != "qonnx"}
    graph.opsets.setdefault("onnx", 13)
    check_quantisers(graph, where)
    _check_constants(graph, where)
    infer_types(graph, where)
    return graph


class _Importer:
    """Holds what nested graphs share: the file's name in errors, the names in use."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.fresh = Names().fresh

    def graph(self, proto: GraphProto, outer: dict[str, Value], outermost: bool = False) -> Graph:
        scope = dict(outer)
        name = identifier(proto.name or "main") if outermost else self.fresh(proto.name or "body")
        graph = Graph(name)
        for info in proto.input:
            value = Value(self.fresh(info.name), self.type(info.type, info.name))
            scope[info.name] = value
            graph.inputs.append(value)
        for tensor in proto.initializer:
            if tensor.name not in scope or not outermost:
                scope[tensor.name] = self.const(graph, tensor.name, tensor)
        for sparse in proto.sparse_initializer:
            dense = _densify(sparse)
            scope[sparse.values.name] = self.const_array(graph, sparse.values.name, dense)
        for node in proto.node:
            self.node(graph, node, scope)
        for info in proto.output:
            if info.name not in scope:
                raise CompileError(f"output '{info.name}' is never computed", self.where)
            value = scope[info.name]
            if isinstance(value.type, AnyType):
                value.type = self.type(info.type, info.name)
            graph.outputs.append(value)
        if outermost:
            graph.input_names = [info.name for info in proto.input]
            graph.output_names = [info.name for info in proto.output]
        return graph

    def node(self, graph: Graph, proto: NodeProto, scope: dict[str, Value]) -> None:
        domain = PREFIX.get(proto.domain, proto.domain)
        if proto.op_type == "Constant" and domain == "onnx":
            scope[proto.output[0]] = self.constant(graph, proto)
            return
        place = f"{self.where}: node '{proto.name or proto.output[0]}' ({proto.op_type})"
        inputs: list[Value | None] = []
        for name in proto.input:
            if name and name not in scope:
                raise CompileError(f"input '{name}' is not defined before it", place)
            inputs.append(scope[name] if name else None)
        attrs = {a.name: self.attr(a, scope, place) for a in proto.attribute}
        outputs = []
        for i, name in enumerate(proto.output):
            value = Value(self.fresh(name or f"{proto.op_type}.unused{i}"), AnyType())
            outputs.append(value)
            if name:
                scope[name] = value
        graph.nodes.append(
            Node(f"{domain}.{proto.op_type}", inputs, outputs, attrs, source=proto.name or None)
        )

    def constant(self, graph: Graph, proto: NodeProto) -> Value:
        attr = proto.attribute[0]
        name = proto.output[0]
        if attr.name == "value":
            return self.const(graph, name, attr.t)
        if attr.name == "sparse_value":
            return self.const_array(graph, name, _densify(attr.sparse_tensor))
        dtypes = {"value_int": np.int64, "value_ints": np.int64,
                  "value_float": np.float32, "value_floats": np.float32}  # fmt: skip
        data = onnx.helper.get_attribute_value(attr)
        dtype = dtypes.get(attr.name, object)
        array = np.empty(np.shape(data) if not isinstance(data, bytes) else (), dtype=dtype)
        array[...] = data
        return self.const_array(graph, name, array)

    def const(self, graph: Graph, name: str, tensor: Any) -> Value:
        elem = elem_of(tensor.data_type)
        if elem is None:
            raise CompileError(f"tensor '{name}' has an unknown element type", self.where)
        try:
            array = numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise CompileError(f"tensor '{name}' is damaged: {error}", self.where) from None
        return self.const_array(graph, name, array, elem)

    def const_array(self, graph: Graph, name: str, array: Any, elem: str | None = None) -> Value:
        if elem is None:
            elem = (
                "str"
                if array.dtype == object
                else elem_of(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
            )
        assert elem is not None
        value = Value(self.fresh(name), TensorType(elem, array.shape), const=unpack(array, elem))
        graph.consts.append(value)
        return value

    def attr(self, attr: AttributeProto, scope: dict[str, Value], place: str) -> Attr:
        kinds = AttributeProto
        if attr.type == kinds.GRAPH:
            return self.graph(attr.g, scope)
        if attr.type == kinds.GRAPHS:
            return tuple(self.graph(g, scope) for g in attr.graphs)
        if attr.type == kinds.TENSOR:
            return unpack(numpy_helper.to_array(attr.t), elem_of(attr.t.data_type) or "f32")
        if attr.type == kinds.TYPE_PROTO:
            return self.type(attr.tp, attr.name)
        if attr.type == kinds.STRING:
            return attr.s.decode("utf-8", "surrogateescape")
        if attr.type == kinds.STRINGS:
            return tuple(s.decode("utf-8", "surrogateescape") for s in attr.strings)
        if attr.type == kinds.INTS:
            return tuple(attr.ints)
        if attr.type == kinds.FLOATS:
            return tuple(attr.floats)
        if attr.type == kinds.INT:
            return attr.i
        if attr.type == kinds.FLOAT:
            return attr.f
        raise CompileError(f"attribute '{attr.name}' has a kind that is not supported", place)

    def type(self, proto: TypeProto, name: str) -> Type:
        return type_of(proto, f"{self.where}: value '{name}'")


def type_of(proto: TypeProto, where: str) -> Type:
    """A TypeProto as an IR type; raises CompileError for an element type we do not know."""
    kind = proto.WhichOneof("value")
    if kind == "sequence_type":
        return SeqType(type_of(proto.sequence_type.elem_type, where))
    if kind == "optional_type":
        return OptType(type_of(proto.optional_type.elem_type, where))
    if kind != "tensor_type" or not proto.tensor_type.elem_type:
        return AnyType()
    elem = elem_of(proto.tensor_type.elem_type)
    if elem is None:
        raise CompileError("unknown element type", where)
    if not proto.tensor_type.HasField("shape"):
        return TensorType(elem, None)
    dims = proto.tensor_type.shape.dim
    return TensorType(elem, tuple(
        d.dim_value if d.HasField("dim_value") else identifier(d.dim_param) if d.dim_param else "?"
        for d in dims
    ))  # fmt: skip


def _densify(sparse: Any) -> Any:
    values = numpy_helper.to_array(sparse.values)
    indices = numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense


def _check_constants(graph: Graph, where: str) -> None:
    errors = []
    for value in graph.consts:
        if value.const is None or not is_float(value.elem) or value.elem.startswith("c"):
            continue
        bad = int(np.isnan(value.const.astype(np.float32)).sum())
        if bad:
            errors.append(
                CompileError(
                    f"{bad} of its {value.const.size} elements are NaN",
                    f"{where}: tensor '{value.name}'",
                    help="retrain or export the model again; NaN weights give NaN everywhere",
                )
            )
    raise_all(errors)


def infer_types(graph: Graph, where: str) -> None:
    """Fill in the type of every result, in place: by ONNX shape inference over the graph's
    ONNX form, then by onnxruntime for what is still unknown, a rank among it.

    Raises CompileError where onnxruntime refuses the model.
    """
    if any(n.domain == "qonnx" for n in graph.nodes):
        _refine(graph, to_onnx(_shapes_only(graph)))  # their ONNX forms depend on ranks
    model = to_onnx(_light(graph))
    session = open_session(_serialise(model), where)
    _refine(graph, model)
    results = [v for n in graph.nodes for v in n.outputs if v not in graph.outputs]
    unknown = [v for v in results if not _known(v.type)]
    if unknown:
        _apply(graph, _ask_runtime(model, unknown, where))
    for out, info in zip(graph.outputs, session.get_outputs()):
        _narrow(out, _runtime_type(info))


_INVENTED = "unk__"  # how names of sizes begin that inference could not find


def _known(type_: Type) -> bool:
    """Whether inference found all that it could: behind operators that ONNX does not know, it
    finds element types without a rank, or sizes of its own invention."""
    if not isinstance(type_, TensorType):
        return not isinstance(type_, AnyType)
    dims = type_.shape
    return dims is not None and not any(str(d).startswith(_INVENTED) for d in dims)


def refine_types(graph: Graph) -> None:
    """Narrow the types of results by ONNX shape inference, after constants became known."""
    _refine(graph, to_onnx(_light(graph)))


_LARGE = 4096  # elements: larger constants are weights, which no shape depends on


def _light(graph: Graph) -> Graph:
    """The graph with its weights as inputs, so that inferring types does not copy them."""
    weights = [v for v in graph.consts if v.const is not None and v.const.size > _LARGE]
    names = graph.input_names or [v.name for v in graph.inputs]
    return replace(
        graph,
        inputs=[*graph.inputs, *weights],
        input_names=[*names, *(v.name for v in weights)],
        consts=[v for v in graph.consts if v not in set(weights)],
    )


def _shapes_only(graph: Graph) -> Graph:
    """The graph with Identity for each QONNX operator: all of them keep shape and type."""
    light = _light(graph)
    nodes = [
        Node("onnx.Identity", n.inputs[:1], n.outputs, source=n.source)
        if n.domain == "qonnx"
        else n
        for n in graph.nodes
    ]
    return replace(light, nodes=nodes)


def _refine(graph: Graph, model: ModelProto) -> None:
    try:
        inferred = infer_shapes(model)
    except (onnx.shape_inference.InferenceError, ValueError):
        return
    infos = [*inferred.graph.value_info, *inferred.graph.output]
    _apply(graph, {info.name: type_of(info.type, info.name) for info in infos})


def _serialise(model: ModelProto) -> bytes:
    try:
        return bytes(model.SerializeToString())
    except ValueError as error:  # protobuf's limit of 2 GiB
        raise CompileError(f"the model is too large: {error}") from None


def _apply(graph: Graph, known: dict[str, Type]) -> None:
    names = dict(zip(graph.outputs, graph.output_names))
    for node in graph.nodes:
        for value in node.outputs:
            found = known.get(names.get(value, value.name))
            if found is not None:
                _narrow(value, found)
        for inner in node.graphs():
            _apply(inner, known)


def _narrow(value: Value, found: Type) -> None:
    """Take the finer of two types."""
    old = value.type
    if not isinstance(old, TensorType) or not isinstance(found, TensorType) or old.shape is None:
        value.type = old if isinstance(found, AnyType) else _unpacked(old, found)
        return
    if found.shape is None or len(found.shape) != len(old.shape):
        return
    dims = tuple(a if isinstance(a, int) or b == "?" else b for a, b in zip(old.shape, found.shape))
    value.type = TensorType(old.elem, dims)


def _unpacked(old: Type, found: Type) -> Type:
    """The type found; an output of 4 bits goes out in bytes, and is one of 4 bits all the same."""
    if not isinstance(old, TensorType) or not isinstance(found, TensorType):
        return found
    return found.with_elem(old.elem) if carrier(old.elem) == code_of(found.elem) else found


def _ask_runtime(model: ModelProto, unknown: Sequence[Value], where: str) -> dict[str, Type]:
    """Types that onnxruntime infers for values, by adding them as untyped outputs."""
    asked = ModelProto()
    asked.CopyFrom(model)
    present = {o.name for o in asked.graph.output}
    for value in unknown:
        if value.name not in present:
            asked.graph.output.add().name = value.name
    session = open_session(_serialise(asked), where)
    return {info.name: _runtime_type(info) for info in session.get_outputs()}


_RUNTIME = {
    "float": "f32", "double": "f64", "float16": "f16", "bfloat16": "bf16", "uint8": "u8",
    "int8": "i8", "uint16": "u16", "int16": "i16", "uint32": "u32", "int32": "i32",
    "uint64": "u64", "int64": "i64", "bool": "bool", "string": "str",
}  # fmt: skip


def _runtime_type(info: Any) -> Type:
    if not info.type.startswith("tensor(") or info.type[7:-1] not in _RUNTIME:
        return AnyType()
    if not info.shape:  # onnxruntime says [] for a scalar and for an unknown rank alike
        return TensorType(_RUNTIME[info.type[7:-1]], None)
    return TensorType(_RUNTIME[info.type[7:-1]], tuple(map(_runtime_size, info.shape)))


def _runtime_size(size: Any) -> int | str:
    if isinstance(size, int):
        return size
    named = isinstance(size, str) and size and not size.startswith(_INVENTED)
    return identifier(size) if named else "?"
