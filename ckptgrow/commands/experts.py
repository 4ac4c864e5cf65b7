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
        int | None,
        typer.Option(
            help="Experts in each layer: a multiple of now; of a dense model, of --shards.", show_default=False
        ),
    ] = None,
    experts_per_token: Annotated[
        int | None,
        typer.Option(
            "--experts-per-token",
            "--top-k",
            help="Experts chosen for each token: of a mixture as many times as many as now, which keeps the function; "
            "of a dense model a multiple of --shards [default: 2 copies' parts].",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="FAMILY",
            help="What a dense model becomes: mixtral, qwen3_moe, qwen2_moe, granitemoe [default: the first that "
            "fits].",
            show_default=False,
        ),
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(
            help="Equal parts into which the blocks of a dense model are cut, each an expert [default: 1].",
            show_default=False,
        ),
    ] = None,
    router_noise: Annotated[
        float | None,
        typer.Option(
            help="Standard deviation of the rows of a dense model's new routers [default: the config's "
            "initializer_range].",
            metavar="σ",
            show_default=False,
        ),
    ] = None,
    separate: Annotated[
        ExpertSeparation | None,
        typer.Option(
            help="What tells the copies of a mixture's experts apart: 'split' deals each weight of their last matrix "
            "out to them, 'none' leaves them equal [default: split].",
            show_default=False,
        ),
    ] = None,
    spread: Annotated[
        float | None,
        typer.Option(
            help="Of --separate split, how unequally weights are dealt out, up to 1.5 [default: 0.5: one copy has all "
            "of a weight].",
            metavar="S",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split, or of the new routers.")] = 0,
    state: StateOptions,
    writing: WritingOptions,
    as_json: JsonOption = False,
) -> int:
    """Give a mixture more experts, copies of each, all of them chosen where the one was; or make one of a dense model,
    whose experts are copies of its blocks, or parts of them.

    The function stays as it is; moments follow, and new routers begin with none.

    Examples:
        ckptgrow experts mixtral-dir more-dir --experts 16         # from 8, 4 chosen instead of 2
        ckptgrow experts small.ckpt more.ckpt --experts 128 --spread 1
        ckptgrow experts llama-dir mixtral-dir --experts 8                   # 8 copies of each block, 2 a token
        ckptgrow experts qwen3-dir moe-dir --experts 32 --shards 4 --top-k 8  # of quarters of it, 2 copies a token
    """
    check_paths(source, target, force=writing.force)
    if experts is None:
        raise RequestError("Missing option '--experts'; say how many experts (see ckptgrow experts --help)")
    asked: dict[str, Any] = {
        "experts": experts,
        "experts_per_token": experts_per_token,
        "to": to,
        "shards": shards,
        "router_noise": router_noise,
        "separate": separate,
        "spread": spread,
        "seed": seed,
        **state.asked(),
    }
    from ckptgrow.recipes.growth_recipe import GrowthRecipe

    return perform(GrowthRecipe("experts", asked), source, target, writing, Screen(as_json))
