"""Where passes come from: built in, a file, an installed package."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from cimc.driver import registry as registry_module
from cimc.driver.registry import Registry, load_registry
from cimc.errors import CompileError

OWN = '''
from dataclasses import dataclass
from cimc.driver import Pass

@dataclass(frozen=True)
class Own(Pass):
    """Changes nothing."""
    name = "{name}"
    summary = "{summary}"
    kind = "{kind}"

    def run(self, graph, ctx):
        return False
'''


def write(folder: Path, text: str, name: str = "own.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def own(name: str = "own", summary: str = "do nothing", kind: str = "exact") -> str:
    return OWN.format(name=name, summary=summary, kind=kind)


def error(path: Path) -> CompileError:
    with pytest.raises(CompileError) as caught:
        load_registry([path])
    return caught.value


def test_built_in() -> None:
    found = load_registry()
    assert next(iter(found.passes)) == "cleanup"
    assert {"exact", "place"} <= set(found.pipelines)
    assert set(found.summaries) == set(found.pipelines)


def test_a_file(tmp_path: Path) -> None:
    found = load_registry([write(tmp_path, own())])
    assert list(found.passes)[-1] == "own"
    assert "own" not in load_registry().passes, "plug-ins leave nothing behind"


def test_a_file_with_lists(tmp_path: Path) -> None:
    text = own() + 'PASSES = [Own]\nPIPELINES = {"mine": ("cleanup,own", "clean up, then nothing")}'
    found = load_registry([write(tmp_path, text)])
    assert found.pipelines["mine"] == "cleanup,own"
    assert found.summaries["mine"] == "clean up, then nothing"


def test_two_files_of_one_name(tmp_path: Path) -> None:
    paths = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        paths.append(write(tmp_path / name, own(name=f"own-{name}")))
    assert {"own-a", "own-b"} <= set(load_registry(paths).passes)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("import cimc\nimport no_such_module\n", 2, "ModuleNotFoundError: No module named"),
        ("x = 1\n\nif x\n", 3, "SyntaxError: "),
        ("x = 1\ny = x / 0\n", 2, "ZeroDivisionError: "),
        ("\nraise SystemExit(3)\n", 2, "SystemExit"),
    ],
)
def test_files_that_fail(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = write(tmp_path, text)
    found = error(path)
    assert found.where == f"{path}:{line}"
    assert words in found.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\n", "defines no pass"),
        ("from cimc.driver import Pass\n", "defines no pass"),
        ("PASSES = [1]\n", "PASSES"),
        ("PIPELINES = {'a': 'cleanup'}\n", "PIPELINES"),
        (own(name=""), "pass Own needs a name and a summary"),
        (own(summary=""), "pass Own needs a name and a summary"),
        (own(kind="about"), "pass 'own': kind must be exact, approximate or reading"),
        (own(name="cleanup"), "the name 'cleanup' is taken"),
        (own(name="exact"), "the name 'exact' is taken"),
        (own() + "PIPELINES = {'own': ('cleanup', 'x')}\n", "the name 'own' is taken"),
    ],
)
def test_files_that_offer_nothing(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, text)
    found = error(path)
    assert words in found.message
    assert found.where == str(path)


@pytest.mark.parametrize("name", ["absent.py", "folder", "notes.txt"])
def test_no_python_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    found = error(tmp_path / name)
    assert found.where == str(tmp_path / name)


def with_entry(monkeypatch: pytest.MonkeyPatch, value: str) -> Registry:
    entry = EntryPoint("mine", value, "cimc.passes")
    monkeypatch.setattr(registry_module, "entry_points", lambda group: [entry])
    return load_registry()


def test_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package names a module or a class."""
    write(tmp_path, own(), "own_entry.py")
    monkeypatch.syspath_prepend(tmp_path)
    assert "own" in with_entry(monkeypatch, "own_entry").passes
    assert "own" in with_entry(monkeypatch, "own_entry:Own").passes
    sys.modules.pop("own_entry", None)


@pytest.mark.parametrize("value", ["no_such_module", "json:no_such_name"])
def test_entry_points_that_fail(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CompileError) as caught:
        with_entry(monkeypatch, value)
    assert caught.value.where == f"entry point mine = {value}"
    assert "cannot be loaded" in caught.value.message
