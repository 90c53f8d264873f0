"""Python started in the folder of a checkout imports the `cimc` that lies there, even where
another copy is installed. The packages that an installation puts inside `cimc` lie beside it in a
checkout: this tells Python where. An installed copy has no folders beside it: nothing happens."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

# as in pyproject.toml, [tool.setuptools.package-dir]
PACKAGES = {
    "cimc.passes": "passes",
    "cimc.targets": "targets",
    "cimc.examples": "examples/digits",
}


class _Beside:
    """The last finder in line: it is asked only for what no installation has."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in PACKAGES:
            return None
        folder = self._root / PACKAGES[name]
        return spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )


def find_packages_beside() -> None:
    """Make `cimc.passes`, `cimc.targets` and `cimc.examples` importable from a checkout."""
    root = Path(__file__).resolve().parent.parent
    if all((root / folder / "__init__.py").is_file() for folder in PACKAGES.values()):
        sys.meta_path.append(_Beside(root))
