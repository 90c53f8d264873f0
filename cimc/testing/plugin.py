"""The pytest plug-in: collects `.cimir` files as golden tests (`golden.py`).

`pytest --bless` writes the expectations. A `.expect` file without its test fails, and so
does a file in a folder `errors` without an annotation.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cimc.testing.golden import GoldenFailure, check, is_unused, read_test


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--bless`."""
    group = parser.getgroup("cimc")
    group.addoption(
        "--bless", action="store_true", help="write the expectations of golden IR tests"
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect golden tests, and expectations that no test uses."""
    if file_path.suffix == ".cimir":
        return GoldenFile.from_parent(parent, path=file_path)
    if file_path.suffix == ".expect" and is_unused(file_path):
        return UnusedFile.from_parent(parent, path=file_path)
    return None


class GoldenFile(pytest.File):
    """A `.cimir` file: one test."""

    def collect(self) -> Iterator[pytest.Item]:
        yield GoldenItem.from_parent(self, name="opt")


class UnusedFile(pytest.File):
    """A `.expect` file whose test is gone."""

    def collect(self) -> Iterator[pytest.Item]:
        yield UnusedItem.from_parent(self, name="expect")


class _Item(pytest.Item):
    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The message alone for a failed test, a traceback for a crash."""
        if isinstance(excinfo.value, GoldenFailure):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, 0, f"{self.path.name}"


class GoldenItem(_Item):
    """Runs one golden test."""

    def runtest(self) -> None:
        test = read_test(self.path)
        folders = Path(self.nodeid.split("::")[0]).parent.parts
        if "errors" in folders and not test.annotations:
            raise GoldenFailure(f"{self.path.name}: a test in `errors` needs an `# error:`")
        check(test, bless=self.config.getoption("--bless"))


class UnusedItem(_Item):
    """Fails: nothing uses the expectation."""

    def runtest(self) -> None:
        name = self.path.with_suffix(".cimir").name
        raise GoldenFailure(f"unused expectation {self.path.name}: there is no {name}")
