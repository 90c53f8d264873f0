"""A host fragment's ONNX graph, read for running many samples: static types, constants, aliases.

`parts.py` cuts it into parts. Knows nothing of programs or of how parts run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from cimc.frontend.session import open_session
from cimc.frontend.shape_inference import infer_shapes

Array = npt.NDArray[Any]
K = TypeVar("K")

_OLDEST_OPSET = 7  # before, operands were broadcast by attributes
# operations whose result holds the elements of the first input in the same order
_ALIASES = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
# those whose result isn't a function of their inputs
_RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform")


@dataclass(frozen=True)
class Tensor:
    """Type of a value for one sample: ONNX element type and static shape."""

    elem: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(helper.tensor_dtype_to_np_dtype(self.elem))


@dataclass
class FragmentGraph:
    """Nodes that compute something, in order; the type of every value; constants by name;
    `roots`: of a value that is another in a different shape, that other; `folded`: the nodes
    that made constants."""

    opset: int
    ir_version: int
    nodes: list[NodeProto]
    tensors: dict[str, Tensor]
    constants: dict[str, Array]
    inputs: list[str]
    outputs: list[str]
    roots: dict[str, str] = field(default_factory=dict)
    folded: list[NodeProto] = field(default_factory=list)

    def root(self, name: str) -> str:
        """The value that holds the elements of `name`."""
        while name in self.roots:
            name = self.roots[name]
        return name

    def constant(self, name: str) -> Array | None:
        """The array of a constant in its own shape; None for a value."""
        root = self.root(name)
        if root not in self.constants:
            return None
        array = self.constants[root]
        return array if root == name else array.reshape(self.tensors[name].shape)

    def uses(self) -> Counter[str]:
        """How often each root is an operand or an output of the fragment."""
        names = [name for node in self.nodes for name in node.input if name]
        return Counter(map(self.root, (*names, *self.outputs)))


def attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node by name."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def read_fragment(model: ModelProto) -> FragmentGraph | None:
    """The graph of a fragment; None where it isn't one of plain tensors with static shapes."""
    if model.functions or any(_has_graph(node) for node in model.graph.node):
        return None
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    opset = versions[0] if versions else 0
    if len(model.opset_import) > 1 or opset < _OLDEST_OPSET:
        return None
    try:
        inferred = infer_shapes(model)
    except Exception:  # onnx has no common exception class
        return None
    tensors = _tensors(inferred)
    graph = FragmentGraph(
        opset=opset,
        ir_version=model.ir_version,
        nodes=list(model.graph.node),
        tensors=tensors,
        constants={i.name: numpy_helper.to_array(i) for i in model.graph.initializer},
        inputs=[value.name for value in model.graph.input],
        outputs=[value.name for value in model.graph.output],
    )
    if set(graph.inputs) & set(graph.constants):
        return None
    _fold(graph, model)
    used = {name for node in graph.nodes for name in (*node.input, *node.output) if name}
    known = used | set(graph.inputs) | set(graph.outputs)
    if not all(name in tensors and tensors[name].size for name in known):
        return None
    _find_aliases(graph)
    _drop_unused(graph)
    return graph


def _has_graph(node: NodeProto) -> bool:
    kinds = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    return any(attribute.type in kinds for attribute in node.attribute)


def _tensors(model: ModelProto) -> dict[str, Tensor]:
    """All values whose type and shape are known and that numpy can hold."""
    found = {
        i.name: Tensor(i.data_type, tuple(i.dims))
        for i in model.graph.initializer
        if i.data_type != TensorProto.STRING
    }
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
            continue
        sizes = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim]
        if kind.elem_type in _HELD and min(sizes, default=0) >= 0:
            found[value.name] = Tensor(kind.elem_type, tuple(sizes))
    return found


_HELD = (
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.FLOAT16,
    TensorProto.BOOL,
    TensorProto.INT8,
    TensorProto.INT16,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.UINT8,
    TensorProto.UINT16,
    TensorProto.UINT32,
    TensorProto.UINT64,
)


def _fold(graph: FragmentGraph, model: ModelProto) -> None:
    """Nodes whose inputs are all constant become constants, by onnxruntime."""
    folded = graph.folded
    known = set(graph.constants) | {""}
    for node in graph.nodes:
        if node.op_type in _RANDOM or not (node.input or node.op_type == "Constant"):
            continue
        if all(name in known for name in node.input):
            folded.append(node)
            known.update(node.output)
    if not folded:
        return
    names = [name for node in folded for name in node.output if name]
    small = helper.make_graph(folded, "constants", [], [_value(name) for name in names])
    used = {name for node in folded for name in node.input}
    small.initializer.extend(i for i in model.graph.initializer if i.name in used)
    session = open_session(_model(small, model), "constants of a host fragment", threads=1)
    for name, array in zip(names, session.run(names, {}), strict=True):
        graph.constants[name] = array
        elem = helper.np_dtype_to_tensor_dtype(array.dtype)
        graph.tensors[name] = Tensor(elem, array.shape)
    graph.nodes = [node for node in graph.nodes if not known.issuperset(node.output)]


def _value(name: str) -> onnx.ValueInfoProto:
    return onnx.ValueInfoProto(name=name)


def _model(graph: onnx.GraphProto, like: ModelProto) -> bytes:
    made = helper.make_model(graph, opset_imports=list(like.opset_import))
    made.ir_version = like.ir_version
    return bytes(made.SerializeToString())


def _find_aliases(graph: FragmentGraph) -> None:
    kept = []
    for node in graph.nodes:
        shape = node.input[1] if len(node.input) > 1 else ""
        if node.op_type in _ALIASES and (not shape or shape in graph.constants):
            graph.roots[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    graph.nodes = kept


def _drop_unused(graph: FragmentGraph) -> None:
    wanted = {graph.root(name) for name in graph.outputs}
    kept = []
    for node in reversed(graph.nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(graph.root(name) for name in node.input)
    graph.nodes = kept[::-1]


def schedule(
    nodes: Sequence[NodeProto], graph: FragmentGraph, key: Callable[[NodeProto], K]
) -> list[tuple[K, list[NodeProto]]]:
    """The nodes in an order that respects their operands, in few runs of equal keys."""
    waiting = list(nodes)
    missing = {name for node in waiting for name in node.output}
    runs: list[tuple[K, list[NodeProto]]] = []
    while waiting:
        ready = (n for n in waiting if not missing & {graph.root(name) for name in n.input})
        wanted = key(next(ready))
        taken: list[NodeProto] = []
        left: list[NodeProto] = []
        for node in waiting:
            free = not missing & {graph.root(name) for name in node.input}
            if free and key(node) == wanted:
                taken.append(node)
                missing -= set(node.output)
            else:
                left.append(node)
        runs.append((wanted, taken))
        waiting = left
    return runs
