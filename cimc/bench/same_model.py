"""The model that onnxruntime runs in place of a program: the same file, or what `cimc opt` writes
where the pipeline changed the meaning or onnxruntime doesn't know the operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cimc.api import DEFAULT_TARGET, geometry_of
from cimc.cost.target import load_target
from cimc.driver.base import PassContext
from cimc.driver.pipeline import parse_pipeline
from cimc.driver.registry import load_registry
from cimc.driver.runner import run_passes
from cimc.errors import CompileError
from cimc.frontend.bind import bind_shapes
from cimc.frontend.export import to_onnx
from cimc.frontend.importer import import_onnx
from cimc.ir.graph import Graph

_DYNAMIC = "cleanup,quantize-dynamic"
_MEANING = "cleanup,read-qdq,quantize-dynamic"  # how `auto` begins
Shapes = Mapping[str, Sequence[int]]


def quantised_export(path: Path, shapes: Shapes | None = None) -> bytes:
    """A float model with ONNX's own dynamic integer operators, as `cimc opt -p
    cleanup,quantize-dynamic` writes it. shapes: sizes of inputs by name, as for compiling.
    Raises CompileError for an unusable model."""
    return _exported(_graph(path, shapes), _DYNAMIC, path)[0]


def same_function(path: Path, shapes: Shapes | None = None) -> bytes:
    """What a program compiled by `auto` is compared with in onnxruntime: a float model in its
    dynamically quantised form, a QONNX model with its operators spelled out, another model as
    it is. Raises CompileError for an unusable model."""
    graph = _graph(path, shapes)
    if any(node.domain == "qonnx" for node in graph.nodes):
        return _exported(graph, "auto", path)[0]
    content, changed = _exported(graph, _MEANING, path)
    return content if "quantize-dynamic" in changed else path.read_bytes()


def _graph(path: Path, shapes: Shapes | None) -> Graph:
    graph = import_onnx(path)
    if shapes:
        bind_shapes(graph, shapes, str(path))
    return graph


def _exported(graph: Graph, pipeline: str, path: Path) -> tuple[bytes, set[str]]:
    """The graph after the pipeline, and the passes that changed something."""
    context = PassContext(geometry_of(load_target(DEFAULT_TARGET, {})))
    steps = run_passes(graph, parse_pipeline(pipeline, load_registry()), context)
    try:
        content = bytes(to_onnx(graph).SerializeToString())
    except ValueError:
        raise CompileError("the quantised model is larger than 2 GiB", str(path)) from None
    return content, {step.name for step in steps if step.changed}
