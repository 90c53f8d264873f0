"""Where compiled kernels are kept, with and without a folder for them, by several processes."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from cimc.sim.packed import jit

ROOT = Path(__file__).parents[3]
# a kernel and a function of arrays, so that both kinds of compiled code are made
CODE = """
import numpy as np
from cimc.sim.packed import pointwise
from cimc.sim.packed.turn import turn
x, y = np.arange(64, dtype=np.uint8), np.zeros(64, np.uint8)
p = np.zeros(pointwise.SIZE, np.int64)
p[pointwise.X], p[pointwise.OUT] = x.ctypes.data, y.ctypes.data
p[pointwise.A], p[pointwise.B], p[pointwise.WHOLE] = 10, 20, 64
pointwise.clamp(p.ctypes.data, 0, 0, 1, 0, 1)
assert (y == x.clip(10, 20)).all()
turn(x[None], y[None], (1, 4, 16))
assert (y == x.reshape(4, 16).T.reshape(-1)).all()
print("right")
"""


def _start(folder, **more):
    """A process that compiles kernels, with a folder for them."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CIMC_CACHE_DIR": str(folder), **more}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", CODE], env=env, text=True, cwd=ROOT, **pipes)


def _finish(process):
    """Its standard error, after seeing that all went well."""
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (0, "right\n"), err
    return err


def _files(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.nb[ic]")}


def test_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("CIMC_CACHE_DIR", raising=False)
    version = jit.cache_folder().name
    assert version.startswith("kernels-")
    assert jit.cache_folder() == tmp_path / "xdg" / "cimc" / version
    monkeypatch.setenv("CIMC_CACHE_DIR", str(tmp_path / "own"))
    assert jit.cache_folder() == tmp_path / "own" / "cimc" / version
    monkeypatch.delenv("CIMC_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert tmp_path in jit.cache_folder().parents


def test_other_sources_have_another_folder(monkeypatch, tmp_path):
    here, module = jit.cache_folder().name, Path(jit.__file__)
    for source in module.parent.glob("*.py"):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    jit._version.cache_clear()
    try:
        monkeypatch.setattr(jit, "__file__", str(tmp_path / "jit.py"))
        assert jit.cache_folder().name == here
        with (tmp_path / "micro.py").open("a") as file:
            file.write("\n")
        jit._version.cache_clear()
        assert jit.cache_folder().name != here
    finally:
        jit._version.cache_clear()


def test_no_folder_at_all(tmp_path):
    """A file stands where the folder should be: code is compiled and not kept."""
    taken = tmp_path / "taken"
    taken.write_text("")
    assert "Error" not in _finish(_start(taken))
    assert taken.read_text() == ""


@pytest.fixture
def _fresh():
    """What is known of the folder is forgotten, before and after."""
    jit._writable.cache_clear()
    yield
    jit._writable.cache_clear()


@pytest.mark.usefixtures("_fresh")
def test_a_folder_that_cannot_be_written(monkeypatch, tmp_path):
    """Code is kept in our folder or not at all: beside the sources, numba would take it for new
    as long as the one file with the function is the same."""
    monkeypatch.setenv("CIMC_CACHE_DIR", str(tmp_path))
    jit.cache_folder().mkdir(parents=True)
    jit.cache_folder().chmod(0o500)
    if os.access(jit.cache_folder(), os.W_OK):  # permissions don't hold for this user
        monkeypatch.setattr(jit, "TemporaryFile", _refused)
    assert jit.compiled(_nothing)() == 5
    kept = [*tmp_path.rglob("*.nbi"), *Path(__file__).parent.rglob("*_nothing*.nbi")]
    assert kept == []
    monkeypatch.setattr(jit, "TemporaryFile", TemporaryFile)
    jit.cache_folder().chmod(0o700)
    jit._writable.cache_clear()
    assert jit.compiled(_nothing)() == 5
    assert len(list(tmp_path.rglob("*_nothing*.nbi"))) == 1


def _refused(**_):
    raise PermissionError


def _nothing():
    return 5


@pytest.mark.slow
def test_processes_share_the_folder(tmp_path):
    """Two begin with an empty folder at once; a third one finds everything."""
    for process in [_start(tmp_path), _start(tmp_path)]:
        _finish(process)
    made = _files(tmp_path)
    assert any(name.startswith("pointwise.clamp") for name in made)
    assert any(name.startswith("turn._turn") for name in made)
    assert not list(tmp_path.rglob("*tmp*"))
    _finish(_start(tmp_path))
    assert _files(tmp_path) == made


@pytest.mark.slow
def test_damaged_files_are_no_error(tmp_path):
    _finish(_start(tmp_path))
    for path in tmp_path.rglob("*.nbc"):
        path.write_bytes(path.read_bytes()[:100])
    _finish(_start(tmp_path))
