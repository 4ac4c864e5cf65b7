"""The command in the test's own process: what it prints as JSON, and how it refuses."""

from __future__ import annotations

import json

import pytest

from ckptgrow.cli import run


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str], *words: str) -> None:
    """Exit 2, one line on stderr with all the words and no talk of a fault of ckptgrow, nothing on stdout."""
    capsys.readouterr()  # what made the input speaks too
    code = run(arguments)
    output = capsys.readouterr()
    assert code == 2, output
    assert output.out == ""
    lines = output.err.strip().splitlines()
    assert len(lines) == 1 and "fault of ckptgrow" not in lines[0], output.err
    for word in words:
        assert word in lines[0], lines[0]


def said(text: str) -> list[str]:
    """The lines of stderr but for the signs of life, which a busy machine may bring about."""
    return [line for line in text.splitlines() if not line.startswith("… ")]


def as_json(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, object]:
    """The object that `--json` prints."""
    assert run([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)
