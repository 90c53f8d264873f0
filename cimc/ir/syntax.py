"""The syntax of the graph IR: text to parse tree, with errors in the user's spelling.

The first half of the parser; `text.py` builds the graph from the tree. Knows `grammar.lark`
and nothing of graphs.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from lark import Lark, Token, Tree, UnexpectedCharacters, UnexpectedInput, UnexpectedToken
from lark.lexer import PatternStr

from cimc.errors import CompileError, Span, raise_all
from cimc.textfile import Source

_SPELLING = {
    "AT": "a graph's name `@name`",
    "TILE": "a tile such as `@t0`",
    "VALUE": "a value `%name`",
    "OP": "an operation such as `cim.conv` or `onnx.Relu`",
    "NAME": "a name",
    "WRAP": "a type",
    "ANY": "a type",
    "TENSOR_TYPE": "a type",
    "FLOAT": "a number",
    "INT": "a number",
    "BOOL": "`true` or `false`",
    "STRING": "a string",
    "NL": "the end of the line",
    "RANDOM": "`random seed=…`",
    "$END": "the end of the file",
    "<END-OF-FILE>": "the end of the file",  # as the lexer calls it
}
_MOST_SYNTAX_ERRORS = 20


@cache
def _lark() -> Lark:
    grammar = files("cimc.ir").joinpath("grammar.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", maybe_placeholders=True)


def syntax_tree(text: str, source: Source) -> Tree[Token]:
    """The parse tree. After a syntax error within one line the line is left out and the rest
    parsed again, to find the other ones."""
    lines = text.split("\n")
    errors: list[CompileError] = []
    while True:
        try:
            tree = _lark().parse("\n".join(lines))
        except UnexpectedInput as error:
            errors.append(_syntax_error(error, source))
            where = errors[-1].where
            assert isinstance(where, Span)
            line = lines[where.line - 1].split("#")[0].strip()
            opens_or_closes = line.endswith("{") or line.startswith("}") or not line
            if opens_or_closes or len(errors) == _MOST_SYNTAX_ERRORS:
                raise_all(errors)
            lines[where.line - 1] = ""
            continue
        raise_all(errors)
        return tree


def _syntax_error(error: UnexpectedInput, source: Source) -> CompileError:
    expected: set[str] = set()
    width, what = 1, "end of file"
    line, column = error.line, error.column
    if isinstance(error, UnexpectedToken):
        expected = set(error.accepts or error.expected)
        if error.token.type == "NL":
            what = "end of line"
        elif error.token.type != "$END":
            what, width = f"`{_shorten(error.token)}`", len(error.token)
    elif isinstance(error, UnexpectedCharacters):
        expected = set(error.allowed or ())
        found = re.match(r"[^\s,()\[\]{}]+|.", source.lines[line - 1][column - 1 :])
        what, width = (f"`{_shorten(found[0])}`", len(found[0])) if found else (what, 1)
    if what == "end of file":
        line = max((i for i, text in enumerate(source.lines, 1) if text.strip()), default=1)
        column = len(source.lines[line - 1]) + 1
    message = f"unexpected {what}"
    if expected:
        message += f", expected {_alternatives(expected)}"
    return CompileError(message, source.span(line, column, width))


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def _alternatives(terminals: set[str]) -> str:
    """What could have come instead, in the user's spelling."""
    names: dict[str, None] = {}
    for name in sorted(terminals, key=lambda t: (t == "NL", t)):
        if name in _SPELLING:
            names[_SPELLING[name]] = None
            continue
        pattern = _lark().get_terminal(name).pattern
        assert isinstance(pattern, PatternStr), name
        names[f"`{pattern.value}`"] = None
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last
