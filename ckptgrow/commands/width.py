"""`ckptgrow width`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ckptgrow.choices import Fresh, FreshMoments, How, Separation
from ckptgrow.commands import _options as options
from ckptgrow.commands._growth_shared import StateOptions, WritingOptions, perform
from ckptgrow.commands._option_groups import takes
from ckptgrow.commands._paths import check_paths
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.ranges import read


@takes("state", StateOptions)
@takes("writing", WritingOptions)
def width(
    *,
    source: options.InArgument,
    target: options.OutArgument,
    factor: Annotated[int | None, typer.Option(help="How many times as wide [default: 2].", metavar="K")] = None,
    ffn: Annotated[int | None, typer.Option(help="Feed-forward units instead of a factor or with one.")] = None,
    heads: Annotated[int | None, typer.Option(help="Attention heads instead of a factor or with one.")] = None,
    kv_heads: Annotated[
        int | None, typer.Option(help="Key and value heads: alone, with --heads, or with a factor.")
    ] = None,
    hidden: Annotated[int | None, typer.Option(help="Any hidden size, with --how pad.")] = None,
    how: Annotated[
        How,
        typer.Option(
            help="Blocks of grown matrices: 'diagonal' (the paper's) or 'tile'; 'pad' adds new coordinates instead of "
            "copies."
        ),
    ] = "diagonal",
    separate: Annotated[
        Separation | None,
        typer.Option(
            help="What tells the copies apart: 'split' deals each weight out to the copies (exact in every dtype), "
            "'noise' adds terms that cancel up to rounding, 'none' leaves the copies equal [default: split]."
        ),
    ] = None,
    noise: Annotated[
        str,
        typer.Option(
            help="Strength of --separate noise, which a number above 0 asks for, in units of each matrix's root mean "
            "square; 'auto' is 0.25. 0 is --separate none."
        ),
    ] = "auto",
    spread: Annotated[
        float | None,
        typer.Option(
            help="Of --separate split, how unequally weights are dealt out, up to 1.5: two copies get 1/2 + S and 1/2 "
            "- S of each; at 0.5 one has all, at 1.5 twice the weight and the other minus the weight [default: 0.5].",
            metavar="S",
        ),
    ] = None,
    fresh: Annotated[
        Fresh | None,
        typer.Option(
            help="With --how pad, how new coordinates are written and read: 'zero-copy' silences units by zeros and "
            "copies the rest, 'zero-random' draws the rest, 'random-zero' draws units and reads them by zeros "
            "[default: zero-random for --hidden, random-zero for units].",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split, the noise or what is drawn.")] = 0,
    fresh_moments: Annotated[
        FreshMoments,
        typer.Option(
            help="With --how pad, the second moments of new entries: 'zero', or the 'mean' of their row or column."
        ),
    ] = "zero",
    wd_rule: options.DecayRuleOption = "trajectory",
    state: StateOptions,
    writing: WritingOptions,
    as_json: JsonOption = False,
) -> int:
    """Grow a checkpoint's width by a factor, its optimizer, schedule and config included.

    Multiplies the hidden size, heads, key/value heads and feed-forward units; the function stays the same.

    Examples:
        ckptgrow width small.ckpt wide.ckpt                             # everything twice as wide
        ckptgrow width small.ckpt wide.ckpt --lr-rule mup               # and at the small run's pace
        ckptgrow width small.ckpt wide.ckpt --ffn 4096 --dry-run        # one space alone; what would be written
        ckptgrow width model-dir model-1024 --hidden 1024 --how pad     # to any hidden size
    """
    check_paths(source, target, force=writing.force)
    asked: dict[str, Any] = {
        "factor": factor,
        "ffn": ffn,
        "heads": heads,
        "kv_heads": kv_heads,
        "hidden": hidden,
        "how": how,
        "separate": separate,
        "noise": read("noise", noise, "auto"),
        "spread": spread,
        "fresh": fresh,
        "seed": seed,
        "fresh_moments": fresh_moments,
        "wd_rule": wd_rule,
        **state.asked(),
    }
    from ckptgrow.recipes.growth_recipe import GrowthRecipe

    return perform(GrowthRecipe("width", asked), source, target, writing, Screen(as_json))
