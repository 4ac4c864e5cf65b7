"""How the library reports the progress of writing, and what it does when nobody is there any more."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress

Advance = Callable[[int], None]
"""Told the bytes of every piece written."""
Progress = Callable[[int], Advance]
"""Told how many bytes will be written; returns what is told of every piece."""


def silent(total: int) -> Advance:
    """Tells nobody of the progress."""
    return lambda amount: None


def leave_terminal() -> None:
    """From now on nothing is written to a terminal that is gone: each word would be an error. Files and pipes stay."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                os.dup2(nowhere, stream)
    os.close(nowhere)
