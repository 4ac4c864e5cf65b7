"""What a command shows: tables and sentences for people, or one JSON object for scripts.

With `--json` stdout carries exactly one JSON object; everything else goes to stderr. Tables, colours and progress bars
appear on terminals only.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

Advance = Callable[[int], None]

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
WIDTH_WITHOUT_TERMINAL = 160  # characters: scripts and logs should not see tables folded at 80
WIDEST_PICTURE = 80  # characters
SECONDS_OF_STAGES, SECONDS_OF_PROGRESS = 10.0, 60.0  # between lines, where there is no terminal


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WIDTH_WITHOUT_TERMINAL
    # bound to the stream of now: evaluation sends what others print to the streams into nothing
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False, soft_wrap=not stream.isatty())


class Screen:
    """Shows one command's sentences, tables, progress and result where they belong."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._notes = _console(stderr=True)
        self._words = self._notes if as_json else _console(stderr=False)

    def say(self, sentence: str, style: str | None = None) -> None:
        """Shows a sentence for people; on stderr under `--json`."""
        self._words.print(sentence, style=style)

    def note(self, sentence: str) -> None:
        """Shows a remark on stderr."""
        self._notes.print(sentence, markup=False, highlight=False)

    def warn(self, sentence: str) -> None:
        """Shows a warning on stderr."""
        self._notes.print(f"warning: {sentence}", style="yellow")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Shows a table for people, with numbers at the right; without a terminal, lines with tabs for scripts."""
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

        for row in draw(min(self._words.width, WIDEST_PICTURE)):
            self._words.print(Text.assemble(*row))

    def result(self, values: Mapping[str, object]) -> None:
        """Prints the command's result under `--json`, as one object on stdout; otherwise nothing."""
        if self._as_json:
            print(json.dumps(_finite(values), default=str, allow_nan=False))

    @contextmanager
    def stages(self) -> Generator[Callable[[str], None]]:
        """A spinner with what is being done, on a terminal's stderr, and elsewhere lines of it now and then; yields a
        function that takes the words.
        """
        if not sys.stderr.isatty():
            lines = _Lines(self.note, SECONDS_OF_STAGES)
            yield lines.say
            return
        with self._notes.status("") as status:
            yield status.update

    @contextmanager
    def live(self) -> Generator[Live]:
        """A part of a terminal's stderr that is drawn anew by `update`; what is said meanwhile stands above it."""
        from rich.live import Live

        words = self._words
        with Live("", console=self._notes, transient=True, refresh_per_second=4) as live:
            self._words = self._notes  # so that sentences and the live part know of each other
            try:
                yield live
            finally:
                self._words = words

    @contextmanager
    def progress(self, description: str, total: int | None, *, unit: str = "bytes") -> Generator[Advance]:
        """A progress bar on a terminal's stderr, a line a minute elsewhere; yields a function that advances it."""
        with self.progress_later(description, unit=unit) as start:
            yield start(total)

    @contextmanager
    def progress_later(self, description: str, *, unit: str = "bytes") -> Generator[Callable[[int | None], Advance]]:
        """A progress bar whose total is known later.

        Yields a function that takes it and returns the one that advances.
        """
        if not sys.stderr.isatty():
            lines = _Lines(self.note, SECONDS_OF_PROGRESS)
            yield lambda total: lines.counting(description, total, unit)
            return
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        amount_column = DownloadColumn() if unit == "bytes" else TextColumn("{task.completed}/{task.total} " + unit)
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            amount_column,
            TimeRemainingColumn(),
            console=self._notes,
            transient=True,
        ) as bar:
            task = bar.add_task(description, total=None)

            def start(total: int | None) -> Advance:
                bar.update(task, total=total)
                return lambda amount: bar.update(task, advance=amount)

            yield start

    @contextmanager
    def steps(self, description: str) -> Generator[Callable[[int, int, str, bool], None]]:
        """A bar of steps with words and the time left, on a terminal's stderr; elsewhere a line for each step that is
        worth one. Yields what takes done, total, words, and whether the step is worth a line.
        """
        if not sys.stderr.isatty():
            yield (
                lambda done, total, words, is_told: (
                    self.say(f"{description} {done:,}/{total:,}: {words}") if is_told else None
                )
            )
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            TextColumn("{task.completed}/{task.total}"),
        )
        words, left = TextColumn("{task.fields[words]}"), TimeRemainingColumn(compact=True)
        with Progress(*columns, words, left, console=self._notes, transient=True) as bar:
            task = bar.add_task(description, total=None, words="")
            yield lambda done, total, words, _: bar.update(task, completed=done, total=total, words=words)


class _Lines:
    """Lines for a log: at most one in so many seconds, the first after as many."""

    def __init__(self, note: Callable[[str], None], seconds: float) -> None:
        self._note, self._seconds, self._told = note, seconds, time.monotonic()

    def say(self, line: str) -> None:
        """Writes the line, if it is time for one."""
        if time.monotonic() - self._told >= self._seconds:
            self._note(line)
            self._told = time.monotonic()

    def counting(self, description: str, total: int | None, unit: str) -> Advance:
        """What takes amounts of work that are done, of a total in bytes or another unit."""
        done = 0

        def advance(amount: int) -> None:
            nonlocal done
            done += amount
            of = "" if total is None else f" of {_amount(total, unit)}"
            self.say(f"{description}: {_amount(done, unit)}{of}")

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
