"""What the two text formats share: files, places in a text, comments and blank lines.

Below the parsers and printers of `cimc.ir` and `cimc.isa`; knows nothing of either language.

Comments and blank lines travel with the statements. `before` holds the lines above a
statement, each a comment with its `#` or "" for a blank line (runs of blank lines become
one); `after` is the comment behind it, or "".
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cimc.errors import CompileError, Span

_LONGEST_SOURCE = 400


def read_text(path: str | Path) -> str:
    """The contents of a UTF-8 text file; CompileError if it can't be read as one."""
    with _reading(path):
        return Path(path).read_text(encoding="utf-8")


def text_lines(path: str | Path) -> Iterator[str]:
    """The lines of such a file with their ends, one after the other; CompileError as above."""
    with _reading(path), Path(path).open(encoding="utf-8") as file:
        yield from file


@contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CompileError(f"can't read the file: {error.strerror}", str(path)) from None
    except UnicodeDecodeError as error:
        raise CompileError(f"not a text file (byte {error.start} isn't UTF-8)", str(path)) from None


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file in one step: it is there whole, or as it was before."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file in one step: it is there whole, or as it was before. CompileError where it
    can't be written."""
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` at the end, unless an exception comes before:
    then that stays as it was. CompileError where it can't be written."""
    path = Path(path)
    name = ""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(name, _mode(path))
        os.replace(name, path)
    except OSError as error:
        raise CompileError(f"can't write the file: {error.strerror}", str(path)) from None
    finally:
        if name:
            Path(name).unlink(missing_ok=True)


def _mode(path: Path) -> int:
    """The permissions of the old file, or those that `open` would give a new one."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


class Source:
    """The lines of a text, for `Span`s."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.lines = text.split("\n")

    def span(self, line: int, column: int, width: int = 1) -> Span:
        """The place at a 1-based line and column; very long lines (data) are cut."""
        source = self.lines[line - 1] if line <= len(self.lines) else ""
        if len(source) > _LONGEST_SOURCE:
            source = source[:_LONGEST_SOURCE] if column <= _LONGEST_SOURCE else ""
        width = max(1, min(width, len(source) - column + 1))
        return Span(self.file, line, column, source, width)


def split_comments(newline: str) -> tuple[str, tuple[str, ...]]:
    """`after` of the statement above and `before` of the one below, from the text between
    them: an optional comment, newline, then comment lines and blank lines."""
    after, *lines = newline.split("\n")
    return after.strip(), single_blanks(line.strip() for line in lines[:-1])


def single_blanks(lines: Iterable[str]) -> tuple[str, ...]:
    """The lines with each run of blank ones made one."""
    kept: list[str] = []
    for line in lines:
        if line or not kept or kept[-1]:
            kept.append(line)
    return tuple(kept)


def comment_lines(before: Sequence[str], indent: str) -> list[str]:
    """The lines of a `before`, as printed."""
    return [indent + line if line else "" for line in before]


def with_comment(line: str, after: str) -> str:
    """A statement with the comment behind it, as printed."""
    return f"{line}  {after}" if after else line
