"""Calls the command line as the console script does, without a process of its own."""

from __future__ import annotations

import sys
from typing import NamedTuple

import pytest

from cimc.cli.main import main


class Result(NamedTuple):
    """Exit code, stdout and stderr."""

    code: int
    out: str
    err: str


def call(capsys: pytest.CaptureFixture[str], *args: object) -> Result:
    """Run `cimc ARGS`. An exception other than SystemExit is a traceback for the user: it
    fails the test."""
    capsys.readouterr()
    old, sys.argv = sys.argv, ["cimc", *map(str, args)]
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = old
    out, err = capsys.readouterr()
    return Result(code, out, err)


def fails(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """Run a command that must end with exit code 1 and `error:` on stderr; the message."""
    result = call(capsys, *args)
    assert result.code == 1, result
    assert "error: " in result.err
    assert "Traceback" not in result.err
    assert "bit-exact" not in result.out, "no verdict where the input can't be used"
    return result.err
