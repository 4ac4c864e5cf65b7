"""How the library reports the progress of writing."""

from __future__ import annotations

from collections.abc import Callable

Advance = Callable[[int], None]
"""Told the bytes of every piece written."""
Progress = Callable[[int], Advance]
"""Told how many bytes will be written; returns what is told of every piece."""


def silent(total: int) -> Advance:
    """Tells nobody of the progress."""
    return lambda amount: None
