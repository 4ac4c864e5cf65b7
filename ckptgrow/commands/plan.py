"""`ckptgrow plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckptgrow.commands.growing import chosen
from ckptgrow.commands.screen import JsonOption, Screen
from ckptgrow.errors import RequestError

plan = typer.Typer(
    help="Plan a staged training: when to grow, from where to go on, what it saves.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

OPERATORS = ("width", "depth", "both")


@plan.command()
def curves(
    small: Annotated[Path, typer.Argument(metavar="SMALL", help="The small model's log.", show_default=False)],
    large: Annotated[Path, typer.Argument(metavar="LARGE", help="The large model's log.", show_default=False)],
    operator: Annotated[str, typer.Option(help="width, depth or both.", show_default=False)],
    params: Annotated[
        tuple[float, float],
        typer.Option(help="Parameters without embeddings of SMALL and LARGE.", metavar="SMALL_N LARGE_N"),
    ],
    tokens_per_step: Annotated[float, typer.Option(help="Tokens an optimizer step.", show_default=False)],
    threshold: Annotated[
        float | None, typer.Option(help="Slope d log L / d log C to grow at [default: the paper's for the operator].")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a picture here (.png).", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Growth points, the step constant and the compute saved, from two learning curves.

    Logs: TensorBoard's CSV export, Lightning's metrics.csv, or a directory of event files.
    """
    chosen("--operator", operator, OPERATORS)
    if not 0 < params[0] < params[1]:
        raise RequestError(f"--params {params[0]:g} {params[1]:g}: expected the small model's size, then a larger one")
    if tokens_per_step <= 0:
        raise RequestError(f"--tokens-per-step {tokens_per_step:g}: expected a number above zero")
    from ckptgrow.planning.curves import curve
    from ckptgrow.planning.growth_point import growth_point

    screen = Screen(as_json)
    small_curve, large_curve = (
        curve(path, size, tokens_per_step) for path, size in zip((small, large), params, strict=True)
    )
    point = growth_point(small_curve, large_curve, operator, threshold)  # pyright: ignore[reportArgumentType]
    low, high = point.saving_interval
    screen.say(
        f"Train the small model to step {point.step_before:,} (loss {point.loss_at_growth:.4f}), grow its "
        f"{operator}, and go on from step {point.step_target:,} to {point.step_optimality:,}: that saves "
        f"{point.saving:.1%} of the "
        f"compute of the large model alone (90 % of resamples: {low:.1%} to {high:.1%}); ρ = {point.rho:.3f}."
    )
    if not point.is_distinguishable:
        screen.warn("the saving cannot be told from zero with these curves; evaluate more often or longer")
    if plot is not None:
        from ckptgrow.planning.figure import draw

        draw(plot, small_curve, large_curve, point)
        screen.say(f"plot: {plot}")
    screen.result(
        {
            "operator": point.operator,
            "saving": point.saving,
            "saving_interval": [low, high],
            "step_before": point.step_before,
            "step_target": point.step_target,
            "step_optimality": point.step_optimality,
            "rho": point.rho,
            "loss_at_growth": point.loss_at_growth,
        }
    )
