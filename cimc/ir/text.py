"""Reads the text of the graph IR (SPEC.md): `parse_graph`, `load_graph`, `save_graph`.

`syntax.py` makes the parse tree; the builder here makes values, operations and nested graphs
of it and reports all mistakes together. Whether an operation is well formed is checked here
(`form.py`), whether its types fit later (`verify.py`).
"""

from __future__ import annotations

import base64
import difflib
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from lark import Token, Tree

from cimc.errors import CompileError, Span, raise_all
from cimc.ir import literals
from cimc.ir.form import form_problems
from cimc.ir.graph import Attr, Graph, Node, Place, Value
from cimc.ir.printer import print_graph
from cimc.ir.syntax import syntax_tree
from cimc.ir.types import (
    AnyType,
    Array,
    Dim,
    OptType,
    SeqType,
    TensorType,
    Type,
    container,
    elem_of,
    is_elem,
)
from cimc.textfile import Source, read_text, split_comments, write_text


def load_graph(path: str | Path) -> Graph:
    """Read a graph from a file; CompileError where it can't be read."""
    return parse_graph(read_text(path), str(path))


def save_graph(graph: Graph, path: str | Path) -> None:
    """Write a graph to a file, whole or not at all; CompileError where it can't be written."""
    write_text(path, print_graph(graph))


def parse_graph(text: str, file: str = "<string>") -> Graph:
    """The graph that a text describes. Raises every mistake found: all syntax errors, or
    else all others."""
    text = text.replace("\r\n", "\n") + "\n"
    source = Source(text, file)
    builder = _Builder(source)
    graph = builder.file(syntax_tree(text, source))
    raise_all(sorted(builder.errors, key=_position))
    return graph


def _position(error: CompileError) -> tuple[int, int]:
    assert isinstance(error.where, Span)
    return error.where.line, error.where.column


