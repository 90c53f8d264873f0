"""Where the data of a program file lies, so that it can be read a second time.

Made by `text.load` for long `.data` lines; `Cells` come back to it after they were released.
"""

from __future__ import annotations

import binascii
import hashlib
import os
import stat
import weakref
from dataclasses import dataclass
from typing import BinaryIO

from cimc.errors import CompileError


class ProgramFile:
    """A file that stays open as long as something of it may be read again: the data is there
    even if the file is replaced by another one, or deleted."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self._handle = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._handle)

    @staticmethod
    def of(file: BinaryIO, name: str) -> ProgramFile | None:
        """None for a pipe, and where the system can't read at a place."""
        regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        return ProgramFile(file, name) if regular and hasattr(os, "pread") else None

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on; fewer where the file ends."""
        parts: list[bytes] = []
        while length > 0:
            part = os.pread(self._handle, length, offset)
            if not part:
                break
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


@dataclass(frozen=True)
class Base64Text:
    """The base64 text of a `.data` line: a source of `Cells`."""

    file: ProgramFile
    offset: int
    length: int
    sha256: str

    def read(self) -> bytes:
        """The bytes that the text stands for; CompileError where they are others by now."""
        try:
            raw = binascii.a2b_base64(self.file.read(self.offset, self.length), strict_mode=True)
        except (OSError, binascii.Error):
            raw = b""
        if hashlib.sha256(raw).hexdigest() != self.sha256:
            help = "load it again"
            raise CompileError("the program changed since it was loaded", self.file.name, help)
        return raw
