"""One line of `.cim` text as a lark tree, or a `StatementError` in the user's words.

The grammar is in `grammar.lark`; `statements.py` makes sense of the tree.
"""

from __future__ import annotations

from functools import cache, lru_cache
from importlib.resources import files

import lark

DIRECTIVES = ("cim", "target", "pipeline", "mem", "view", "win", "map", "load", "infer",
              "update", "data")  # fmt: skip

_SHORT = 80  # characters

_SPELLING = {
    "NAME": "a name",
    "WORD": "a name",
    "INT": "a number",
    "STRING": "a text in quotes",
    "REG": "a register such as `%x`",
    "FIELD": "a field such as `.valid`",
    "TO": "`:` or `+:`",
    "$END": "the end of the line",
    "<END-OF-FILE>": "the end of the line",
}


class StatementError(Exception):
    """A mistake in one line: what, where in the line, and the way out."""

    def __init__(self, message: str, column: int, width: int = 1, help: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.column = column
        self.width = width
        self.help = help


def read_tree(code: str) -> lark.ParseTree:
    """The tree of one statement, not to be changed. Raises StatementError."""
    try:
        return _short_tree(code) if len(code) <= _SHORT else _parser().parse(code)
    except lark.exceptions.UnexpectedInput as error:
        raise _unexpected(code, error) from None


@lru_cache(maxsize=4096)
def _short_tree(code: str) -> lark.ParseTree:
    """Of the lines of a large program, more than half stand in it several times."""
    return _parser().parse(code)


@cache
def _parser() -> lark.Lark:
    grammar = files("cimc.isa").joinpath("grammar.lark").read_text(encoding="utf-8")
    return lark.Lark(grammar, parser="lalr", start="statement", propagate_positions=True)


def _unexpected(code: str, error: lark.exceptions.UnexpectedInput) -> StatementError:
    """lark's error in the user's spelling."""
    if isinstance(error, lark.exceptions.UnexpectedToken):
        found = "the end of the line" if error.token.type == "$END" else f"`{error.token}`"
        column = error.column if error.token.type != "$END" else len(code) + 1
        width, allowed = max(1, len(error.token)), set(error.accepts or error.expected)
    else:
        assert isinstance(error, lark.exceptions.UnexpectedCharacters)
        found, column, width, allowed = f"`{error.char}`", error.column, 1, set(error.allowed)
    if not code[: column - 1].strip():
        return _unknown_start(code, column)
    spelled = sorted({_spelling(name) for name in allowed})
    return StatementError(f"found {found}, expected {' or '.join(spelled)}", column, width)


def _unknown_start(code: str, column: int) -> StatementError:
    word = code.split()[0]
    known = ", ".join(f".{name}" for name in DIRECTIVES)
    if word.startswith("."):
        return StatementError(f"unknown directive `{word}`", column, len(word), f"known: {known}")
    return StatementError("expected a directive, a label, a loop or an instruction", column)


def _spelling(terminal: str) -> str:
    if terminal in _SPELLING:
        return _SPELLING[terminal]
    pattern = _parser().get_terminal(terminal).pattern
    text = pattern.value.replace("\\", "").removesuffix("b") if pattern.type == "re" else None
    return f"`{text or pattern.value}`"
