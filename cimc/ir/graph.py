"""The graph IR: SSA values over tensors, operations in order, constants, placement.

The middle of the data flow: the front end builds it, passes rewrite it, the backend reads
it. What an operation means is in `ops.py`; the text is in `text.py`.

A graph keeps its operations topologically ordered. Values are compared by identity;
`same_graph` compares whole graphs by content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from cimc.errors import Span
from cimc.ir.names import Names
from cimc.ir.ops import TABLE
from cimc.ir.types import Array, TensorType, Type

if TYPE_CHECKING:
    import networkx as nx

Attr: TypeAlias = (
    "int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | Array | Type"
    " | Graph | tuple[Graph, ...]"
)


@dataclass(eq=False)
class Value:
    """One SSA value. `const` holds the elements of a constant (shape and container type as
    `type` says), `seed` the seed of a `random` constant, from which `const` was drawn."""

    name: str
    type: Type
    const: Array | None = None
    seed: int | None = None
    span: Span | None = None
    before: tuple[str, ...] = ()
    after: str = ""

    @property
    def tensor(self) -> TensorType:
        """The type, which must be a tensor's."""
        assert isinstance(self.type, TensorType), f"%{self.name} is {self.type}"
        return self.type

    @property
    def elem(self) -> str:
        """The element type; empty for what isn't a tensor."""
        return self.type.elem if isinstance(self.type, TensorType) else ""

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


