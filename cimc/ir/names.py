"""Names: which strings are legal ones, and an authority that gives each out once."""

from __future__ import annotations

import re
from collections.abc import Iterable


def identifier(name: str) -> str:
    """A legal name made from any string: other characters become `_`."""
    name = re.sub(r"[^A-Za-z0-9_.]", "_", name).strip(".") or "v"
    return name if not name[0].isdigit() else f"v{name}"


class Names:
    """The names in use in one scope."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)

    def fresh(self, name: str) -> str:
        """`name` as a legal name if it is free, else `name.2`, `name.3`, …; now in use."""
        base = identifier(name)
        free, k = base, 2
        while free in self._taken:
            free, k = f"{base}.{k}", k + 1
        self._taken.add(free)
        return free

    def release(self, names: Iterable[str]) -> None:
        """Names that may be given out again."""
        self._taken -= set(names)
