"""Help: panels by purpose, examples that parse, the nearest word where one is wrong, and shells that complete."""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from ckptgrow.cli import PROGRAM, app, run
from ckptgrow.commands._command_tree import context_of, tree_of
from ckptgrow.commands._help import PanelledGroup, example_lines
from ckptgrow.commands._panels import PANELS, REST, panel_of
from tests.helpers.commands import refused

ROOT = tree_of(app, PROGRAM)
EVERY_COMMAND = {"as_json", "help"}
IN_NO_PANEL = {"seed", "lists", "families", "check", "recipe", "schema", "measure", "status", "only", *EVERY_COMMAND}


def leaves(group: PanelledGroup = ROOT, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every command that does something, by its words."""
    found: dict[tuple[str, ...], Any] = {}
    for name, command in group.commands.items():
        below = leaves(command, (*words, name)) if isinstance(command, PanelledGroup) else {(*words, name): command}
        found |= below
    return found


LEAVES = leaves()


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_options_stand_under_what_they_are_for(words: tuple[str, ...]) -> None:
    options = {str(one.name) for one in LEAVES[words].params if one.param_type_name == "option"}
    assert {name for name in options if panel_of(name) == REST} <= IN_NO_PANEL, "see ckptgrow/commands/_panels.py"


def test_a_panel_names_options_that_there_are_and_each_once() -> None:
    named = [name for options in PANELS.values() for name in options]
    assert len(named) == len(set(named))
    assert set(named) <= {str(one.name) for command in LEAVES.values() for one in command.params}


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_examples_are_commands_that_parse(words: tuple[str, ...]) -> None:
    lines = example_lines(LEAVES[words].callback)
    assert lines
    for line in lines:
        given = shlex.split(line, comments=True)
        if given[:1] == ["torchrun"]:
            given = given[given.index("-m") + 1 :]
        given = given[: given.index(">")] if ">" in given else given
        given = given[: given.index("<")] if "<" in given else given
        assert given[0] == PROGRAM
        context, rest = context_of(ROOT, given[1:], PROGRAM)
        assert context.command is LEAVES[words], line
        parser = context.command.make_parser(context)
        values, left, _ = parser.parse_args(list(rest))
        assert not left, line
        lacking = [one.name for one in context.command.params if one.required and values.get(one.name) is None]
        assert not lacking, line


def test_a_terminal_gets_frames_over_its_whole_width() -> None:
    lines = on_a_terminal(["width", "--help"], columns=150)
    frames = [line for line in lines if line.startswith(("╭", "│", "╰"))]
    assert len(frames) > 40
    assert {len(line) for line in frames} == {150}
    assert any(line.startswith("╭─ Sizes ─") for line in lines)
    assert any(line.startswith("  ckptgrow width small.ckpt") for line in lines)  # no frame: to be copied


def on_a_terminal(words: list[str], columns: int) -> list[str]:
    """What a command prints on a terminal of so many columns, without its colours."""
    leader, follower = pty.openpty()
    os.set_blocking(leader, True)
    environment = {**os.environ, "COLUMNS": str(columns)}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen([sys.executable, "-m", "ckptgrow", *words], stdout=follower, env=environment) as process:
        os.close(follower)
        shown = b""
        while True:
            try:
                read = os.read(leader, 65536)
            except OSError:  # the other end is closed
                break
            if not read:
                break
            shown += read
    os.close(leader)
    assert process.returncode == 0 and b"\x1b[1;36m" in shown
    return re.sub(r"\x1b\[[\d;]*m", "", shown.decode()).replace("\r", "").splitlines()


@pytest.mark.parametrize("words", [["width"], ["train"], ["inspect"], ["plan", "watch"], ["eval", "perplexity"]])
def test_a_command_without_its_words_shows_its_help_and_is_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words, "--help"]) == 0
    helped = capsys.readouterr().out
    assert run(words) == 2
    shown = capsys.readouterr()
    assert shown.out == helped
    assert len(shown.err.splitlines()) == 1


def test_the_nearest_word_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    refused(["widht"], capsys, "Did you mean 'width'?")
    refused(["plan", "lwa"], capsys, "Did you mean 'law'?", "(see ckptgrow plan --help)")
    refused(["train", "--data", "d", "--out", "o", "--train-step", "3"], capsys, "--train-steps")
    refused(["frobnicate"], capsys, "width, depth")


def test_help_is_told_wherever_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["width", "a.ckpt", "--factor", "2", "--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: ckptgrow width")
    refused(["width", "no.ckpt", "--", "--help"], capsys, "no.ckpt")


def test_shells_complete_commands_and_options() -> None:
    def completed(line: str) -> set[str]:
        environment = {
            **os.environ,
            "_CKPTGROW_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1),
        }
        done = subprocess.run(
            [sys.executable, "-m", "ckptgrow"], capture_output=True, text=True, check=False, env=environment
        )
        return set(done.stdout.split())

    assert completed("ckptgrow w") == {"width"}
    assert completed("ckptgrow plan ") == {"curves", "law", "fit", "watch", "timing", "show"}
    assert "--lr-rule" in completed("ckptgrow width --lr")
    assert completed("ckptgrow width a b --how ") == {"diagonal", "tile", "pad"}


def test_a_command_loads_no_other(tmp_path: Path) -> None:
    """Only what a command line names is made: the rest would cost what the help may take in all."""
    tree = tree_of(app, PROGRAM)
    context_of(tree, ["width", "a", "b"], PROGRAM)
    assert isinstance(tree.commands["width"], typer.core.TyperCommand)
    made: Any = tree.commands
    assert set(made._made) == {"width"}


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_the_short_word_for_help_is_the_long_one(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[str] = []
    for one in ("-h", "--help"):
        assert run([*words, one]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] and "\\[" not in shown[0]


@pytest.mark.parametrize("line", ["families", "families list", "--help", "convert --list", "--version"])
def test_a_reader_that_has_gone_is_no_matter(line: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "ckptgrow", *line.split()]
    done = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.returncode == 0 and done.stderr == ""
