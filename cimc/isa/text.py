"""`.cim` text to a program, and program files.

Takes the text line by line, has each statement read by `statements.py`, and puts
the statements together to sections, layers and loops. All mistakes of a file are listed
at once. Whether the program makes sense is the business of `check`.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cimc.errors import CompileError, Span, raise_all
from cimc.isa.printer import program_lines
from cimc.isa.program import (
    Affine,
    Data,
    Instr,
    Layer,
    Loop,
    Mem,
    Program,
    Remap,
    Section,
    TargetLine,
    View,
    Win,
)
from cimc.isa.statements import (
    End,
    Payload,
    Pipeline,
    Statement,
    Version,
    read_statement,
)
from cimc.isa.stored import ProgramFile
from cimc.isa.syntax import StatementError

FORMAT = 1
MAX_NESTING = 32
MAX_ERRORS = 50
_SHOWN = 200  # characters of a source line that an error shows
_LONG_DATA = 4096  # bytes of a line that is worth reading without a copy of its text

_CODE = re.compile(r'(?:[^"#]+|"[^"\\]*(?:\\.[^"\\]*)*")*')
_LOOP = re.compile(r"\s*(for|par)\s")
_NOT_CIM = f"not a .cim program: the first line must be `.cim {FORMAT}`"
_Item = TargetLine | Mem | View | Win | Remap | Section | Layer | Loop | Instr | Data
# the parts of a file in their order
_STAGES: tuple[tuple[type, ...], ...] = (
    (Version,),
    (TargetLine,),
    (Pipeline,),
    (Mem, View, Win, Remap),
    (Section, Layer, Loop, Instr, End),
    (Data,),
)
_DECLS = 3
_ORDER = ".cim, .target, .pipeline, declarations, sections, .data"


def load(path: str | os.PathLike[str]) -> Program:
    """The program in a file, parsed but not checked. Raises CompileError.

    Reads line by line; the file stays open while the program may read cells from it again
    (see `Cells.release`)."""
    try:
        with open(path, "rb") as file:
            return _load(file, str(path))
    except OSError as error:
        raise CompileError(f"can't read the program: {error.strerror}", str(path)) from None
    except UnicodeDecodeError:
        raise CompileError("not a .cim program: the file isn't text", str(path)) from None


def _load(file: BinaryIO, name: str) -> Program:
    try:
        return _read(file, name)
    except CompileError:
        # a file that isn't text has no other mistakes: look at the rest of it
        decoder = codecs.getincrementaldecoder("utf-8")()
        for block in iter(lambda: file.read(1 << 20), b""):
            decoder.decode(block)
        decoder.decode(b"", final=True)
        raise


def _read(file: BinaryIO, name: str) -> Program:
    reader, store, offset = _Reader(name), ProgramFile.of(file, name), 0
    for number, raw in enumerate(file, 1):
        if not reader.long_data(number, raw, store, offset):
            line = raw.removesuffix(b"\n").removesuffix(b"\r") if raw.endswith(b"\n") else raw
            reader.line(number, line.decode("utf-8"))
        if len(reader.errors) >= MAX_ERRORS:
            break
        offset += len(raw)
    return reader.program()


def save(program: Program, path: str | os.PathLike[str]) -> None:
    """Write the program's text; the file appears whole or not at all. Raises CompileError."""
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.writelines(f"{line}\n".encode() for line in program_lines(program))
        os.replace(part, target)
    except OSError as error:
        raise CompileError(f"can't write the program: {error.strerror}", str(path)) from None
    finally:
        part.unlink(missing_ok=True)


def parse(text: str, file: str = "<string>") -> Program:
    """The program that `text` says; `file` names it in errors.

    Raises CompileError, with all problems of the text together.
    """
    reader = _Reader(file)
    for number, line in enumerate(_lines(text), 1):
        reader.line(number, line)
        if len(reader.errors) >= MAX_ERRORS:
            break
    return reader.program()


def _lines(text: str) -> Iterator[str]:
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end].removesuffix("\r")
        start = end + 1
    yield text[start:]


