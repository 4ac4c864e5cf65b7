"""`ckptgrow positions`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ckptgrow.choices import NewPositions
from ckptgrow.commands import _options as options
from ckptgrow.commands._growth_shared import StateOptions, WritingOptions, perform
from ckptgrow.commands._option_groups import takes
from ckptgrow.commands._paths import check_paths
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.errors import RequestError


@takes("state", StateOptions)
@takes("writing", WritingOptions)
def positions(
    *,
    source: options.InArgument,
    target: options.OutArgument,
    size: Annotated[int | None, typer.Option(help="Positions, more than now.", show_default=False)] = None,
    new: Annotated[
        NewPositions,
        typer.Option(
            help="New rows of a learned table: 'copy' old ones in turn, by which nothing changes at old lengths, or "
            "'interpolate', which stretches the table and changes the function."
        ),
    ] = "copy",
    state: StateOptions,
    writing: WritingOptions,
    as_json: JsonOption = False,
) -> int:
    """Give a checkpoint more positions: rows of a learned table with their moments, or the config alone.

    Where positions are computed (rotary ones), only the config's longest sequence changes, never their scaling.

    Examples:
        ckptgrow positions gpt2-dir longer-dir --size 2048
        ckptgrow positions bert-dir longer-dir --size 1024 --new interpolate
    """
    check_paths(source, target, force=writing.force)
    if size is None:
        raise RequestError("Missing option '--size'; say how many positions (see ckptgrow positions --help)")
    asked: dict[str, Any] = {"size": size, "new": new, **state.asked()}
    from ckptgrow.recipes.growth_recipe import GrowthRecipe

    return perform(GrowthRecipe("positions", asked), source, target, writing, Screen(as_json))
