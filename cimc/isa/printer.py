"""A program as `.cim` text.

Canonical and local: one statement a line, two spaces for each level, options and settings
in the order of their table and left out where they equal the default; nothing is aligned
to its neighbours. `text.parse(print_program(p)) == p` for a program that spells out no
default option. Knows the table; nothing of the machine.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator

from cimc.isa.encoding import to_bytes
from cimc.isa.program import (
    Affine,
    Data,
    Instr,
    Loop,
    Mem,
    Operand,
    Option,
    Program,
    Range,
    Refs,
    Reg,
    Remap,
    Rows,
    View,
    Win,
)
from cimc.isa.settings import SETTINGS, Value
from cimc.isa.table import TABLE

_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*\Z")


def comment(text: str) -> str:
    """`text` as a comment of one line, for `before` and `after`."""
    return " ".join(["#", *text.split()])


def print_program(program: Program) -> str:
    """The canonical text of a program, with a newline at the end."""
    return "".join(f"{line}\n" for line in program_lines(program))


def print_affine(value: Affine) -> str:
    """`32 + 64*s`: the constant first, unless it is zero, then the terms by name."""
    parts = [] if value.const == 0 and value.terms else [(value.const, str(abs(value.const)))]
    for name, coef in value.terms:
        parts.append((coef, name if abs(coef) == 1 else f"{abs(coef)}*{name}"))
    first, *rest = parts
    head = f"-{first[1]}" if first[0] < 0 else first[1]
    return head + "".join(f" {'-' if sign < 0 else '+'} {text}" for sign, text in rest)


def print_range(value: Range) -> str:
    """`lo:hi`, or `start +: size` where the start varies and the size doesn't."""
    if value.size.is_const and not value.start.is_const:
        return f"{print_affine(value.start)} +: {value.size.const}"
    return f"{print_affine(value.start)}:{print_affine(value.start + value.size)}"


def print_operand(value: Operand | Option) -> str:
    """An operand or the value of an option."""
    if isinstance(value, Affine):
        return print_affine(value)
    if isinstance(value, Range):
        return print_range(value)
    if isinstance(value, Refs):
        return f"({', '.join(value.names)})"
    if isinstance(value, Reg):
        field = f".{value.field}" if value.field else ""
        span = f"[{print_range(value.range)}]" if value.range else ""
        return f"%{value.name}{field}{span}"
    if isinstance(value, Rows):
        single = value.range.size == Affine(1)
        rows = print_affine(value.range.start) if single else print_range(value.range)
        return f"t[{print_affine(value.tile)}][{rows}]"
    inside = [print_affine(value.index)] if value.index is not None else []
    inside += [print_range(value.range)] if value.range is not None else []
    return f"{value.name}[{', '.join(inside)}]" if inside else value.name


def print_instr(instr: Instr) -> str:
    """An instruction without its comments, on one line."""
    parts: list[str] = []
    lists = [isinstance(arg, Refs) for arg in instr.args]
    for key, arg in enumerate(instr.args):
        # the first two lists in a row are what goes in and what comes out
        arrow = lists[key] and lists[: key + 1].count(True) == 2 and lists[key - 1]
        if arrow:
            parts[-1] += f" -> {print_operand(arg)}"
        else:
            parts.append(print_operand(arg))
    row = TABLE.get(instr.op)
    defaults = {opt.name: opt.default for opt in row.opts} if row else {}
    order = {name: place for place, name in enumerate(defaults)}
    for name, value in sorted(instr.opts.items(), key=lambda o: order.get(o[0], len(order))):
        default = defaults.get(name)
        if default is None or value != Affine(default):
            parts.append(f"{name}={print_operand(value)}")
    return f"{instr.op} {', '.join(parts)}" if parts else instr.op


def program_lines(program: Program) -> Iterator[str]:
    """The lines of `print_program`, without their ends; each is made when it is asked for."""
    yield from _line(".cim 1", program.before, program.cim_after)
    target = program.target
    name = target.name if _WORD.match(target.name) else _quote(target.name)
    values: dict[str, Value] = {
        "rows": target.rows,
        "cols": target.cols,
        "tiles": target.tiles,
        "functions": target.functions,
        "acc_bits": target.acc_bits,
    }
    text = f".target {name}{_settings('target', values)}"
    yield from _line(text, target.before, target.after)
    pipeline = f".pipeline {_quote(program.pipeline)}"
    yield from _line(pipeline, program.pipeline_before, program.pipeline_after)
    for decl in program.decls:
        yield from _line(_decl(decl), decl.before, decl.after)
    for section in program.sections:
        yield from _line(f".{section.name}", section.before, section.after)
        for layer in section.layers:
            yield from _line(f"{layer.name}:", layer.before, layer.after)
            yield from _body(layer.body, "  ")
    for data in program.data:
        yield from _line(_data(data), data.before, data.after)
    yield from _comments(program.trailing, "")


def _body(body: list[Instr | Loop], indent: str) -> Iterator[str]:
    for item in body:
        if isinstance(item, Instr):
            yield from _line(print_instr(item), item.before, item.after, indent)
            continue
        head = f"{item.kind} {item.var} in {print_affine(item.lo)}:{print_affine(item.hi)}"
        yield from _line(head, item.before, item.after, indent)
        yield from _body(item.body, indent + "  ")
        # a comment above `end` is about the body
        yield from _comments(item.end_before, indent + "  ")
        yield from _line("end", (), item.end_after, indent)


def _line(text: str, before: tuple[str, ...], after: str, indent: str = "") -> Iterator[str]:
    yield from _comments(before, indent)
    yield f"{indent}{text}  {after}" if after else f"{indent}{text}"


def _comments(lines: tuple[str, ...], indent: str) -> Iterator[str]:
    for line in lines:
        assert line == "" or line.startswith("#"), line
        assert "\n" not in line, line
        yield indent + line if line else ""


def _decl(decl: Mem | View | Win | Remap) -> str:
    if isinstance(decl, Remap):
        return f".map t[{decl.tile}] {decl.logical} -> {decl.physical}"
    if isinstance(decl, Mem):
        return f".mem {decl.name} {_type(decl.type, decl.shape)}{_settings('mem', vars(decl))}"
    if isinstance(decl, View):
        head = f".view {decl.name} {_type(decl.type, decl.shape)} = {decl.source}"
        return head + _settings("view", vars(decl))
    return f".win {decl.name}{_settings('win', vars(decl))}"


def _data(data: Data) -> str:
    raw = to_bytes(data)
    values: dict[str, Value] = {
        "seg": data.seg,
        "macs": data.macs,
        "why": data.why,
        "sha256": hashlib.sha256(raw).hexdigest(),
    }
    head = f".data {data.name} {_type(data.kind, data.shape)}{_settings('data', values)}"
    return f'{head} "{base64.b64encode(raw).decode()}"'


def _type(elem: str, shape: tuple[int, ...] | None) -> str:
    return elem if shape is None else f"{elem}[{','.join(map(str, shape))}]"


def _settings(directive: str, values: dict[str, Value]) -> str:
    text = ""
    for setting in SETTINGS[directive]:
        value = values[setting.name]
        if not setting.required and value == setting.default:
            continue
        text += f" {setting.name}={_value(value)}"
    return text


def _value(value: Value) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    return _quote(value) if isinstance(value, str) else str(value)


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
