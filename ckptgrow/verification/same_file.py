"""A checkpoint is no growth of itself: told of two paths, before anything is read."""

from __future__ import annotations

from pathlib import Path

from ckptgrow.errors import RequestError


def check_apart(small: Path, grown: Path) -> None:
    """Raises RequestError where both paths are one."""
    if small.exists() and grown.exists() and small.samefile(grown):
        raise RequestError(f"{grown}: is the small checkpoint itself, expected what was grown from it")
