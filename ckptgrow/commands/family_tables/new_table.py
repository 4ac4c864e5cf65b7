"""`ckptgrow families new`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckptgrow.commands._options import ForceOption
from ckptgrow.commands._paths import file_for
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.storage.files.file_signs import TABLES

if TYPE_CHECKING:
    from ckptgrow.drafting.written_table import WrittenTable


def new_table(
    model_type: Annotated[
        str, typer.Argument(metavar="MODEL_TYPE", help="A model_type of transformers, as in a config.json.")
    ],
    out: Annotated[
        Path | None,
        typer.Argument(
            metavar="OUT",
            help="The file to write.  [default: MODEL_TYPE_family.py]",
            show_default=False,
            callback=file_for(TABLES),
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A config.json of the type, or a directory with one, whose switches and kinds of layers a tiny model "
            "shall have; otherwise the class's own.",
            show_default=False,
        ),
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Draft the table of a family: measured on a tiny model, tried by growths of it, for a person to correct.

    Examples:
        ckptgrow families new olmo_hybrid
        ckptgrow families new bitnet bitnet_family.py
    """
    from ckptgrow.drafting.written_table import write_new_table

    screen = Screen(as_json)
    with screen.stages() as tell:
        written = write_new_table(model_type, out, like=like, force=force, tell=tell)
    _show(written, screen)
    screen.result(written.to_json())


def _show(written: WrittenTable, screen: Screen) -> None:
    rows = [(one.operator, "exact" if one.fault is None else f"refused: {one.fault}") for one in written.tried]
    screen.table("", ("growth", "of a tiny model by the draft"), rows)
    for line in written.unsure:
        screen.warn(f"could not tell {line}")
    if written.has_table:
        screen.note(f"{written.model_type} has a table already, which this one can be compared with and not replace")
    screen.say(f"{written.path}: {written.num_rows} rows; read it beside the model's code, correct what is marked")
