"""Targets: the geometry of a chip and what each counted event costs, from a TOML file.

Every figure states its value, unit, source and status. The backend takes the geometry from
here, `energy.py` the costs; programs carry the geometry only. Knows nothing of programs.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from cimc.errors import CompileError, Span, raise_all
from cimc.isa.table import ROWS

FUNCTIONS = ("and", "nand", "or", "xor")
STATUSES = ("measured", "cited", "assumed")
COSTS = tuple(dict.fromkeys(c.cost for row in ROWS for c in row.counters if c.cost))
"""The keys of `[energy]`, in the order of the instruction table."""

SEARCH = {
    "row_time": "ns",
    "control_time": "ns",
    "transfer_time": "ns",
    "transfer_energy": "pJ",
    "host_time": "ns",
    "host_energy": "pJ",
}
"""Keys and units of `[search]`: of a row read, an element operation, a word of 32 bits moved off
the array, and an operation of a processor; see `search.py`, which alone uses them."""

# unit, smallest and largest value
_NUMBERS: dict[str, tuple[str, int, int]] = {
    "rows": ("rows", 1, 1 << 16),
    "cols": ("columns", 1, 1 << 16),
    "tiles": ("tiles", 1, 1 << 20),
    "acc_bits": ("bits", 2, 62),
}
_GEOMETRY = ("rows", "cols", "tiles", "functions", "acc_bits")
_TABLES = {
    "target": ("name", "summary"),
    "geometry": _GEOMETRY,
    "energy": COSTS,
    "search": tuple(SEARCH),
}
_FIGURES = ("geometry", "energy", "search")
_AS_NEEDED = "as-needed"


@dataclass(frozen=True)
class Figure:
    """A value of a target with its unit, where it comes from, and how sure it is: `measured`,
    `cited` or `assumed`."""

    value: Any
    unit: str
    source: str
    status: str


@dataclass(frozen=True)
class Target:
    """A chip. `figures` has every figure by its path, `geometry.rows` or `energy.sense`;
    the fields are their values."""

    name: str
    summary: str
    rows: int
    cols: int
    tiles: int | None  # None: as many as the model needs
    functions: tuple[str, ...]
    acc_bits: int
    energy: Mapping[str, float]  # pJ a count, by cost key of the instruction table
    search: Mapping[str, float]  # ns and pJ, by the keys of `SEARCH`
    figures: Mapping[str, Figure]


def builtin_targets() -> list[str]:
    """Names of the targets that come with the package, sorted."""
    files = resources.files("cimc.targets").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def load_target(name_or_path: str, overrides: Mapping[str, str] | None = None) -> Target:
    """A built-in target by name, or one from a TOML file.

    overrides: `{"rows": "128", "energy.sense": "0.5"}`, as given with `--set`; such a figure
    has the status `assumed` and the source `--set`. Raises CompileError with all problems of
    the file and the overrides."""
    text, file = _read(name_or_path)
    reader = _Reader(text, file)
    for key, value in (overrides or {}).items():
        reader.override(key, value)
    return reader.target()


def _read(name_or_path: str) -> tuple[str, str]:
    """The text of a target and how errors call its file."""
    path = Path(name_or_path)
    is_path = path.suffix == ".toml" or len(path.parts) > 1
    if not is_path and name_or_path in builtin_targets():
        file = resources.files("cimc.targets") / f"{name_or_path}.toml"
        return file.read_text(encoding="utf-8"), f"{name_or_path}.toml"
    if not is_path:
        raise CompileError(
            f"there is no target '{name_or_path}'",
            help=f"built-in targets: {', '.join(builtin_targets())}; or the path of a .toml file",
        )
    try:
        return path.read_text(encoding="utf-8"), name_or_path
    except OSError as error:
        raise CompileError(f"can't read it: {error.strerror}", name_or_path) from None
    except UnicodeDecodeError:
        raise CompileError("not a text file in UTF-8", name_or_path) from None


class _Reader:
    """One target file: its tables, and the problems found so far."""

    def __init__(self, text: str, file: str) -> None:
        self.lines = text.splitlines()
        self.file = file
        self.errors: list[CompileError] = []
        self.overrides: dict[str, Figure] = {}
        try:
            self.tables: dict[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise self._syntax(str(error)) from None

    def _syntax(self, message: str) -> CompileError:
        at = re.search(r" \(at line (\d+), column (\d+)\)", message)
        if at is None:
            return CompileError(f"not TOML: {message}", self.file)
        line, column = int(at[1]), int(at[2])
        source = self.lines[line - 1] if line <= len(self.lines) else ""
        span = Span(self.file, line, column, source)
        return CompileError(f"not TOML: {message[: at.start()]}", span)

    def target(self) -> Target:
        """The target, or all problems."""
        self._unknown()
        name, summary = (self._text("target", key) for key in _TABLES["target"])
        figures = {
            f"{table}.{key}": self._figure(table, key)
            for table in _FIGURES
            for key in _TABLES[table]
        }
        raise_all(self.errors)
        found = {path: figure for path, figure in figures.items() if figure is not None}
        tiles = found["geometry.tiles"].value
        return Target(
            name=name,
            summary=summary,
            rows=found["geometry.rows"].value,
            cols=found["geometry.cols"].value,
            tiles=None if tiles == _AS_NEEDED else tiles,
            functions=tuple(f for f in FUNCTIONS if f in found["geometry.functions"].value),
            acc_bits=found["geometry.acc_bits"].value,
            energy={key: float(found[f"energy.{key}"].value) for key in COSTS},
            search={key: float(found[f"search.{key}"].value) for key in SEARCH},
            figures=found,
        )

    # -- overrides ---------------------------------------------------------------------

    def override(self, key: str, text: str) -> None:
        """`rows=128`, `functions=and,xor` or `energy.sense=0.5` in place of the file's figure."""
        path = key if "." in key else f"geometry.{key}"
        table, _, name = path.partition(".")
        where = f"--set {key}={text}"
        if table not in _FIGURES or name not in _TABLES[table]:
            keys = (*_GEOMETRY, *(f"{t}.{key}" for t in ("energy", "search") for key in _TABLES[t]))
            help = f"one of {', '.join(keys)}"
            self.errors.append(CompileError(f"a target has no '{key}'", where, help))
            return
        figure = Figure(_parse(name, text), _unit(table, name), "--set", "assumed")
        problem = _problem(table, name, figure)
        if problem:
            self.errors.append(CompileError(problem, where))
        self.overrides[path] = figure

    # -- the file ----------------------------------------------------------------------

    def _unknown(self) -> None:
        for table, content in self.tables.items():
            if table not in _TABLES:
                self._fail(f"unknown table [{table}]", table, help=f"tables: {_list(_TABLES)}")
                continue
            for key in content if isinstance(content, dict) else ():
                if key not in _TABLES[table]:
                    keys = _list(_TABLES[table])
                    self._fail(f"unknown key '{key}' in [{table}]", table, key, f"keys: {keys}")

    def _table(self, name: str) -> dict[str, Any]:
        content = self.tables.get(name)
        return content if isinstance(content, dict) else {}

    def _text(self, table: str, key: str) -> str:
        value = self._table(table).get(key)
        if isinstance(value, str) and value:
            return value
        self._fail(f'[{table}] needs {key} = "…"', table, key)
        return ""

    def _figure(self, table: str, key: str) -> Figure | None:
        if f"{table}.{key}" in self.overrides:
            return self.overrides[f"{table}.{key}"]
        found = self._table(table).get(key)
        unit = _unit(table, key)
        if not isinstance(found, dict):
            what = "is missing" if found is None else "is not a table"
            help = f'{key} = {{ value = …, unit = "{unit}", source = "…", status = "assumed" }}'
            self._fail(f"figure '{key}' of [{table}] {what}", table, key, help)
            return None
        figure = Figure(
            found.get("value"),
            found.get("unit", ""),
            found.get("source", ""),
            found.get("status", ""),
        )
        extra = [name for name in found if name not in ("value", "unit", "source", "status")]
        problem = f"has an unknown entry '{extra[0]}'" if extra else _problem(table, key, figure)
        if problem:
            self._fail(f"figure '{key}' of [{table}] {problem}", table, key)
            return None
        return figure

    def _fail(
        self, message: str, table: str, key: str | None = None, help: str | None = None
    ) -> None:
        self.errors.append(CompileError(message, self._span(table, key), help))

    def _span(self, table: str, key: str | None) -> Span | str:
        """The line of a key, else of its table, else the file."""
        current, found = "", None
        for number, line in enumerate(self.lines, 1):
            header = re.match(r"\s*\[\s*([\w.\-]+)\s*\]", line)
            entry = re.match(r"\s*([\w\-]+)\s*[=.]", line)
            if header:
                current = header[1]
            path = current if header else f"{current}.{entry[1]}" if entry else ""
            if path == table or (not found and path.startswith(f"{table}.")):
                found = found or number
            if key and path == f"{table}.{key}":
                found = number
                break
        if found is None:
            return self.file
        source = self.lines[found - 1]
        column = len(source) - len(source.lstrip()) + 1
        return Span(self.file, found, column, source, len(source.strip()))


