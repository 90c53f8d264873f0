"""The pytest plug-in, run in small folders of its own with a stand-in for `cimc opt`."""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest

from cimc.errors import CompileError
from cimc.ir.printer import print_graph
from cimc.ir.text import load_graph
from cimc.ir.verify import verify
from cimc.testing import golden

pytest_plugins = ["pytester"]

GRAPH = "graph @g(%x: i32[4]) -> (%y) {\n  %y = cim.relu(%x): i32[4]\n}\n"
TEST = f"# RUN: cimc opt -p none\n{GRAPH}"
BAD = "graph @g(%x: i32[4]) -> (%y) {\n  %y = cim.relu(%z): i32[4]\n}\n"


def opt(args: Sequence[str], path: Path) -> tuple[int, str, str]:
    """What `cimc opt` does without passes; `-p` knows only `none`."""
    if list(args) != ["-p", "none"]:
        return 1, "", f"error: there is no pass {args[1]}\n"
    try:
        graph = load_graph(path)
        verify(graph)
    except CompileError as error:
        return 1, "", f"{error}\n"
    return 0, print_graph(graph, comments=False), ""


@pytest.fixture
def folder(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setattr(golden, "run_opt", opt)
    if not entry_points(group="pytest11", name="cimc"):
        pytester.plugins.append("cimc.testing.plugin")
    return pytester


def write(folder: pytest.Pytester, **files: str) -> None:
    """Write `name_ext=text`: the last underscore stands for the dot."""
    for name, text in files.items():
        stem, _, ext = name.rpartition("_")
        path = folder.path / f"{stem}.{ext}"
        path.write_text(text, encoding="utf-8")


def fails(folder: pytest.Pytester, *lines: str) -> None:
    """The one test fails and says these lines."""
    result = folder.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(list(lines))


# -- expectations --


def test_equal_output_passes(folder: pytest.Pytester) -> None:
    write(folder, a_cimir=TEST, a_expect=GRAPH)
    folder.runpytest_inprocess().assert_outcomes(passed=1)


def test_other_output_fails_with_a_diff(folder: pytest.Pytester) -> None:
    write(folder, a_cimir=TEST, a_expect=GRAPH.replace("relu", "add"))
    fails(folder, "-  %y = cim.add(%x): i32?4?", "+  %y = cim.relu(%x): i32?4?", "*--bless*")


def test_comparison_is_by_bytes(folder: pytest.Pytester) -> None:
    write(folder, a_cimir=TEST, a_expect=GRAPH.rstrip("\n"))
    fails(folder, "*no newline*")


def test_missing_expectation(folder: pytest.Pytester) -> None:
    write(folder, a_cimir=TEST)
    fails(folder, "a.expect is missing; `pytest --bless a.cimir` writes it")
    assert not (folder.path / "a.expect").exists()


def test_bless_creates_and_rewrites(folder: pytest.Pytester) -> None:
    write(folder, a_cimir=TEST, b_cimir=TEST, b_expect="old")
    folder.runpytest_inprocess("--bless").assert_outcomes(passed=2)
    assert (folder.path / "a.expect").read_text() == GRAPH
    assert (folder.path / "b.expect").read_text() == GRAPH
    folder.runpytest_inprocess().assert_outcomes(passed=2)


def test_bless_keeps_the_rules(folder: pytest.Pytester) -> None:
    consts = "".join(f"  const %c{i}: i8[] = 1\n" for i in range(41))
    write(folder, a_cimir=TEST.replace("{\n", "{\n" + consts, 1))
    result = folder.runpytest_inprocess("--bless")
    result.stdout.fnmatch_lines(["*the output has 45 lines; a golden has at most 40*"])
    assert not (folder.path / "a.expect").exists()


def test_unused_expectation(folder: pytest.Pytester) -> None:
    write(folder, a_expect=GRAPH)
    fails(folder, "unused expectation a.expect: there is no a.cimir")


def test_other_peoples_expectations(folder: pytest.Pytester) -> None:
    write(folder, a_expect="not a graph\n")
    folder.runpytest_inprocess().assert_outcomes()


def test_failing_command(folder: pytest.Pytester) -> None:
    write(folder, a_cimir=f"# RUN: cimc opt -p none\n{BAD}")
    fails(folder, "`cimc opt` failed with exit code 1:", "*a.cimir:3:17: error: %z is not*")


# -- directives --


@pytest.mark.parametrize("first", ["graph @g() -> () {", "# a comment", "# RUN: other", ""])
def test_first_line_must_run(folder: pytest.Pytester, first: str) -> None:
    write(folder, a_cimir=f"{first}\n{GRAPH}", a_expect=GRAPH)
    fails(folder, "*a.cimir:1: the first line must be `# RUN: cimc opt …`")


@pytest.mark.parametrize("word", ["CHECK", "EXPECT-NOT", "ERROR", "Error", "RUN"])
def test_unknown_directive(folder: pytest.Pytester, word: str) -> None:
    write(folder, a_cimir=f"{TEST}# {word}: something\n", a_expect=GRAPH)
    fails(folder, f"*a.cimir:5: unknown directive `{word}:`*")


def test_comments_are_no_directives(folder: pytest.Pytester) -> None:
    comments = "# note: Conv is unchanged\n# ReLU: stays\n# A sentence.\n"
    write(folder, a_cimir=f"{TEST}{comments}", a_expect=GRAPH)
    folder.runpytest_inprocess().assert_outcomes(passed=1)


# -- negative tests --


def negative(*lines: str) -> str:
    return "\n".join(["# RUN: cimc opt -p none", "graph @g(%x: i32[4]) -> () {", *lines, "}", ""])


ONE = "  %y = cim.relu(%z): i32[4]"
TWO = "  %a = cim.relu(%b, %c): i32[4]"


@pytest.mark.parametrize(
    "lines",
    [
        [f"{ONE}  # error: %z is not defined"],
        ["  # error: %z is not defined", ONE],
        [ONE + "  # error: not defined", f'{ONE.replace("y", "w")} from "#"  # error: %z is'],
        ["  # error: %b is", "  # error: %c is", f"{TWO}  # error: takes 1 operand"],
    ],
)
def test_expected_errors(folder: pytest.Pytester, lines: list[str]) -> None:
    write(folder, a_cimir=negative(*lines))
    folder.runpytest_inprocess().assert_outcomes(passed=1)


def test_wrong_text(folder: pytest.Pytester) -> None:
    write(folder, a_cimir=negative(f"{ONE}  # error: %y is not"))
    fails(
        folder,
        "line 3: unexpected error: %z is not defined",
        "line 3: no error that contains `%y is not`",
    )


def test_wrong_line(folder: pytest.Pytester) -> None:
    write(folder, a_cimir=negative("  # error: %z is not", "", ONE))
    fails(folder, "line 5: unexpected*", "line 4: no error that contains*")


def test_error_without_annotation(folder: pytest.Pytester) -> None:
    write(folder, a_cimir=negative(f"{ONE}  # error: %z is not", TWO))
    fails(folder, "line 4: unexpected error: cim.relu takes 1 operand*")


def test_no_error(folder: pytest.Pytester) -> None:
    write(folder, a_cimir=negative("  # error: something"))
    fails(folder, "line 4: no error*", "the command did not fail")


def test_error_of_the_command_line(folder: pytest.Pytester) -> None:
    write(folder, a_cimir=f"# RUN: cimc opt -p x  # error: no pass x\n{GRAPH}")
    folder.runpytest_inprocess().assert_outcomes(passed=1)


def test_a_string_is_no_annotation(folder: pytest.Pytester) -> None:
    source = GRAPH.replace("i32[4]\n", 'i32[4] from "# error: none"\n')
    write(folder, a_cimir=f"# RUN: cimc opt -p none\n{source}", a_expect=source)
    folder.runpytest_inprocess().assert_outcomes(passed=1)


def test_negative_test_has_no_expectation(folder: pytest.Pytester) -> None:
    write(folder, a_cimir=negative(f"{ONE}  # error: %z is not"), a_expect=GRAPH)
    fails(folder, "unused expectation a.expect: the test expects errors")


def test_folder_errors_needs_annotations(folder: pytest.Pytester) -> None:
    (folder.path / "errors").mkdir()
    write(folder, **{"errors/a_cimir": TEST, "errors/a_expect": GRAPH})
    fails(folder, "a.cimir: a test in `errors` needs an `# error:`")


# -- the command --


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the command line in `cimc.cli.main`."""

    @click.group()
    def cli() -> None:
        pass

    @cli.command()
    @click.argument("file")
    @click.option("-p", "passes")
    def opt(file: str, passes: str) -> None:
        if passes == "exit":
            click.echo("error: no pass", err=True)
            raise SystemExit(1)
        if passes == "raise":
            raise CompileError("wrong", f"{file}:1:1")
        if passes == "crash":
            raise RuntimeError("our bug")
        click.echo(f"{passes} {Path(file).read_text(encoding='utf-8')}", nl=False)

    module = types.ModuleType("cimc.cli.main")
    module.cli = cli  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cimc.cli.main", module)


@pytest.mark.usefixtures("command")
def test_run_opt(tmp_path: Path) -> None:
    path = tmp_path / "a.cimir"
    path.write_text("text", encoding="utf-8")
    assert golden.run_opt(["-p", "x"], path) == (0, "x text", "")
    assert golden.run_opt(["-p", "exit"], path) == (1, "", "error: no pass\n")
    assert golden.run_opt(["-p", "raise"], path) == (1, "", "a.cimir:1:1: error: wrong\n")
    with pytest.raises(RuntimeError, match="our bug"):
        golden.run_opt(["-p", "crash"], path)
    code, _, err = golden.run_opt(["--unknown"], path)
    assert code == 2
    assert "--unknown" in err