@dataclass(eq=False)
class Node:
    """One operation. `op` has a domain prefix: `cim.conv`, `onnx.Softmax`, `ms.Gelu`.
    A missing optional input is None. `source` is the node's name in the ONNX file;
    `why` says why the operation stays on the host."""

    op: str
    inputs: list[Value | None]
    outputs: list[Value]
    attrs: dict[str, Attr] = field(default_factory=dict)
    source: str | None = None
    why: str | None = None
    span: Span | None = None
    before: tuple[str, ...] = ()
    after: str = ""

    @property
    def domain(self) -> str:
        return self.op.rsplit(".", 1)[0]

    @property
    def output(self) -> Value:
        """The only result."""
        assert len(self.outputs) == 1, f"{self.op} has {len(self.outputs)} results"
        return self.outputs[0]

    def arg(self, index: int) -> Value:
        """An input that must be there."""
        value = self.inputs[index]
        assert value is not None, f"{self.op}: input {index} is missing"
        return value

    def operand(self, index: int) -> Value | None:
        """An input; None where it is missing or left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def int_attr(self, name: str, default: int) -> int:
        """An integer attribute."""
        value = self.attrs.get(name, default)
        assert isinstance(value, int), f"{self.op}: {name}={value}"
        return value

    def float_attr(self, name: str, default: float) -> float:
        """A number as attribute."""
        value = self.attrs.get(name, default)
        assert isinstance(value, (int, float)), f"{self.op}: {name}={value}"
        return float(value)

    def ints_attr(self, name: str) -> tuple[int, ...]:
        """A list of integers; empty where the attribute is absent."""
        value = self.attrs.get(name, ())
        assert isinstance(value, tuple), f"{self.op}: {name}={value}"
        return tuple(v for v in value if isinstance(v, int))

    def graphs(self) -> list[Graph]:
        """The nested graphs among the attributes."""
        found: list[Graph] = []
        for attr in self.attrs.values():
            if isinstance(attr, Graph):
                found.append(attr)
            elif isinstance(attr, tuple):
                found += [g for g in attr if isinstance(g, Graph)]
        return found

    def reads(self) -> list[Value]:
        """All values the operation uses, those its nested graphs capture included."""
        used = [v for v in self.inputs if v is not None]
        for graph in self.graphs():
            used += graph.captured()
        return used

    def use(self, old: Value, new: Value) -> None:
        """Take `new` for `old`, in nested graphs too."""
        if old in self.inputs:
            self.inputs[:] = [new if v is old else v for v in self.inputs]
        for graph in self.graphs():
            graph.replace(old, new, keep_name=False)

    def __repr__(self) -> str:
        outs = ", ".join(f"%{v.name}" for v in self.outputs)
        ins = ", ".join("_" if v is None else f"%{v.name}" for v in self.inputs)
        return f"{outs} = {self.op}({ins})"


@dataclass
class Place:
    """Where rows of a kernel matrix lie.

    The kernel tensor is seen as `planes` bit matrices of M rows (output channels) and K
    columns per group. A *block* holds `rows` consecutive channels of one (group, segment,
    plane); blocks are numbered group-major, then segment, then plane, and this statement
    places blocks first..first+count. Block b lies on tile `tile + i // per_tile` from row
    `row + (i % per_tile) * size`, with i = b - first and size the number of channels.
    `tile` is None until allocate-tiles has run."""

    value: Value
    channels: tuple[int, int]  # first channel within the group and one past the last
    first: int
    count: int
    width: int  # columns in a segment
    tile: int | None = None
    row: int = 0
    per_tile: int = 1
    span: Span | None = field(default=None, compare=False)
    before: tuple[str, ...] = ()
    after: str = ""


@dataclass(eq=False)
class Graph:
    """A function over tensors. `opsets` gives the ONNX operator set version by domain prefix
    (`onnx`, `ms`, …). `input_names` and `output_names` are the ONNX names of the interface,
    in order; values inside may be renamed, these stay."""

    name: str
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    consts: list[Value] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    opsets: dict[str, int] = field(default_factory=dict)
    input_names: list[str] = field(default_factory=list)
    output_names: list[str] = field(default_factory=list)
    span: Span | None = None
    before: tuple[str, ...] = ()
    after: str = ""
    end_before: tuple[str, ...] = ()
    end_after: str = ""
    trailing: tuple[str, ...] = ()  # comments after everything

    def become(self, other: Graph) -> None:
        """Take over the contents of another graph of the same interface."""
        self.inputs, self.outputs = other.inputs, other.outputs
        self.nodes, self.consts, self.opsets = other.nodes, other.consts, other.opsets

    # -- looking --

    def values(self) -> Iterator[Value]:
        """All values defined here: inputs, constants, results in order."""
        yield from self.inputs
        yield from self.consts
        for node in self.nodes:
            yield from node.outputs

    def producers(self) -> dict[Value, Node]:
        """The operation that makes each result."""
        return {v: n for n in self.nodes for v in n.outputs}

    def users(self) -> dict[Value, list[Node]]:
        """The operations that use each value, in order, each once; captures count."""
        users: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.reads()):
                users.setdefault(value, []).append(node)
        return users

    def captured(self) -> list[Value]:
        """Values of an outer graph that this one uses, in order of first use."""
        own = set(self.values())
        used: dict[Value, None] = {}
        for node in self.nodes:
            used.update(dict.fromkeys(node.reads()))
        used.update(dict.fromkeys(self.outputs))
        return [v for v in used if v not in own]

    # -- changing --

    def fresh(self, name: str) -> str:
        """`name` if free, else `name.2`, `name.3`, …; invalid characters become `_`."""
        return self.names().fresh(name)

    def names(self) -> Names:
        """An authority over the names in use, those of nested graphs included."""
        return Names(v.name for v in self.all_values())

    def all_values(self) -> Iterator[Value]:
        """All values defined here and in nested graphs."""
        yield from self.values()
        for node in self.nodes:
            for inner in node.graphs():
                yield from inner.all_values()

    def const(self, name: str, array: Array, type_: Type) -> Value:
        """Add a constant under a free name. array: elements in the type's container."""
        value = Value(self.fresh(name), type_, const=array)
        self.consts.append(value)
        return value

    def renewed(self, old: Value, array: Array, type_: Type) -> Value:
        """A constant with other contents; it takes the name of the old one."""
        new = self.const(old.name, array, type_)
        old.name, new.name = new.name, old.name
        return new

    def insert(self, before: Node | None, *nodes: Node) -> None:
        """Put operations before `before` (None: at the end), and name their results."""
        at = len(self.nodes) if before is None else self.nodes.index(before)
        for node in nodes:
            for value in node.outputs:
                value.name = self.fresh(value.name)
        self.nodes[at:at] = nodes

    def replace(self, old: Value, new: Value, keep_name: bool = True) -> None:
        """Use `new` wherever `old` was used, outputs included. The name moves to `new`."""
        for node in self.nodes:
            node.use(old, new)
        self.outputs[:] = [new if v is old else v for v in self.outputs]
        if keep_name:
            self.hand_on_name(old, new)

    def hand_on_name(self, old: Value, new: Value) -> None:
        """The two change names, unless one is an input or `new` a constant."""
        if new.const is None and new not in self.inputs and old not in self.inputs:
            old.name, new.name = new.name, old.name

    def remove_dead(self) -> bool:
        """Drop operations whose results nobody uses, and unused constants. All operations
        of the IR are pure, so that is safe. True if something went."""
        live = set(self.outputs) | {p.value for p in self.places}
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if not any(v in live for v in node.outputs):
                continue
            live.update(node.reads())
            kept.append(node)
        consts = [v for v in self.consts if v in live]
        changed = len(kept) < len(self.nodes) or len(consts) < len(self.consts)
        self.nodes, self.consts = kept[::-1], consts
        return changed

    def sort(self) -> None:
        """Order topologically; among the ready operations, the original order decides."""
        import networkx as nx  # takes long to load

        made = self.producers()
        position = {n: i for i, n in enumerate(self.nodes)}
        dag: nx.DiGraph[Node] = nx.DiGraph()
        dag.add_nodes_from(self.nodes)
        for node in self.nodes:
            dag.add_edges_from((made[v], node) for v in node.reads() if v in made)
        self.nodes = list(nx.lexicographical_topological_sort(dag, key=position.__getitem__))

    # -- other views --

    def to_networkx(self) -> nx.MultiDiGraph[str]:
        """The data flow: one vertex a value (`kind` input, const or result, `type`) and one
        an operation (`kind` op, `op`, `attrs`), edges with the operand index `slot`."""
        import networkx as nx  # takes long to load

        net: nx.MultiDiGraph[str] = nx.MultiDiGraph(name=self.name)
        for value in self.inputs:
            net.add_node(f"%{value.name}", kind="input", type=str(value.type))
        for value in self.consts:
            net.add_node(f"%{value.name}", kind="const", type=str(value.type))
        for node in self.nodes:
            key = node.outputs[0].name
            net.add_node(key, kind="op", op=node.op, attrs=dict(node.attrs), source=node.source)
            for value in node.outputs:
                net.add_node(f"%{value.name}", kind="result", type=str(value.type))
            for slot, operand in enumerate(node.inputs):
                if operand is not None:
                    net.add_edge(f"%{operand.name}", key, slot=slot)
            for slot, value in enumerate(node.outputs):
                net.add_edge(key, f"%{value.name}", slot=slot)
        return net

    def __repr__(self) -> str:
        return f"graph @{self.name} ({len(self.nodes)} operations)"


