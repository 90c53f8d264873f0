"""Finds passes and pipelines: the built-in ones, those of installed packages (entry-point
group `cimc.passes`), and those of a file (`--plugin file.py`). One namespace for both.

`cimc` never imports the built-in passes by name elsewhere.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from cimc.driver.base import Pass
from cimc.errors import CompileError


@dataclass
class Registry:
    """Pass classes and pipelines (comma lists of either) by name."""

    passes: dict[str, type[Pass]] = field(default_factory=dict)
    pipelines: dict[str, str] = field(default_factory=dict)
    summaries: dict[str, str] = field(default_factory=dict)  # of pipelines

    def add(self, classes: Iterable[type[Pass]], where: str) -> None:
        """Register passes; a name that is taken is an error."""
        for cls in classes:
            if not (inspect.isclass(cls) and issubclass(cls, Pass)):
                raise CompileError(f"PASSES holds {cls!r}, which is no pass", where)
            name = getattr(cls, "name", "")
            if not name or not getattr(cls, "summary", ""):
                raise CompileError(f"pass {cls.__name__} needs a name and a summary", where)
            if cls.kind not in ("exact", "approximate", "reading"):
                raise CompileError(
                    f"pass '{name}': kind must be exact, approximate or reading", where
                )
            if name in self.passes or name in self.pipelines:
                raise CompileError(f"the name '{name}' is taken", where)
            self.passes[name] = cls

    def add_module(self, module: ModuleType, where: str) -> None:
        """Register what a module offers: PASSES and PIPELINES if it has them, else every
        subclass of Pass that it defines."""
        found = getattr(module, "PASSES", None)
        if found is None:
            found = [
                c
                for c in vars(module).values()
                if inspect.isclass(c) and issubclass(c, Pass) and c.__module__ == module.__name__
            ]
        pipelines: dict[str, tuple[str, str]] = getattr(module, "PIPELINES", {})
        if not found and not pipelines:
            raise CompileError(
                "defines no pass",
                where,
                help="a pass is a frozen dataclass that derives from cimc.driver.Pass",
            )
        self.add(found, where)
        for name, entry in pipelines.items():
            if not (isinstance(entry, tuple) and len(entry) == 2):
                raise CompileError(f"PIPELINES['{name}'] must be (comma list, summary)", where)
            spec, summary = entry
            if name in self.passes or name in self.pipelines:
                raise CompileError(f"the name '{name}' is taken", where)
            self.pipelines[name] = spec
            self.summaries[name] = summary


def load_registry(plugins: Sequence[str | Path] = ()) -> Registry:
    """The registry with built-in passes, installed packages and plug-in files.

    Raises CompileError for a plug-in that is missing, fails to load or defines no pass.
    """
    registry = Registry()
    registry.add_module(importlib.import_module("cimc.passes"), "cimc.passes")
    for entry in sorted(entry_points(group="cimc.passes"), key=lambda e: e.name):
        where = f"entry point {entry.name} = {entry.value}"
        try:
            found = entry.load()
        except Exception as error:
            raise CompileError(f"cannot be loaded: {error}", where) from error
        if inspect.ismodule(found):
            registry.add_module(found, where)
        else:
            registry.add([found], where)
    for plugin in plugins:
        registry.add_module(load_file(Path(plugin)), str(plugin))
    return registry


def load_file(path: Path) -> ModuleType:
    """The module that a plug-in file is. Raises CompileError where it is missing or fails."""
    if not path.is_file():
        raise CompileError("no such file", str(path))
    spec = importlib.util.spec_from_file_location(f"cimc_plugin_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise CompileError("not a Python file", str(path))
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        place = f"{path}:{_line(error, path)}"
        raise CompileError(f"{type(error).__name__}: {error}", place) from error
    return module


def _line(error: BaseException, path: Path) -> int:
    if isinstance(error, SyntaxError):
        return error.lineno or 1
    frames = traceback.extract_tb(error.__traceback__)
    return next((f.lineno or 1 for f in reversed(frames) if f.filename == str(path)), 1)
