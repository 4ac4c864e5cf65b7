"""Signs of life: on a terminal and in a log, a command is never silent for long without saying what it works on."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

SECONDS_OF_SILENCE = 8.0  # in a log, between lines
SECONDS_TO_SPINNER, SECONDS_OF_FRAME = 0.5, 0.1  # on a terminal
FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
BEGINNING, CLEARED = "loading", "\r\x1b[K"


class Pulse:
    """Says on stderr what a command is doing whenever nothing else is said: a spinner on a terminal, a line elsewhere.

    Everything that is shown calls `beat` before, and `held` is around what draws or reads a terminal by itself.
    `may_go_on` is asked whenever work goes on, and raises where it should not.
    """

    def __init__(self) -> None:
        self.may_go_on: Callable[[], None] = lambda: None
        self._doing = BEGINNING
        self._begun = self._shown = time.monotonic()
        self._stream = sys.stderr  # as a command began: libraries that print are silenced by replacing sys.stderr
        self._holders, self._is_spinning = 0, False
        self._lock, self._ended = threading.RLock(), threading.Event()

    def does(self, words: str) -> None:
        """What the command does from now on."""
        self.may_go_on()
        self._doing = words

    def beat(self) -> None:
        """Something is about to be shown."""
        with self._lock:
            self._shown = time.monotonic()
            if self._is_spinning:
                self._is_spinning = False
                self._stream.write(CLEARED)
                self._stream.flush()

    @contextmanager
    def held(self) -> Generator[None]:
        """While this lasts, someone else has the terminal."""
        with self._lock:
            self.beat()
            self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            self.beat()

    @contextmanager
    def beating(self) -> Generator[None]:
        """Watches over a command."""
        self._begun = self._shown = time.monotonic()
        self._stream, self._ended = sys.stderr, threading.Event()
        is_terminal = self._stream is not None and self._stream.isatty()
        watch = threading.Thread(target=self._spin if is_terminal else self._write, daemon=True)
        watch.start()
        try:
            yield
        finally:
            self._ended.set()
            watch.join()
            self.beat()

    def _spin(self) -> None:
        frame = 0
        while not self._ended.wait(SECONDS_OF_FRAME):
            with self._lock:
                if self._holders == 0 and time.monotonic() - self._shown >= SECONDS_TO_SPINNER:
                    frame, self._is_spinning = frame + 1, True
                    self._stream.write(f"{CLEARED}{FRAMES[frame % len(FRAMES)]} {self._doing} …\r")
                    self._stream.flush()

    def _write(self) -> None:
        while not self._ended.wait(min(1.0, SECONDS_OF_SILENCE / 4)):
            with self._lock:
                if (now := time.monotonic()) - self._shown >= SECONDS_OF_SILENCE and self._stream is not None:
                    self._stream.write(f"… {self._doing}, {now - self._begun:.0f} s\n")
                    self._stream.flush()
                    self._shown = now


PULSE = Pulse()