# -- figures ---------------------------------------------------------------------------


def _unit(table: str, key: str) -> str:
    """The unit of a figure; the list of functions has none."""
    if table != "geometry":
        return SEARCH[key] if table == "search" else "pJ"
    return _NUMBERS[key][0] if key in _NUMBERS else ""


def _parse(key: str, text: str) -> Any:
    """The value of an override; text that isn't a number stays text and is refused later."""
    if key == "functions":
        return [name.strip() for name in text.split(",")]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _problem(table: str, key: str, figure: Figure) -> str:
    """What is wrong with a figure; empty if nothing is."""
    problem = _value_problem(table, key, figure.value)
    if problem:
        return problem
    if figure.unit != _unit(table, key):
        return f'has the unit "{figure.unit}", not "{_unit(table, key)}"'
    if not isinstance(figure.source, str) or not figure.source.strip():
        return "has no source"
    if figure.status not in STATUSES:
        return f'has the status "{figure.status}", not one of {_list(STATUSES)}'
    return ""


def _value_problem(table: str, key: str, value: Any) -> str:
    if key == "functions":
        return _functions_problem(value)
    if key == "tiles" and value == _AS_NEEDED:
        return ""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if table != "geometry":
        good = is_number and math.isfinite(value) and value >= 0
        return "" if good else f"is {value}, not a number of at least 0"
    _, low, high = _NUMBERS[key]
    good = is_number and isinstance(value, int) and low <= value <= high
    also = f' or "{_AS_NEEDED}"' if key == "tiles" else ""
    return "" if good else f"is {value}, not a whole number from {low} to {high}{also}"


def _functions_problem(value: Any) -> str:
    if not isinstance(value, list) or not value:
        return f"is not a list of at least one of {_list(FUNCTIONS)}"
    unknown = [name for name in value if name not in FUNCTIONS]
    return f"has {unknown[0]!r}, not one of {_list(FUNCTIONS)}" if unknown else ""


def _list(names: Any) -> str:
    return ", ".join(names)
