"""Takes channels out of a graph: constants lose rows, shapes and attributes follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.driver.rewrite import Rewriter
from cimc.frontend.windows import slices
from cimc.ir.graph import Attr, Graph, Node, Value
from cimc.ir.types import TensorType
from cimc.prune.spaces import Kernels, Spaces, mask_of

Bools = npt.NDArray[np.bool_]


def remove_channels(graph: Graph, spaces: Spaces, gone: set[int]) -> None:
    """Take the channels out, in place. What they contributed to the sums behind them is lost.

    spaces: those of this graph. gone: channels that are not locked, of which none is
    `spaces.spared`. Constants that only some users lose indices of are kept for the others.
    """
    assert not gone & spaces.spared(gone), "locked channels, or all of an axis"
    _Removal(graph, spaces, gone).run()


class _Removal:
    def __init__(self, graph: Graph, spaces: Spaces, gone: set[int]) -> None:
        self.graph = graph
        self.spaces = spaces
        self.gone = mask_of(gone, spaces.count)
        self.rw = Rewriter(graph)
        self.cut: dict[tuple[Value, bytes], Value] = {}

    def run(self) -> None:
        grouped = {k.node: k for k in self.spaces.kernels if k.groups > 1}
        keep = {
            node: [self.kept(axes) for axes in self.operands(node)] for node in self.graph.nodes
        }
        results = {
            value: self.kept(self.spaces.of(value)) for n in self.graph.nodes for value in n.outputs
        }
        for node in self.graph.nodes:
            edit = _EDITS.get(node.op)
            if edit is not None and not all(k.all() for axes in keep[node] for k in axes):
                edit(self, node, keep[node])
            for slot in range(len(keep[node])):
                self.operand(node, slot, keep[node][slot], grouped.get(node))
        for value, axes in results.items():
            if not isinstance(value.type, TensorType) or value.type.shape is None:
                continue
            dims = zip(value.type.shape, axes)
            shape = tuple(int(k.sum()) if isinstance(d, int) else d for d, k in dims)
            value.type = TensorType(value.type.elem, shape)
        for node in self.graph.nodes:
            if node.op in _SHAPED:
                _reshape(self, node)
        self.graph.remove_dead()

    def operands(self, node: Node) -> list[list[Any]]:
        return [self.spaces.operand(node, slot) for slot in range(len(node.inputs))]

    def kept(self, axes: Sequence[Any]) -> list[Bools]:
        return [~self.gone[numbers] for numbers in axes]

    def operand(self, node: Node, slot: int, keep: list[Bools], grouped: Kernels | None) -> None:
        """Cut a constant operand."""
        value = node.inputs[slot]
        if value is None or value.const is None or not keep:
            return
        array: Any = value.const
        if grouped is not None and slot == grouped.layer.weights:
            array = self.grouped(grouped, array)
        else:
            for axis, mask in enumerate(keep):
                if not mask.all():
                    array = np.compress(mask, array, axis)
        if array.shape != value.const.shape:
            node.inputs[slot] = self.constant(value, np.ascontiguousarray(array))

    def grouped(self, layer: Kernels, w: Any) -> Any:
        """Kernels of the groups that are left, each with the inputs of its group."""
        rows = w.reshape(layer.groups, -1, *w.shape[1:])
        outs = ~self.gone[layer.out.reshape(layer.groups, -1)]
        ins = ~self.gone[layer.columns]
        depthwise = layer.columns.shape[1] == 1
        parts = [r[o] if depthwise else r[o][:, i] for r, o, i in zip(rows, outs, ins) if o.any()]
        return np.concatenate(parts)

    def constant(self, value: Value, array: Any) -> Value:
        """The constant with other contents; the same for all that lose the same of it."""
        key = value, array.tobytes()
        if key not in self.cut:
            self.cut[key] = self.rw.renewed(value, array)
        return self.cut[key]

    def attribute(self, node: Node, name: str, value: Attr) -> None:
        node.attrs = {**node.attrs, name: value}

    def number_operand(self, node: Node, slot: int, numbers: Sequence[int]) -> None:
        """A new constant vector of numbers as operand."""
        old = node.arg(slot)
        assert old.const is not None
        node.inputs[slot] = self.rw.renewed(old, np.asarray(numbers, old.const.dtype).reshape(-1))


# -- attributes that follow ---------------------------------------------------------------

Edit = Callable[[_Removal, Node, list[list[Bools]]], None]


def _groups(r: _Removal, node: Node, keep: list[list[Bools]]) -> None:
    """Groups that lost all their inputs and kernels."""
    group = node.int_attr("group", 1)
    if group == 1:
        return
    (layer,) = (k for k in r.spaces.kernels if k.node is node)
    left = int((~r.gone[layer.columns]).any(axis=1).sum())
    r.attribute(node, "group", left)


def _split(r: _Removal, node: Node, keep: list[list[Bools]]) -> None:
    """Sizes, which may not have been stated."""
    axis = node.int_attr("axis", 0) % len(keep[0])
    sizes = [int((~r.gone[r.spaces.of(v)[axis]]).sum()) for v in node.outputs]
    if node.operand(1) is not None:
        r.number_operand(node, 1, sizes)
    elif r.graph.opsets.get("onnx", 13) < 13:
        r.attribute(node, "split", tuple(sizes))
    else:
        node.attrs = {k: v for k, v in node.attrs.items() if k != "num_outputs"}
        sized = r.rw.const(f"{node.outputs[0].name}.sizes", np.array(sizes, np.int64), "i64")
        node.inputs[1:] = [sized]


def _slice(r: _Removal, node: Node, keep: list[list[Bools]]) -> None:
    """Where the cuts lie now. Axes that are cut are stated by constants; see `slices`."""
    if node.op == "cim.slice":
        mask = keep[0][node.int_attr("axis", 1)]
        for name in ("start", "stop"):
            r.attribute(node, name, int(mask[: node.int_attr(name, 0)].sum()))
        return
    (cuts,) = slices(node) or [[]]
    axes = [axis for axis, _, _ in cuts]
    starts = [int(keep[0][axis][:first].sum()) for axis, first, _ in cuts]
    ends = [int(keep[0][axis][:last].sum()) for axis, _, last in cuts]
    if "starts" in node.attrs:
        node.attrs = {**node.attrs, "axes": tuple(axes), "starts": tuple(starts),
                      "ends": tuple(ends)}  # fmt: skip
        return
    name = node.outputs[0].name
    node.inputs[1:] = [
        r.rw.const(f"{name}.{what}", np.array(numbers, np.int64), "i64")
        for what, numbers in (("starts", starts), ("ends", ends), ("axes", axes))
    ]


def _gather(r: _Removal, node: Node, keep: list[list[Bools]]) -> None:
    """Indices of what is left, among what is left."""
    axis = node.int_attr("axis", 1 if node.op == "cim.take" else 0) % len(keep[0])
    index: Any = node.arg(1).const
    size = len(keep[0][axis])
    chosen = np.where(index < 0, index + size, index)
    place = np.cumsum(keep[0][axis]) - 1
    r.number_operand(node, 1, place[chosen[keep[0][axis][chosen]]].tolist())


def _expanded(r: _Removal, node: Node, keep: list[list[Bools]]) -> None:
    """Resize with stated sizes."""
    sizes = node.operand(3)
    if sizes is None or sizes.const is None or not sizes.const.size:
        return
    given = sizes.const.tolist()
    axes = r.spaces.of(node.outputs[0])
    r.number_operand(
        node, 3, [int((~r.gone[a]).sum()) if len(a) == d else d for a, d in zip(axes, given)]
    )


_EDITS: dict[str, Edit] = {
    "onnx.Conv": _groups,
    "onnx.ConvInteger": _groups,
    "onnx.QLinearConv": _groups,
    "cim.conv": _groups,
    "onnx.Split": _split,
    "onnx.Slice": _slice,
    "cim.slice": _slice,
    "onnx.Gather": _gather,
    "cim.take": _gather,
    "onnx.Resize": _expanded,
}
"""What else changes where an operand of an operation loses indices."""

_SHAPED = ("onnx.Reshape", "cim.reshape")


def _reshape(r: _Removal, node: Node) -> None:
    """The stated shape, where it gives sizes: -1 and 0 stay."""
    dims = node.outputs[0].tensor.shape or ()
    if node.op == "cim.reshape" or "shape" in node.attrs:
        stated = node.ints_attr("shape")
    else:
        given = node.arg(1).const
        if given is None:
            return
        stated = tuple(int(d) for d in given.reshape(-1))
    shape = tuple(
        d if s > 0 and isinstance(d, int) else s for s, d in zip(stated, dims, strict=True)
    )
    if shape == stated:
        return
    if node.op == "cim.reshape" or "shape" in node.attrs:
        r.attribute(node, "shape", shape)
    else:
        r.number_operand(node, 1, shape)
