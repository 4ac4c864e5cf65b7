"""`ckptgrow plan watch`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckptgrow.choices import OperatorName
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.commands.plan._curve_logs import (
    LossOption,
    PlotOption,
    SpikesOption,
    StepColumnOption,
    left_out,
    say_left_out,
)

if TYPE_CHECKING:
    from ckptgrow.planning.watching import Watch


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's directory, or its log.", show_default=False)],
    operator: Annotated[OperatorName, typer.Option(help="The growth that is planned.", show_default=False)],
    threshold: Annotated[
        float | None, typer.Option(help="Slope d log L / d log C to grow at [default: the paper's for the operator].")
    ] = None,
    loss: LossOption = None,
    step_column: StepColumnOption = None,
    spikes: SpikesOption = "robust",
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell whether a running training should grow now: its slope, how sure it is, and the step that the rule predicts.

    Reads the newest metrics.csv or event files in the directory or below it.

    Examples:
        ckptgrow plan watch run --operator width --plot slope.png
    """
    from ckptgrow.planning.learning_curves import curve_of
    from ckptgrow.planning.logs import Names, newest_log
    from ckptgrow.planning.operators import THRESHOLDS
    from ckptgrow.planning.watching import watch as watch_curve

    tau = THRESHOLDS[operator] if threshold is None else threshold
    log = newest_log(run, Names(loss, step_column))
    curve = curve_of(log, 1.0, 1.0, spikes)  # slopes are the same in any unit of compute
    found = watch_curve(curve, tau)
    screen = Screen(as_json)
    low, high = found.slope_interval
    screen.say(
        f"{curve.where}: step {found.step:,}, loss {found.loss:.4f}, slope {found.slope:.4f} ({low:.4f} to {high:.4f})"
    )
    screen.say(_verdict(found, operator))
    say_left_out([curve], screen)
    if plot is not None:
        from ckptgrow.planning.watch_figure import draw_watch

        draw_watch(plot, curve, found)
        screen.say(f"plot: {plot}")
    screen.result(
        {
            "log": curve.where,
            "operator": operator,
            "step": found.step,
            "loss": found.loss,
            "threshold": tau,
            "slope": found.slope,
            "slope_interval": [low, high],
            "grow_now": found.is_time,
            "is_sure": found.is_sure,
            "crossed_at": found.crossed_at,
            "predicted_step": found.predicted,
            "left_out": left_out(curve),
        }
    )


def _verdict(found: Watch, operator: str) -> str:
    doubt = "" if found.is_sure else "; the slope's interval holds τ, so evaluate more often to be sure"
    predicted = "" if found.predicted is None else f" A power law puts it at step {found.predicted:,}."
    if found.is_time:
        return (
            f"Grow the {'width and depth' if operator == 'both' else operator} now: the slope rose past τ = "
            f"{found.threshold} at step {found.crossed_at:,}{doubt}.{predicted}"
        )
    return f"Not yet: the slope has not risen past τ = {found.threshold}{doubt}.{predicted}"
