"""`ckptgrow report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckptgrow.commands._paths import file_for, run_at, trained_at
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.errors import needs
from ckptgrow.storage.files.file_signs import PAGES

if TYPE_CHECKING:
    from ckptgrow.report.saved_compute import SavedCompute


def report(
    run: Annotated[
        Path, typer.Argument(metavar="DIR", help="The --out of a `ckptgrow run`.", show_default=False, callback=run_at)
    ],
    scratch: Annotated[
        Path | None,
        typer.Option(
            help="The --out of a `ckptgrow train` of the last model from scratch.",
            show_default=False,
            callback=trained_at,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to write the page (.html) [default: report.html in DIR].",
            show_default=False,
            callback=file_for(PAGES),
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """A run as one page with its pictures inside, finished or not: losses, growths, evaluations, time, commands.

    Examples:
        ckptgrow report staged --scratch from-scratch
    """
    with needs("report", "train,plan"):
        from ckptgrow.report.page import write_report
        from ckptgrow.report.saved_compute import incomparable, saving_of
    page, pictures, record = write_report(run, scratch, out)
    screen, saving = Screen(as_json), saving_of(record)
    if saving is not None:
        screen.say(saving.sentence)
    if why_not := incomparable(record):
        screen.warn(why_not)
    screen.say(f"report: {page}{_beside(pictures)}")
    told = {"page": str(page), "pictures": [str(one) for one in pictures], "current": record.standing.current}
    screen.result({**told, **_in_numbers(saving)})


def _beside(pictures: Sequence[Path]) -> str:
    return f", with {', '.join(one.name for one in pictures)} in {pictures[0].parent}" if pictures else ""


def _in_numbers(saving: SavedCompute | None) -> dict[str, object]:
    interval = None if saving is None or saving.interval is None else list(saving.interval)
    return {"saving": None if saving is None else saving.share, "saving_interval": interval}
