"""User-facing errors: one base class, a place, a message, a way out.

Every mistake a user can make ends as a `CompileError`; the command line prints it
and exits with 1. `assert` and plain exceptions are left for our own bugs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """A place in a text file: 1-based line and column, and the source line itself.

    `width` is the number of characters the caret run underlines.
    """

    file: str
    line: int
    column: int
    source: str = ""
    width: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def caret(self) -> str:
        """The source line with a run of carets under the span; empty without a source."""
        if not self.source:
            return ""
        pad = "".join("\t" if c == "\t" else " " for c in self.source[: self.column - 1])
        return f"  {self.source}\n  {pad}{'^' * max(1, self.width)}"


class CompileError(Exception):
    """One mistake in the user's input.

    message: what was found and what was expected, in one line.
    where:   a `Span` in a text, or a string such as `model.onnx: node 'conv1' (Conv)`.
    help:    how to mend it, where that is known.
    """

    def __init__(
        self, message: str, where: Span | str | None = None, help: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.help = help

    def __str__(self) -> str:
        head = f"{self.where}: error: {self.message}" if self.where else f"error: {self.message}"
        caret = self.where.caret() if isinstance(self.where, Span) else ""
        tail = f"help: {self.help}" if self.help else ""
        return "\n".join(part for part in (head, caret, tail) if part)


class CompileErrors(CompileError):
    """Several mistakes, reported together."""

    def __init__(self, errors: Iterable[CompileError]) -> None:
        self.errors = list(errors)
        assert self.errors
        super().__init__(self.errors[0].message, self.errors[0].where, self.errors[0].help)

    def __str__(self) -> str:
        return "\n".join(str(e) for e in self.errors)


@contextmanager
def in_file(file: str) -> Iterator[None]:
    """Put the file before the places of errors that name a node or a layer."""
    try:
        yield
    except CompileError as error:
        for one in error.errors if isinstance(error, CompileErrors) else [error]:
            if isinstance(one.where, str) and one.where.startswith(("node '", "layer '")):
                one.where = f"{file}: {one.where}"
        raise


def raise_all(errors: list[CompileError]) -> None:
    """Raise nothing, the one error, or all of them together."""
    if not errors:
        return
    raise errors[0] if len(errors) == 1 else CompileErrors(errors)
