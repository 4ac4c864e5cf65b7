"""`ckptgrow report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.errors import needs


def report(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="The --out of a `ckptgrow run`.", show_default=False)],
    scratch: Annotated[
        Path | None,
        typer.Option(help="The --out of a `ckptgrow train` of the last model from scratch.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write the page [default: report.html in DIR].", show_default=False)
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
    screen = Screen(as_json)
    saving = saving_of(record)
    if saving is not None:
        screen.say(saving.sentence)
    if why_not := incomparable(record):
        screen.warn(why_not)
    screen.say(
        f"report: {page}"
        + (f", with {', '.join(one.name for one in pictures)} in {pictures[0].parent}" if pictures else "")
    )
    screen.result(
        {
            "page": str(page),
            "pictures": [str(one) for one in pictures],
            "current": record.standing.current,
            "saving": None if saving is None else saving.share,
            "saving_interval": None if saving is None or saving.interval is None else list(saving.interval),
        }
    )
