"""`ckptgrow experts`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ckptgrow.choices import ExpertSeparation
from ckptgrow.commands import _options as options
from ckptgrow.commands._growth_shared import StateOptions, WritingOptions, perform
from ckptgrow.commands._option_groups import takes
from ckptgrow.commands._paths import check_paths
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.errors import RequestError


@takes("state", StateOptions)
@takes("writing", WritingOptions)
def experts(
    *,
    source: options.InArgument,
    target: options.OutArgument,
    experts: Annotated[
        int | None, typer.Option(min=1, help="Experts in each layer, a multiple of now.", show_default=False)
    ] = None,
    experts_per_token: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Experts chosen for each token: as many times as many as now, which keeps the function.",
            show_default=False,
        ),
    ] = None,
    separate: Annotated[
        ExpertSeparation,
        typer.Option(
            help="What tells the copies apart: 'split' deals each weight of their last matrix out to them, 'none' "
            "leaves them equal."
        ),
    ] = "split",
    spread: Annotated[
        float | None,
        typer.Option(
            help="Of --separate split, how unequally weights are dealt out, up to 1.5 [default: 0.5: one copy has all "
            "of a weight].",
            metavar="S",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    state: StateOptions,
    writing: WritingOptions,
    as_json: JsonOption = False,
) -> int:
    """Give a mixture more experts: copies of each, all of them chosen where the one was, with routers and moments.

    The function stays as it is; so does what is learnt, until the copies part.

    Examples:
        ckptgrow experts mixtral-dir more-dir --experts 16         # from 8, 4 chosen instead of 2
        ckptgrow experts small.ckpt more.ckpt --experts 128 --spread 1
    """
    check_paths(source, target, force=writing.force)
    from ckptgrow.recipes.growth_recipe import GrowthRecipe

    if experts is None:
        raise RequestError("Missing option '--experts'; say how many experts (see ckptgrow experts --help)")
    asked: dict[str, Any] = {
        "experts": experts,
        "experts_per_token": experts_per_token,
        "separate": separate,
        "spread": spread,
        "seed": seed,
        **state.asked(),
    }
    return perform(GrowthRecipe("experts", asked), source, target, writing, Screen(as_json))
