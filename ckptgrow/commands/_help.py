"""The help of commands: panels by purpose over the whole width, with examples, and no library to draw them.

A terminal gets frames and colours; elsewhere there are headings. rich would draw them too, but takes longer to import
than the help may take to appear.
"""

from __future__ import annotations

import inspect
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from ckptgrow.commands._interruption import Stopped
from ckptgrow.commands._panels import PANELS, REST, panel_of
from ckptgrow.commands._pulse import PULSE
from ckptgrow.ranges import RANGES, check

WIDTH_WITHOUT_TERMINAL, NARROWEST = 100, 40  # characters
WIDEST_NAME = 34  # characters of an option's name and words, before its help begins a line below
EXAMPLES = "\nExamples:\n"  # in a command's docstring, its last part
_BOLD, _FAINT, _END = "\x1b[1m", "\x1b[2m", "\x1b[0m"
_HEADING, _NAME = "\x1b[1;33m", "\x1b[1;36m"

Row = tuple[str, str]  # what it is called, and what it does


class PanelledCommand(TyperCommand):
    """A command whose help has panels, and whose signs of life have its name until it says what it does.

    Numbers are compared with their ranges before all else, so that no path is fetched for a request that cannot be.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for one in self.params:
            if one.name in RANGES and one.callback is None:
                one.is_eager, one.callback = not one.required, _in_range

    def invoke(self, ctx: Any) -> Any:
        """What it returns."""
        PULSE.does(str(ctx.command_path))
        return super().invoke(ctx)

    def get_help(self, ctx: Any) -> str:
        """The help as text, for the terminal that there is."""
        panels: dict[str, list[Row]] = {"Arguments": [], **{name: [] for name in (*PANELS, REST)}}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                panel = "Arguments" if param.param_type_name == "argument" else panel_of(str(param.name))
                panels[panel].append((record[0], record[1] + _bounds(param)))
        return _page(self, ctx, panels)


def _in_range(context: Any, param: Any, value: Any) -> Any:
    """The value; raises RequestError for a number that the option does not take."""
    check(param.name, value)
    return value


def _bounds(param: Any) -> str:
    """The ends of the numbers that an option takes, as its help shows them."""
    takes_numbers = getattr(param.type_descriptor, "annotation", None) in (int, float)
    bounds = RANGES[param.name].bounds if takes_numbers and param.name in RANGES else ""
    return f"  [{bounds}]" if bounds else ""


@dataclass(frozen=True)
class Summary:
    """What a command is for, in a sentence, and under which heading it stands."""

    sentence: str
    panel: str


class PanelledGroup(TyperGroup):
    """A command with commands below it, whose help has panels; `summaries` are theirs."""

    summaries: Mapping[str, Summary]

    def invoke(self, ctx: Any) -> Any:
        """What its command returns; raises Stopped at Ctrl-C, of which Typer would make an exit code without a word."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Stopped from error

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all, without making the commands."""
        return list(self.summaries)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first word names; where none is near, the error lists all."""
        try:
            return super().resolve_command(ctx, args)
        except typer.exceptions.TyperException as error:
            if "Did you mean" not in error.message:
                error.message = f"{error.message.rstrip('.')}; there are {', '.join(self.summaries)}"
            raise

    def get_help(self, ctx: Any) -> str:
        """The help as text, for the terminal that there is."""
        panels: dict[str, list[Row]] = {}
        for name, one in self.summaries.items():
            panels.setdefault(one.panel, []).append((name, one.sentence))
        options = [record for param in self.get_params(ctx) if (record := param.get_help_record(ctx)) is not None]
        return _page(self, ctx, {**panels, REST: options})


def example_lines(command: Any) -> list[str]:
    """The commands that a command's documentation shows, remarks included."""
    _, _, shown = inspect.cleandoc(command.__doc__ or "").partition(EXAMPLES.strip("\n"))
    return [line.strip() for line in shown.splitlines() if line.strip()]


def summary_of(documentation: str | None, panel: str | None) -> Summary:
    """A command's, by its documentation."""
    return Summary(inspect.cleandoc(documentation or "").split("\n\n")[0].replace("\n", " "), panel or "Commands")


def _page(command: Any, ctx: typer.Context, panels: dict[str, list[Row]]) -> str:
    paint = _Paint()
    usage = " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])
    text, _, examples = inspect.cleandoc(command.help or "").partition(EXAMPLES)
    paragraphs = [" ".join(one.split()) for one in text.split("\n\n")]
    parts = [paint.wrapped(f"Usage: {usage}", hanging=9), *map(paint.wrapped, paragraphs)]
    parts += [paint.panel(name, rows) for name, rows in panels.items() if rows]
    if examples:
        parts.append(paint.examples([line.strip() for line in examples.splitlines() if line.strip()]))
    return "\n\n".join(part for part in parts if part)


class _Paint:
    """Lays text out in the width that there is, in colours where there is a terminal that wants them."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        fallback = (WIDTH_WITHOUT_TERMINAL, 24)
        asked = "COLUMNS" in os.environ or self._is_terminal
        self._width = max(shutil.get_terminal_size(fallback).columns if asked else fallback[0], NARROWEST)
        self._has_colours = self._is_terminal and "NO_COLOR" not in os.environ

    def wrapped(self, text: str, hanging: int = 0) -> str:
        """A paragraph of the whole width."""
        return "\n".join(textwrap.wrap(text, self._width, subsequent_indent=" " * hanging))

    def panel(self, title: str, rows: Sequence[Row]) -> str:
        """Rows of names and their help under a title, in a frame on a terminal."""
        inner = self._width - (4 if self._is_terminal else 2)
        column = min(max(len(name) for name, _ in rows), WIDEST_NAME, inner // 2) + 2
        lines = [line for name, text in rows for line in _row(name, textwrap.wrap(text, inner - column), column, inner)]
        return self._framed(title, lines, inner)

    def examples(self, lines: Sequence[str]) -> str:
        """Commands as they are typed, outside any frame, so that they can be copied."""
        shown = [f"  {line.partition('#')[0]}{self._in(_FAINT, ''.join(line.partition('#')[1:]))}" for line in lines]
        return "\n".join([self._in(_HEADING, "Examples"), *shown])

    def _framed(self, title: str, lines: Sequence[Row], inner: int) -> str:
        if not self._is_terminal:
            return "\n".join([f"{title}:", *(f"  {name}{rest}".rstrip() for name, rest in lines)])
        top = f"╭─ {self._in(_HEADING, title)} " + "─" * max(0, inner - len(title) - 1) + "╮"
        body = [f"│ {self._in(_NAME, name)}{rest.ljust(inner - len(name))} │" for name, rest in lines]
        return "\n".join([top, *body, f"╰{'─' * (inner + 2)}╯"])

    def _in(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_END}" if self._has_colours and text.strip() else text


def _row(name: str, text: Sequence[str], column: int, width: int) -> list[Row]:
    """A name and the lines of its help behind it, or below it where the name is long."""
    is_long = len(name) > column - 2
    above = [(part, "") for part in _split_name(name, width)] if is_long else []
    names = ["" if is_long else name, *[""] * len(text)]
    return above + [(one.ljust(column), rest) for one, rest in zip(names, text or [""], strict=False)]


def _split_name(name: str, width: int) -> list[str]:
    """A long name in lines, broken between its words where that is needed."""
    lines, line = [""], 0
    for part in name.replace("|", "|\n").splitlines():
        if lines[line] and len(lines[line]) + len(part) > width:
            lines.append("  ")
            line += 1
        lines[line] += part
    return lines
