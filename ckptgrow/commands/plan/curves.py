"""`ckptgrow plan curves`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckptgrow.choices import OperatorName
from ckptgrow.commands._options import DialectOption
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.commands.plan._curve_logs import (
    LossOption,
    PlotOption,
    SpikesOption,
    StepColumnOption,
    left_out,
    say_left_out,
)
from ckptgrow.commands.plan._params import ParamsOption, check_larger, sizes_of

if TYPE_CHECKING:
    from ckptgrow.planning.growth_point import GrowthPoint
    from ckptgrow.planning.learning_curves import Curve


def curves(
    small: Annotated[Path, typer.Argument(metavar="SMALL", help="The small model's log.", show_default=False)],
    large: Annotated[Path, typer.Argument(metavar="LARGE", help="The large model's log.", show_default=False)],
    operator: Annotated[OperatorName, typer.Option(help="The growth that is planned.", show_default=False)],
    params: ParamsOption,
    tokens_per_step: Annotated[float, typer.Option(help="Tokens an optimizer step.", show_default=False)],
    threshold: Annotated[
        float | None, typer.Option(help="Slope d log L / d log C to grow at [default: the paper's for the operator].")
    ] = None,
    dialect: DialectOption = None,
    loss: LossOption = None,
    step_column: StepColumnOption = None,
    spikes: SpikesOption = "robust",
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find growth points, the step constant and the saved compute from two learning curves.

    A log is TensorBoard's CSV export, Lightning's metrics.csv, an event file, or a run's directory.

    Examples:
        ckptgrow plan curves small large --operator width --params 5e6 2e7 --tokens-per-step 16384 --plot curves.png
    """
    from ckptgrow.planning.growth_point import growth_point
    from ckptgrow.planning.learning_curves import curve
    from ckptgrow.planning.logs import Names

    sizes = sizes_of(params, 2, "models", dialect)
    check_larger(sizes, params)
    small_curve, large_curve = (
        curve(path, size, tokens_per_step, Names(loss, step_column), spikes)
        for path, size in zip((small, large), sizes, strict=True)
    )
    point = growth_point(small_curve, large_curve, operator, threshold)
    screen = Screen(as_json)
    _say(point, screen)
    say_left_out((small_curve, large_curve), screen)
    screen.picture(lambda width: _picture(small_curve, large_curve, point, width))
    if plot is not None:
        from ckptgrow.planning.figure import draw

        draw(plot, small_curve, large_curve, point)
        screen.say(f"plot: {plot}")
    screen.result({**_as_json(point), "left_out": [left_out(small_curve), left_out(large_curve)]})


def _say(point: GrowthPoint, screen: Screen) -> None:
    spread, doubt = point.spread, "" if point.is_told_from_zero else " or nothing"
    if point.saving <= 0:
        screen.say(
            f"Do not grow: the small model reaches loss {point.loss_at_growth:.4f} at step {point.step_before:,} with "
            f"no less compute than the large model at step {point.step_target:,}; growing there would cost "
            f"{-point.saving:.1%} of the compute of the large model alone{doubt}."
        )
    else:
        screen.say(_what_to_do(point))
    screen.say(
        f"90 % of resamples, over noise and windows: saves {spread.saving[0]:.1%} to {spread.saving[1]:.1%}; grown at "
        f"step {spread.step_before[0]:,.0f} to {spread.step_before[1]:,.0f}; optimal at "
        f"{spread.step_optimality[0]:,.0f} to {spread.step_optimality[1]:,.0f}."
    )
    if spread.share_without > 0:
        screen.warn(f"in {spread.share_without:.0%} of resamples a slope never rises past its threshold; train longer")
    if not point.is_told_from_zero:
        screen.warn("the saving cannot be told from zero with these curves; evaluate more often or longer")


def _what_to_do(point: GrowthPoint) -> str:
    from ckptgrow.planning.paired_differences import NO_DIFFERENCE

    saved = f"that saves {point.saving:.1%}"
    if not point.is_told_from_zero:
        saved = f"{NO_DIFFERENCE}, {point.saving:.1%} saved"
    return (
        f"Train the small model to step {point.step_before:,} (loss {point.loss_at_growth:.4f}), grow its "
        f"{'width and depth' if point.operator == 'both' else point.operator}, and go on from step "
        f"{point.step_target:,} to {point.step_optimality:,}: {saved} of the compute of the "
        f"large model alone; ρ = {point.rho:.3f}."
    )


def _picture(small: Curve, large: Curve, point: GrowthPoint, width: int) -> list[list[tuple[str, str]]]:
    from ckptgrow.planning.terminal import Line, Mark, picture

    places = ((small, point.step_before, "●"), (large, point.step_target, "▶"), (large, point.step_optimality, "◆"))
    marks: list[Mark] = []
    for curve, step, text in places:
        index = int(curve.steps.searchsorted(step))
        marks.append(Mark(float(curve.compute[index]), float(curve.losses[index]), text, "red"))
    lines = [
        Line(large.compute, large.losses, "bright_black"),
        Line(small.compute, small.losses, "blue"),
    ]
    rows = picture(lines, marks, width=width, top=1.5 * float(large.losses.min()))
    legend = [
        ("       ", ""),
        ("small", "blue"),
        (", ", ""),
        ("large", "bright_black"),
        ("; ● grow ▶ go on ◆ optimal", "red"),
    ]
    return [*rows, legend]


def _as_json(point: GrowthPoint) -> dict[str, object]:
    spread = point.spread
    return {
        "operator": point.operator,
        "threshold": point.threshold,
        "saving": point.saving,
        "saving_interval": list(spread.saving),
        "step_before": point.step_before,
        "step_before_interval": list(spread.step_before),
        "step_target": point.step_target,
        "step_optimality": point.step_optimality,
        "step_optimality_interval": list(spread.step_optimality),
        "share_without_point": spread.share_without,
        "rho": point.rho,
        "loss_at_growth": point.loss_at_growth,
        "is_distinguishable": point.is_distinguishable,
    }
