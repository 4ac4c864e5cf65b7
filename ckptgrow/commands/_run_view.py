"""What a run shows while it works: a live view on a terminal, a line in ten seconds elsewhere.

Where the run stands is read from its files, whose logs become long: looking takes at most a hundredth of the run's
time, and between two looks the view has what it hears of the training itself.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptgrow.commands._pulse import PULSE
from ckptgrow.commands._screen import Screen
from ckptgrow.commands._spelling import spelled

if TYPE_CHECKING:
    from ckptgrow.run.standing import Standing
    from ckptgrow.train.step_progress import Progress

EVERY_ON_TERMINAL, EVERY_ELSEWHERE = 1.0, 10.0  # seconds
LOOKING_SHARE = 0.01  # of the time, at most
MARKS = {"done": "✓", "under way": "▶", "waiting": "·", "failed": "✗", "interrupted": "‖"}


class RunView:
    """Listens to a run; `look` says where it stands."""

    def __init__(self, screen: Screen, look: Callable[[], Standing], live: Any = None) -> None:
        self._screen, self._look, self._live = screen, look, live
        self._every = EVERY_ELSEWHERE if live is None else EVERY_ON_TERMINAL
        self._shown = time.monotonic()
        self._doing = ""
        self._found: Standing | None = None
        self._look_again = 0.0
        self._heard: Progress | None = None

    def job(self, name: str, sentence: str) -> None:
        """A job begins, or has ended with what the sentence says."""
        self._doing, self._found, self._heard = "", None, None
        PULSE.does(name)
        if sentence:
            self._screen.say(f"{name}: {sentence}")
        self._show()

    def stage(self, sentence: str) -> None:
        """What a job is doing now."""
        self._doing = sentence
        PULSE.does(sentence)
        self._show_later()

    def trained(self, stage: str, progress: Progress) -> None:
        """A training step has ended."""
        self._heard = progress
        self._show_later()

    def writes(self, total: int) -> Callable[[int], None]:
        """So many bytes will be written."""
        return lambda amount: self._show_later()

    def tell(self, sentence: str) -> None:
        """What a user should read."""
        self._screen.say(f"note: {spelled(sentence)}")

    def _show_later(self) -> None:
        if time.monotonic() - self._shown >= self._every:
            self._show()
            if self._live is None:
                self._screen.say(self._standing().sentence)

    def _standing(self) -> Standing:
        begun = time.monotonic()
        if self._found is None or begun >= self._look_again:
            self._found = self._look()
            ended = time.monotonic()
            self._look_again = ended + (ended - begun) / LOOKING_SHARE
        return self._found if self._heard is None else replace(self._found, progress=self._heard)

    def _show(self) -> None:
        self._shown = time.monotonic()
        if self._live is None:
            return
        from rich.text import Text

        found = self._standing()
        jobs = [f"{MARKS[one.state]} {one.name}" for one in found.jobs]
        self._live.update(Text("  ".join(jobs) + "\n" + found.sentence + (f" ({self._doing})" if self._doing else "")))


@contextmanager
def run_view(screen: Screen, look: Callable[[], Standing]) -> Generator[RunView]:
    """The view while a run works."""
    if not sys.stderr.isatty():
        yield RunView(screen, look)
        return
    with screen.live() as live:
        yield RunView(screen, look, live)
