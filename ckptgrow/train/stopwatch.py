"""Seconds of training alone."""

from __future__ import annotations

import time


class Stopwatch:
    """Seconds of training alone, without validation and saving."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._paused_at: float | None = None

    def pause(self) -> None:
        """Something else begins."""
        self._paused_at = time.monotonic()

    def resume(self) -> None:
        """It is over."""
        if self._paused_at is not None:
            self._since += time.monotonic() - self._paused_at
            self._paused_at = None

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.monotonic()
        seconds, self._since = now - self._since, now
        return seconds