class _Reader:
    """Takes one line after the other and builds the program."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.errors: list[CompileError] = []
        self.pending: list[str] = []  # comments and empty lines above the next statement
        self.loops: list[Loop] = []  # open ones
        self.stage = -1
        self.last = Span(file, 1, 1)
        self.version: Version | None = None
        self.before: tuple[str, ...] = ()
        self.cim_after = ""
        self.target: TargetLine | None = None
        self.pipeline: Pipeline | None = None
        self.pipeline_before: tuple[str, ...] = ()
        self.pipeline_after = ""
        self.decls: list[Mem | View | Win | Remap] = []
        self.sections: list[Section] = []
        self.data: list[Data] = []

    def line(self, number: int, line: str) -> None:
        """Take one line of the file."""
        match = _CODE.match(line)
        assert match
        code, comment = match[0].rstrip(), line[match.end() :].rstrip()
        if comment.startswith('"'):
            self._error("the text in quotes has no end", number, line, match.end() + 1)
            return
        if not code:
            self._own_line(comment)
            return
        column = len(code) - len(code.lstrip()) + 1
        span = Span(self.file, number, column, line[:_SHOWN], _width(code, column))
        try:
            statement = read_statement(code)
        except StatementError as error:
            if self.version is None:
                raise CompileError(_NOT_CIM, span) from None
            self._error(error.message, number, line, error.column, error.width, error.help)
            self._recover(code, span)
            return
        self._take(statement, span, comment)

    def long_data(self, number: int, raw: bytes, store: ProgramFile | None, offset: int) -> bool:
        """Take a `.data` line with a long base64 text at its end, without a copy of the text.
        False where it is another line or has a mistake: then `line` must see it."""
        if len(raw) < _LONG_DATA or not raw.lstrip().startswith(b".data"):
            return False
        start, end = _last_text(raw)
        head = raw[:start].decode("utf-8") + '"'
        match = _CODE.match(head)
        if end - start < _SHOWN or match is None or match.end() != len(head):
            return False
        try:
            payload = Payload(memoryview(raw)[start:end], store, offset + start)
            statement = read_statement(head, payload)
        except StatementError:
            return False
        column = len(head) - len(head.lstrip()) + 1
        shown = (head[:-1] + raw[start : start + _SHOWN].decode("ascii"))[:_SHOWN]
        width = max(1, _SHOWN - column + 1)
        self._take(statement, Span(self.file, number, column, shown, width), "")
        return True

    def program(self) -> Program:
        """The program, after the last line."""
        raise_all(self.errors)
        if self.loops:
            loop = self.loops[-1]
            help = "close it with `end`; a file that stops here may be truncated"
            raise CompileError(f"this `{loop.kind}` has no `end`", loop.span, help)
        if self.version is None:
            raise CompileError("not a .cim program: the file is empty", self.file)
        for name, part in ((".target", self.target), (".pipeline", self.pipeline)):
            if part is None:
                raise CompileError(f"the line `{name} …` is missing", self.last)
        assert self.target
        assert self.pipeline
        while self.pending and self.pending[-1] == "":
            self.pending.pop()
        return Program(
            self.target, self.pipeline.text, self.decls, self.sections, self.data,
            before=self.before, trailing=tuple(self.pending), cim_after=self.cim_after,
            pipeline_before=self.pipeline_before, pipeline_after=self.pipeline_after,
        )  # fmt: skip

    def _own_line(self, comment: str) -> None:
        """A comment or an empty line; several empty lines count as one, none at the top."""
        first = self.version is None and not self.pending
        if comment or not (first or (self.pending and self.pending[-1] == "")):
            self.pending.append(comment)

    def _error(
        self, message: str, number: int, line: str, column: int, width: int = 1,
        help: str | None = None,
    ) -> None:  # fmt: skip
        source = line[:_SHOWN] if column <= _SHOWN else ""
        span = Span(self.file, number, column, source, max(1, min(width, _SHOWN - column + 1)))
        self.errors.append(CompileError(message, span, help))

    def _recover(self, code: str, span: Span) -> None:
        """Keep `end` of a loop whose head has a mistake from being another one."""
        self.pending.clear()
        if _LOOP.match(code):
            self.loops.append(Loop("for", "", Affine(), Affine(), [], span))

    def _take(self, statement: Statement, span: Span, comment: str) -> None:
        if self.version is None and not isinstance(statement, Version):
            raise CompileError(_NOT_CIM, span)
        before = tuple(self.pending)
        self.last = span
        self.pending.clear()
        self._check_order(statement, span)
        if isinstance(statement, Version):
            self.version, self.before, self.cim_after = statement, before, comment
        elif isinstance(statement, Pipeline):
            self.pipeline = statement
            self.pipeline_before, self.pipeline_after = before, comment
        elif isinstance(statement, End):
            self._end(span, before, comment)
        else:
            statement.span, statement.before, statement.after = span, before, comment
            self._put(statement, span)

    def _check_order(self, statement: Statement, span: Span) -> None:
        stage = next(i for i, kinds in enumerate(_STAGES) if isinstance(statement, kinds))
        if isinstance(statement, Version) and statement.number != FORMAT:
            message = f"`.cim {statement.number}`: this version reads `.cim {FORMAT}`"
            raise CompileError(message, span)
        if stage < self.stage:
            help = f"the order is {_ORDER}"
            self.errors.append(CompileError("this line stands too late", span, help))
        elif stage == self.stage and stage < _DECLS:
            self.errors.append(CompileError("this line stands here twice", span))
        self.stage = max(stage, self.stage)

    def _end(self, span: Span, before: tuple[str, ...], comment: str) -> None:
        if not self.loops:
            self.errors.append(CompileError("`end` without `for` or `par`", span))
            return
        loop = self.loops.pop()
        loop.end_before, loop.end_after = before, comment

    def _put(self, item: _Item, span: Span) -> None:
        """Put a statement into the part of the program where it belongs."""
        if isinstance(item, TargetLine):
            self.target = item
        elif isinstance(item, (Mem, View, Win, Remap)):
            self.decls.append(item)
        elif isinstance(item, (Instr, Loop)):
            self._put_code(item, span)
        else:
            self._put_part(item, span)

    def _put_part(self, item: Data | Section | Layer, span: Span) -> None:
        for loop in self.loops:
            self.errors.append(CompileError(f"this `{loop.kind}` has no `end`", loop.span))
        self.loops.clear()
        if isinstance(item, Data):
            self.data.append(item)
        elif isinstance(item, Section):
            self.sections.append(item)
        elif self.sections:
            self.sections[-1].layers.append(item)
        else:
            help = "write `.load`, `.infer` or `.update` above the first label"
            self.errors.append(CompileError("a label outside a section", span, help))

    def _put_code(self, item: Instr | Loop, span: Span) -> None:
        layers = self.sections[-1].layers if self.sections else []
        if self.loops:
            self.loops[-1].body.append(item)
        elif layers:
            layers[-1].body.append(item)
        else:
            help = "write a label such as `conv1:` above the first instruction"
            self.errors.append(CompileError("an instruction outside a layer", span, help))
        if not isinstance(item, Loop):
            return
        self.loops.append(item)
        if len(self.loops) > MAX_NESTING:
            message = f"loops are nested deeper than {MAX_NESTING}"
            raise CompileError(message, span)


def _last_text(raw: bytes) -> tuple[int, int]:
    """Where the text in quotes at the end of a line begins and ends; (0, 0) without one."""
    end = len(raw.rstrip()) - 1
    start = raw.rfind(b'"', 0, end) + 1
    found = raw[end : end + 1] == b'"' and raw[start - 2 : start] == b' "'
    return (start, end) if found else (0, 0)


def _width(code: str, column: int) -> int:
    """Characters of the statement that an error underlines."""
    return max(1, min(len(code), _SHOWN) - column + 1)
