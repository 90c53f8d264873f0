"""Writes the text of the graph IR; SPEC.md, section *Canonical layout*, is the contract.

One statement a line, no alignment, no wrapping: a line depends on nothing but its
statement. Constants, operations and places are divided by one blank line.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np

from cimc.ir import literals
from cimc.ir.graph import Attr, Graph, Node, Place, Value, stated_attrs
from cimc.ir.types import AnyType, Array, OptType, SeqType, TensorType, elem_of
from cimc.textfile import comment_lines, single_blanks, with_comment


def print_graph(graph: Graph, comments: bool = True) -> str:
    """The text of a graph; without `comments` neither those nor the author's blank lines."""
    return _Printer(comments).file(graph)


class _Printer:
    """Collects the constants for `resources` while it prints."""

    def __init__(self, comments: bool) -> None:
        self.comments = comments
        self.resources: dict[str, bytes] = {}

    def file(self, graph: Graph) -> str:
        lines = self._above(graph.before, "")
        while lines and not lines[0]:
            lines.pop(0)
        lines.append(self._behind(self.graph(graph, ""), graph.end_after))
        lines += self._above(graph.trailing, "")
        while not lines[-1]:
            lines.pop()
        if self.resources:
            lines.append("resources {")
            lines += [
                f'  "{name}" "{base64.b64encode(data).decode()}"'
                for name, data in self.resources.items()
            ]
            lines.append("}")
        return "\n".join(lines) + "\n"

    def _above(self, before: Sequence[str], indent: str) -> list[str]:
        return comment_lines(single_blanks(before), indent) if self.comments else []

    def _behind(self, line: str, after: str) -> str:
        return with_comment(line, after) if self.comments else line

    # -- graphs --

    def graph(self, graph: Graph, indent: str) -> str:
        """From `graph @name` to the closing brace, whose line starts with `indent`."""
        inner = indent + "  "
        blocks = [
            self._block(graph.consts, [self._const(v) for v in graph.consts], inner),
            self._block(graph.nodes, [self._node(n, inner) for n in graph.nodes], inner),
            self._block(graph.places, [_place(p) for p in graph.places], inner),
        ]
        lines = [self._behind(_header(graph), graph.after)]
        for block in blocks:
            if block and len(lines) > 1:
                lines.append("")
            lines += block
        end = self._above(graph.end_before, inner)
        if len(lines) == 1:
            end = _strip(end)
        lines += end
        while not lines[-1]:
            lines.pop()
        return "\n".join([*lines, indent + "}"])

    def _block(
        self, items: Sequence[Value | Node | Place], texts: Sequence[str], indent: str
    ) -> list[str]:
        """Statements with their comments; no blank line at the start."""
        lines: list[str] = []
        for item, text in zip(items, texts, strict=True):
            lines += self._above(item.before, indent)
            lines.append(indent + self._behind(text, item.after))
        return _strip(lines)

    # -- statements --

    def _const(self, value: Value) -> str:
        return f"const %{value.name}: {value.type} = {self._content(value)}"

    def _content(self, value: Value) -> str:
        if value.seed is not None:
            return f"random seed={value.seed}"
        assert value.const is not None, f"%{value.name} has no elements"
        return self._elements(value.const, value.tensor, bare=value.tensor.shape == ())

    def _elements(self, array: Array, type_: TensorType, bare: bool) -> str:
        """The elements inline, or the hash of the bytes, which go to the resources."""
        if array.size <= literals.INLINE:
            texts = literals.element_texts(array, type_.elem)
            if texts is not None and bare and type_.elem != "str":
                return texts[0]
            if texts is not None:
                return f"[{', '.join(texts)}]"
        data = literals.pack(array, type_.elem)
        name = literals.content_hash(type_, data)
        self.resources[name] = data
        return f'"{name}"'

    def _node(self, node: Node, indent: str) -> str:
        results = ", ".join(f"%{v.name}" for v in node.outputs)
        operands = ", ".join("_" if v is None else f"%{v.name}" for v in node.inputs)
        parts = [f"{results} = {node.op}({operands})"]
        for name, attr in stated_attrs(node).items():
            parts.append(f"{name}={self._attr(attr, indent)}")
        parts[-1] += ": " + ", ".join(str(v.type) for v in node.outputs)
        if node.source is not None:
            parts.append(f"from {literals.quote(node.source)}")
        if node.why is not None:
            parts.append(f"why {literals.quote(node.why)}")
        return " ".join(parts)

    def _attr(self, attr: Attr, indent: str) -> str:
        if isinstance(attr, Graph):
            return self.graph(attr, indent)
        if isinstance(attr, tuple):
            return f"[{','.join(self._attr(item, indent) for item in attr)}]"
        if isinstance(attr, np.ndarray):
            type_ = TensorType(elem_of(attr.dtype), attr.shape)
            return f"tensor<{type_}>{self._elements(attr, type_, bare=False)}"
        if isinstance(attr, TensorType | SeqType | OptType | AnyType):
            return f"type<{attr}>"
        if isinstance(attr, str):
            return literals.quote(attr)
        return literals.float_text(attr) if isinstance(attr, float) else str(int(attr))


def _strip(lines: list[str]) -> list[str]:
    """Without the blank lines at the start."""
    start = next((i for i, line in enumerate(lines) if line), len(lines))
    return lines[start:]


def _header(graph: Graph) -> str:
    inputs = ", ".join(
        f"%{v.name}: {v.type}{_interface(v, graph.input_names, i)}"
        for i, v in enumerate(graph.inputs)
    )
    outputs = ", ".join(
        f"%{v.name}{_interface(v, graph.output_names, i)}" for i, v in enumerate(graph.outputs)
    )
    opsets = ", ".join(f"{domain}: {version}" for domain, version in graph.opsets.items())
    opset = f" opset={{{opsets}}}" if opsets else ""
    return f"graph @{graph.name}({inputs}) -> ({outputs}){opset} {{"


def _interface(value: Value, names: Sequence[str], index: int) -> str:
    """The ONNX name of an input or output where it isn't the value's name."""
    if not names or names[index] == value.name:
        return ""
    return f" from {literals.quote(names[index])}"


def _place(place: Place) -> str:
    first, end = place.channels
    blocks = f"{place.first}:{place.first + place.count}"
    line = f"place %{place.value.name}[{first}:{end}] blocks={blocks} width={place.width}"
    if place.tile is not None:
        line += f" -> @t{place.tile}[{place.row}]"
    return line if place.per_tile == 1 else f"{line} per_tile={place.per_tile}"