def layer_name(node: Node) -> str:
    """What a user calls an operation: its name in the ONNX file, else its first result's.
    Converters join the names of fused operations with `;`: the last one is the layer's."""
    return (node.source or node.outputs[0].name).rsplit(";", 1)[-1]


def stated_attrs(node: Node) -> dict[str, Attr]:
    """The attributes as the text states them: those of a native operation in table order
    without defaults, then all others in stored order."""
    row = TABLE.get(node.op)
    if row is None:
        return dict(node.attrs)
    known = {a.name: a.default for a in row.attrs}
    ordered = [name for name in known if name in node.attrs and node.attrs[name] != known[name]]
    ordered += [name for name in node.attrs if name not in known]
    return {name: node.attrs[name] for name in ordered}


def same_graph(a: Graph, b: Graph) -> bool:
    """Whether two graphs are equal: names, types, operations, attributes, constants, places."""
    return _signature(a) == _signature(b)


def _items(node: Node, content: Callable[[Attr], object]) -> tuple[object, ...]:
    return tuple((key, content(x)) for key, x in stated_attrs(node).items())


def _signature(graph: Graph) -> object:
    def array(x: Array) -> object:
        return (str(x.dtype), x.shape, x.tobytes() if x.dtype != object else tuple(x.ravel()))

    def attr(x: Attr) -> object:
        if isinstance(x, Graph):
            return _signature(x)
        if isinstance(x, tuple):
            return tuple(attr(y) for y in x)
        if isinstance(x, np.ndarray):
            return array(x)
        return (type(x).__name__, repr(x))

    def names(values: Sequence[Value | None]) -> tuple[object, ...]:
        return tuple(None if v is None else (v.name, str(v.type)) for v in values)

    return (
        graph.name,
        tuple(sorted(graph.opsets.items())),
        names(graph.inputs),
        names(graph.outputs),
        graph.input_names or [v.name for v in graph.inputs],
        graph.output_names or [v.name for v in graph.outputs],
        tuple(
            (v.name, str(v.type), v.seed, array(v.const))
            for v in graph.consts
            if v.const is not None
        ),
        tuple(
            (n.op, names(n.inputs), names(n.outputs), n.source, n.why, _items(n, attr))
            for n in graph.nodes
        ),
        tuple(
            (p.value.name, p.channels, p.first, p.count, p.width, p.tile, p.row, p.per_tile)
            for p in graph.places
        ),
    )
