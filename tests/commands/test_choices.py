"""Options that take one of a few words show these words, and refuse all others in one line."""

from __future__ import annotations

import inspect
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin

import pytest

from ckptgrow.cli import app, run


def commands() -> Iterator[tuple[list[str], Callable[..., Any]]]:
    """Every command's words and its function."""
    for info in app.registered_commands:
        assert info.callback is not None
        yield [info.name or info.callback.__name__], info.callback
    for group in app.registered_groups:
        assert group.typer_instance is not None
        for info in group.typer_instance.registered_commands:
            assert info.callback is not None
            yield [str(group.name), info.name or info.callback.__name__], info.callback


def literal_in(annotation: Any) -> tuple[str, ...]:
    """The words of a Literal, or of a Literal or None."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((words for part in get_args(annotation) if (words := literal_in(part))), ())


def choosing() -> Iterator[tuple[list[str], str, tuple[str, ...]]]:
    """Every option of every command whose values are a few words."""
    for words, function in commands():
        hints = typing.get_type_hints(function)
        for name in inspect.signature(function).parameters:
            if choices := literal_in(hints[name]):
                yield words, f"--{name.replace('_', '-')}", choices


CASES = list(choosing())


def test_most_commands_have_such_options() -> None:
    assert len(CASES) > 20
    growing = {"width", "depth", "vocab", "positions", "experts"}
    others = {"verify", "convert", "data", "train", "generate", "eval", "plan", "run"}
    assert growing | others == {words[0] for words, *_ in CASES}


@pytest.mark.parametrize(
    ("words", "option", "choices"), CASES, ids=[" ".join([*words, name]) for words, name, _ in CASES]
)
def test_a_word_that_is_none_of_them_is_refused_in_one_line(
    words: list[str], option: str, choices: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words, option, "it's none"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == f"ckptgrow: {option} it's none: expected {' or '.join(choices)}\n"


@pytest.mark.parametrize("words", [words for words, _ in commands()], ids=" ".join)
def test_the_help_shows_them(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    assert run([*words, "--help"]) == 0
    shown = "".join(capsys.readouterr().out.split())
    for command, option, choices in CASES:
        if command == words:
            assert f"{option}<{'|'.join(choices)}>" in shown


def test_they_are_known_without_torch() -> None:
    program = "import sys, ckptgrow.choices; assert not {'torch', 'numpy', 'typer'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
