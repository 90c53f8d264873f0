"""Reads an ONNX file from a stranger: whole, checked, its external tensors from its own
folder only. Knows protobuf and the file system, not the graph IR."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, defs, external_data_helper

from cimc.errors import CompileError, raise_all
from cimc.frontend.domains import PREFIX
from cimc.frontend.expand_qonnx import EXPAND


def load_model(path: Path) -> ModelProto:
    """The model in an ONNX file, with external tensors read in.

    Raises CompileError: missing, unreadable or truncated file, not ONNX, an IR version or
    operator set newer than we know, unknown operators (all of them), external tensors
    outside the model's folder.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CompileError("no such file", str(path)) from None
    except OSError as error:
        raise CompileError(error.strerror or "cannot be read", str(path)) from None
    if not data:
        raise CompileError("the file is empty", str(path), help="an ONNX model is expected")
    if data.startswith(b".cim "):
        raise CompileError(
            "is a .cim program, not a model",
            str(path),
            help="give the ONNX model it was compiled from",
        )
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise CompileError(
            "not an ONNX model, or a truncated one",
            str(path),
            help="an ONNX model (protobuf) is expected; was the file copied whole?",
        ) from None
    if not model.HasField("graph") or not model.opset_import:
        raise CompileError("not an ONNX model: it has no graph", str(path))
    _check_names(model.graph, str(path))
    _check_versions(model, str(path))
    _import_qonnx(model)
    _check_operators(model, str(path))
    _read_external(model, path)
    _free_initialisers(model)
    _check_model(model, str(path))
    return model


_FREE = 4  # the first IR version whose initialisers need not be inputs


def _free_initialisers(model: ModelProto) -> None:
    """An older model with initialisers that are no inputs, as onnxruntime's quantizer leaves it and
    onnxruntime takes it, is one of that version."""
    inputs = {info.name for info in model.graph.input}
    if model.ir_version < _FREE and any(t.name not in inputs for t in model.graph.initializer):
        model.ir_version = _FREE


def _check_model(model: ModelProto, where: str) -> None:
    """The checks of onnx, but for outputs that leave out their type or shape: onnxruntime
    infers those."""
    lacking = [o for o in model.graph.output if _no_shape(o)]
    stated = [onnx.ValueInfoProto.FromString(o.SerializeToString()) for o in lacking]
    for output in lacking:
        tensor = output.type.tensor_type
        tensor.elem_type = tensor.elem_type or TensorProto.FLOAT
        tensor.shape.SetInParent()
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        text = " ".join(str(error).split())
        raise CompileError(f"not a valid ONNX model: {text[:300]}", where) from None
    for output, before in zip(lacking, stated):
        output.CopyFrom(before)


def _no_shape(info: onnx.ValueInfoProto) -> bool:
    kind = info.type.WhichOneof("value")
    return kind is None or (kind == "tensor_type" and not info.type.tensor_type.HasField("shape"))


def _check_names(graph: onnx.GraphProto, where: str) -> None:
    """Protobuf hands a string that is not UTF-8 over as bytes."""
    for name in _names(graph):
        if isinstance(name, bytes):
            raise CompileError(f"a name in it is not UTF-8 text: {name[:60]!r}", where)


def _names(graph: onnx.GraphProto) -> Iterator[str | bytes]:
    yield graph.name
    for tensor in graph.initializer:
        yield tensor.name
    for info in (*graph.input, *graph.output, *graph.value_info):
        yield info.name
        yield from (d.dim_param for d in info.type.tensor_type.shape.dim)
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attr in node.attribute:
            yield attr.name
            for inner in [attr.g, *attr.graphs]:
                yield from _names(inner)


def _check_versions(model: ModelProto, where: str) -> None:
    if model.ir_version > onnx.IR_VERSION:
        raise CompileError(
            f"ONNX IR version {model.ir_version} is newer than {onnx.IR_VERSION}, the newest known",
            where,
            help="export the model with an older onnx, or install a newer one",
        )
    for entry in model.opset_import:
        entry.domain = "" if entry.domain == "ai.onnx" else entry.domain
        newest = defs.onnx_opset_version()
        if entry.domain == "" and not 1 <= entry.version <= newest:
            raise CompileError(
                f"operator set {entry.version} is not supported: 1 to {newest} are",
                where,
                help=f"convert the model, for example to opset_version={newest - 2}",
            )


def _import_qonnx(model: ModelProto) -> None:
    """QONNX exporters forget to import their own domain; the checker insists on it."""
    imported = {entry.domain for entry in model.opset_import}
    for domain in dict.fromkeys(n.domain for n in model.graph.node):
        if PREFIX.get(domain) == "qonnx" and domain not in imported:
            model.opset_import.add(domain=domain, version=1)


def _check_operators(model: ModelProto, where: str) -> None:
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    local = {(f.domain, f.name) for f in model.functions}
    errors: list[CompileError] = []

    def visit(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            node.domain = "" if node.domain == "ai.onnx" else node.domain
            if not _known(node, opsets, local):
                place = f"{where}: node '{node.name or node.output[0]}' ({node.op_type})"
                domain = node.domain or "ai.onnx"
                errors.append(
                    CompileError(
                        f"unknown operator {node.op_type} of domain {domain}, "
                        f"version {opsets.get(node.domain, '(not imported)')}",
                        place,
                    )
                )
            for attr in node.attribute:
                for inner in [attr.g, *attr.graphs]:
                    visit(inner)

    visit(model.graph)
    raise_all(errors)


def _known(node: onnx.NodeProto, opsets: dict[str, int], local: set[tuple[str, str]]) -> bool:
    if (node.domain, node.op_type) in local:
        return True
    if PREFIX.get(node.domain) == "qonnx":
        return f"qonnx.{node.op_type}" in EXPAND
    if node.domain in ("", "ai.onnx.ml"):
        version = opsets.get(node.domain, 0)
        return version > 0 and defs.has(node.op_type, version, node.domain)
    return True  # onnxruntime's own domains: it decides


def _read_external(model: ModelProto, path: Path) -> None:
    folder = path.parent.resolve()
    for tensor in external_data_helper._get_all_tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        info = external_data_helper.ExternalDataInfo(tensor)
        target = (folder / info.location).resolve()
        if not target.is_relative_to(folder) or Path(info.location).is_absolute():
            raise CompileError(
                f"tensor '{tensor.name}' lies outside the model's folder: {info.location}",
                str(path),
                help="keep external tensors beside the model",
            )
        if not target.is_file():
            raise CompileError(
                f"tensor '{tensor.name}' is missing: no file {info.location}", str(path)
            )
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except (ValueError, OSError) as error:
            raise CompileError(f"tensor '{tensor.name}': {error}", str(path)) from None
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
