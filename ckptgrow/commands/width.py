"""`ckptgrow width`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ckptgrow.choices import FreshMoments, How, Separation
from ckptgrow.commands import _options as options
from ckptgrow.commands._growth_shared import reset_parts, show, step_choice
from ckptgrow.commands._paths import check_paths
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.commands._values import byte_size, whole_number
from ckptgrow.errors import CkptgrowError, RequestError

if TYPE_CHECKING:
    from ckptgrow.growth.request import GrowthResult

MOST_PARAMETERS = 10**9  # of models that are run to see how noise is conditioned


def width(
    source: options.InArgument,
    target: options.OutArgument,
    factor: Annotated[
        str | None, typer.Option(help="How many times as wide: a whole number from 2 on [default: 2].", metavar="K")
    ] = None,
    ffn: Annotated[int | None, typer.Option(min=1, help="Feed-forward units instead of a factor.")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads instead of a factor.")] = None,
    kv_heads: Annotated[int | None, typer.Option(min=1, help="Key and value heads, with --heads.")] = None,
    hidden: Annotated[int | None, typer.Option(min=1, help="Any hidden size, with --how pad.")] = None,
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
            help="What tells the copies apart: 'split' deals each weight out to one copy (exact in every dtype), "
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
    seed: Annotated[int, typer.Option(help="Seed of the split or the noise.")] = 0,
    fresh_moments: Annotated[
        FreshMoments,
        typer.Option(
            help="With --how pad, the second moments of new entries: 'zero', or the 'mean' of their row or column."
        ),
    ] = "zero",
    lr_rule: options.LrRuleOption = "keep",
    step: options.StepOption = "keep",
    schedule: options.ScheduleOption = "",
    rewarm: options.RewarmOption = 0,
    reset: options.ResetOption = "",
    moments: options.MomentsOption = "algebra",
    config: options.ConfigOption = None,
    dialect: options.DialectOption = None,
    param_order: options.ParamOrderOption = None,
    drop: options.DropOption = None,
    allow_nonfinite: options.AllowNonfiniteOption = False,
    max_shard_size: options.MaxShardSizeOption = "5GB",
    force: options.ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Grow a checkpoint's width by a factor, its optimizer, schedule and config included.

    Multiplies the hidden size, heads, key/value heads and feed-forward units; the function stays the same.
    """
    check_paths(source, target, force=force)
    from ckptgrow.growth.request import StateRequest
    from ckptgrow.growth.widening import width as grow_width

    request = StateRequest(
        lr_rule=lr_rule,
        step=step_choice(step),
        rewarm=rewarm,
        reset=reset_parts(reset),
        config=config,
        dialect=dialect,
        param_order=param_order,
        drop=tuple(drop or ()),
        allow_nonfinite=allow_nonfinite,
        force=force,
        max_shard_bytes=byte_size("--max-shard-size", max_shard_size),
        fresh_moments=fresh_moments,
        schedule=schedule,
        moments=moments,
    )
    values: dict[str, Any] = {
        "factor": None if factor is None else whole_number("--factor", factor),
        "ffn": ffn,
        "heads": heads,
        "kv_heads": kv_heads,
        "hidden": hidden,
        "how": how,
        "separate": separate,
        "noise": _noise(noise),
        "seed": seed,
    }
    show(
        lambda progress: grow_width(source, target, **values, request=request, progress=progress),
        source,
        Screen(as_json),
        "widening",
        lambda done: _conditioning(done, source, config),
    )


def _conditioning(done: GrowthResult, source: Path, config: Path | None) -> list[str]:
    """How well the function is conditioned: by construction, or with noise measured in the real models."""
    if done.record.get("separate") == "split":
        return ["the copies are told apart by dealing weights out: nothing is rounded, in bfloat16 as in any precision"]
    noise = done.record.get("noise", 0.0)
    if noise == 0 or int(os.environ.get("RANK", "0")):
        return []
    if done.num_parameters[1] > MOST_PARAMETERS:
        return [f"noise {noise:g} multiplies rounding; not measured here, for the model is large: see verify"]
    from ckptgrow.verification.conditioning import conditioning

    try:
        return [one.sentence(noise) for one in conditioning(source, done.out, config=config)]
    except CkptgrowError as error:  # it has grown all the same
        return [f"how noise {noise:g} multiplies rounding could not be measured ({error})"]


def _noise(value: str) -> float | str:
    if value == "auto":
        return value
    try:
        return float(value)
    except ValueError as error:
        raise RequestError(f"--noise {value}: expected auto or a number of at least 0") from error
