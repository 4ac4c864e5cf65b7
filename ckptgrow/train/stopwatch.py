"""Measures the time that a run spends on training alone."""

from __future__ import annotations

import time


class Stopwatch:
    """A stopwatch that can be paused, for validation and saving."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._paused_at: float | None = None

    def pause(self) -> None:
        """Stops counting."""
        self._paused_at = time.monotonic()

    def resume(self) -> None:
        """Goes on counting after a pause."""
        if self._paused_at is not None:
            self._since += time.monotonic() - self._paused_at
            self._paused_at = None

    def lap(self) -> float:
        """The seconds counted since the last lap; begins a new one."""
        now = time.monotonic()
        seconds, self._since = now - self._since, now
        return seconds
