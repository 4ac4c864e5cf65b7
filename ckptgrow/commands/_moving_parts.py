"""What moves at the foot of a terminal: bars and a live part, each beside a spinner that turns.

None of them is there before it has something to show; until then the signs of life have the terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from ckptgrow.commands._pulse import PULSE

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.spinner import Spinner

FRAMES_A_SECOND = 4


class LivePart:
    """Text that is drawn anew by `update`, from the first one on until `drawn` ends."""

    def __init__(self, console: Console, drawn: ExitStack) -> None:
        self._console, self._drawn = console, drawn
        self._spinner: Spinner | None = None

    def update(self, text: RenderableType) -> None:
        """Shows this from now on."""
        if self._spinner is not None:
            self._spinner.update(text=text)
            return
        from rich.live import Live
        from rich.spinner import Spinner

        self._spinner = Spinner("dots", text)
        self._drawn.enter_context(PULSE.held())
        self._drawn.enter_context(
            Live(self._spinner, console=self._console, transient=True, refresh_per_second=FRAMES_A_SECOND)
        )


@contextmanager
def amounts_bar(
    console: Console, before: str, unit: str
) -> Generator[Callable[[int | None, str], Callable[[int], None]]]:
    """A bar of bytes or of another unit, that shows the words `before` at once.

    Yields what takes the total and the words from then on, and returns what takes amounts that are done.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    amount_column = DownloadColumn() if unit == "bytes" else TextColumn("{task.completed}/{task.total} " + unit)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), amount_column, TimeRemainingColumn())
    with PULSE.held(), Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(before, total=None)

        def start(total: int | None, description: str) -> Callable[[int], None]:
            bar.update(task, total=total, description=description)
            return lambda amount: bar.update(task, advance=amount)

        yield start


@contextmanager
def steps_bar(console: Console, description: str) -> Generator[Callable[[int, int, str], None]]:
    """A bar of steps with words and the time left. Yields what takes done, total and words."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        TextColumn("{task.completed}/{task.total}"),
    )
    words, left = TextColumn("{task.fields[words]}"), TimeRemainingColumn(compact=True)
    bar = Progress(*columns, words, left, console=console, transient=True)
    task = bar.add_task(description, total=None, words="")
    with ExitStack() as drawn:

        def show(done: int, total: int, words: str) -> None:
            bar.update(task, completed=done, total=total, words=words)
            if not bar.live.is_started:
                drawn.enter_context(PULSE.held())
                drawn.enter_context(bar)

        yield show
