"""Gives a graph concrete shapes: a program is compiled for one size of each input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cimc.errors import CompileError, raise_all
from cimc.frontend.evaluate import input_names
from cimc.frontend.importer import infer_types
from cimc.ir.graph import Graph, Node, Value
from cimc.ir.ops import TABLE
from cimc.ir.types import AnyType, TensorType, Type


def bind_shapes(graph: Graph, shapes: Mapping[str, Sequence[int]], where: str) -> dict[str, int]:
    """Replace symbolic sizes, in place: by `shapes` (input name → sizes), and a symbolic first
    axis by 1. A first axis of size 1 may be given another size.

    Returns the batch axis (0) of each input that has one: its first axis was symbolic or 1.
    Raises CompileError for unknown inputs, sizes that contradict the model, and symbols that
    are left.
    """
    names = input_names(graph)
    unknown = [n for n in shapes if n not in names]
    if unknown:
        raise CompileError(
            f"--shape names no input: '{unknown[0]}'",
            where,
            help=f"the inputs are {', '.join(map(repr, names))}",
        )
    batch: dict[str, int] = {}
    symbols: dict[str, int] = {}
    errors: list[CompileError] = []
    types: list[Type] = []
    for value, name in zip(graph.inputs, names):  # what is given counts for all inputs
        dims = value.type.shape if isinstance(value.type, TensorType) else None
        for dim, size in zip(dims or (), shapes.get(name, ())):
            if isinstance(dim, str) and dim != "?":
                symbols.setdefault(dim, size)
    for value, name in zip(graph.inputs, names):
        if not isinstance(value.type, TensorType) or value.type.shape is None:
            errors.append(
                CompileError(
                    f"input '{name}' is {value.type}",
                    where,
                    help=f"a program takes tensors of known rank: --shape {name}=1,3,224,224"
                    if isinstance(value.type, TensorType)
                    else "a program takes tensors only",
                )
            )
            continue
        dims = value.type.shape
        if dims and (isinstance(dims[0], str) or dims[0] == 1):
            batch[name] = 0
        types.append(_bound(value.type, shapes.get(name), name, symbols, where, errors))
    raise_all(errors)
    if all(t == v.type for t, v in zip(types, graph.inputs)):
        return batch
    for value, type_ in zip(graph.inputs, types):
        value.type = type_
    _reinfer(graph, symbols, where)
    return batch


def _bound(
    type_: TensorType,
    sizes: Sequence[int] | None,
    name: str,
    symbols: dict[str, int],
    where: str,
    errors: list[CompileError],
) -> TensorType:
    dims = type_.shape or ()
    if sizes is not None and len(sizes) != len(dims):
        errors.append(
            CompileError(f"--shape {name} has {len(sizes)} sizes, {type_} has {len(dims)}", where)
        )
        return type_
    out: list[int] = []
    for axis, dim in enumerate(dims):
        given = None if sizes is None else sizes[axis]
        if isinstance(dim, int):
            if given not in (None, dim) and not (axis == 0 and dim == 1 and given):
                errors.append(
                    CompileError(
                        f"--shape {name} asks for {given} along axis {axis}, the model fixes {dim}",
                        where,
                    )
                )
            out.append(dim if given is None else given)
            continue
        if given == 0 and axis == 0:
            errors.append(CompileError(f"--shape {name} has a size of 0 along axis 0", where))
        size = given if given is not None else symbols.get(dim, 1 if axis == 0 else None)
        if size is None:
            example = ",".join(
                str(d) if isinstance(d, int) else "1" if k == 0 else str(d).upper()
                for k, d in enumerate(dims)
            )
            errors.append(
                CompileError(
                    f"input '{name}' has the unknown dimension '{dim}' along axis {axis}",
                    where,
                    help=f"give its size: --shape {name}={example}",
                )
            )
            size = 1
        out.append(size)
        if dim != "?" and symbols.setdefault(dim, size) != size:
            errors.append(
                CompileError(f"dimension '{dim}' can't be both {symbols[dim]} and {size}", where)
            )
    return TensorType(type_.elem, tuple(out))


def _reinfer(graph: Graph, symbols: dict[str, int], where: str) -> None:
    """Infer all types anew from the inputs'; keep what inference does not find."""
    old: dict[Value, Type] = {}

    def forget(nodes: Sequence[Node]) -> None:
        for node in nodes:
            for value in node.outputs:
                old[value] = value.type
                if node.op not in TABLE:
                    known = isinstance(value.type, TensorType)
                    value.type = TensorType(value.elem, None) if known else AnyType()
            for inner in node.graphs():
                forget(inner.nodes)

    forget(graph.nodes)
    for node in graph.nodes:
        if node.op in TABLE:
            node.output.type = _substitute(old[node.output], symbols)
    infer_types(graph, where)
    for value, type_ in old.items():
        if not isinstance(value.type, TensorType) or value.type.shape is None:
            value.type = _substitute(type_, symbols)


def _substitute(type_: Type, symbols: dict[str, int]) -> Type:
    if not isinstance(type_, TensorType) or type_.shape is None:
        return type_
    return TensorType(type_.elem, tuple(symbols.get(str(d), d) for d in type_.shape))
