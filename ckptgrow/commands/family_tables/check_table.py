"""`ckptgrow families check`."""

from __future__ import annotations

from typing import Annotated

import typer

from ckptgrow.commands._screen import JsonOption, Screen


def check_table(
    model_type: Annotated[
        str, typer.Argument(metavar="MODEL_TYPE", help="The model_type of a family that has a table, one's own too.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Measure whether a table is right, on a tiny model of its class: what it says of each axis, and its growths.

    Exits with 1 where something is measured that the table says otherwise.

    Examples:
        ckptgrow families check llama
        ckptgrow --family bitnet_family.py families check bitnet
    """
    from ckptgrow.drafting.table_check import check_table as check

    screen = Screen(as_json)
    with screen.stages() as tell:
        found = check(model_type, tell)
    rows = [(one.operator, _verdict(one.fault, is_right=found.is_right(one))) for one in found.tried]
    screen.table("", ("growth", "of a tiny model by the table"), rows)
    for line in found.disagreements:
        screen.warn(line)
    screen.say(
        f"{model_type}: {'all that was measured is as the table says' if found.passed else 'the table is wrong'}"
    )
    screen.result(found.to_json())
    if not found.passed:
        raise typer.Exit(1)


def _verdict(fault: str | None, *, is_right: bool) -> str:
    if fault is None:
        return "exact"
    return "refused by the table" if is_right else f"WRONG: {fault}"
