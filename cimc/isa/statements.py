"""One line of `.cim` text as a statement: lark tree to the dataclasses of `program.py`.

Called by `text.py` for each line without its comment. Knows the grammar, the settings and
the operand kinds of the table; nothing of other lines.
"""

from __future__ import annotations

import binascii
import hashlib
import json
from dataclasses import dataclass
from math import prod
from typing import Any

import lark
from lark.tree import Meta

from cimc.ir.types import is_elem
from cimc.isa.cells import Source
from cimc.isa.encoding import byte_count, from_bytes, is_data_kind
from cimc.isa.program import (
    Affine,
    Data,
    Instr,
    Layer,
    Loop,
    Mem,
    Operand,
    Option,
    Range,
    Ref,
    Refs,
    Reg,
    Remap,
    Rows,
    Section,
    TargetLine,
    View,
    Win,
)
from cimc.isa.settings import KINDS, SETTINGS, Value
from cimc.isa.stored import Base64Text, ProgramFile
from cimc.isa.syntax import StatementError, read_tree
from cimc.isa.table import TABLE

MAX_DIGITS = 18


@dataclass
class Version:
    """`.cim 1`."""

    number: int


@dataclass
class Pipeline:
    """`.pipeline "exact"`."""

    text: str


@dataclass
class End:
    """`end`."""


Statement = (
    Version | TargetLine | Pipeline | Mem | View | Win | Remap
    | Section | Layer | Loop | Instr | End | Data
)  # fmt: skip


@dataclass(frozen=True)
class Payload:
    """The base64 text of a long `.data` line, which stands there as `""` then, and where the
    file has it, if it has."""

    text: memoryview
    file: ProgramFile | None = None
    offset: int = 0


def read_statement(code: str, payload: Payload | None = None) -> Statement:
    """The statement on one line, without comment and not empty. Raises StatementError."""
    try:
        statement: Statement = _Builder(payload).transform(read_tree(code))
    except lark.exceptions.VisitError as error:
        raise error.orig_exc from None
    return statement


def _integer(token: lark.Token) -> int:
    if len(token) > MAX_DIGITS:
        raise _bad(f"a number of {len(token)} digits; at most {MAX_DIGITS} are allowed", token)
    return int(token)


def _string(token: lark.Token) -> str:
    try:
        text: str = json.loads(token)
        text.encode()
    except ValueError:
        help = 'escape as in JSON: \\" \\\\ \\n'
        raise _bad("not a valid text in quotes", token, help) from None
    return text


def _bad(message: str, token: lark.Token, help: str | None = None) -> StatementError:
    return StatementError(message, token.column or 1, len(token), help)


@dataclass
class _Type:
    elem: lark.Token
    shape: tuple[int, ...] | None


@dataclass
class _Set:
    name: lark.Token
    kind: str
    value: Value


@dataclass
class _Arg:
    name: lark.Token | None
    value: Any  # an operand or an option's value
    column: int
    width: int


