"""One golden test: a `.cimir` file, what it runs, and what must come out.

The first line says the command; it runs in this process, in the folder of the file:

    # RUN: cimc opt -p fold-threshold

A positive test compares the printed graph with the neighbouring `NAME.expect`, byte for
byte. A negative test has annotations, at the end of the offending line or on lines of their
own directly above it, and no `.expect`; the command must fail with exactly these errors:

    %y = cim.sign(%x): bip[4]  # error: needs the attribute `zero`

An error without a line (an unknown pass) belongs to the first line.
Knows the command line; nothing of pytest.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LONGEST = 40
"""Lines that an expectation may have; a golden says one thing."""

_RUN = re.compile(r"# RUN: cimc opt(?:\s+(.*))?$")
_DIRECTIVE = re.compile(r"\s*#\s*([A-Z][A-Z0-9_-]+|Errors?)\s*:")
_BEFORE_COMMENT = re.compile(r'(?:[^"#]|"(?:[^"\\]|\\.)*"?)*')
_ERROR = re.compile(r"(?:(?P<file>.+?):(?P<line>\d+):\d+: |.*?)error: (?P<message>.*)")


class GoldenFailure(Exception):
    """Why a golden test fails, as it is shown to the user."""


@dataclass(frozen=True)
class Annotation:
    """`# error: text`: the error expected at a 1-based line."""

    line: int
    text: str


@dataclass(frozen=True)
class GoldenTest:
    """A test file, read. args: those of `cimc opt`, without the file."""

    path: Path
    args: tuple[str, ...]
    annotations: tuple[Annotation, ...]

    @property
    def expect(self) -> Path:
        return self.path.with_suffix(".expect")


def read_test(path: Path) -> GoldenTest:
    """Read a test file; GoldenFailure where its directives are wrong."""
    lines = path.read_text(encoding="utf-8").split("\n")
    run = _RUN.match(lines[0])
    if run is None:
        raise GoldenFailure(f"{path}:1: the first line must be `# RUN: cimc opt …`")
    for number, line in enumerate(lines[1:], 2):
        directive = _DIRECTIVE.match(line)
        if directive is not None:
            raise GoldenFailure(
                f"{path}:{number}: unknown directive `{directive[1]}:`; there are "
                "`# RUN:` in the first line and `# error:`"
            )
    args = [a for a in shlex.split(run[1] or "", comments=True) if a != "%s"]
    return GoldenTest(path, tuple(args), tuple(_annotations(lines)))


def _annotations(lines: Sequence[str]) -> list[Annotation]:
    found: list[Annotation] = []
    above: list[str] = []
    for number, line in enumerate(lines, 1):
        start = _BEFORE_COMMENT.match(line)
        assert start is not None
        # the RUN line is a comment itself: its annotation is behind a second `#`
        comment = line[start.end() :] if number > 1 else line[1:].partition("#")[2]
        text = re.match(r"#?\s*error:\s*(.*\S)", comment)
        if text is not None and not start[0].strip() and number > 1:
            above.append(text[1])
            continue
        found += [Annotation(number, a) for a in above]
        above = []
        if text is not None:
            found.append(Annotation(number, text[1]))
    found += [Annotation(len(lines), a) for a in above]
    return found


def run_opt(args: Sequence[str], path: Path) -> tuple[int, str, str]:
    """Run `cimc opt` on a file, in its folder. Returns exit code, stdout and stderr."""
    from click.testing import CliRunner

    from cimc.cli.main import cli
    from cimc.errors import CompileError

    with contextlib.chdir(path.parent):
        result = CliRunner().invoke(cli, ["opt", path.name, *args])
    if isinstance(result.exception, CompileError):
        return 1, result.stdout, f"{result.stderr}{result.exception}\n"
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def check(test: GoldenTest, bless: bool = False) -> None:
    """Run a test; GoldenFailure if it fails. bless: write what comes out as expected."""
    code, out, err = run_opt(test.args, test.path)
    if test.annotations:
        _check_errors(test, code, err)
        return
    if code:
        raise GoldenFailure(f"`cimc opt` failed with exit code {code}:\n{err}")
    if out.count("\n") > LONGEST:
        raise GoldenFailure(
            f"the output has {out.count(chr(10))} lines; a golden has at most {LONGEST}: "
            "make the case smaller, or test it by running"
        )
    if bless:
        test.expect.write_text(out, encoding="utf-8", newline="\n")
        return
    _compare(test, out)


def _compare(test: GoldenTest, out: str) -> None:
    if not test.expect.exists():
        raise GoldenFailure(
            f"{test.expect.name} is missing; `pytest --bless {test.path.name}` writes it"
        )
    expected = test.expect.read_bytes().decode("utf-8")
    if out == expected:
        return
    diff = difflib.unified_diff(
        expected.splitlines(keepends=True), out.splitlines(keepends=True), test.expect.name, "now"
    )
    shown = "".join(line if line.endswith("\n") else f"{line}\n\\ no newline\n" for line in diff)
    raise GoldenFailure(f"{shown}`pytest --bless` accepts the new output")


def _check_errors(test: GoldenTest, code: int, err: str) -> None:
    if test.expect.exists():
        raise GoldenFailure(f"unused expectation {test.expect.name}: the test expects errors")
    missing = list(test.annotations)
    surprises = []
    for line, message in _reported(test, err):
        hit = next((a for a in missing if a.line == line and a.text in message), None)
        if hit is None:
            surprises.append(f"line {line}: unexpected error: {message}")
        else:
            missing.remove(hit)
    problems = surprises + [f"line {a.line}: no error that contains `{a.text}`" for a in missing]
    if not code:
        problems.append("the command did not fail")
    if problems:
        raise GoldenFailure("\n".join([*problems, "the command said:", err]))


def _reported(test: GoldenTest, err: str) -> list[tuple[int, str]]:
    """Line and message of each error; 1 for one that is not in the test file."""
    found = []
    for text in err.split("\n"):
        match = _ERROR.match(text)
        if match is None or text.startswith(" "):
            continue
        here = match["file"] in (test.path.name, str(test.path))
        found.append((int(match["line"]) if here else 1, match["message"]))
    return found


def is_unused(expect: Path) -> bool:
    """Whether a `.expect` file is the text of a graph and its test is gone."""
    if expect.with_suffix(".cimir").exists():
        return False
    text = expect.read_text(encoding="utf-8", errors="replace")
    return re.search(r"^graph @", text, re.MULTILINE) is not None