class _Builder:
    """Makes a graph of a parse tree. `scopes` holds the values of the open graphs, the
    innermost last; `errors` collects what is wrong."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.errors: list[CompileError] = []
        self.scopes: list[dict[str, Value]] = []
        self.undefined: list[Token] = []
        self.resources: dict[str, tuple[Token, Token]] = {}  # the name and the bytes
        self.used: set[str] = set()

    def span(self, token: Token) -> Span:
        line, column = token.line or 1, token.column or 1
        return self.source.span(line, column, len(token))

    def error(self, message: str, token: Token, help: str | None = None) -> None:
        self.errors.append(CompileError(message, self.span(token), help))

    def file(self, tree: Tree[Token]) -> Graph:
        start, body, behind, resources, end = cast("list[Any]", tree.children)
        if resources is not None:
            self._resources(resources)
        graph = self._graph(body)
        if start is not None:
            first, lines = split_comments(start)
            graph.before = (first, *lines)
        graph.end_after, graph.trailing = split_comments(behind)
        if end is not None:
            first, lines = split_comments(end)
            graph.trailing += (first, *lines) if first else lines
        for name, (token, _) in self.resources.items():
            if name not in self.used:
                self.error(f'no constant uses "{name}"', token, "remove the resource")
        return graph

    # resources

    def _resources(self, tree: Tree[Token]) -> None:
        newline, *entries = cast("list[Any]", tree.children)
        self._no_comments(newline)
        for entry in entries:
            self._resource(*entry.children)

    def _resource(self, key: Token, data: Token, newline: Token) -> None:
        self._no_comments(newline)
        name = self._string(key)
        if name in self.resources:
            self.error(f'resource "{name}" appears twice', key)
            return
        self.resources[name] = (key, data)

    def _no_comments(self, newline: Token) -> None:
        above, comment, _ = newline.partition("#")
        if not comment:
            return
        line, column = newline.line or 1, newline.column or 1
        line += above.count("\n")
        column = len(above) - above.rfind("\n") if "\n" in above else column + len(above)
        message, help = "a comment in `resources` would be lost", "put it next to the constant"
        self.errors.append(CompileError(message, self.source.span(line, column), help))

    # graphs

    def _graph(self, tree: Tree[Token]) -> Graph:
        children = cast("list[Any]", tree.children)
        name = children[0]
        graph = Graph(str(name[1:]), span=self.span(name))
        self.scopes.append({})
        outer_undefined, self.undefined = self.undefined, []
        outputs: list[Token] = []
        before: tuple[str, ...] = ()
        for child in children[1:]:
            if isinstance(child, Token) and child.type == "NL":
                graph.after, before = split_comments(child)
            elif isinstance(child, Tree) and child.data == "input":
                value, type_, source = cast("list[Any]", child.children)
                graph.inputs.append(self._define(value, self._type(type_)))
                graph.input_names.append(self._interface(value, source))
            elif isinstance(child, Tree) and child.data == "output":
                value, source = cast("list[Any]", child.children)
                outputs.append(value)
                graph.output_names.append(self._interface(value, source))
            elif isinstance(child, Tree) and child.data == "opsets":
                self._opsets(graph, child)
            elif isinstance(child, Tree) and child.data == "item":
                before = self._item(graph, child, before)
        graph.end_before = before
        graph.outputs = [self._use(token) for token in outputs]
        self._report_undefined()
        self.undefined = outer_undefined
        self.scopes.pop()
        if self.scopes:
            graph.input_names, graph.output_names = [], []
        return graph

    def _interface(self, token: Token, source: Token | None) -> str:
        """The ONNX name of an input or output: the value's name if none is given."""
        if source is not None and len(self.scopes) > 1:
            self.error("only the outermost graph has ONNX names", source)
        return str(token[1:]) if source is None else self._string(source)

    def _opsets(self, graph: Graph, tree: Tree[Token]) -> None:
        if len(self.scopes) > 1:
            assert graph.span is not None
            help = "write it on the outermost graph"
            self.errors.append(CompileError("a nested graph has no `opset`", graph.span, help))
        for entry in tree.children:
            if not isinstance(entry, Tree):
                continue
            domain, version = cast("list[Token]", entry.children)
            if domain in graph.opsets:
                self.error(f"domain `{domain}` appears twice", domain)
            graph.opsets[str(domain)] = int(version)

    def _item(self, graph: Graph, tree: Tree[Token], before: tuple[str, ...]) -> tuple[str, ...]:
        """Add one statement with the comments above and behind it; returns those below."""
        statement, newline = cast("list[Any]", tree.children)
        made: Value | Node | Place
        if statement.data == "const":
            made = self._const(statement)
            graph.consts.append(made)
        elif statement.data == "node":
            made = self._node(statement)
            graph.nodes.append(made)
        else:
            made = self._place(statement)
            graph.places.append(made)
        made.before = before
        made.after, below = split_comments(newline)
        return below

    # statements

    def _const(self, tree: Tree[Token]) -> Value:
        token, type_tree, *given = cast("list[Any]", tree.children)
        value = Value(str(token[1:]), self._type(type_tree), span=self.span(token))
        self._register(token, value)
        if not isinstance(value.type, TensorType):
            self.error(f"a constant is a tensor, not {value.type}", token)
            return value
        try:
            value.const = self._content(value, value.type, given)
        except ValueError as error:
            self.error(f"%{value.name}: {error}", token)
        return value

    def _content(self, value: Value, type_: TensorType, given: list[Any]) -> Array:
        """The elements that follow `=`; ValueError where they don't fit the type."""
        first = given[0]
        if isinstance(first, Token) and first.type == "RANDOM":
            value.seed = int(given[1])
            return literals.draw(type_, value.seed)
        if isinstance(first, Token) and first.type == "STRING":
            return self._resource_content(self._string(first), type_)
        if isinstance(first, Token):
            if type_.shape != () or type_.elem == "str":
                raise ValueError(f"{type_} takes a list `[…]`")
            return literals.elements([self._element(first)], type_)
        if type_.shape == () and type_.elem != "str":
            raise ValueError(f"{type_} takes one value, not a list")
        return self._list_content(first, type_)

    def _list_content(self, tree: Tree[Token], type_: TensorType) -> Array:
        items = cast("list[Any]", tree.children[1:])
        if any(isinstance(item, Tree) for item in items):
            raise ValueError("a graph is not an element")
        return literals.elements([self._element(item) for item in items], type_)

    def _resource_content(self, name: str, type_: TensorType) -> Array:
        if not name.startswith("sha256:"):
            raise ValueError('a string here is a content hash, "sha256:…"; write str as a list')
        if name not in self.resources:
            raise ValueError(f'"{name}" is not among the resources')
        self.used.add(name)
        try:
            data = base64.b64decode(self.resources[name][1][1:-1], validate=True)
        except ValueError as error:
            raise ValueError(f'the resource "{name}" is not base64: {error}') from None
        array = literals.unpack(data, type_)
        actual = literals.content_hash(type_, data)
        if actual != name:
            raise ValueError(f'the resource "{name}" holds the bytes of "{actual}"')
        return array

    def _node(self, tree: Tree[Token]) -> Node:
        results, op, *rest, source, why = cast("list[Any]", tree.children)
        operands = [t for t in rest if isinstance(t, Token)]
        attrs = [t for t in rest if isinstance(t, Tree) and t.data == "attr"]
        types = [t for t in rest if isinstance(t, Tree) and t.data == "type"]
        inputs = [None if t.type == "MISSING" else self._use(t) for t in operands]
        node = Node(str(op), inputs, [], span=self.span(op))
        places: dict[str, Span] = {}
        for attr in attrs:
            self._attr(node, attr, places)
        node.source = None if source is None else self._string(source)
        node.why = None if why is None else self._string(why)
        names = results.children
        if len(types) != len(names):
            self.error(f"{len(names)} results but {len(types)} types", names[0])
        found = [self._type(t) for t in types] + [AnyType()] * len(names)
        node.outputs = [self._define(t, type_) for t, type_ in zip(names, found)]
        self.errors += form_problems(node, places)
        return node

    def _attr(self, node: Node, tree: Tree[Token], places: dict[str, Span]) -> None:
        name, given = cast("list[Any]", tree.children)
        if name in node.attrs:
            self.error(f"attribute `{name}` appears twice", name)
        places[str(name)] = self.span(name)
        try:
            node.attrs[str(name)] = self._attr_value(given)
        except ValueError as error:
            self.error(f"{name}: {error}", name)
            node.attrs[str(name)] = 0

    def _attr_value(self, given: Any) -> Attr:
        if isinstance(given, Token):
            if given.type == "BOOL":
                raise ValueError("an attribute is not a bool: write 0 or 1")
            return self._literal(given)
        if given.data == "graph":
            return self._graph(given)
        if given.data == "type_attr":
            return self._type(given.children[0])
        if given.data == "tensor":
            return self._tensor(*given.children)
        items = [self._attr_value(item) for item in given.children[1:]]
        if len({type(item) for item in items}) > 1:
            raise ValueError("a list holds values of one kind")
        return cast(Attr, tuple(items))

    def _tensor(self, type_tree: Tree[Token], given: Any) -> Array:
        type_ = self._type(type_tree)
        if not isinstance(type_, TensorType):
            raise ValueError(f"{type_} is not a tensor's type")
        plain = elem_of(container(type_.elem))
        if type_.elem != plain:
            raise ValueError(f"a tensor attribute has no type {type_.elem}: write {plain}")
        if isinstance(given, Token):
            return self._resource_content(self._string(given), type_)
        return self._list_content(given, type_)

    def _place(self, tree: Tree[Token]) -> Place:
        name, rows, blocks, width, tile, row, per_tile = cast("list[Any]", tree.children)
        first, end = (int(t) for t in rows.children)
        block, last = (int(t) for t in blocks.children)
        place = Place(self._use(name), (first, end), block, last - block, int(width))
        place.span = self.span(name)
        if tile is not None:
            place.tile, place.row = int(tile[2:]), int(row)
        if per_tile is not None:
            place.per_tile = int(per_tile)
        return place

    # names, types, literals

    def _define(self, token: Token, type_: Type) -> Value:
        value = Value(str(token[1:]), type_, span=self.span(token))
        self._register(token, value)
        return value

    def _register(self, token: Token, value: Value) -> None:
        for scope in self.scopes:
            if value.name not in scope:
                continue
            other = scope[value.name].span
            assert other is not None
            self.error(f"{token} is already defined in line {other.line}", token)
            return
        self.scopes[-1][value.name] = value

    def _use(self, token: Token) -> Value:
        name = str(token[1:])
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        self.undefined.append(token)
        return Value(name, AnyType(), span=self.span(token))

    def _report_undefined(self) -> None:
        """Errors for the undefined values of the graph that ends here, when it is known what
        a later line defines."""
        known = {name: value for scope in self.scopes for name, value in scope.items()}
        for token in self.undefined:
            later = known.get(str(token[1:]))
            close = difflib.get_close_matches(token[1:], known, 1)
            help = f"did you mean %{close[0]}?" if close else None
            if later is not None and later.span is not None:
                help = f"line {later.span.line} defines it; a definition comes before its uses"
            self.error(f"{token} is not defined", token, help)

    def _type(self, tree: Any) -> Type:
        token = tree.children[0]
        if token.type == "ANY":
            return AnyType()
        if token.type == "WRAP":
            inner = self._type(tree.children[1])
            return SeqType(inner) if token == "seq" else OptType(inner)
        try:
            return tensor_type(str(token))
        except ValueError as error:
            self.error(str(error), token)
            return AnyType()

    def _literal(self, token: Token) -> literals.Literal:
        if token.type == "INT":
            return int(token)
        if token.type == "FLOAT":
            return literals.read_float(token)
        if token.type == "BOOL":
            return bool(token == "true")
        return self._string(token)

    def _element(self, token: Token) -> literals.Literal:
        """An element of a constant; its type rounds it, so a float stays a double here."""
        return float(token) if token.type == "FLOAT" else self._literal(token)

    def _string(self, token: Token) -> str:
        try:
            return literals.unquote(token)
        except ValueError:
            self.error("a wrong escape in a string", token, "escapes are those of JSON")
            return str(token[1:-1])


# -- types --


@lru_cache(maxsize=4096)
def tensor_type(text: str) -> TensorType:
    """The type that `u8[1,N]` spells; ValueError says what is wrong with it."""
    elem, _, rest = text.partition("[")
    elem = elem.strip()
    if not is_elem(elem):
        raise ValueError(f"`{elem}` is not an element type")
    rest = rest.rstrip("]").strip()
    if rest == "*":
        return TensorType(elem, None)
    return TensorType(elem, tuple(_dim(d.strip()) for d in rest.split(",")) if rest else ())


def _dim(text: str) -> Dim:
    if text.isdecimal() and text.isascii():
        return int(text)
    if not re.fullmatch(r"\?|[A-Za-z_][A-Za-z0-9_.]*", text):
        raise ValueError(f"`{text}` is not a dimension: write a size, a symbol or `?`")
    return text
