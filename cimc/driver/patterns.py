"""Layers by name: what options such as `skip=conv1+fc*` choose."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from cimc.errors import CompileError, raise_all


def matched(
    names: Sequence[str],
    patterns: str,
    where: str,
    known: Sequence[str] | None = None,
    listing: str = "the layers are",
) -> list[int]:
    """Indices of the names that patterns, joined by `+` or `|`, choose, pattern by pattern.

    where: the option, for messages. known: the names to suggest, all without; listing: the words
    before them. Raises CompileError for all patterns that choose none."""
    errors, found = [], list[int]()
    known = names if known is None else known
    for text in filter(None, re.split(r"[+|]", patterns)):
        chosen = [i for i, name in enumerate(names) if fnmatchcase(name, text)]
        found += chosen
        if chosen:
            continue
        close = difflib.get_close_matches(text, known, 3)
        listed = ", ".join(close or known[:8]) or "none"
        help = f"did you mean {listed}?" if close else f"{listing} {listed}"
        errors.append(CompileError(f"no layer '{text}'", where, help=help))
    raise_all(errors)
    return found
