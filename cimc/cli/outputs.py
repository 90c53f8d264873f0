"""Looks at the files a command is to write before it begins to work: a run of minutes must not
end in an error that was plain at its start, and no output may overwrite what was read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cimc.errors import CompileError, raise_all


def check_outputs(outputs: Iterable[tuple[str | None, str]], sources: Iterable[str | None]) -> None:
    """outputs: each file and its suffix ("" for any); sources: the files that are read.

    Raises CompileError, one for each file with another suffix, in a folder that does not exist,
    or that is one of the sources.
    """
    read = [Path(source) for source in sources if source is not None]
    errors = [_error(file, suffix, read) for file, suffix in outputs if file is not None]
    raise_all([error for error in errors if error is not None])


def _error(file: str, suffix: str, sources: list[Path]) -> CompileError | None:
    path = Path(file)
    if path.exists() and any(source.exists() and source.samefile(path) for source in sources):
        return CompileError(
            "the command reads this file: it can't write it too", file, help="give another name"
        )
    if suffix and path.suffix != suffix:
        return CompileError(f"expected a file {suffix}", file)
    if not path.parent.is_dir():
        return CompileError(
            f"can't write the file: there is no folder '{path.parent}'", file, help="make it first"
        )
    return None
