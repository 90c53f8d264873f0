"""Inputs and outputs larger than memory, and runs that are stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_calls import call, fails
from small_models import bnn, save

import cimc
from cimc import api
from cimc.cli import options, sinks, sources
from cimc.cli.sources import NpzMember, open_npz
from cimc.errors import CompileError

Capture = pytest.CaptureFixture[str]
COPY = """.cim 1
.target digital-rram-180nm rows=4 cols=6 tiles=1 functions=[xor] acc_bits=8
.pipeline "exact"

.mem x u8[1,4096] input="x" batch=0
.mem y u8[1,4096] output="y" batch=0

.infer
copy:
  pp.mov y[0], x[0]
"""
RUN = """
import resource, sys
from cimc.cli.main import main
try:
    main()
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("copy.cim").write_text(COPY)
    return tmp_path


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every array of a file is a source."""
    monkeypatch.setattr(sources, "_WHOLE_BYTES", 0)


def rows(samples: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (samples, 4096), np.uint8)


# -- reading ---------------------------------------------------------------------------


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.usefixtures("small_pieces")
def test_members_are_read_in_any_order(folder: Path, write: Any) -> None:
    x = np.arange(600, dtype=np.int32).reshape(100, 3, 2)
    write("d.npz", x=x, other=x[::2].astype("f4"))
    found = open_npz(Path("d.npz"))
    source = found["x"]
    assert isinstance(source, NpzMember)
    assert (source.shape, source.dtype) == (x.shape, x.dtype)
    for start, stop in (
        (0, 10),
        (30, 40),
        (10, 20),
        (20, 30),
        (90, 100),
        (40, 90),
        (5, 9),
        (0, 100),
    ):
        np.testing.assert_array_equal(source.read(start, stop), x[start:stop])
    other = found["other"]
    assert isinstance(other, NpzMember)
    np.testing.assert_array_equal(other.read(3, 7), x[::2][3:7].astype("f4"))


@pytest.mark.usefixtures("small_pieces")
def test_rows_that_were_passed_over_are_not_read_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez("d.npz", x=rows(40))
    source = open_npz(Path("d.npz"))["x"]
    assert isinstance(source, NpzMember)
    opened = []
    original = zipfile.ZipFile.open
    monkeypatch.setattr(
        zipfile.ZipFile, "open", lambda *a, **k: (opened.append(a[1]), original(*a, **k))[1]
    )
    for start in (4, 0, 8, 12, 20, 16, 24):  # as threads would ask
        np.testing.assert_array_equal(source.read(start, start + 4), rows(40)[start : start + 4])
    assert len(opened) == 1


@pytest.mark.usefixtures("small_pieces")
def test_few_of_the_rows_that_were_passed_over_are_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_KEPT_BYTES", 8 * 4096)
    np.savez("d.npz", x=rows(100))
    source = open_npz(Path("d.npz"))["x"]
    assert isinstance(source, NpzMember)
    source.read(90, 95)
    assert sum(len(kept) for _, kept in source._kept) <= 8
    for start in (0, 84, 95, 2):
        np.testing.assert_array_equal(source.read(start, start + 5), rows(100)[start : start + 5])


@pytest.mark.usefixtures("small_pieces")
def test_what_is_no_source_is_loaded(folder: Path) -> None:
    np.savez("d.npz", f=np.asfortranarray(np.eye(3)), s=np.float32(2), v=np.arange(3))
    found = open_npz(Path("d.npz"))
    assert isinstance(found["f"], np.ndarray)
    assert found["f"].tolist() == np.eye(3).tolist()
    assert isinstance(found["v"], NpzMember)


def damaged(name: str, where: int) -> None:
    raw = bytearray(Path(name).read_bytes())
    raw[where] ^= 0xFF
    Path(name).write_bytes(raw)


def test_a_damaged_file_is_told_of(folder: Path, capsys: Capture) -> None:
    np.savez_compressed("d.npz", x=rows(2000))
    damaged("d.npz", 4_000_000)
    before = sorted(os.listdir())
    message = fails(capsys, "run", "copy.cim", "--input", "d.npz", "--output", "y.npz")
    assert message.startswith("d.npz: error: not an .npz file of plain arrays: ")
    assert sorted(os.listdir()) == before


def test_a_file_that_ends_too_soon(folder: Path, capsys: Capture) -> None:
    np.save("x.npy", rows(1000))
    whole = Path("x.npy").read_bytes()
    with zipfile.ZipFile("d.npz", "w") as archive:
        archive.writestr("x.npy", whole[:-5000])
    message = fails(capsys, "run", "copy.cim", "--input", "d.npz")
    assert message.startswith("d.npz: error: not an .npz file of plain arrays: ")
    Path("x.npy").write_bytes(whole[:-5000])
    message = fails(capsys, "run", "copy.cim", "--input", "x.npy")
    assert message.startswith("x.npy: error: not an .npy file of a plain array: ")


def test_pickles_are_never_loaded(folder: Path, capsys: Capture) -> None:
    np.save("x.npy", np.array([{}], object), allow_pickle=True)
    np.savez("x.npz", x=np.array([{}], object))
    for file in ("x.npy", "x.npz"):
        message = fails(capsys, "run", "copy.cim", "--input", file)
        assert "Object arrays cannot be loaded" in message


# -- the whole way ---------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["packed", "lanes"])
@pytest.mark.parametrize("file", ["x.npz", "x.npy"])
@pytest.mark.usefixtures("small_pieces")
def test_outputs_are_those_of_all_samples(
    folder: Path, capsys: Capture, file: str, engine: str
) -> None:
    x = rows(3000)
    np.save("x.npy", x)
    np.savez("x.npz", x=x)
    args = ["--input", file, "--output", "y.npz", "--engine", engine]
    result = call(capsys, "run", "copy.cim", *args)
    assert result.code == 0
    shown = ", ".join(str(v) for v in x[0, :10])
    assert f"y: uint8[3000, 4096] [{shown}, …]" in result.out
    with np.load("y.npz") as written:
        assert written.files == ["y"]
        np.testing.assert_array_equal(written["y"], x)


def peak(*args: str) -> int:
    """Peak memory of a command in bytes."""
    command = [sys.executable, "-c", RUN, *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stderr.split()[-1]) * 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_memory_stays_within_the_budget(folder: Path, write: Any) -> None:
    """An input and an output of 160 MB each take less than half of one beside what the process
    takes anyway."""
    x = np.zeros((40_000, 4096), np.uint8)
    x[:, :16] = rows(1)[0, :16]
    x[:, 100] = np.arange(40_000) % 256
    write("x.npz", x=x)
    np.savez("one.npz", x=x[:1])
    least = peak("run", "copy.cim", "--input", "one.npz", "--output", "y.npz")
    budget = ["--memory", "10MB", "--threads", "2"]
    most = peak("run", "copy.cim", "--input", "x.npz", "--output", "y.npz", *budget)
    with np.load("y.npz") as written:
        np.testing.assert_array_equal(written["y"][::997], x[::997])
    assert most - least < 60e6


def test_too_small_a_budget_is_told_of_before_starting(folder: Path, capsys: Capture) -> None:
    np.savez("x.npz", x=rows(10))
    message = fails(capsys, "run", "copy.cim", "--input", "x.npz", "--memory", "1kB")
    assert "8,192 bytes" in message
    assert "1,000" in message
    assert "help: " in message


@pytest.mark.parametrize("text", ["", "2XB", "-1MB", "MB", "0", "1.2.3GB"])
def test_sizes_that_are_none(folder: Path, capsys: Capture, text: str) -> None:
    result = call(capsys, "run", "copy.cim", "--memory", text)
    assert result.code == 2
    assert "--memory" in result.err


@pytest.mark.parametrize("text", ["20000", "20kB", "20 KB", "1MiB", "0.5gb", "2GiB"])
def test_sizes(folder: Path, capsys: Capture, text: str) -> None:
    assert call(capsys, "run", "copy.cim", "--memory", text).code == 0


def test_engines_are_those_of_the_api() -> None:
    assert options.ENGINES == api.ENGINES


def test_options_of_another_engine(folder: Path, capsys: Capture) -> None:
    for given in (["--threads", "2"], ["--memory", "1MB"], ["--no-contract"]):
        result = call(capsys, "run", "copy.cim", "--engine", "lanes", *given)
        assert result.code == 2
        assert f"{given[0]} is an option of the engine packed" in result.err


# -- outputs of other forms ------------------------------------------------------------

FORMS = """.cim 1
.target digital-rram-180nm rows=4 cols=6 tiles=1 functions=[xor] acc_bits=8
.pipeline "exact"

