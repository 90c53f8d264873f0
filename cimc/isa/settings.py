"""The `name=value` settings of each declaration, in the order they are printed.

The parser checks and decodes by this table, the printer writes by it. Knows nothing of
what a setting means.
"""

from __future__ import annotations

from dataclasses import dataclass

Value = int | str | tuple[int, ...] | tuple[str, ...] | None

KINDS = {
    "int": "a number",
    "str": 'a text in quotes, such as "image"',
    "ints": "a list of numbers, such as [1,1]",
    "names": "a list of names, such as [and,xor]",
}
"""How an error calls each kind of value."""


@dataclass(frozen=True)
class Setting:
    """One setting; `required`, or left out of the text where it equals `default`."""

    name: str
    kind: str
    default: Value = None
    required: bool = False


def _must(kind: str, *names: str) -> tuple[Setting, ...]:
    return tuple(Setting(name, kind, required=True) for name in names)


SETTINGS: dict[str, tuple[Setting, ...]] = {
    "target": (
        *_must("int", "rows", "cols", "tiles"),
        *_must("names", "functions"),
        *_must("int", "acc_bits"),
    ),
    "mem": (
        Setting("axis", "int", 1),
        Setting("input", "str"),
        Setting("output", "str"),
        Setting("batch", "int"),
    ),
    "view": (Setting("perm", "ints"), Setting("axis", "int", 1)),
    "win": (
        *_must("int", "channels"),
        *_must("ints", "kernel", "out", "strides", "pads", "dilations"),
        Setting("groups", "int", 1),
        Setting("seg", "int", 0),
        Setting("pack", "int", 1),
        Setting("up", "ints", ()),
    ),
    "data": (
        Setting("seg", "int", 0),
        Setting("macs", "int", 0),
        Setting("why", "str", ""),
        *_must("str", "sha256"),
    ),
}
