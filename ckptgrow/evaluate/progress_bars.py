"""How an evaluation reports its progress."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[int], None]
Start = Callable[[int | None], Advance]
Progress = Callable[[str], AbstractContextManager[Start]]  # what is being done → takes the total → advances


@contextmanager
def silent(description: str) -> Generator[Start]:
    """Shows nothing."""
    del description
    yield lambda total: lambda amount: None