.mem x u8[1,3] input="x" batch=0
.mem last u8[3,1] axis=0 output="last" batch=1
.mem alone u8[1,3] output="alone"
.view column u8[3,1] = last axis=0

.infer
copy:
  pp.mov column[0], x[0]
  pp.mov alone[0], x[0]
"""


@pytest.mark.parametrize("samples", [1, 600])
def test_outputs_along_other_axes_and_along_none(
    folder: Path, capsys: Capture, samples: int
) -> None:
    Path("forms.cim").write_text(FORMS)
    x = np.arange(samples * 3, dtype=np.uint8).reshape(samples, 3)
    np.savez("x.npz", x=x)
    result = call(capsys, "run", "forms.cim", "--input", "x.npz", "--output", "y.npz")
    assert result.code == 0
    expected = cimc.load("forms.cim").run({"x": x}).outputs
    with np.load("y.npz") as written:
        assert sorted(written.files) == sorted(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(written[name], array)
            assert written[name].shape == array.shape
            shown = ", ".join(str(v) for v in array.ravel()[:10])
            assert f"{name}: uint8{list(array.shape)} [{shown}" in result.out


# -- accuracy --------------------------------------------------------------------------


@pytest.mark.usefixtures("small_pieces")
def test_accuracy_of_a_data_set_that_is_read_in_pieces(folder: Path, capsys: Capture) -> None:
    cimc.compile(save(bnn(), folder / "net.onnx")).save("net.cim")
    x = np.random.default_rng(0).integers(0, 256, (700, 6, 6), np.uint8)
    scores = cimc.load("net.cim").run({"image": x[:, None]}).outputs["scores"]
    labels = np.where(np.arange(700) < 500, scores.argmax(axis=1), (scores.argmax(axis=1) + 1) % 3)
    np.savez_compressed("d.npz", x_test=x.astype(np.int64), y_test=labels)
    for file in ("net.cim", "net.onnx"):
        for given, expected in (
            ([], "71.43 % (500/700)"),
            (["--limit", "600"], "83.33 % (500/600)"),
        ):
            result = call(capsys, "eval", file, "--data", "d.npz", *given)
            assert result.out == f"top-1 {expected}\n"
    engines = [["--engine", "lanes"], ["--threads", "1"], ["--memory", "1MB"], ["--no-contract"]]
    for given in engines:
        result = call(capsys, "eval", "net.cim", "--data", "d.npz", *given)
        assert result.out == "top-1 71.43 % (500/700)\n"


@pytest.mark.usefixtures("small_pieces")
def test_data_that_does_not_fit_the_input(folder: Path, capsys: Capture) -> None:
    cimc.compile(save(bnn(), folder / "net.onnx")).save("net.cim")
    x = np.zeros((300, 6, 6), np.int64)
    x[299, 0, 0] = 256
    np.savez("d.npz", x_test=x, y_test=np.zeros(300, int))
    message = fails(capsys, "eval", "net.cim", "--data", "d.npz")
    assert message == "error: the data is int64, the input takes uint8\n"
    np.savez("d.npz", x_test=x / 2, y_test=np.zeros(300, int))
    message = fails(capsys, "eval", "net.cim", "--data", "d.npz")
    assert message == "error: the data is float64, the input takes uint8\n"


@pytest.mark.usefixtures("small_pieces")
def test_check_reads_the_inputs_more_than_once(folder: Path, capsys: Capture) -> None:
    cimc.compile(save(bnn(), folder / "net.onnx")).save("net.cim")
    np.savez("x.npz", image=np.random.default_rng(0).integers(0, 256, (50, 1, 6, 6), np.uint8))
    result = call(capsys, "check", "net.onnx", "net.cim", "--input", "x.npz")
    assert result.code == 0
    assert "scores: 150 elements, all bits equal" in result.out


# -- stopping --------------------------------------------------------------------------


def test_a_run_that_is_stopped_says_how_far_it_came(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez("x.npz", x=rows(2000))
    Path("y.npz").write_bytes(b"as it was")
    take, calls = sinks._Output.take, []

    def stopped(self: Any, values: Any) -> None:
        calls.append(len(values))
        if len(calls) == 3:
            raise KeyboardInterrupt
        take(self, values)

    monkeypatch.setattr(sinks._Output, "take", stopped)
    before = sorted(os.listdir())
    result = call(capsys, "run", "copy.cim", "--input", "x.npz", "--output", "y.npz")
    assert result.code == 130
    assert result.err == f"interrupted after {sum(calls[:2])} of 2000 samples\n"
    assert Path("y.npz").read_bytes() == b"as it was"
    assert sorted(os.listdir()) == before


def test_an_output_is_there_whole_or_not_at_all(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while the file is written."""
    np.savez("x.npz", x=rows(20))
    Path("y.npz").write_bytes(b"as it was")

    def stopped(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sinks.shutil, "copyfileobj", stopped)
    before = sorted(os.listdir())
    result = call(capsys, "run", "copy.cim", "--input", "x.npz", "--output", "y.npz")
    assert result.code == 130
    assert Path("y.npz").read_bytes() == b"as it was"
    assert sorted(os.listdir()) == before


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c(folder: Path) -> None:
    cimc.compile(save(bnn(), folder / "net.onnx")).save("net.cim")
    np.save("x.npy", np.zeros((200_000, 1, 6, 6), np.uint8))
    before = sorted(os.listdir())
    args = ["run", "net.cim", "--input", "x.npy", "--output", "y.npz", "--engine", "reference"]
    command = [sys.executable, "-c", "from cimc.cli.main import main; main()", *args]
    # a suite that was started in the background hands on that SIGINT is ignored
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as process:
        time.sleep(2.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.startswith("interrupted")
    assert "Traceback" not in err
    assert sorted(os.listdir()) == before


@pytest.mark.skipif(sys.platform != "linux", reason="needs a pseudo-terminal")
def test_a_terminal_shows_progress_and_rate(folder: Path) -> None:
    np.save("x.npy", np.zeros((60_000, 4096), np.uint8))
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", RUN, "run", "copy.cim", "--input", "x.npy"]
    shown = b""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        while True:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
    os.close(ours)
    assert process.returncode == 0
    assert re.search(rb"samples.*/60000 .*\d/s", shown)


def test_what_can_not_be_written_is_told_of(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    np.savez("x.npz", x=rows(20))
    monkeypatch.setattr(sinks.shutil, "copyfileobj", full)
    message = fails(capsys, "run", "copy.cim", "--input", "x.npz", "--output", "y.npz")
    assert message == "y.npz: error: can't write the file: No space left on device\n"
    monkeypatch.setattr(sinks.tempfile, "TemporaryFile", full)
    message = fails(capsys, "run", "copy.cim", "--input", "x.npz", "--output", "y.npz")
    assert message == "y.npz: error: can't write the file: No space left on device\n"
    assert not Path("y.npz").exists()


# -- counting only ---------------------------------------------------------------------


def test_counts_without_values(folder: Path, capsys: Capture) -> None:
    cimc.compile(save(bnn(), folder / "net.onnx")).save("net.cim")
    np.savez("x.npz", image=np.zeros((9, 1, 6, 6), np.uint8))
    result = call(capsys, "run", "net.cim", "--input", "x.npz", "--count-only", "--json", "c.json")
    assert result.code == 0
    assert "scores: " not in result.out
    assert "Counts and energy of 9 samples" in result.out
    assert "expected values, not counted: " in result.out
    assert Path("c.json").exists()
    result = call(capsys, "run", "net.cim", "--count-only", "--output", "y.npz")
    assert result.code == 2
    assert "--count-only computes no values" in result.err


def test_an_unreadable_source_is_a_compile_error(folder: Path) -> None:
    np.savez_compressed("d.npz", x=rows(2000))
    source = open_npz(Path("d.npz"))["x"]
    assert isinstance(source, NpzMember)
    Path("d.npz").unlink()
    with pytest.raises(CompileError, match=r"not an \.npz file"):
        source.read(0, 1)
