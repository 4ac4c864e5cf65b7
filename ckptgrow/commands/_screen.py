"""What a command shows: tables and sentences for people, or one JSON object for scripts.

With `--json` stdout carries exactly one JSON object; everything else goes to stderr. Tables, colours and progress bars
appear on terminals only.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ckptgrow.commands._moving_parts import LivePart, amounts_bar, steps_bar
from ckptgrow.commands._pulse import PULSE

if TYPE_CHECKING:
    from rich.console import Console

Advance = Callable[[int], None]

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
WIDTH_WITHOUT_TERMINAL = 160  # characters: scripts and logs should not see tables folded at 80
WIDEST_PICTURE = 80  # characters


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WIDTH_WITHOUT_TERMINAL
    # bound to the stream of now: evaluation sends what others print to the streams into nothing
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False, soft_wrap=not stream.isatty())


class Screen:
    """Shows one command's sentences, tables, progress and result where they belong."""

    def __init__(self, as_json: bool) -> None:
        PULSE.beat()
        self._as_json = as_json
        self._notes = _console(stderr=True)
        self._words = self._notes if as_json else _console(stderr=False)

    def say(self, sentence: str, style: str | None = None) -> None:
        """Shows a sentence for people; on stderr under `--json`."""
        PULSE.beat()
        self._words.print(sentence, style=style)

    def note(self, sentence: str) -> None:
        """Shows a remark on stderr."""
        PULSE.beat()
        self._notes.print(sentence, markup=False, highlight=False)

    def warn(self, sentence: str) -> None:
        """Shows a warning on stderr."""
        PULSE.beat()
        self._notes.print(f"warning: {sentence}", style="yellow")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Shows a table for people, with numbers at the right; without a terminal, lines with tabs for scripts."""
        PULSE.beat()
        if not self._words.is_terminal:
            lines = [columns, *([_cell(value) for value in row] for row in rows)]
            for line in ([title] if title else []) + ["\t".join(line) for line in lines]:
                print(line, file=self._words.file)
            return
        from rich.table import Table

        table = Table(title=title or None, title_justify="left", title_style="bold")
        for position, column in enumerate(columns):
            numeric = bool(rows) and all(isinstance(row[position], int | float) for row in rows)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(_cell(value) for value in row))
        self._words.print(table)

    def picture(self, draw: Callable[[int], Sequence[Sequence[tuple[str, str]]]]) -> None:
        """Shows rows of (text, style) that `draw` makes for a width in characters; only on a terminal."""
        if not self._words.is_terminal:
            return
        from rich.text import Text

        PULSE.beat()
        for row in draw(min(self._words.width, WIDEST_PICTURE)):
            self._words.print(Text.assemble(*row))

    def result(self, values: Mapping[str, object]) -> None:
        """Prints the command's result under `--json`, as one object on stdout; otherwise nothing."""
        PULSE.beat()
        if self._as_json:
            print(json.dumps(_finite(values), default=str, allow_nan=False))

    @contextmanager
    def stages(self) -> Generator[Callable[[str], None]]:
        """A spinner with what is being done, on a terminal's stderr, and elsewhere lines of it now and then; yields a
        function that takes the words.
        """
        yield PULSE.does

    @contextmanager
    def live(self) -> Generator[LivePart]:
        """A part of a terminal's stderr that is drawn anew by `update`; what is said meanwhile stands above it."""
        words = self._words
        if words.is_terminal:
            self._words = self._notes  # so that sentences and the live part know of each other
        try:
            with ExitStack() as drawn:
                yield LivePart(self._notes, drawn)
        finally:
            self._words = words

    @contextmanager
    def progress(self, description: str, total: int | None, *, unit: str = "bytes") -> Generator[Advance]:
        """A progress bar on a terminal's stderr, lines elsewhere; yields a function that advances it."""
        with self.progress_later(description, unit=unit) as start:
            yield start(total)

    @contextmanager
    def progress_later(
        self, description: str, *, unit: str = "bytes", before: str | None = None
    ) -> Generator[Callable[[int | None], Advance]]:
        """A progress bar whose total is known later; `before` says what is done until then.

        Yields a function that takes it and returns the one that advances.
        """
        PULSE.does(before or description)
        if not sys.stderr.isatty():
            yield lambda total: _counting(description, total, unit)
            return
        with amounts_bar(self._notes, before or description, unit) as bar:
            yield lambda total: bar(total, description)

    @contextmanager
    def steps(self, description: str) -> Generator[Callable[[int, int, str, bool], None]]:
        """A bar of steps with words and the time left, on a terminal's stderr, and a line for each step that is worth
        one wherever words go to a file. Yields what takes done, total, words, and whether the step is worth a line.
        """

        def tell(done: int, total: int, words: str, is_told: bool) -> None:
            PULSE.does(line := f"{description} {done:,}/{total:,}: {words}")
            if is_told and not self._words.is_terminal:
                self.say(line)

        if not sys.stderr.isatty():
            yield tell
            return
        with steps_bar(self._notes, description) as bar:

            def show(done: int, total: int, words: str, is_told: bool) -> None:
                bar(done, total, words)
                tell(done, total, words, is_told)

            yield show


def _counting(description: str, total: int | None, unit: str) -> Advance:
    """What takes amounts of work that are done, of a total in bytes or another unit, for the signs of life."""
    done = 0

    def advance(amount: int) -> None:
        nonlocal done
        done += amount
        of = "" if total is None else f" of {_amount(total, unit)}"
        PULSE.does(f"{description}: {_amount(done, unit)}{of}")

    return advance


def _amount(number: int, unit: str) -> str:
    return f"{number / 2**30:.2f} GiB" if unit == "bytes" else f"{number:,} {unit}"


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def _finite(value: object) -> object:
    """A tree of values for JSON, which has no NaN or infinity: these become null and strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value