class _Builder(lark.Transformer[lark.Token, Any]):
    """One method for each grammar rule; `c` are the results of the rule's parts."""

    def __init__(self, payload: Payload | None) -> None:
        super().__init__(visit_tokens=False)
        self.payload = payload

    # -- declarations --
    def cim(self, c: list[Any]) -> Version:
        return Version(_integer(c[0]))

    def pipeline(self, c: list[Any]) -> Pipeline:
        return Pipeline(_string(c[0]))

    def target(self, c: list[Any]) -> TargetLine:
        name = _string(c[0]) if c[0].type == "STRING" else str(c[0])
        return TargetLine(name, **_settings("target", c[0], c[1:]))

    def mem(self, c: list[Any]) -> Mem:
        return Mem(str(c[0]), *_buffer_type(c[1]), **_settings("mem", c[0], c[2:]))

    def view(self, c: list[Any]) -> View:
        elem, shape = _buffer_type(c[1])
        if shape is None:
            raise _bad("a view can't have the type `host`", c[1].elem)
        return View(str(c[0]), elem, shape, str(c[2]), **_settings("view", c[0], c[3:]))

    def win(self, c: list[Any]) -> Win:
        return Win(str(c[0]), **_settings("win", c[0], c[1:]))

    def remap(self, c: list[Any]) -> Remap:
        if c[0] != "t":
            raise _bad(f"found `{c[0]}`, expected `t[tile]`", c[0])
        tile, logical, physical = (_integer(token) for token in c[1:])
        return Remap(tile, logical, physical)

    def data(self, c: list[Any]) -> Data:
        name, type_, text = c[0], c[1], c[-1]
        settings = _settings("data", name, c[2:-1])
        kind, shape = str(type_.elem), type_.shape
        if not is_data_kind(kind):
            raise _bad(f"unknown kind of data `{kind}`", type_.elem, "cells, onnx, i32, bip, …")
        if shape is None:
            raise _bad(f"the shape is missing, as in `{kind}[64]`", type_.elem)
        form = {"onnx": "onnx[bytes]", "cells": "cells[rows,columns]"}.get(kind)
        if form and len(shape) != form.count(",") + 1:
            raise _bad(f"expected `{form}`", type_.elem)
        raw = _decode(name, kind, shape, self.payload.text if self.payload else text[1:-1])
        digest = settings.pop("sha256")
        if digest != hashlib.sha256(raw).hexdigest():
            raise _bad(f"the bytes of `{name}` don't have the sha256 that stands here", name,
                       "the file is damaged or was edited by hand")  # fmt: skip
        try:
            content = from_bytes(kind, shape, raw, _source(self.payload, digest))
            return Data(str(name), kind, content, **settings)
        except ValueError as error:
            raise _bad(f"`{name}`: {error}", name) from None

    def elem(self, c: list[Any]) -> _Type:
        return _Type(c[0], c[1] if len(c) > 1 else None)

    def shape(self, c: list[Any]) -> tuple[int, ...]:
        return tuple(_integer(token) for token in c if token is not None)

    def setting(self, c: list[Any]) -> _Set:
        name, value = c
        if isinstance(value, lark.Token):
            return _Set(name, "str", _string(value))
        if isinstance(value, int):
            return _Set(name, "int", value)
        if all(isinstance(v, int) for v in value):
            return _Set(name, "ints" if value else "empty", value)
        if any(isinstance(v, int) for v in value):
            raise _bad("a list holds numbers or names, not both", name)
        return _Set(name, "names", tuple(str(v) for v in value))

    def sequence(self, c: list[Any]) -> tuple[Any, ...]:
        return tuple(item for item in c if item is not None)

    def number(self, c: list[Any]) -> int:
        return -_integer(c[1]) if c[0] else _integer(c[1])

    # -- blocks --
    def section(self, c: list[Any]) -> Section:
        return Section(str(c[0])[1:], [])

    def layer(self, c: list[Any]) -> Layer:
        return Layer(str(c[0]), [])

    def loop(self, c: list[Any]) -> Loop:
        kind, var, span = c
        if "." in var:
            raise _bad("a loop variable has no dots in its name", var)
        return Loop(str(kind), str(var), span.start, span.start + span.size, [])

    def end(self, c: list[Any]) -> End:
        return End()

    # -- instructions --
    def instr(self, c: list[Any]) -> Instr:
        op = str(c[0])
        row = TABLE.get(op)
        kinds = [param.kind for param in row.params] if row else []
        opts = {opt.name: opt for opt in row.opts} if row else {}
        instr = Instr(op, ())
        args: list[Operand] = []
        for arg in (arg for part in c[1:] if part for arg in part):
            if arg.name is None:
                _operand(arg, args, kinds, instr)
                continue
            name = str(arg.name)
            if name in instr.opts:
                raise _bad(f"the option `{name}` stands here twice", arg.name)
            value = _option(arg, opts[name].kind if name in opts else "")
            instr.columns[name] = (arg.column, arg.width)
            default = opts[name].default if name in opts else None
            if default is None or value != Affine(default):
                instr.opts[name] = value
        instr.args = tuple(args)
        return instr

    @lark.v_args(meta=True)
    def arg(self, meta: Meta, c: list[Any]) -> list[_Arg]:
        """One operand or option; two operands for `(a) -> (b)`."""
        if c[0] is None and isinstance(c[1], list):
            return c[1]
        if c[0] is None and isinstance(c[1], _Arg):
            return [c[1]]
        return [_Arg(c[0], c[1], meta.column, meta.end_column - meta.column)]

    def reg(self, c: list[Any]) -> Reg:
        name = str(c[0])[1:]
        if len(c) == 1:
            return Reg(name)
        if isinstance(c[1], lark.Token):
            return Reg(name, field=str(c[1])[1:])
        if isinstance(c[1], Affine):
            raise _bad("expected a range of the register, such as `[0:32]`", c[0])
        return Reg(name, c[1])

    def place(self, c: list[Any]) -> Ref | Rows:
        name, *brackets = c
        if len(brackets) == 1:
            return _ref(name, brackets[0])
        tile, rows = brackets[0][0], brackets[1][0]
        single = [len(bracket) for bracket in brackets] == [1, 1]
        if name != "t" or not single or isinstance(tile, Range):
            raise _bad("expected `t[tile][rows]` or `buffer[position, lo:hi]`", name)
        return Rows(tile, Range(rows, Affine(1)) if isinstance(rows, Affine) else rows)

    def bracket(self, c: list[Any]) -> list[Any]:
        return c

    def transfer(self, c: list[Any]) -> list[_Arg]:
        return c

    @lark.v_args(meta=True)
    def names(self, meta: Meta, c: list[Any]) -> _Arg:
        refs = Refs(tuple(str(name) for name in c if name is not None))
        return _Arg(None, refs, meta.column, meta.end_column - meta.column)

    def interval(self, c: list[Any]) -> Range:
        start, to, end = c
        return Range(start, end if to == "+:" else end - start)

    def expr(self, c: list[Any]) -> Affine:
        total = c[1] * -1 if c[0] else c[1]
        for sign, term in zip(c[2::2], c[3::2], strict=True):
            total = total - term if sign == "-" else total + term
        assert isinstance(total, Affine)
        return total

    def term(self, c: list[Any]) -> Affine:
        names = [token for token in c if token.type == "NAME"]
        if len(names) > 1:
            raise _bad(f"`{names[0]}*{names[1]}`: one factor must be a number", names[0],
                       "indices are affine in the loop variables")  # fmt: skip
        factor = prod(_integer(token) for token in c if token.type == "INT")
        return Affine.of(str(names[0])) * factor if names else Affine(factor)


