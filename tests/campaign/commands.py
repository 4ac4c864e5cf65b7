"""ckptgrow's command line, run in this process: what a user sees of the product is all that the campaign uses."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from ckptgrow.cli import run
from tests.campaign.outcome import FindingError, RefusedError

# Each input is a real model's whole state, so a message that it is damaged is wrong.
TAKEN_FOR_DAMAGED = re.compile(
    r"unexpected |malformed|is missing|claims no tensor|in no order|has no parameter|in no table"
)


@dataclass(frozen=True)
class Ending:
    """How a command ended."""

    code: int
    out: str
    err: str


def called(*arguments: object) -> Ending:
    """Runs one command. Raises FindingError where it ends in a traceback."""
    out, err = io.StringIO(), io.StringIO()
    words = [str(one) for one in arguments]
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.dict(os.environ, {"CKPTGROW_TRACEBACK": "1"}),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            code = run(words)
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else 2
        except Exception as error:
            raise FindingError(f"`{shown(words)}` ends in {_place(error)}") from error
    return Ending(code, out.getvalue(), err.getvalue())


def grown(command: str, source: Path, target: Path, options: tuple[str, ...]) -> Ending:
    """Grows. Raises RefusedError where a reason is given, FindingError where it is none or something is left behind."""
    before = set(target.parent.iterdir())
    ending = called(command, source, target, *options)
    if ending.code == 0:
        return ending
    words = f"`{shown([command, *options])}` exits {ending.code}: {ending.err.strip()}"
    if left := set(target.parent.iterdir()) - before:
        raise FindingError(f"{words}; it leaves {sorted(one.name for one in left)} behind")
    if ending.code != 2 or not ending.err.strip() or TAKEN_FOR_DAMAGED.search(ending.err):
        raise FindingError(words)
    if "see ckptgrow --help" in ending.err:
        raise ValueError(words)  # the harness's own fault
    raise RefusedError(words)


def shown(words: list[str]) -> str:
    """A command without its paths' directories."""
    return " ".join(Path(one).name if "/" in one else one for one in words)


@functools.cache
def has_separate() -> bool:
    """Whether `--separate` exists."""
    return "--separate" in called("width", "--help").out


@functools.cache
def has_moments() -> bool:
    """Whether `--moments` and `--reset new` exist."""
    return "--moments" in called("width", "--help").out


def _place(error: Exception) -> str:
    """An error with the line of the product that it comes from."""
    frames = [one for one in traceback.extract_tb(error.__traceback__) if "ckptgrow" in Path(one.filename).parts]
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{where}"