def _settings(directive: str, at: lark.Token, given: list[_Set]) -> dict[str, Any]:
    """The settings by name, defaults filled in."""
    rows = {row.name: row for row in SETTINGS[directive]}
    values: dict[str, Any] = {row.name: row.default for row in rows.values() if not row.required}
    seen: set[str] = set()
    for item in given:
        name = str(item.name)
        if name not in rows:
            raise _bad(f"`.{directive}` has no setting `{name}`", item.name, _known(rows))
        if name in seen:
            raise _bad(f"the setting `{name}` stands here twice", item.name)
        if item.kind != rows[name].kind and not (
            item.kind == "empty" and rows[name].kind in ("ints", "names")
        ):
            raise _bad(f"`{name}` must be {KINDS[rows[name].kind]}", item.name)
        seen.add(name)
        values[name] = item.value
    missing = [name for name in rows if name not in values]
    if missing:
        raise _bad(f"`{at}` lacks the setting{'s' * (len(missing) > 1)} {', '.join(missing)}", at)
    return values


def _known(names: Any) -> str:
    return "known: " + ", ".join(names)


def _buffer_type(type_: _Type) -> tuple[str, tuple[int, ...] | None]:
    elem = str(type_.elem)
    if elem == "host":
        if type_.shape is not None:
            raise _bad("`host` takes no shape", type_.elem)
        return elem, None
    if not is_elem(elem):
        raise _bad(f"unknown element type `{elem}`", type_.elem, "bip, tern, u8, i32, f32, …")
    if type_.shape is None:
        raise _bad(f"the shape is missing, as in `{elem}[1,32]`", type_.elem)
    return elem, type_.shape


def _source(payload: Payload | None, digest: str) -> Source | None:
    if payload is None or payload.file is None:
        return None
    return Base64Text(payload.file, payload.offset, len(payload.text), digest)


def _decode(name: lark.Token, kind: str, shape: tuple[int, ...], text: str | memoryview) -> bytes:
    """The bytes behind base64 `text`, whose size is checked before any is taken."""
    need = byte_count(kind, shape)
    if len(text) != -(-need // 3) * 4:
        have = len(text) * 3 // 4
        size = ",".join(map(str, shape))
        raise _bad(f"`{kind}[{size}]` takes {need} bytes, the base64 text holds about {have}", name)
    try:
        raw = binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        raise _bad(f"the text of `{name}` isn't base64", name) from None
    if len(raw) != need:
        raise _bad(f"`{name}` takes {need} bytes, the base64 text holds {len(raw)}", name)
    return raw


def _operand(arg: _Arg, args: list[Operand], kinds: list[str], instr: Instr) -> None:
    """Append an operand, with its place in the text."""
    if instr.opts or any(isinstance(key, str) for key in instr.columns):
        raise StatementError("an operand stands after an option", arg.column, arg.width)
    if isinstance(arg.value, Range):
        raise StatementError("a range alone is no operand", arg.column, arg.width)
    kind = kinds[len(args)] if len(args) < len(kinds) else ""
    instr.columns[len(args)] = (arg.column, arg.width)
    args.append(arg.value if kind == "int" else _name(arg.value))


def _option(arg: _Arg, kind: str) -> Option:
    value = _name(arg.value) if kind in ("table", "whole", "vec") else arg.value
    if not isinstance(value, (Affine, Range, Ref)):
        raise StatementError("an option is a number, a range or a name", arg.column, arg.width)
    return value


def _name(value: Any) -> Any:
    """A bare name reads as an expression of one variable; here it names a thing."""
    if isinstance(value, Affine) and value.const == 0 and [c for _, c in value.terms] == [1]:
        return Ref(value.terms[0][0])
    return value


def _ref(name: lark.Token, parts: list[Affine | Range]) -> Ref:
    if len(parts) == 1 and isinstance(parts[0], Range):
        return Ref(str(name), range=parts[0])
    if len(parts) == 1 and isinstance(parts[0], Affine):
        return Ref(str(name), parts[0])
    if len(parts) == 2 and isinstance(parts[0], Affine) and isinstance(parts[1], Range):
        return Ref(str(name), parts[0], parts[1])
    raise _bad(f"expected `{name}[position]`, `{name}[lo:hi]` or `{name}[position, lo:hi]`", name)
